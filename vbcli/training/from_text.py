"""Teaching a captioner from text: it writes sentences from their vectors, and videos are put among these vectors.

Source: as in `models/bridge.py`; the noise on the vectors, which covers that a video's is never quite its caption's, is CapDec's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from vbcli.models.bridge import SentenceBridge
from vbcli.models.checkpoint import Checkpoint
from vbcli.models.sentences import SentenceEncoder
from vbcli.training.batches import SegmentRow, VideoTokens, caption_targets

CAPTION_SHOWN = 60
"""How often training shows each caption of a training video among the sentences, in all its steps."""
MIN_CAPTIONED = 10
"""Videos to learn the map from."""
MAX_CHECKED = 500
"""Sentences that validate where there are no captions."""
SENTENCE_NOISE = 0.6
"""Length of the random vector added to a sentence's vector in training, where that has length 1."""


def sentence_video(video: VideoTokens, vector: np.ndarray, captions: Sequence[str]) -> VideoTokens:
    """A video of one clip that shows a sentence's vector, float (D,)."""
    start_s, end_s = video.segments[0].start_s, video.segments[-1].end_s
    clip = SegmentRow(video.video_id, start_s, end_s, np.zeros((1, 1), np.int32), vector[None].astype(np.float32), "")
    return replace(video, segments=[clip], captions=list(captions), timed_captions=[])


def bridge_video(video: VideoTokens, bridge: SentenceBridge) -> VideoTokens:
    """A video as a captioner that learned from text is shown it: where the bridge puts it among the sentences."""
    with torch.no_grad():
        vector = bridge(torch.from_numpy(video_vector(video))[None].to(bridge.weight.device))[0].cpu().numpy()
    return sentence_video(video, vector, video.captions)


def video_vector(video: VideoTokens) -> np.ndarray:
    """What a video shows in all, float32 (P,): the mean over its clips."""
    return video.features.mean(0, dtype=np.float32)


def teach_from_text(
    checkpoint: Checkpoint,
    train: Sequence[VideoTokens],
    validation: Sequence[VideoTokens],
    texts: Sequence[VideoTokens],
    encoder: SentenceEncoder,
    n_shown: int,
    on_note: Callable[[str], None],
) -> tuple[list[VideoTokens], list[VideoTokens]]:
    """Fits the bridge to the training videos, and makes videos of one clip of what a captioner learns from text and is validated with.

    Args:
        checkpoint: of the captioner.
        texts: of `read_texts`.
        n_shown: rows that all steps of the training show.
        on_note: called with sentences for the user.
    """
    bridge = checkpoint.captioner.bridge
    assert bridge is not None
    captioned = [pair for video in train for pair in caption_targets(video)]
    sentences = list(dict.fromkeys(v.segments[0].text for v in texts))
    # No more than there is time for, evenly spaced.
    n_left = max(0, n_shown - CAPTION_SHOWN * len(captioned))
    sentences = [sentences[i] for i in np.linspace(0, len(sentences) - 1, min(len(sentences), n_left)).astype(int)]
    on_note(f"learning to write from {len(sentences)} sentences and {len(captioned)} captions")
    vectors = encoder.encode([*sentences, *(caption for _, caption in captioned)])
    spoken, told = vectors[: len(sentences)], vectors[len(sentences) :]
    shown = [sentence_video(texts[0], vector, [text]) for text, vector in zip(sentences, spoken, strict=True)]
    if len(captioned) < MIN_CAPTIONED:
        on_note(f"{len(captioned)} captions of training videos: only language is learned; go on from it with --init")
        step = max(2, len(shown) // MAX_CHECKED)
        return [row for i, row in enumerate(shown) if i % step], shown[::step]
    share = bridge.fit(np.stack([video_vector(video) for video, _ in captioned]), told)
    on_note(f"videos are put among the sentences by a map that tells {100 * share:.0f} % of how left-out captions differ")
    taught = [sentence_video(video, vector, [text]) for (video, text), vector in zip(captioned, told, strict=True)]
    n_each = max(1, round(CAPTION_SHOWN * len(shown) / n_left)) if n_left else 1
    return [*shown, *taught * n_each], [bridge_video(video, bridge) for video in validation if video.captions]
