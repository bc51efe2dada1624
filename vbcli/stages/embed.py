"""Embedding: tokens of a video to vectors in the space that it shares with text, of the whole and of each segment."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from vbcli.schemas import vectors_schema
from vbcli.stages.model import ModelStage, run_windows, video_windows
from vbcli.training.batches import VideoTokens

if TYPE_CHECKING:
    from vbcli.models.checkpoint import Checkpoint

WHOLE = -1
"""The segment index of a whole video."""


@dataclass(frozen=True, kw_only=True)
class Embed(ModelStage):
    """A unit vector of each video and of each of its segments, with the tokens that re-ranking reads.

    Args:
        width: of the vectors.
        feature_dim: of the clips' features.
        n_codebooks: of the clips' tokens.
    """

    width: int
    feature_dim: int
    n_codebooks: int

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 2
    output_kind: ClassVar[str] = "vectors"
    tasks: ClassVar[tuple[str, ...]] = ("retrieve",)

    def output_schema(self) -> pa.Schema:
        return vectors_schema(self.width, self.feature_dim, self.n_codebooks)

    @property
    def is_cut_by_transcript(self) -> bool:
        return True

    def facts(self) -> dict[str, Any]:
        return {"width": self.width, "model_sha256": self.model_sha256}

    def answer(self, checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> list[list[dict[str, Any]]]:
        parts = [[(WHOLE, video), *_segments(video)] for video in videos]
        vectors = iter(embed_videos(checkpoint, [part for of_video in parts for _, part in of_video]))
        return [[_row(number, part, next(vectors)) for number, part in of_video] for of_video in parts]


def _segments(video: VideoTokens) -> list[tuple[int, VideoTokens]]:
    """Parts of a video of several segments."""
    if len(video.segments) < 2:
        return []
    return [(i, replace(video, segments=[segment])) for i, segment in enumerate(video.segments)]


def _row(number: int, part: VideoTokens, vector: np.ndarray) -> dict[str, Any]:
    return {
        "segment_index": number,
        "start_s": part.segments[0].start_s,
        "end_s": part.segments[-1].end_s,
        "vector": vector.tolist(),
        "visual_tokens": part.visual_tokens.tolist(),
        "features": part.features.tolist(),
    }


def embed_videos(checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> np.ndarray:
    """Unit vectors of videos, float32 (V, P); that of one that is read in several windows is the mean over them, scaled to length 1.

    Args:
        videos: at least one.
    """
    import torch

    retriever = checkpoint.retriever
    windows = [video_windows(video, checkpoint) for video in videos]
    with torch.inference_mode():
        vectors = run_windows(checkpoint, [window for of_video in windows for window in of_video], retriever.video_vectors)
        found = torch.stack([*vectors]).cpu().numpy()  # (W, P)
    edges = np.cumsum([0, *map(len, windows)])
    means = np.stack([found[a:b].mean(0) for a, b in itertools.pairwise(edges)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def embed_texts(checkpoint: Checkpoint, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of sentences, float32 (N, P)."""
    import torch

    from vbcli.tokens import pack
    from vbcli.training.batches import collate
    from vbcli.training.retrieving import MAX_TEXT_TOKENS

    config = checkpoint.encoder.config
    nothing = np.zeros((0, config.n_codebooks), np.int32), np.zeros((0, config.feature_dim), np.float32)
    packed = [pack(checkpoint.text.encode(text)[:MAX_TEXT_TOKENS], *nothing, checkpoint.text, config) for text in texts]
    device = next(checkpoint.model.parameters()).device
    with torch.inference_mode():
        batch = collate(packed, config.feature_dim, checkpoint.text.pad_id).to(device)
        return checkpoint.retriever.text_vectors(**batch.arguments()).cpu().numpy()
