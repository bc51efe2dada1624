"""Captioning: tokens of a video, and its transcript where the captioner learned with it, to a sentence."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vbcli.config import config_hash, to_dict
from vbcli.errors import ItemFailure, VbcliError
from vbcli.models.checkpoint import Checkpoint, load_checkpoint
from vbcli.models.decoding import DecodingConfig, Hypothesis, generate
from vbcli.runner import Process, Rows, Stage
from vbcli.schemas import CAPTIONS
from vbcli.stages.tokenize import VideoRows
from vbcli.tokens import OVERLAP_SHARE, PackedSequence, pack
from vbcli.training.batches import VideoTokens, choose_clips, collate, tokens_from_table, video_timeline

BATCH_VIDEOS = 16
WINDOW_OVERLAP_CLIPS = 4


@dataclass(frozen=True)
class Caption(Stage):
    """One caption a video.

    Args:
        checkpoint_dir: of a captioner; its hash, not its place, is part of the identity.
        model_sha256: of the captioner's weights.
        decoding: how sentences are generated; recorded with each caption.
        videos_dir: the videos dataset, for the paths of the videos.
        split: caption the videos of this split only.
        threads: of a worker; part of the identity.
    """

    checkpoint_dir: str
    model_sha256: str
    decoding: DecodingConfig
    videos_dir: str
    split: str | None = None
    device: str = "cpu"
    threads: int = 1

    name: ClassVar[str] = "caption"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "captions"
    is_batched: ClassVar[bool] = True

    def output_schema(self) -> pa.Schema:
        return CAPTIONS

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in to_dict(self).items() if k not in ("checkpoint_dir", "videos_dir")}

    def open(self) -> Process:
        import torch

        torch.set_num_threads(self.threads)
        checkpoint = load_checkpoint(Path(self.checkpoint_dir), "caption")
        checkpoint.model.to(self.device)
        paths = VideoRows(Path(self.videos_dir))
        decoding = json.dumps(to_dict(self.decoding), sort_keys=True)

        def rows_of(videos: Sequence[VideoTokens]) -> pa.Table:
            hypotheses = caption_videos(checkpoint, videos, self.decoding)
            rows = [
                {
                    "video_id": video.video_id,
                    "path": paths.get(video.video_id)["path"],
                    "start_s": video.segments[0].start_s,
                    "end_s": video.segments[-1].end_s,
                    "caption": checkpoint.text.decode(hypothesis.token_ids),
                    "score": hypothesis.score,
                    "checkpoint": self.model_sha256[:16],
                    "decoding": decoding,
                }
                for video, hypothesis in zip(videos, hypotheses, strict=True)
            ]
            return pa.Table.from_pylist(rows, schema=CAPTIONS)

        def process(rows: Rows) -> Rows:
            waiting: list[VideoTokens] = []
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                    continue
                video = tokens_from_table(table)
                if self.split is None or video.split == self.split:
                    waiting.append(video)
                if len(waiting) == BATCH_VIDEOS:
                    yield rows_of(waiting)
                    waiting = []
            if waiting:
                yield rows_of(waiting)

        return process


def caption_videos(checkpoint: Checkpoint, videos: Sequence[VideoTokens], decoding: DecodingConfig) -> list[Hypothesis]:
    """The best hypothesis for each video.

    A video with more clips than the encoder has seen in training is encoded in overlapping windows; the decoder attends to
    all of them, each shared clip taken from the window in whose middle it lies. What is said, where the captioner learned with
    transcripts, is shown in the window of its time; nothing of it is cut off.

    Args:
        videos: at least one.
    """
    import torch

    captioner = checkpoint.captioner
    device = next(captioner.parameters()).device
    windows: list[PackedSequence] = []
    kept: list[list[tuple[int, list[int]]]] = []
    for video in videos:
        mine = _windows(video, checkpoint)
        kept.append([(len(windows) + i, part) for i, (_, part) in enumerate(mine)])
        windows += [packed for packed, _ in mine]
    config = captioner.encoder.config
    with torch.inference_mode():
        batch = collate(windows, config.feature_dim, checkpoint.text.pad_id).to(device)
        encoded, _ = captioner.encode(**batch.arguments())  # (W, S, D)
        rows = [torch.cat([encoded[i, part] for i, part in parts]) for parts in kept]
        memory = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, S', D)
        lengths = torch.tensor([len(r) for r in rows], device=device)
        mask = torch.arange(memory.shape[1], device=device) < lengths[:, None]  # (B, S')
        # Of the video, not of its place in the batch: what is drawn is the same after a retry.
        seeds = [int(config_hash([decoding.seed, v.video_id])[:15], 16) for v in videos] if decoding.is_sampled else None
        return [found[0] for found in generate(captioner.decoder, memory, mask, decoding, seeds=seeds)]


def _windows(video: VideoTokens, checkpoint: Checkpoint) -> list[tuple[PackedSequence, list[int]]]:
    """The windows of a video, each with the positions of it that go into the memory."""
    chosen = choose_clips(len(video.visual_tokens), checkpoint.n_clips)
    text_ids = [checkpoint.text.encode(s.text) if checkpoint.reads_text else [] for s in video.segments]
    timeline, said = video_timeline(video, text_ids, chosen), list(itertools.chain.from_iterable(text_ids))
    config, size = checkpoint.encoder.config, checkpoint.window_size
    if size < 1 and timeline.n_tokens:
        raise VbcliError(f"the checkpoint {checkpoint.vocab_dir.parent} was trained without video clips, and cannot see any")
    overlap = size // OVERLAP_SHARE if checkpoint.reads_text else min(WINDOW_OVERLAP_CLIPS, size // 2)
    windows = []
    spans = timeline.windows(max(size, 1), overlap)
    for window in spans:
        clips = chosen[window.clips]
        packed = pack(said[window.text], video.visual_tokens[clips], video.features[clips, : config.feature_dim], checkpoint.text, config)
        places = range(len(packed.input_ids))
        text, shown = places[window.text_positions], places[window.clip_positions]
        # [CLS] and [>] of the first window and [SEP] of the last frame the whole memory.
        boundary = 1 + window.text.stop - window.text.start
        kept = [0, *text, boundary, *shown] if window is spans[0] else [*text, *shown]
        windows.append((packed, [*kept, places[-1]] if window is spans[-1] else kept))
    return windows
