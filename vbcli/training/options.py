"""The options of `vbcli train`, and the settings of the training loop that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vbcli.config import Precision
from vbcli.errors import UsageError
from vbcli.training.masking import MASK_RATE
from vbcli.training.trainer import Schedule, TrainConfig

TaskName = Literal["pretrain", "denoise", "caption", "classify", "retrieve", "answer", "encoder"]
ObjectiveChoice = Literal["auto", "labels", "words", "order"]
VisualInput = Literal["tokens", "features", "both"]
TextInput = Literal["tokens", "features"]
Fusion = Literal["joint", "cross"]
# A captioner starts from so much of a pre-trained encoder's blocks; docs/defaults.md has what it gains.
KEPT_OF_PRETRAINING = 0.4
# Of the running mean of the weights: a captioner's is about the last 500 steps.
DEFAULT_EMA_DECAY: dict[str, float] = {
    "pretrain": 0.0,
    "denoise": 0.0,
    "caption": 0.998,
    "classify": 0.99,
    "retrieve": 0.99,
    "answer": 0.998,
    "encoder": 0.99,
}


@dataclass(frozen=True)
class FitOptions:
    """Options of `vbcli train`.

    Args:
        model: the encoder's preset; the decoder is the BART preset of the same size. For the task `encoder`, of a 3-D convolution network.
            None is the shape of what training starts from, or the smallest preset.
        init: a checkpoint of ours, a Hugging Face BERT or BART (a folder or a name on the hub), or `minilm`; None is fresh.
        split: what to learn from.
        texts: files of text that is learned, too, in pre-training and denoising. A captioner learns to write from it, and is shown of a
            video where its features lie among sentences (`from_text.py`).
        max_steps: None is the task's default.
        learning_rate: None falls with the model's width.
        keep_init: share of the pre-trained blocks' weights that a captioner or classifier starts from (`shrink_and_perturb`); 1 takes them
            as they are.
        text_input: text enters as tokens, or as the features of a frozen BERT, the one that `init` names; all else is then of the preset's
            shape and starts fresh.
        transcript: show a captioner or classifier the transcripts of the videos, too.
        n_clips: clips of a video that a captioner or classifier is shown; None is all.
        balance: every class counts as much as another in a classifier's loss, however many videos it has; where videos have several, to
            have a class counts as much as not to have it.
        accumulation: pieces that a step is cut into, to need less memory; the result is the same.
        schedule: how the learning rate falls after the warm-up.
        ema_decay: of the running mean of the weights; None is the task's default, 0 keeps no mean.
        patience: validations without a gain before training stops.
        regime_weights: how often pre-training shows video and text, text alone, and video alone.
        mask_rate: share of the tokens that pre-training hides and asks for.
        objective: what a 3-D encoder learns of a clip: its labels, the words of its captions, or the order of its frames; `auto` is the
            first of these that there is.
        precision: of the computing; `auto` is bfloat16 on a GPU that has it, else float32.
        device: `auto` is a GPU where there is one.
    """

    task: TaskName
    model: str | None = None
    init: str | None = None
    split: str = "train"
    texts: tuple[str, ...] = ()
    visual_input: VisualInput = "both"
    text_input: TextInput = "tokens"
    fusion: Fusion = "joint"
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    label_smoothing: float = 0.1
    keep_init: float = KEPT_OF_PRETRAINING
    transcript: bool = False
    n_clips: int | None = None
    balance: bool = False
    accumulation: int = 1
    schedule: Schedule = "cosine"
    ema_decay: float | None = None
    patience: int = 5
    regime_weights: tuple[float, float, float] = (0.6, 0.2, 0.2)
    mask_rate: float = MASK_RATE
    objective: ObjectiveChoice = "auto"
    seed: int = 0
    precision: Precision = "auto"
    threads: int = 0
    device: Literal["auto", "cpu"] = "auto"

    @property
    def learns_from_text(self) -> bool:
        """Whether a captioner is taught to write from the vectors of sentences."""
        return self.task == "caption" and bool(self.texts)

    def __post_init__(self) -> None:
        for name, is_valid, wanted in (
            ("learning-rate", self.learning_rate is None or 0 < self.learning_rate < math.inf, "above 0"),
            ("mask-rate", 0 < self.mask_rate < 1, "between 0 and 1"),
            ("label-smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("keep-init", 0 <= self.keep_init <= 1, "in [0, 1]"),
            ("ema-decay", self.ema_decay is None or 0 <= self.ema_decay < 1, "in [0, 1)"),
            (
                "regime-weights",
                min(self.regime_weights) >= 0 < sum(self.regime_weights) < math.inf,
                "not negative, finite, and one of them above 0",
            ),
            ("seed", self.seed >= 0, "0 or more"),
            ("accumulation", self.accumulation == 1 or self.task != "retrieve", "1: what a row loses depends on the rows beside it"),
        ):
            if not is_valid:
                value = getattr(self, name.replace("-", "_"))
                raise UsageError(f"--{name} is {value}", hint=f"it must be {wanted}")


DEFAULT_STEPS: dict[str, int] = {
    "pretrain": 1000,
    "denoise": 1000,
    "caption": 3000,
    "classify": 2000,
    "retrieve": 2000,
    "answer": 2000,
    "encoder": 1000,
}


def max_steps(options: FitOptions) -> int:
    """Most steps of a run."""
    return options.max_steps if options.max_steps is not None else DEFAULT_STEPS[options.task]


def train_config(options: FitOptions, hidden_size: int, n_rows: int) -> TrainConfig:
    """Training settings of a run: the learning rate falls with the width (1e-3 at 128); validation comes about every second epoch."""
    n_steps = max_steps(options)
    two_epochs = 2 * -(-n_rows // options.batch_size)
    return TrainConfig(
        max_steps=n_steps,
        batch_size=options.batch_size,
        accumulation=options.accumulation,
        learning_rate=options.learning_rate or 0.128 / hidden_size,
        schedule=options.schedule,
        warmup_steps=min(100, max(1, n_steps // 10)),
        eval_every=min(max(two_epochs, 20), 200, n_steps),
        patience=options.patience,
        ema_decay=options.ema_decay if options.ema_decay is not None else DEFAULT_EMA_DECAY[options.task],
        seed=options.seed,
    )
