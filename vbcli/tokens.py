"""The joint id space, and the packing of text and video into one sequence.

A sequence is `[CLS] text [>] video [SEP]`. Ids: text tokens first, then `[>]`, then the visual tokens, codebook by codebook. A clip is one
position, whatever the number M of its visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vbcli.config import VideoBertConfig
from vbcli.textvocab import TextVocabulary
from vbcli.transcripts import TranscriptSegment, assign_segments, best_spans

# [CLS], [>] and [SEP] of a packed sequence.
N_FRAMING_TOKENS = 3


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
    without transcript, form segments of at most `clips_per_segment`. Each transcript segment's text goes to the one segment
    that it overlaps most.

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
            if is_same:
                groups[-1] = (first, i)
                continue
        groups.append((i, i))
    times = [(spans[a][0], spans[b][1]) for a, b in groups]
    texts = assign_segments(transcript, times)
    return [Segment(a, b, start, end, text) for (a, b), (start, end), text in zip(groups, times, texts, strict=True)]
