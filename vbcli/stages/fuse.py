"""Fusion: tokens of a segment, text and video, to the fused representation h = f(V, T) of a trained encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from vbcli.checkpointfiles import read_checkpoint_config
from vbcli.config import to_dict
from vbcli.errors import ItemFailure
from vbcli.models.bart import pack_model
from vbcli.models.checkpoint import Checkpoint, load_checkpoint
from vbcli.schemas import fused_schema
from vbcli.stage import Process, Rows, Stage
from vbcli.stages.model import batch_videos
from vbcli.storage import as_path
from vbcli.tokens import OVERLAP_SHARE, PackedSequence, Timeline, Window, pack
from vbcli.training.batches import SegmentRow, VideoTokens, collate

BATCH_WINDOWS = 16


@dataclass(frozen=True)
class FusedSegment:
    """The fused representation of a segment with V clips and T text tokens, rows of width D.

    Args:
        pooled: float32 (D,), h at `[CLS]`; of several windows the mean.
        visual: float32 (V, D), h at each clip.
        textual: float32 (T, D), h at each text token.
        token_ids: of the text.
        n_windows: that the segment was encoded in.
    """

    pooled: np.ndarray
    visual: np.ndarray
    textual: np.ndarray
    token_ids: list[int]
    n_windows: int


@dataclass(frozen=True)
class Fuse(Stage):
    """The fused representation of each segment: one row a segment.

    Args:
        checkpoint_dir: of a VideoBERT, or of a captioner whose encoder is meant; its hash, not its place, is part of the identity.
        model_sha256: of the checkpoint's weights.
        hidden_size: D, of the encoder.
        threads: of a worker; part of the identity.
    """

    checkpoint_dir: str
    model_sha256: str
    hidden_size: int
    device: str = "cpu"
    threads: int = 1

    name: ClassVar[str] = "fuse"
    version: ClassVar[int] = 2
    output_kind: ClassVar[str] = "fused"
    input_columns: ClassVar[list[str] | None] = ["video_id", "segment_index", "start_s", "end_s", "visual_tokens", "features", "text"]
    is_batched: ClassVar[bool] = True

    def output_schema(self) -> pa.Schema:
        return fused_schema(self.hidden_size)

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in to_dict(self).items() if k != "checkpoint_dir"}

    def facts(self) -> dict[str, Any]:
        return {"hidden_size": self.hidden_size, "model_sha256": self.model_sha256}

    def origin(self) -> dict[str, Any]:
        return {"trained_on": read_checkpoint_config(as_path(self.checkpoint_dir))["trained_on"]}

    def open(self) -> Process:
        import torch

        torch.set_num_threads(self.threads)
        checkpoint = load_checkpoint(as_path(self.checkpoint_dir))
        checkpoint.model.to(self.device)
        pack_model(checkpoint.model)

        def tables(videos: Sequence[VideoTokens]) -> Iterator[pa.Table]:
            fused = iter(fuse_segments(checkpoint, [segment for video in videos for segment in video.segments]))
            for video in videos:
                yield _table(video, [next(fused) for _ in video.segments], checkpoint, self.output_schema())

        def process(rows: Rows) -> Rows:
            for batch in batch_videos(rows, size=lambda video: len(video.segments)):
                if isinstance(batch, ItemFailure):
                    yield batch
                else:
                    yield from tables(batch)

        return process


def fuse_segments(checkpoint: Checkpoint, segments: Sequence[SegmentRow]) -> list[FusedSegment]:
    """Encodes segments, text and video together.

    A segment with more text tokens and clips than the encoder can read at once is encoded in overlapping windows of time, and each vector
    taken from the window in whose middle it lies: nothing is cut off. The encoder is shown what it was trained with: that of a captioner
    that learned without transcripts, or without clips, is not shown any.
    """
    import torch

    encoder, text = checkpoint.encoder, checkpoint.text
    device = next(encoder.parameters()).device
    planned = [_windows(segment, checkpoint) for segment in segments]
    packed = [sequence for _, windows in planned for _, sequence in windows]
    hidden: list[np.ndarray] = [np.zeros(0)] * len(packed)
    # Of like length together: there is little padding then.
    order = sorted(range(len(packed)), key=lambda i: len(packed[i].input_ids))
    with torch.inference_mode():
        for start in range(0, len(order), BATCH_WINDOWS):
            chosen = order[start : start + BATCH_WINDOWS]
            batch = collate([packed[i] for i in chosen], encoder.config.feature_dim, text.pad_id).to(device)
            for i, rows in zip(chosen, encoder(**batch.arguments()).float().cpu().numpy(), strict=True):  # (S, D)
                hidden[i] = rows[: len(packed[i].input_ids)]
    vectors = iter(hidden)
    return [_merge(ids, [(window, next(vectors)) for window, _ in windows]) for ids, windows in planned]


def _windows(segment: SegmentRow, checkpoint: Checkpoint) -> tuple[list[int], list[tuple[Window, PackedSequence]]]:
    """Token ids of a segment's text, and its windows, packed."""
    config = checkpoint.encoder.config
    ids = checkpoint.text.encode(segment.text) if checkpoint.reads_text else []
    n_clips = 0 if checkpoint.n_clips == 0 else len(segment.visual_tokens)
    size = checkpoint.window_size
    windows = []
    for window in Timeline([(len(ids), n_clips)]).windows(size, size // OVERLAP_SHARE):
        tokens, features = segment.visual_tokens[window.clips], segment.features[window.clips, : config.feature_dim]
        windows.append((window, pack(ids[window.text], tokens, features, checkpoint.text, config)))
    return ids, windows


def _merge(ids: list[int], windows: Sequence[tuple[Window, np.ndarray]]) -> FusedSegment:
    """The kept vectors of each window, hidden float32 (S, D), one after the other."""
    return FusedSegment(
        np.mean([hidden[0] for _, hidden in windows], 0),
        np.concatenate([hidden[window.clip_positions] for window, hidden in windows]),
        np.concatenate([hidden[window.text_positions] for window, hidden in windows]),
        ids,
        len(windows),
    )


def _table(video: VideoTokens, fused: Sequence[FusedSegment], checkpoint: Checkpoint, schema: pa.Schema) -> pa.Table:
    names = [[checkpoint.text.tokenizer.id_to_token(i) for i in f.token_ids] for f in fused]
    vector = schema.field("pooled").type
    columns = [
        pa.array([video.video_id] * len(fused)),
        pa.array(range(len(fused)), pa.int32()),
        pa.array([s.start_s for s in video.segments], pa.float64()),
        pa.array([s.end_s for s in video.segments], pa.float64()),
        pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([f.pooled for f in fused])), type=vector),
        _lists([f.visual for f in fused], vector),
        _lists([f.textual for f in fused], vector),
        pa.array(names, pa.list_(pa.string())),
        pa.array([f.n_windows for f in fused], pa.int32()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _lists(rows: Sequence[np.ndarray], vector: pa.DataType) -> pa.ListArray:
    """Matrices (n, D) as lists of vectors."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows).ravel()), type=vector)
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *map(len, rows)]), pa.int32()), vectors, type=pa.list_(vector))
