"""Videos and segments read from tokens datasets, and packed sequences gathered into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.tokens import PackedSequence


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


@dataclass
class VideoTokens:
    """The segments of one video with its captions, labels and split, and the shard that it was read from."""

    video_id: str
    segments: list[SegmentRow]
    captions: list[str] = field(default_factory=list)
    split: str | None = None
    labels: list[str] = field(default_factory=list)
    shard: str = ""

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
    captions = dict.fromkeys(c["text"] for captions in table.column("captions").to_pylist() for c in captions or [])
    return VideoTokens(first["video_id"], segments, list(captions), first["split"], first["labels"] or [])


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
