"""Search: a sentence or a video to the videos or segments that are most like it, candidates first and then re-ranked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from vbcli.models.checkpoint import Checkpoint, load_checkpoint
from vbcli.retrieval.index import Found, Item, Level, VideoIndex
from vbcli.retrieval.text_tower import TextTower
from vbcli.stages.embed import embed_texts
from vbcli.tokens import N_FRAMING_TOKENS, pack
from vbcli.training.batches import collate
from vbcli.training.retrieving import MAX_TEXT_TOKENS

N_RERANKED = 50
BATCH_PAIRS = 32


@dataclass(frozen=True)
class Match:
    """What was found.

    Args:
        similarity: cosine of the vectors.
        score: what the matches are ordered by: of a re-ranked one the mean of two log-odds, else the similarity.
    """

    item: Item
    similarity: float
    score: float


@dataclass(frozen=True)
class TextReader:
    """What reads the sentences that an index is asked.

    Args:
        embed: sentences to unit vectors, float32 (N, P).
        checkpoint: a retriever, which can read a sentence beside a video; None of the text tower of an encoder.
    """

    embed: Callable[[Sequence[str]], np.ndarray]
    checkpoint: Checkpoint | None


def open_reader(index: VideoIndex) -> TextReader:
    """The reader of an index: its retriever, or the text tower of its encoder.

    Raises:
        VbcliError: it cannot be loaded.
    """
    if index.encoder is not None:
        return TextReader(TextTower(index.encoder).embed, None)
    checkpoint = load_checkpoint(index.checkpoint_dir, "retrieve")
    return TextReader(partial(embed_texts, checkpoint), checkpoint)


def search_text(
    index: VideoIndex, reader: TextReader, text: str, n: int, *, level: Level = "video", n_reranked: int = N_RERANKED
) -> list[Match]:
    """The items that a sentence fits best.

    Args:
        n_reranked: candidates whose alignment with the sentence is asked, too; 0 takes the order of the vectors, as does an encoder.
    """
    (vector,) = reader.embed([text])
    if reader.checkpoint is None:
        return search_vector(index, vector, n, level=level)
    candidates = index.search(vector, max(n, n_reranked), level)
    return rerank(reader.checkpoint, text, candidates, n_reranked)[:n]


def search_vector(index: VideoIndex, vector: np.ndarray, n: int, *, level: Level = "video") -> list[Match]:
    """The items that are nearest to a vector, float (P,), such as that of another video."""
    return [Match(found.item, found.similarity, found.similarity) for found in index.search(vector, n, level)]


def rerank(checkpoint: Checkpoint, text: str, candidates: Sequence[Found], n_reranked: int) -> list[Match]:
    """Orders the first candidates of a sentence by their vectors and by the alignment of both; the others stay behind them."""
    first, rest = candidates[:n_reranked], candidates[n_reranked:]
    behind = [Match(found.item, found.similarity, found.similarity) for found in rest]
    if not first:
        return behind
    similarities = torch.tensor([[found.similarity for found in first]])
    with torch.inference_mode():
        logits = alignment_logits(checkpoint, text, [found.item for found in first])[None]  # (1, A, 2)
        scores = checkpoint.retriever.head.rerank(similarities, logits.cpu())[0].tolist()
    matches = [Match(found.item, found.similarity, score) for found, score in zip(first, scores, strict=True)]
    return [*sorted(matches, key=lambda match: -match.score), *behind]


def alignment_logits(checkpoint: Checkpoint, text: str, items: Sequence[Item]) -> torch.Tensor:
    """What the encoder says of a sentence beside each item, float (A, 2); of long ones it reads clips that are evenly spaced."""
    config = checkpoint.encoder.config
    ids = checkpoint.text.encode(text)[:MAX_TEXT_TOKENS]
    room = min(config.max_positions - N_FRAMING_TOKENS - len(ids), max(1, checkpoint.window_clips))
    device = next(checkpoint.model.parameters()).device
    found = []
    for start in range(0, len(items), BATCH_PAIRS):
        packed = []
        for item in items[start : start + BATCH_PAIRS]:
            n = len(item.features)
            shown = np.linspace(0, n - 1, min(n, room)).round().astype(int)
            packed.append(pack(ids, item.visual_tokens[shown], item.features[shown, : config.feature_dim], checkpoint.text, config))
        batch = collate(packed, config.feature_dim, checkpoint.text.pad_id).to(device)
        found.append(checkpoint.retriever.alignment_logits(**batch.arguments()))
    return torch.cat(found)
