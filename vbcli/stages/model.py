"""What the stages share that run a trained model over whole videos: batches of videos, and the windows of long ones."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pyarrow as pa

from vbcli.checkpointfiles import read_checkpoint_config
from vbcli.config import to_dict
from vbcli.errors import ItemFailure, VbcliError
from vbcli.memory import release_freed_memory
from vbcli.stage import Process, Rows, Stage
from vbcli.stages.tokenize import VideoRows
from vbcli.storage import as_path
from vbcli.tokens import OVERLAP_SHARE, PackedSequence, pack
from vbcli.training.batches import VideoTokens, choose_clips, collate, tokens_from_table, video_timeline

if TYPE_CHECKING:
    from torch import Tensor

    from vbcli.models.checkpoint import Checkpoint

BATCH_SIZE = 16
"""Of the windows that a model reads at once."""
WINDOW_OVERLAP_CLIPS = 4


class ModelFacts(NamedTuple):
    """What one who runs a model must know of it.

    Attributes:
        vocab_dir: of its visual vocabulary.
        vocab_sha256: of that.
        encoder: of the features that it is of.
        codebook_sizes: K_m.
        feature_dim: P.
        reads_text: whether it reads transcripts.
    """

    vocab_dir: Path
    vocab_sha256: str
    encoder: dict[str, Any]
    codebook_sizes: tuple[int, ...]
    feature_dim: int
    reads_text: bool


_looked_at: dict[str, Checkpoint] = {}
"""The checkpoint that this process looked at, by its model's hash: it is likely to be asked to run it."""


def look_at_model(stage: ModelStage) -> ModelFacts:
    """Loads the model of a stage, whole, and sees whether it can answer.

    Raises:
        VbcliError: it cannot be loaded, or not answer as it is asked to.
    """
    from vbcli.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(as_path(stage.checkpoint_dir), *stage.tasks)
    stage.check(checkpoint)
    _looked_at.clear()
    _looked_at[stage.model_sha256] = checkpoint
    return facts_of(checkpoint)


def facts_of(checkpoint: Checkpoint) -> ModelFacts:
    """What `look_at_model` tells of a checkpoint."""
    visual = checkpoint.visual
    return ModelFacts(checkpoint.vocab_dir, visual.sha256, visual.encoder, visual.codebook_sizes, visual.feature_dim, checkpoint.reads_text)


