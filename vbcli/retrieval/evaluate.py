"""Scores of an index: how often the right video is found for a caption, and the right caption for a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vbcli.config import config_hash
from vbcli.errors import VbcliError
from vbcli.metrics.mentions import Lexicon, find_mentions
from vbcli.metrics.retrieval import chance_scores, rank_of_right, score_ranks
from vbcli.models.checkpoint import Checkpoint
from vbcli.retrieval.index import Item, VideoIndex
from vbcli.retrieval.search import N_RERANKED, TextReader, alignment_logits

TO_VIDEO, TO_TEXT, CHANCE = "caption to video", "video to caption", "chance"


@dataclass
class RetrievalEvaluation:
    """Scores by row of the table.

    Args:
        scores: row name to score name to value.
        notes: sentences on what was scored.
    """

    scores: dict[str, dict[str, float]]
    notes: list[str] = field(default_factory=list)


def evaluate_index(
    index: VideoIndex,
    reader: TextReader,
    captions: Mapping[str, Sequence[str]],
    *,
    n_candidates: int | None = None,
    lexicon: Lexicon | None = None,
    n_reranked: int = N_RERANKED,
) -> RetrievalEvaluation:
    """Scores the videos of an index against captions: each caption is searched among the videos, and each video among the captions.

    A caption is right for its own video, and for every other that somebody described in the same words.

    Args:
        captions: video to captions of people; videos on both sides are scored.
        n_candidates: score so many of the videos, chosen by the hashes of their names; None scores all.
        lexicon: a caption is right also for the videos of which a caption names the same values of every slot, in the same order.
        n_reranked: candidates of each query that are re-ranked.

    Raises:
        VbcliError: fewer than two videos are on both sides.
    """
    items, vectors = index.items("video"), index.vectors("video")
    kept = [i for i, item in enumerate(items) if captions.get(item.video_id)]
    if len(kept) < 2:
        raise VbcliError(
            f"{len(kept)} of the {len(items)} videos of the index have captions: two are needed",
            hint="name references of the videos that the index is of",
        )
    if n_candidates is not None:
        kept = sorted(sorted(kept, key=lambda i: config_hash([items[i].video_id]))[:n_candidates])
    items, vectors = [items[i] for i in kept], vectors[kept]
    texts = [(row, text) for row, item in enumerate(items) for text in captions[item.video_id]]
    similarities = reader.embed([text for _, text in texts]) @ vectors.T  # (Q, A)
    is_right = _right_pairs(texts, len(items), lexicon)  # (Q, A)
    by_vectors = {
        f"{TO_VIDEO}, vectors alone": score_ranks(rank_of_right(similarities, is_right)),
        f"{TO_TEXT}, vectors alone": score_ranks(rank_of_right(similarities.T, is_right.T)),
    }
    scores = {}
    if n_reranked and reader.checkpoint is not None:
        joint = _reranked(reader.checkpoint, [text for _, text in texts], items, similarities, n_reranked)
        scores[TO_VIDEO] = score_ranks(rank_of_right(joint[0], is_right))
        scores[TO_TEXT] = score_ranks(rank_of_right(joint[1], is_right.T))
    by_chance = {f"{TO_VIDEO}, {CHANCE}": chance_scores(is_right), f"{TO_TEXT}, {CHANCE}": chance_scores(is_right.T)}
    several = is_right.sum(1)
    note = f"{len(items)} videos, {len(texts)} captions; {several.mean():.2f} videos are right for a caption"
    return RetrievalEvaluation({**scores, **by_vectors, **by_chance}, [note])


def _right_pairs(texts: Sequence[tuple[int, str]], n_videos: int, lexicon: Lexicon | None) -> np.ndarray:
    """Which videos a caption is right for, bool (Q, A): those of which some caption means the same, one of M meanings.

    Args:
        texts: (video, caption).
    """

    def meaning(text: str) -> tuple[Any, ...]:
        named = tuple(tuple(find_mentions(text, values)) for values in (lexicon or {}).values())
        return named if any(named) else (text,)

    # Equal words mean the same, so a caption is right for its own video, too.
    numbers: dict[tuple[Any, ...], int] = {}
    rows = [numbers.setdefault(meaning(text), len(numbers)) for _, text in texts]  # of each caption's meaning
    is_said = np.zeros((len(numbers), n_videos), bool)  # (M, A)
    is_said[rows, [video for video, _ in texts]] = True
    return is_said[rows]  # (Q, A)


def _reranked(
    checkpoint: Checkpoint, texts: Sequence[str], items: Sequence[Item], similarities: np.ndarray, n_reranked: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of captions to videos float (Q, A), and of videos to captions float (A, Q): what is not re-ranked stays behind what is."""
    n_videos, n_texts = min(n_reranked, len(items)), min(n_reranked, len(texts))
    asked = np.zeros(similarities.shape, bool)
    to_video = np.argsort(-similarities, axis=1)[:, :n_videos]  # (Q, n)
    to_text = np.argsort(-similarities, axis=0)[:n_texts].T  # (A, n)
    np.put_along_axis(asked, to_video, True, 1)
    asked[to_text, np.arange(len(items))[:, None]] = True
    fused = np.full(similarities.shape, -np.inf)
    head = checkpoint.retriever.head
    with torch.inference_mode():
        for row, text in enumerate(texts):
            columns: list[int] = np.nonzero(asked[row])[0].tolist()
            logits = alignment_logits(checkpoint, text, [items[i] for i in columns]).cpu()
            fused[row, columns] = head.rerank(torch.from_numpy(similarities[row, columns])[None].float(), logits[None])[0].numpy()
    return _behind(fused, similarities, to_video), _behind(fused.T, similarities.T, to_text)


def _behind(fused: np.ndarray, similarities: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Scores of the chosen candidates, and of the others by their similarities, all of them lower."""
    is_chosen = np.zeros(fused.shape, bool)
    np.put_along_axis(is_chosen, chosen, True, 1)
    lowest = fused[is_chosen].min() - 2
    return np.where(is_chosen, fused, lowest + similarities - 1)
