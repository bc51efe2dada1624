"""Summaries: the segments or key frames of a video that cover it best, each with a caption."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from vbcli.config import DecodingConfig
from vbcli.schemas import SUMMARIES
from vbcli.segments import Segmentation, clip_spans, cut_segments, seconds_of, split_longer
from vbcli.selection import Chosen, Coverage, choose_some, choose_within
from vbcli.stages.caption import caption_videos
from vbcli.stages.model import ModelStage
from vbcli.training.batches import VideoTokens, cut_video

if TYPE_CHECKING:
    from vbcli.models.checkpoint import Checkpoint

TWO_SECONDS = Segmentation("fixed", 2.0)


@dataclass(frozen=True)
class Length:
    """How much of a video is kept: one of the three.

    Args:
        share: of its duration, 0 to 1.
        seconds: at most so many.
        n_keyframes: so many moments.
    """

    share: float | None = None
    seconds: float | None = None
    n_keyframes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Summarize(ModelStage):
    """The rows of each video in the order of time.

    Args:
        length: how much is kept.
        segments: how videos are cut into what can be kept; key frames are chosen among all clips.
        decoding: how captions are generated.
    """

    length: Length
    segments: Segmentation = TWO_SECONDS
    decoding: DecodingConfig

    name: ClassVar[str] = "summarize"
    version: ClassVar[int] = 3
    output_kind: ClassVar[str] = "summaries"
    tasks: ClassVar[tuple[str, ...]] = ("caption",)

    def output_schema(self) -> pa.Schema:
        return SUMMARIES

    @property
    def is_cut_by_transcript(self) -> bool:
        return self.length.n_keyframes is None and self.segments.kind == "transcript"

    def check(self, checkpoint: Checkpoint) -> None:
        from vbcli.models.decoding import check_decoding

        check_decoding(checkpoint.captioner.decoder.config, self.decoding)

    def answer(self, checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> list[list[dict[str, Any]]]:
        kept = [summarize_video(video, self.length, self.segments) for video in videos]
        found = iter(caption_videos(checkpoint, [part for of_video in kept for _, _, part in of_video], self.decoding))

        def row(rank: int, chosen: Chosen, part: VideoTokens) -> dict[str, Any]:
            start_s, end_s = part.segments[0].start_s, part.segments[-1].end_s
            caption = checkpoint.text.decode(next(found).token_ids)
            times = {"start_s": start_s, "end_s": end_s, "keyframe_s": (start_s + end_s) / 2}
            return {**times, "rank": rank, "gain": chosen.gain, "caption": caption}

        return [[row(*one) for one in of_video] for of_video in kept]


def summarize_video(video: VideoTokens, length: Length, segments: Segmentation) -> list[tuple[int, Chosen, VideoTokens]]:
    """What is kept of a video, in the order of time: its rank among the choices, 0 first, what it added, and the part."""
    spans = clip_spans(video)
    shortest_s = min(end_s - start_s for start_s, end_s in spans)
    # What is asked for is never less than what can be shown.
    budget_s = max(shortest_s, length.seconds if length.seconds is not None else (spans[-1][1] - spans[0][0]) * (length.share or 0))
    if length.n_keyframes is not None:
        parts = [part for span in spans if (part := cut_video(video, *span)) is not None]
    else:
        cut = cut_segments(video, replace(segments, length_s=min(segments.length_s, budget_s)))
        # A part that costs more than there is could never be kept, and a video of one shot would have no summary.
        parts = [piece for part in cut for piece in split_longer(part, budget_s)]
    edges = np.cumsum([0, *(len(part.features) for part in parts)])
    coverage = Coverage(video.features, video.visual_tokens, [np.arange(a, b) for a, b in itertools.pairwise(edges)])
    if length.n_keyframes is not None:
        chosen = choose_some(coverage, length.n_keyframes)
    else:
        chosen = choose_within(coverage, np.array([seconds_of(part) for part in parts]), budget_s)
    rows = [(rank, one, parts[one.index]) for rank, one in enumerate(chosen)]
    return sorted(rows, key=lambda row: row[1].index)
