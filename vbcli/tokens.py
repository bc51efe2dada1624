"""The joint id space, and the packing of text and video into one sequence.

A sequence is `[CLS] text [>] video [SEP]`. Ids: text tokens first, then `[>]`, then the visual tokens, codebook by codebook. A clip is one
position, whatever the number M of its visual tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vbcli.config import VideoBertConfig
from vbcli.text.transcripts import TranscriptSegment, assign_segments, best_spans
from vbcli.textvocab import TextVocabulary

# [CLS], [>] and [SEP] of a packed sequence.
N_FRAMING_TOKENS = 3
OVERLAP_SHARE = 4
"""Windows of text and video share one position in so many with the next: a sentence that is cut needs more around it than a clip."""
_GAP_S = 1e-3


@dataclass(frozen=True)
class PackedSequence:
    """One sequence `[CLS] text [>] video [SEP]`.

    Args:
        input_ids: int64 (S,); of a clip, its token of the first codebook.
        token_type_ids: int64 (S,), 0 up to and including `[>]`, then 1.
        feature_mask: bool (S,), True on visual positions.
        features: float32 (V, P), of the visual positions in order.
        residual_ids: int64 (S, M - 1), a clip's tokens of the other codebooks; the id of [PAD] where there is none.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    feature_mask: np.ndarray
    features: np.ndarray
    residual_ids: np.ndarray


def pack(
    text_ids: Sequence[int], visual_tokens: np.ndarray, features: np.ndarray, vocabulary: TextVocabulary, config: VideoBertConfig
) -> PackedSequence:
    """Packs text and video.

    Args:
        text_ids: text tokens without special ones.
        visual_tokens: int (V, M), 0 <= token of codebook m < K_m; with one codebook (V,) does as well.
        features: float32 (V, P).

    Raises:
        ValueError: the sequence is longer than `max_positions`.
    """
    n_text, n_visual = len(text_ids), len(visual_tokens)
    if n_text + n_visual + N_FRAMING_TOKENS > config.max_positions:
        raise ValueError(f"{n_text} text and {n_visual} visual tokens do not fit {config.max_positions} positions")
    visual_ids = np.asarray(visual_tokens, np.int64).reshape(n_visual, config.n_codebooks) + config.codebook_bounds[:-1]
    ids = np.concatenate(
        [
            [vocabulary.cls_id],
            np.asarray(text_ids, np.int64),
            [config.boundary_token_id],
            visual_ids[:, 0],
            [vocabulary.sep_id],
        ]
    ).astype(np.int64)
    first = n_text + 2
    is_visual = np.zeros(len(ids), bool)
    is_visual[first : first + n_visual] = True
    types = (np.arange(len(ids)) >= first).astype(np.int64)
    residual_ids = np.full((len(ids), config.n_codebooks - 1), vocabulary.pad_id, np.int64)
    residual_ids[is_visual] = visual_ids[:, 1:]
    return PackedSequence(ids, types, is_visual, np.asarray(features, np.float32), residual_ids)


def beside(text_ids: Sequence[int], video: PackedSequence, text: TextVocabulary, max_positions: int) -> PackedSequence:
    """A sequence of video alone with text put before it; clips that do not fit are left out at the end."""
    n_shown = min(len(video.features), max_positions - N_FRAMING_TOKENS - len(text_ids))
    # [CLS] [>] clips [SEP]
    kept = np.r_[0, 1, 2 : 2 + n_shown, len(video.input_ids) - 1]
    place, n = 1, len(text_ids)
    return PackedSequence(
        np.insert(video.input_ids[kept], place, text_ids),
        np.insert(video.token_type_ids[kept], place, [0] * n),
        np.insert(video.feature_mask[kept], place, [False] * n),
        video.features[:n_shown],
        np.insert(video.residual_ids[kept], place, np.full((n, video.residual_ids.shape[1]), text.pad_id), 0),
    )