@dataclass(frozen=True, kw_only=True)
class ModelStage(Stage):
    """Rows of each video, by a trained model.

    Args:
        checkpoint_dir: of the model; its hash, not its place, is part of the identity.
        videos_dir: the videos dataset, for the paths of the videos; set where the stage is run.
        split: the videos of this split only.
        threads: of a worker; part of the identity.
    """

    checkpoint_dir: str
    videos_dir: str = ""
    split: str | None = None
    device: str = "cpu"
    threads: int = 1

    tasks: ClassVar[tuple[str, ...]]
    """Tasks that a checkpoint must have been trained for."""
    is_batched: ClassVar[bool] = True
    n_videos: ClassVar[int] = BATCH_SIZE
    """That are answered at once."""

    @cached_property
    def model_sha256(self) -> str:
        """Of the model's weights, as its folder says.

        Raises:
            VbcliError: no checkpoint of one of the tasks in the folder.
        """
        return read_checkpoint_config(as_path(self.checkpoint_dir), *self.tasks)["model_sha256"]

    def identity(self) -> dict[str, Any]:
        kept = {k: v for k, v in to_dict(self).items() if k not in ("checkpoint_dir", "videos_dir")}
        return {**kept, "model_sha256": self.model_sha256}

    def origin(self) -> dict[str, Any]:
        return {"trained_on": read_checkpoint_config(as_path(self.checkpoint_dir))["trained_on"]}

    def modules(self) -> tuple[str, ...]:
        return (*super().modules(), "vbcli.models.checkpoint", "vbcli.models.decoding", "vbcli.training.from_text")

    @property
    def is_cut_by_transcript(self) -> bool:
        """Whether the rows are of the segments that `tokenize` cut, which follow what is said."""
        return False

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuses a model that cannot answer as it is asked to.

        Raises:
            VbcliError: why not.
        """

    def convert(self, checkpoint: Checkpoint) -> None:
        """Changes the precision of the model, in place; here it stays float32."""

    @abstractmethod
    def answer(self, checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> list[list[dict[str, Any]]]:
        """What the model says of each video: its rows without `video_id`, `path` and `checkpoint`; where `start_s` and `end_s` are left
        out, the row is of the whole video.

        Args:
            videos: at least one.
        """

    def open(self) -> Process:
        import torch

        from vbcli.models.bart import pack_model
        from vbcli.models.checkpoint import load_checkpoint

        torch.set_num_threads(self.threads)
        checkpoint = _looked_at.pop(self.model_sha256, None) or load_checkpoint(as_path(self.checkpoint_dir), *self.tasks)
        self.convert(checkpoint)
        checkpoint.model.to(self.device)
        pack_model(checkpoint.model)
        paths = VideoRows(as_path(self.videos_dir))

        def table_of(videos: Sequence[VideoTokens]) -> pa.Table:
            rows = [
                {
                    "video_id": video.video_id,
                    "path": paths.get(video.video_id)["path"],
                    "start_s": video.segments[0].start_s,
                    "end_s": video.segments[-1].end_s,
                    "checkpoint": self.model_sha256[:16],
                    **row,
                }
                for video, answer in zip(videos, self.answer(checkpoint, videos), strict=True)
                for row in answer
            ]
            return pa.Table.from_pylist(rows, schema=self.output_schema())

        def process(rows: Rows) -> Rows:
            for batch in batch_videos(rows, lambda video: self.split is None or video.split == self.split, n_videos=self.n_videos):
                if isinstance(batch, ItemFailure):
                    yield batch
                    continue
                # What encoded the videos needs its memory no longer, and then this model does not.
                release_freed_memory()
                yield table_of(batch)
                release_freed_memory()

        return process


def batch_videos(
    rows: Rows,
    is_wanted: Callable[[VideoTokens], bool] = lambda video: True,
    size: Callable[[VideoTokens], int] = lambda video: 1,
    n_videos: int = BATCH_SIZE,
) -> Iterator[ItemFailure | list[VideoTokens]]:
    """The videos of a tokens dataset in batches; failures on the way pass through.

    Args:
        size: what a video adds to its batch.
        n_videos: size of a batch.
    """
    waiting: list[VideoTokens] = []
    for table in rows:
        if isinstance(table, ItemFailure):
            yield table
            continue
        video = tokens_from_table(table)
        if is_wanted(video):
            waiting.append(video)
        if sum(map(size, waiting)) >= n_videos:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class VideoWindow(NamedTuple):
    """A part of a video that the encoder reads at once.

    Attributes:
        packed: what it is shown.
        kept: the positions whose vectors are taken from this window; each text token and clip of a video is kept once.
    """

    packed: PackedSequence
    kept: list[int]


def video_windows(video: VideoTokens, checkpoint: Checkpoint) -> list[VideoWindow]:
    """The windows of a video, as many as a model needs that has seen no longer sequences in training: nothing of it is cut off.

    What is said, where the model learned with transcripts, is shown in the window of its time.

    Raises:
        VbcliError: the model was trained without clips.
    """
    from vbcli.models.bart import Captioner
    from vbcli.training.from_text import bridge_video

    bridge = checkpoint.captioner.bridge if isinstance(checkpoint.model, Captioner) else None
    if bridge is not None:
        video = bridge_video(video, bridge)
    chosen = choose_clips(len(video.visual_tokens), checkpoint.n_clips)
    text_ids = [checkpoint.text.encode(s.text) if checkpoint.reads_text else [] for s in video.segments]
    timeline, said = video_timeline(video, text_ids, chosen), list(itertools.chain.from_iterable(text_ids))
    config, size = checkpoint.encoder.config, checkpoint.window_size
    if size < 1 and timeline.n_tokens:
        raise VbcliError(
            f"the checkpoint {checkpoint.vocab_dir.parent} was trained without video clips, and cannot see any",
            hint="train one without --n-clips 0",
        )
    overlap = size // OVERLAP_SHARE if checkpoint.reads_text else min(WINDOW_OVERLAP_CLIPS, size // 2)
    windows = []
    spans = timeline.windows(max(size, 1), overlap)
    for window in spans:
        clips = chosen[window.clips]
        packed = pack(said[window.text], video.visual_tokens[clips], video.features[clips, : config.feature_dim], checkpoint.text, config)
        places = range(len(packed.input_ids))
        text, shown = places[window.text_positions], places[window.clip_positions]
        # [CLS] and [>] of the first window and [SEP] of the last frame the whole.
        boundary = 1 + window.text.stop - window.text.start
        kept = [0, *text, boundary, *shown] if window is spans[0] else [*text, *shown]
        windows.append(VideoWindow(packed, [*kept, places[-1]] if window is spans[-1] else kept))
    return windows


def run_windows(checkpoint: Checkpoint, windows: Sequence[VideoWindow], run: Callable[..., Tensor]) -> Iterator[Tensor]:
    """What a part of the model makes of each window, in batches of `BATCH_SIZE`: memory does not grow with the length of videos.

    Args:
        run: called with the arguments of `VideoBert.forward`.
    """
    device = next(checkpoint.model.parameters()).device
    for start in range(0, len(windows), BATCH_SIZE):
        packed = [window.packed for window in windows[start : start + BATCH_SIZE]]
        batch = collate(packed, checkpoint.encoder.config.feature_dim, checkpoint.text.pad_id).to(device)
        yield from run(**batch.arguments())
