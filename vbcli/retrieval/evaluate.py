"""Scores of an index: how often the right video is found for a caption, and the right caption for a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vbcli.errors import VbcliError
from vbcli.metrics.retrieval import rank_of_right, score_ranks
from vbcli.models.checkpoint import Checkpoint
from vbcli.retrieval.index import Item, VideoIndex
from vbcli.retrieval.search import N_RERANKED, alignment_logits
from vbcli.stages.embed import embed_texts

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
    index: VideoIndex, checkpoint: Checkpoint, captions: Mapping[str, Sequence[str]], n_reranked: int = N_RERANKED
) -> RetrievalEvaluation:
    """Scores the videos of an index against captions: each caption is searched among the videos, and each video among the captions.

    Args:
        captions: video to captions of people; videos on both sides are scored.
        n_reranked: candidates of each query that are re-ranked.

    Raises:
        VbcliError: fewer than two videos are on both sides.
    """
    items, vectors = index.items("video"), index.vectors("video")
    kept = [i for i, item in enumerate(items) if captions.get(item.video_id)]
    if len(kept) < 2:
        raise VbcliError(f"{len(kept)} of the {len(items)} videos of the index have captions: two are needed")
    items, vectors = [items[i] for i in kept], vectors[kept]
    texts = [(row, text) for row, item in enumerate(items) for text in captions[item.video_id]]
    owners = np.array([row for row, _ in texts])
    similarities = embed_texts(checkpoint, [text for _, text in texts]) @ vectors.T  # (Q, A)
    is_right = owners[:, None] == np.arange(len(items))  # (Q, A)
    by_vectors = {
        f"{TO_VIDEO}, vectors alone": score_ranks(rank_of_right(similarities, is_right)),
        f"{TO_TEXT}, vectors alone": score_ranks(rank_of_right(similarities.T, is_right.T)),
    }
    scores = {}
    if n_reranked:
        joint = _reranked(checkpoint, [text for _, text in texts], items, similarities, n_reranked)
        scores[TO_VIDEO] = score_ranks(rank_of_right(joint[0], is_right))
        scores[TO_TEXT] = score_ranks(rank_of_right(joint[1], is_right.T))
    chance = score_ranks(np.arange(1, len(items) + 1))
    note = f"{len(items)} videos, {len(texts)} captions; chance is of one right video among all"
    return RetrievalEvaluation({**scores, **by_vectors, CHANCE: chance}, [note])


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