def split_windows(n: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Covers 0..n by windows of at most `size`, each sharing at least `overlap` with the one before, evenly spaced.

    Returns:
        (start, end) of each window; one window where n <= size.
    """
    if n <= size:
        return [(0, n)]
    n_windows = -(-(n - overlap) // (size - overlap))
    starts = np.linspace(0, n - size, n_windows).round().astype(int)
    return [(int(a), int(a) + size) for a in starts]


@dataclass(frozen=True)
class Window:
    """A stretch of text and video that is encoded together, and the part in its middle whose vectors are kept.

    Args:
        text: the text tokens that are shown.
        clips: the clips that are shown.
        kept_text: within `text`.
        kept_clips: within `clips`.
    """

    text: slice
    clips: slice
    kept_text: slice
    kept_clips: slice

    @property
    def text_positions(self) -> slice:
        """Places of the kept text tokens in the packed sequence: `[CLS]` comes first."""
        return slice(1 + self.kept_text.start - self.text.start, 1 + self.kept_text.stop - self.text.start)

    @property
    def clip_positions(self) -> slice:
        """Places of the kept clips in the packed sequence: `[CLS]`, the text and `[>]` come first."""
        first = 2 + self.text.stop - self.text.start - self.clips.start
        return slice(first + self.kept_clips.start, first + self.kept_clips.stop)


class Timeline:
    """Text tokens and clips in the order of time, so that both can be cut into stretches of the same time.

    Args:
        counts: text tokens and clips of each segment, in order; the tokens are spread evenly over the segment's clips.
        clips: numbers of the clips that are there, increasing; None means all.
    """

    def __init__(self, counts: Sequence[tuple[int, int]], clips: np.ndarray | None = None) -> None:
        firsts = np.cumsum([0, *(n_clips for _, n_clips in counts)])
        spread = [first + (np.arange(n_text) + 0.5) / n_text * n for (n_text, n), first in zip(counts, firsts, strict=False) if n_text]
        text = np.concatenate([np.zeros(0), *spread])
        shown = np.arange(firsts[-1]) if clips is None else clips
        order = np.argsort(np.concatenate([text, shown + 0.5]), kind="stable")
        self.n_tokens = len(order)
        # Text tokens among the first i of all.
        self._n_text = np.cumsum([0, *(order < len(text))])

    def stretch(self, first: int, last: int) -> tuple[slice, slice]:
        """The text tokens and the clips among `first` to `last`."""
        said, end = int(self._n_text[first]), int(self._n_text[last])
        return slice(said, end), slice(first - said, last - end)

    def windows(self, size: int, overlap: int) -> list[Window]:
        """Covers everything by windows of at most `size` text tokens and clips; each is kept once.

        Where two windows share a stretch, the border between what they keep lies in its middle.
        """
        spans = split_windows(self.n_tokens, size, overlap)
        borders = [0, *((a_end + b_start) // 2 for (_, a_end), (b_start, _) in itertools.pairwise(spans)), self.n_tokens]
        return [Window(*self.stretch(*span), *self.stretch(*kept)) for span, kept in zip(spans, itertools.pairwise(borders), strict=True)]


# ---------------------------------------------------------------- segments


@dataclass(frozen=True)
class Segment:
    """Consecutive clips with the text of the same time."""

    first_clip: int
    last_clip: int
    start_s: float
    end_s: float
    text: str


def segment_clips(
    spans: Sequence[tuple[float, float]], transcript: Sequence[TranscriptSegment], clips_per_segment: int = 16
) -> list[Segment]:
    """Groups the clips of a video into segments.

    A clip belongs to the transcript segment that it shares most time with. Clips without speech, and all clips of a video
    without transcript, form segments of at most `clips_per_segment`. No segment has a gap between its clips: they share its time evenly.
    Each transcript segment's text goes to the one segment that it overlaps most.

    Args:
        spans: (start_s, end_s) of each clip, in order.
        transcript: sorted by time.

    Source: Sun et al. 2019 (VideoBERT), section 4.2: 16 visual tokens a segment where there is no speech.
    """
    speech = [(s.start_s, s.end_s) for s in transcript]
    owners = best_spans([TranscriptSegment(a, b, "") for a, b in spans], speech) if speech else [None] * len(spans)
    groups: list[tuple[int, int]] = []
    for i, owner in enumerate(owners):
        if groups:
            first, _ = groups[-1]
            is_same = owner == owners[i - 1] and (owner is not None or i - first < clips_per_segment)
            if is_same and spans[i][0] - spans[i - 1][1] < _GAP_S:
                groups[-1] = (first, i)
                continue
        groups.append((i, i))
    times = [(spans[a][0], spans[b][1]) for a, b in groups]
    texts = assign_segments(transcript, times)
    return [Segment(a, b, start, end, text) for (a, b), (start, end), text in zip(groups, times, texts, strict=True)]
