"""The Parquet schemas of the datasets. Units are suffixes of the column names."""

from __future__ import annotations

import json

import pyarrow as pa

TRANSCRIPT = pa.list_(pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())]))
CAPTION_LIST = pa.list_(pa.struct([("text", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]))
QUESTIONS = pa.list_(pa.struct([("question", pa.string()), ("answers", pa.list_(pa.string())), ("candidates", pa.list_(pa.string()))]))
TEXT_FIELDS = [
    pa.field("captions", CAPTION_LIST),
    pa.field("labels", pa.list_(pa.string())),
    pa.field("questions", QUESTIONS),
    pa.field("split", pa.string()),
]

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("duration_s", pa.float64()),
        pa.field("width_px", pa.int32()),
        pa.field("height_px", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("codec", pa.string()),
        pa.field("has_audio", pa.bool_()),
        pa.field("transcript", TRANSCRIPT),
        *TEXT_FIELDS,
    ]
)

_HUGGINGFACE_IMAGE = json.dumps(
    {
        "info": {
            "features": {
                "video_id": {"dtype": "string", "_type": "Value"},
                "frame_index": {"dtype": "int32", "_type": "Value"},
                "pts_s": {"dtype": "float64", "_type": "Value"},
                "shot_index": {"dtype": "int32", "_type": "Value"},
                "image": {"_type": "Image"},
                "width_px": {"dtype": "int32", "_type": "Value"},
                "height_px": {"dtype": "int32", "_type": "Value"},
            }
        }
    }
)

FRAMES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("frame_index", pa.int32(), nullable=False),
        pa.field("pts_s", pa.float64(), nullable=False),
        pa.field("shot_index", pa.int32(), nullable=False),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("width_px", pa.int32(), nullable=False),
        pa.field("height_px", pa.int32(), nullable=False),
    ],
    # `datasets` decodes the pictures when it finds its own description of the columns.
    metadata={"huggingface": _HUGGINGFACE_IMAGE},
)

CAPTIONS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("evidence_start_s", pa.float64()),
        pa.field("evidence_end_s", pa.float64()),
        pa.field("checkpoint", pa.string()),
        pa.field("decoding", pa.string()),
    ]
)

CLASSES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())])), nullable=False),
        pa.field("checkpoint", pa.string()),
    ]
)


ANSWERS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("probability", pa.float64()),
        pa.field("is_sure", pa.bool_()),
        pa.field("unknown_words", pa.list_(pa.string()), nullable=False),
        pa.field("candidates", pa.list_(pa.struct([("answer", pa.string()), ("probability", pa.float64())])), nullable=False),
        pa.field("evidence_start_s", pa.float64()),
        pa.field("evidence_end_s", pa.float64()),
        pa.field("checkpoint", pa.string()),
    ]
)


SUMMARIES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("keyframe_s", pa.float64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("gain", pa.float64(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("checkpoint", pa.string()),
    ]
)


MEASURES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("n_frames", pa.int32(), nullable=False),
        pa.field("brightness", pa.float64(), nullable=False),
        pa.field("sharpness", pa.float64(), nullable=False),
        pa.field("motion", pa.float64()),
        pa.field("text_share", pa.float64(), nullable=False),
        pa.field("black_share", pa.float64(), nullable=False),
        pa.field("frozen_share", pa.float64()),
        pa.field("hashes", pa.list_(pa.uint64()), nullable=False),
    ]
)
QUALITY = pa.schema(
    [
        *MEASURES,
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("hash_nearest", pa.string()),
        pa.field("hash_distance", pa.float64()),
        pa.field("feature_nearest", pa.string()),
        pa.field("feature_similarity", pa.float64()),
        pa.field("duplicate_of", pa.string()),
        pa.field("leaks_into", pa.string()),
        pa.field("caption_similarity", pa.float64()),
    ]
)


def features_schema(width: int, dtype: pa.DataType) -> pa.Schema:
    """Schema of a features dataset.

    Args:
        width: C * D, the grid cells of a clip times the dimensions of each.
        dtype: `pa.float16()` or `pa.float32()`.
    """
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("clip_index", pa.int32(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("shot_index", pa.int32(), nullable=False),
            pa.field("n_frames", pa.int32(), nullable=False),
            pa.field("feature", pa.list_(dtype, width), nullable=False),
        ]
    )


def tokens_schema(n_codebooks: int, feature_dim: int) -> pa.Schema:
    """Schema of a tokens dataset.

    Args:
        n_codebooks: M, the visual tokens of a clip.
        feature_dim: width of the projected features kept beside the visual tokens.
    """
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("segment_index", pa.int32(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("visual_tokens", pa.list_(pa.list_(pa.int32(), n_codebooks)), nullable=False),
            pa.field("features", pa.list_(pa.list_(pa.float32(), feature_dim)), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            *TEXT_FIELDS,
        ]
    )


def fused_schema(width: int) -> pa.Schema:
    """Schema of a fused dataset, h = f(V, T) of each segment.

    Args:
        width: D, of the model.
    """
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("segment_index", pa.int32(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("pooled", vector, nullable=False),
            pa.field("visual", pa.list_(vector), nullable=False),
            pa.field("textual", pa.list_(vector), nullable=False),
            pa.field("tokens", pa.list_(pa.string()), nullable=False),
            pa.field("n_windows", pa.int32(), nullable=False),
        ]
    )


def vectors_schema(width: int, feature_dim: int, n_codebooks: int) -> pa.Schema:
    """Schema of a vectors dataset: unit vectors of videos (`segment_index` -1) and of their segments, and the tokens that they are of.

    Args:
        width: P, of the space that text and video share.
        feature_dim: of the clips' features.
        n_codebooks: M, tokens of a clip.
    """
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("segment_index", pa.int32(), nullable=False),
            pa.field("start_s", pa.float64()),
            pa.field("end_s", pa.float64()),
            pa.field("vector", pa.list_(pa.float32(), width), nullable=False),
            pa.field("visual_tokens", pa.list_(pa.list_(pa.int32(), n_codebooks)), nullable=False),
            pa.field("features", pa.list_(pa.list_(pa.float32(), feature_dim)), nullable=False),
            pa.field("checkpoint", pa.string()),
        ]
    )
