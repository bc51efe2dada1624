"""The options of `vbcli train`, and the settings of the training loop that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vbcli.errors import VbcliError
from vbcli.training.trainer import TrainConfig

TaskName = Literal["pretrain", "denoise", "caption"]
VisualInput = Literal["tokens", "features", "both"]
Fusion = Literal["joint", "cross"]
# A captioner starts from so much of a pre-trained encoder's blocks; docs/defaults.md has what it gains.
KEPT_OF_PRETRAINING = 0.4
# Of the running mean of a captioner's weights: about the last 500 steps.
CAPTION_EMA_DECAY = 0.998


@dataclass(frozen=True)
class FitOptions:
    """Options of `vbcli train`.

    Args:
        model: the encoder's preset; the decoder is the BART preset of the same size.
        init: a checkpoint of ours, a folder with a Hugging Face BERT, or `minilm`; None is fresh.
        split: what to learn from.
        max_steps: None is the task's default.
        learning_rate: None falls with the model's width.
        keep_init: share of the pre-trained blocks' weights that a captioner starts from (`shrink_and_perturb`); 1 takes them as they are.
        n_clips: clips of a video that a captioner is shown; None is all.
    """

    task: TaskName
    model: str = "videobert-tiny"
    init: str | None = None
    split: str = "train"
    visual_input: VisualInput = "both"
    fusion: Fusion = "joint"
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    label_smoothing: float = 0.1
    keep_init: float = KEPT_OF_PRETRAINING
    n_clips: int | None = None
    seed: int = 0
    threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, is_valid, wanted in (
            ("learning-rate", self.learning_rate is None or 0 < self.learning_rate < math.inf, "above 0"),
            ("label-smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("keep-init", 0 <= self.keep_init <= 1, "in [0, 1]"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not is_valid:
                value = getattr(self, name.replace("-", "_"))
                raise VbcliError(f"--{name} is {value}", hint=f"it must be {wanted}")


DEFAULT_STEPS: dict[str, int] = {"pretrain": 1000, "denoise": 1000, "caption": 2500}


def train_config(options: FitOptions, hidden_size: int, n_rows: int) -> TrainConfig:
    """Training settings of a run: the learning rate falls with the width (1e-3 at 128); validation comes about every second epoch."""
    max_steps = options.max_steps if options.max_steps is not None else DEFAULT_STEPS[options.task]
    two_epochs = 2 * -(-n_rows // options.batch_size)
    return TrainConfig(
        max_steps=max_steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate or 0.128 / hidden_size,
        warmup_steps=min(100, max(1, max_steps // 10)),
        eval_every=min(max(two_epochs, 20), 200, max_steps),
        ema_decay=CAPTION_EMA_DECAY if options.task == "caption" else 0.0,
        seed=options.seed,
    )
