"""Captioning: tokens of a video or of its segments, and the transcript where the captioner learned with it, to a sentence."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from vbcli.config import DecodingConfig, Precision, config_hash, to_dict
from vbcli.grounding import evidence
from vbcli.schemas import CAPTIONS
from vbcli.segments import Segmentation, cut_segments
from vbcli.stages.model import BATCH_SIZE, ModelStage, run_windows, video_windows
from vbcli.training.batches import VideoTokens

if TYPE_CHECKING:
    from torch import Tensor

    from vbcli.models.checkpoint import Checkpoint
    from vbcli.models.decoding import Hypothesis

MAX_VIDEOS = 64
MAX_CLIPS = 8192
"""Of the videos that are captioned together, padding counted: they bound the memory."""


@dataclass(frozen=True, kw_only=True)
class Caption(ModelStage):
    """One caption a video, or one a segment.

    Args:
        decoding: how sentences are generated; recorded with each caption.
        segments: how videos are cut into what is captioned; None captions the whole.
        is_grounded: also tell which part of what is captioned the sentence rests on.
        precision: of the model; float32, as captions in bfloat16 are others.
    """

    decoding: DecodingConfig
    segments: Segmentation | None = None
    is_grounded: bool = False
    precision: Precision = "float32"

    name: ClassVar[str] = "caption"
    version: ClassVar[int] = 2
    output_kind: ClassVar[str] = "captions"
    tasks: ClassVar[tuple[str, ...]] = ("caption",)
    n_videos: ClassVar[int] = MAX_VIDEOS

    def output_schema(self) -> pa.Schema:
        return CAPTIONS

    @property
    def is_cut_by_transcript(self) -> bool:
        return self.segments is not None and self.segments.kind == "transcript"

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "precision": self._resolved_precision}

    @property
    def _resolved_precision(self) -> str:
        if self.precision != "auto":
            return self.precision
        from vbcli.models.precision import resolve_precision

        return str(resolve_precision(self.precision, self.device)).removeprefix("torch.")

    def convert(self, checkpoint: Checkpoint) -> None:
        from vbcli.models.precision import resolve_precision

        dtype = resolve_precision(self.precision, self.device)
        # Not the bridge, if there is one: it costs nothing.
        for part in (checkpoint.captioner.encoder, checkpoint.captioner.decoder):
            part.to(dtype)

    def check(self, checkpoint: Checkpoint) -> None:
        from vbcli.models.decoding import check_decoding

        check_decoding(checkpoint.captioner.decoder.config, self.decoding)

    def answer(self, checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> list[list[dict[str, Any]]]:
        decoding = json.dumps(to_dict(self.decoding), sort_keys=True)
        parts = [[video] if self.segments is None else cut_segments(video, self.segments) for video in videos]
        found = iter(caption_videos(checkpoint, list(itertools.chain.from_iterable(parts)), self.decoding))

        def row(part: VideoTokens) -> dict[str, Any]:
            best = next(found)
            times = {"start_s": part.segments[0].start_s, "end_s": part.segments[-1].end_s}
            sentence = checkpoint.text.decode(best.token_ids)
            rests_on = evidence(part, lambda shown: _log_likelihood(checkpoint, shown, sentence)) if self.is_grounded else {}
            return {**times, "caption": sentence, "score": best.score, "decoding": decoding, **rests_on}

        return [[row(part) for part in of_video] for of_video in parts]


def caption_videos(checkpoint: Checkpoint, videos: Sequence[VideoTokens], decoding: DecodingConfig) -> list[Hypothesis]:
    """The best hypothesis for each video or part of one."""
    import torch

    from vbcli.models.decoding import Hypothesis, generate

    best: list[Hypothesis] = [Hypothesis([], 0.0)] * len(videos)
    for batch in _batches([len(video.visual_tokens) for video in videos]):
        # Of the video and its time, not of the place in the batch: what is drawn is the same after a retry.
        keys = [[decoding.seed, videos[i].video_id, videos[i].segments[0].start_s] for i in batch]
        seeds = [int(config_hash(key)[:15], 16) for key in keys] if decoding.is_sampled else None
        with torch.inference_mode():
            memory, mask = encode_videos(checkpoint, [videos[i] for i in batch])
            found = generate(checkpoint.captioner.decoder, memory, mask, decoding, seeds=seeds)
        for i, hypotheses in zip(batch, found, strict=True):
            best[i] = hypotheses[0]
    return best


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of videos, those of like length together, as many at once as `MAX_VIDEOS` and `MAX_CLIPS` allow, and at least one.

    Many videos decode together: weights are read once for all of them, and a few long sentences at the end keep fewer waiting.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) == MAX_VIDEOS or (len(batch) + 1) * lengths[i] > MAX_CLIPS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _log_likelihood(checkpoint: Checkpoint, videos: Sequence[VideoTokens], sentence: str) -> np.ndarray:
    """Of a sentence, float64 (N,), of each of N videos."""
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(videos), BATCH_SIZE):
            memory, mask = encode_videos(checkpoint, videos[start : start + BATCH_SIZE])
            found.append(sentence_log_probs(checkpoint, memory, mask, [sentence])[:, 0])
    return np.concatenate(found) * (len(checkpoint.text.encode(sentence)) + 1)


def encode_videos(checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> tuple[Tensor, Tensor]:
    """What the decoder attends to of each video.

    A video with more clips than the encoder has seen in training is encoded in overlapping windows; the decoder attends to
    all of them, each shared clip taken from the window in whose middle it lies.

    Args:
        videos: at least one.

    Returns:
        memory float (B, S, D) and its mask bool (B, S).
    """
    import torch

    windows = [video_windows(video, checkpoint) for video in videos]
    flat = [window for of_video in windows for window in of_video]
    encoded = run_windows(checkpoint, flat, checkpoint.captioner.encoder)  # (S', D) each
    rows = [torch.cat([next(encoded)[window.kept] for window in of_video]) for of_video in windows]
    memory = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, S, D)
    lengths = torch.tensor([len(r) for r in rows], device=memory.device)
    return memory, torch.arange(memory.shape[1], device=memory.device) < lengths[:, None]


def sentence_log_probs(
    checkpoint: Checkpoint, memory: Tensor, mask: Tensor, sentences: Sequence[str], *, is_shared_counted: bool = True
) -> np.ndarray:
    """Mean log-probabilities of the tokens of each sentence, the end included, float64 (B, C).

    Args:
        memory: float (B, S, D), and its `mask` bool (B, S), of `encode_videos`.
        sentences: C texts that the decoder might write.
        is_shared_counted: whether the tokens count with which all sentences begin; the end always does.
    """
    import torch

    from vbcli.training.tasks import IGNORED
    from vbcli.training.writing import decoder_rows

    decoder = checkpoint.captioner.decoder
    inputs, targets = decoder_rows([checkpoint.text.encode(sentence) for sentence in sentences], decoder.config)  # (C, T)
    is_asked = (targets != IGNORED).to(memory.device)
    if not is_shared_counted:
        n_shared = int((targets == targets[0]).all(0).cumprod(0).sum())
        is_asked[:, : min(n_shared, int(is_asked.sum(1).min()) - 1)] = False
    inputs, targets = inputs.to(memory.device), targets.clamp_min(0).to(memory.device)
    found = []
    with torch.inference_mode():
        for of_row, is_real in zip(memory, mask, strict=True):
            n = len(sentences)
            logits = decoder(inputs, of_row.expand(n, -1, -1), is_real.expand(n, -1))  # (C, T, R)
            each = logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]  # (C, T)
            found.append(((each * is_asked).sum(1) / is_asked.sum(1)).cpu().numpy())
    return np.stack(found)
