"""Videos and segments read from tokens datasets, and packed sequences gathered into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.text import captionfiles
from vbcli.tokens import PackedSequence, Timeline

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet", ".json")
"""Of files of text that are caption files; others have a text a line."""


@dataclass
class SegmentRow:
    """One row of a tokens dataset.

    Args:
        visual_tokens: int32 (V, M).
        features: float32 (V, P).
    """

    video_id: str
    start_s: float
    end_s: float
    visual_tokens: np.ndarray
    features: np.ndarray
    text: str


@dataclass(frozen=True)
class Question:
    """What is asked of a video.

    Args:
        answers: right ones, of people.
        candidates: the closed set that the answer is chosen from; empty where it is free.
    """

    text: str
    answers: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()


@dataclass
class VideoTokens:
    """The segments of one video with its captions, labels, questions and split, and the shard that it was read from.

    Args:
        captions: of the whole video.
        timed_captions: (text, start_s, end_s), of a part of it.
    """

    video_id: str
    segments: list[SegmentRow]
    captions: list[str] = field(default_factory=list)
    split: str | None = None
    labels: list[str] = field(default_factory=list)
    shard: str = ""
    timed_captions: list[tuple[str, float, float]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    @property
    def caption_texts(self) -> list[str]:
        """All captions, of the whole and of parts."""
        return [*self.captions, *(text for text, _, _ in self.timed_captions)]

    @property
    def visual_tokens(self) -> np.ndarray:
        """int32 (V, M) of all segments."""
        return np.concatenate([s.visual_tokens for s in self.segments])

    @property
    def features(self) -> np.ndarray:
        """float32 (V, P) of all segments."""
        return np.concatenate([s.features for s in self.segments])


def tokens_from_table(table: pa.Table) -> VideoTokens:
    """The rows of one video as arrays."""
    segments = []
    tokens, features = table.column("visual_tokens"), table.column("features")
    columns = table.select(["video_id", "start_s", "end_s", "text"]).to_pylist()
    for i, row in enumerate(columns):
        visual, matrix = _matrix(tokens[i].values), _matrix(features[i].values)
        segments.append(SegmentRow(row["video_id"], row["start_s"], row["end_s"], visual, matrix, row["text"]))
    first = table.slice(0, 1).to_pylist()[0]
    found = dict.fromkeys(
        (c["text"], c["start_s"], c["end_s"]) for captions in table.column("captions").to_pylist() for c in captions or []
    )
    captions = list(dict.fromkeys(text for text, start_s, _ in found if start_s is None))
    timed = [caption for caption in found if caption[1] is not None]
    asked = [Question(q["question"], tuple(q["answers"] or ()), tuple(q["candidates"] or ())) for q in first["questions"] or []]
    return VideoTokens(first["video_id"], segments, captions, first["split"], first["labels"] or [], timed_captions=timed, questions=asked)


def cut_video(video: VideoTokens, start_s: float, end_s: float) -> VideoTokens | None:
    """The part of a video between two times: the clips that overlap it, and the text of their segments; None where there is none.

    The clips of a segment are taken to share its time evenly.
    """
    parts = []
    for segment in video.segments:
        n = len(segment.visual_tokens)
        edges = np.linspace(segment.start_s, segment.end_s, n + 1)
        inside = np.nonzero((edges[:-1] < end_s) & (edges[1:] > start_s))[0]
        if len(inside):
            clips = slice(int(inside[0]), int(inside[-1]) + 1)
            times = float(edges[clips.start]), float(edges[clips.stop])
            parts.append(SegmentRow(video.video_id, *times, segment.visual_tokens[clips], segment.features[clips], segment.text))
    return replace(video, segments=parts) if parts else None


def caption_targets(video: VideoTokens) -> list[tuple[VideoTokens, str]]:
    """Each caption with what it is about: the video, or the part of its time."""
    parts = [(cut_video(video, start_s, end_s), text) for text, start_s, end_s in video.timed_captions]
    return [*((video, text) for text in video.captions), *((part, text) for part, text in parts if part is not None)]


def _matrix(rows: pa.FixedSizeListArray) -> np.ndarray:
    return rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), rows.type.list_size)


def read_tokens(tokens_dir: Path) -> list[VideoTokens]:
    """All videos of a tokens dataset, in order.

    Raises:
        VbcliError: the dataset is empty.
    """
    videos = [
        replace(tokens_from_table(table), shard=str(path)) for path in shards.list_shards(tokens_dir) for table in shards.iter_videos(path)
    ]
    if not videos:
        raise VbcliError(
            f"the tokens dataset {tokens_dir} holds no videos", hint="see its _errors folder, and those of the datasets before it"
        )
    return videos


def read_texts(path: Path, feature_dim: int) -> list[VideoTokens]:
    """Texts without video, to learn the language from: each as a video of one segment that has no clips.

    Args:
        path: a caption file (`.csv`, `.jsonl`, `.parquet`, `.json`), or a text a line; of a line with tabs, what follows the last.
        feature_dim: P, of the dataset that they are learned with.

    Raises:
        VbcliError: it cannot be read, or holds no text.
    """
    if path.suffix.lower() in TABLE_SUFFIXES:
        found = [(row.line, row.caption) for row in captionfiles.read_caption_file(path) if row.caption]
    else:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise VbcliError(
                f"{path} cannot be read: {error}", hint="it must be a caption file, or UTF-8 with a text on each line"
            ) from error
        found = [(i, text) for i, line in enumerate(lines, start=1) if (text := line.rpartition("\t")[2].strip())]
    if not found:
        raise VbcliError(f"{path} holds no text", hint="write a text on each line")
    no_clips = np.zeros(0, np.int32), np.zeros((0, feature_dim), np.float32)
    return [
        VideoTokens(f"{path}:{i}", [SegmentRow(f"{path}:{i}", 0.0, 0.0, *no_clips, text)], split="train", shard=str(path))
        for i, text in found
    ]


def video_timeline(video: VideoTokens, text_ids: Sequence[Sequence[int]], clips: np.ndarray) -> Timeline:
    """What is said and shown in a video, in the order of time.

    Args:
        text_ids: of each segment.
        clips: numbers of the clips that are shown.
    """
    return Timeline([(len(ids), len(s.visual_tokens)) for ids, s in zip(text_ids, video.segments, strict=True)], clips)


def choose_clips(n_clips: int, n_wanted: int | None) -> np.ndarray:
    """Indices of the clips that a model is shown: all, none, or so many evenly spaced (one is the middle one)."""
    if n_wanted is None or n_wanted >= n_clips:
        return np.arange(n_clips)
    return ((np.arange(n_wanted) + 0.5) * n_clips / max(n_wanted, 1)).astype(np.int64)


@dataclass
class Batch:
    """Packed sequences as tensors; arguments of `VideoBert.forward`."""

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor
    features: Tensor
    feature_mask: Tensor
    residual_ids: Tensor

    def arguments(self) -> dict[str, Any]:
        return {**vars(self)}

    def to(self, device: torch.device) -> Batch:
        return Batch(**{k: v.to(device) for k, v in vars(self).items()})


def collate(sequences: Sequence[PackedSequence], feature_dim: int, pad_id: int) -> Batch:
    """Pads packed sequences to the longest.

    Args:
        feature_dim: P; positions without a feature hold zeros.

    Returns:
        Tensors (B, S), features (B, S, P), `residual_ids` (B, S, M - 1).
    """
    import torch

    length = max(len(s.input_ids) for s in sequences)
    shape = (len(sequences), length)
    ids, types = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    mask, feature_mask = np.zeros(shape, bool), np.zeros(shape, bool)
    features = np.zeros((*shape, feature_dim), np.float32)
    residual_ids = np.full((*shape, sequences[0].residual_ids.shape[1]), pad_id, np.int64)
    for row, sequence in enumerate(sequences):
        n = len(sequence.input_ids)
        ids[row, :n], types[row, :n], mask[row, :n] = sequence.input_ids, sequence.token_type_ids, True
        feature_mask[row, :n], residual_ids[row, :n] = sequence.feature_mask, sequence.residual_ids
        if feature_dim:
            visual = np.nonzero(sequence.token_type_ids[:-1] == 1)[0]
            features[row, visual] = sequence.features
    return Batch(*(torch.from_numpy(a) for a in (ids, types, mask, features, feature_mask, residual_ids)))
