"""Finding what an instruction speaks of: parts of videos and how well a description fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vbcli.editing.grammar import Description
from vbcli.editing.plan import Span
from vbcli.errors import VbcliError
from vbcli.models.checkpoint import Checkpoint
from vbcli.retrieval.index import Item
from vbcli.retrieval.search import alignment_logits
from vbcli.stages.embed import embed_texts, embed_videos
from vbcli.training.batches import SegmentRow, VideoTokens

FITS = 0.5
"""A part fits a description where it is likelier than not that they belong together."""
BATCH_PARTS = 32
NEAR_BEST = 3.0
"""Of the parts that fit, those count that are at most so much less likely, in log-odds, to be meant than the nearest to the description:
a part with the right action and the wrong thing often fits a little, too."""


@dataclass(frozen=True)
class VideoParts:
    """A video and the parts that a description may mean.

    Args:
        name: for messages.
        parts: in order of time.
    """

    name: str
    parts: list[Item]


def find_parts(checkpoint: Checkpoint, videos: Sequence[VideoParts], what: Description) -> list[Span]:
    """The parts that a description means: VideoBERT finds that they belong together, and their vectors are about as near as the nearest.

    Returns:
        Spans with the probability that part and description belong together.

    Raises:
        VbcliError: none fits; the message names the best.
    """
    parts = [(number, item) for number, video in enumerate(videos) for item in video.parts]
    with torch.inference_mode():
        logits = alignment_logits(checkpoint, what.text, [item for _, item in parts])
        scale = float(checkpoint.retriever.head.scale().detach())
    # Index 0 is `aligned`.
    scores = logits.double().softmax(-1)[:, 0].cpu().numpy()
    (wanted,) = embed_texts(checkpoint, [what.text])
    nearness = scale * (_vectors(checkpoint, [item for _, item in parts]) @ wanted)
    fits = scores >= FITS
    if fits.any():
        is_meant = fits & (nearness >= nearness[fits].max() - NEAR_BEST)
        return [Span(parts[i][0], parts[i][1].start_s, parts[i][1].end_s, float(scores[i])) for i in np.nonzero(is_meant)[0].tolist()]
    best = int(scores.argmax())
    number, item = parts[best]
    raise VbcliError(
        f"no part of the videos shows '{what.text}'",
        hint=f"the best, {item.start_s:.1f} to {item.end_s:.1f} s of {videos[number].name}, fits with probability {scores[best]:.2f}; "
        f"{FITS} is needed: say it as the captions that the model learned from would",
    )


def _vectors(checkpoint: Checkpoint, items: Sequence[Item]) -> np.ndarray:
    """Unit vectors of parts, float32 (N, P)."""
    rows = [SegmentRow(i.video_id, i.start_s, i.end_s, i.visual_tokens, i.features, "") for i in items]
    videos = [VideoTokens(row.video_id, [row]) for row in rows]
    batches = [videos[start : start + BATCH_PARTS] for start in range(0, len(videos), BATCH_PARTS)]
    return np.concatenate([embed_videos(checkpoint, batch) for batch in batches])
