"""The training loop: schedule, early stopping, and a state from which an interrupted run goes on to the same loss curve.

A step's loss is the sum of each part's mean over all predictions of the step, whatever pieces the step is cut into: `accumulation` pieces
one after the other, and processes beside each other.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from vbcli.config import config_hash, to_dict
from vbcli.errors import VbcliError
from vbcli.files import write_atomic
from vbcli.models.dropout import key_dropout
from vbcli.training.tasks import TRAINING, VALIDATION, DrawnRows, Task

Schedule = Literal["cosine", "linear"]
# Rows that validate: a handful of them is drawn several times.
MIN_VALIDATION_ROWS = 64


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Args:
        max_steps: most optimiser steps; early stopping may end before.
        batch_size: rows a step.
        accumulation: pieces that a step is cut into, to need less memory; the result is the same.
        learning_rate: at its highest, after the warm-up.
        schedule: it falls to a tenth along a cosine, or to zero along a line.
        warmup_steps: of linear warm-up.
        weight_decay: of AdamW, on matrices only.
        clip_norm: largest norm of the gradient.
        eval_every: steps between validations (and saved states).
        patience: validations without a gain before training stops.
        min_gain: share by which the validation loss must fall to count as a gain.
        ema_decay: of the running mean of the weights that is validated and kept; 0 keeps the weights themselves.
        seed: of initial weights, order, masks and dropout.
    """

    max_steps: int
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    eval_every: int = 100
    patience: int = 5
    min_gain: float = 0.002
    ema_decay: float = 0.0
    seed: int = 0


@dataclass
class TrainProgress:
    """Where training stands; `validation_loss` is the newest."""

    step: int
    max_steps: int
    loss: float
    validation_loss: float
    tokens_per_s: float
    seconds_a_step: float


@dataclass
class TrainResult:
    """How training ended; `train_loss` is of training rows, drawn as validation rows are, with the weights of the best step."""

    n_steps: int
    best_step: int
    best_loss: float
    train_loss: float
    is_early: bool


class _Losses(nn.Module):
    """A task's losses as a module: all that uses weights happens in one call of `forward`, as distribution and autocast need it."""

    def __init__(self, task: Task[Any, Any, Any, Any]) -> None:
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, drawn: DrawnRows[Any]) -> dict[str, Tensor]:
        key_dropout(self.model, drawn.keys)
        return self.task.losses(drawn)


class Trainer:
    """Trains a task's model in place; at the end the weights with the best validation loss are in it, be it those of the start.

    Args:
        checkpoint_dir: where `metrics.jsonl`, `tensorboard/` and, while it runs, `_training/state.pt` are.
        identity: what decides the run besides the configuration; a state of another identity is refused.
        accelerator: device, precision and the other processes; None is this process, in float32, where the model is.
    """

    def __init__(
        self,
        task: Task[Any, Any, Any, Any],
        config: TrainConfig,
        checkpoint_dir: Path,
        identity: dict[str, Any],
        on_progress: Callable[[TrainProgress], None],
        accelerator: Accelerator | None = None,
    ) -> None:
        self.task = task
        self.config = config
        self.checkpoint_dir = checkpoint_dir
        # Pieces change nothing but the memory that is needed.
        self.key = config_hash([{**to_dict(config), "accumulation": 1}, identity])
        self.on_progress = on_progress
        self.accelerator = accelerator or Accelerator(cpu=True)
        self.losses = self.accelerator.prepare(_Losses(task))
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(task.model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.history: list[dict[str, Any]] = []
        self.step = 0
        self.best_step, self.best_loss, self.best_train_loss = 0, math.inf, math.inf
        self.best_state: dict[str, Tensor] = {}
        # The running mean of the weights; empty where none is kept.
        self.mean_state: dict[str, Tensor] = _copy_state(task.model) if config.ema_decay else {}
        self.n_without_gain, self.last_gain = 0, math.inf

    @property
    def _state_path(self) -> Path:
        return self.checkpoint_dir / "_training" / "state.pt"

    def run(self) -> TrainResult:
        """Trains to the end, from a saved state where there is one.

        Raises:
            VbcliError: the loss is not a number, or the saved state is of other options.
        """
        self._load_state()
        model, config = self.task.model, self.config
        # Before anything is computed: a folder that cannot be written is known at once.
        self._write_metrics()
        if self.step == 0:
            self._keep_start()
        with self._open_board() as write_board:
            while self.step < config.max_steps and self.n_without_gain < config.patience:
                started = time.perf_counter()
                loss, n_tokens = self._train_step()
                seconds = time.perf_counter() - started
                self.step += 1
                row: dict[str, Any] = {"step": self.step, "loss": loss, "learning_rate": self._learning_rate(self.step - 1)}
                if self.step % config.eval_every == 0 or self.step == config.max_steps:
                    row["validation"], row["train"] = self._validate()
                self.history.append(row)
                write_board(row)
                last = next((r["validation"]["loss"] for r in reversed(self.history) if "validation" in r), math.nan)
                self.on_progress(TrainProgress(self.step, config.max_steps, loss, last, n_tokens / max(seconds, 1e-9), seconds))
                if "validation" in row:
                    self._save_state()
        _load_state(model, self.best_state)
        key_dropout(model, None)
        model.eval()
        return TrainResult(self.step, self.best_step, self.best_loss, self.best_train_loss, self.step < config.max_steps)

    def finish(self) -> None:
        """Removes the saved state: the checkpoint is whole."""
        self._state_path.unlink(missing_ok=True)
        if self._state_path.parent.is_dir():
            self._state_path.parent.rmdir()

    # ---------------------------------------------------------------- a step

    def _train_step(self) -> tuple[float, int]:
        config, model, accelerator = self.config, self.task.model, self.accelerator
        model.train()
        rows, epoch = self._rows_of(self.step)
        pieces = self._draw_pieces(rows, epoch)
        counts = self._count(pieces)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=accelerator.device)
        for i, (drawn, weight) in enumerate(pieces):
            with self._synchronised(i == len(pieces) - 1):
                terms = [total / max(1, counts[name]) for name, total in self.losses(drawn).items()]
                part = weight * torch.stack(terms).sum()
                # Distribution averages over processes what is to be their sum.
                accelerator.backward(part * accelerator.num_processes)
            loss += part.detach()
        loss = accelerator.reduce(loss, "sum")
        assert isinstance(loss, Tensor)
        if not torch.isfinite(loss):
            raise self._not_a_number(float(loss), rows, epoch)
        accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        self.optimizer.step()
        self._update_mean()
        return float(loss), sum(drawn.n_tokens for drawn, _ in pieces)

    def _draw_pieces(self, rows: Sequence[int], epoch: int) -> list[tuple[DrawnRows[Any], float]]:
        """The pieces of a step that this process takes, each with its weight.

        Every process takes as many: where it has no row left, one that weighs nothing.
        """
        accelerator = self.accelerator
        mine = np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
        pieces = [piece.tolist() for piece in np.array_split(mine, self.config.accumulation)]
        drawn = [self.task.draw(TRAINING, piece or rows[:1], epoch, is_disturbed=True).to(accelerator.device) for piece in pieces]
        return [(d, 1.0 if piece else 0.0) for d, piece in zip(drawn, pieces, strict=True)]

    def _count(self, pieces: Sequence[tuple[DrawnRows[Any], float]]) -> dict[str, int]:
        """Predictions of the whole step by name, over all pieces and processes."""
        names = self.task.loss_names
        mine = torch.tensor([sum(d.counts[name] for d, weight in pieces if weight) for name in names], device=self.accelerator.device)
        total = self.accelerator.reduce(mine, "sum")
        assert isinstance(total, Tensor)
        return dict(zip(names, total.tolist(), strict=True))

    @contextmanager
    def _synchronised(self, is_last: bool) -> Iterator[None]:
        """Gradients are exchanged once a step, after its last piece."""
        if is_last:
            yield
        else:
            with self.accelerator.no_sync(self.losses):
                yield

    def _not_a_number(self, loss: float, rows: Sequence[int], epoch: int) -> VbcliError:
        """The error of a loss that is none: bad rows are named; where every row is bad, the weights are."""
        bad = [row for row in rows if not self._is_finite(row, epoch)]
        if 0 < len(bad) < len(rows):
            video = self.task.parts[TRAINING][bad[0]][0]
            message = f"the loss of {video.video_id} in {video.shard} is {loss}"
            return VbcliError(message, hint="look at its features; encode it again, or take it out")
        return VbcliError(f"the loss became {loss} at step {self.step + 1}", hint="give a lower --learning-rate")

    @torch.no_grad()
    def _is_finite(self, row: int, epoch: int) -> bool:
        drawn = self.task.draw(TRAINING, [row], epoch, is_disturbed=True).to(self.accelerator.device)
        return all(bool(torch.isfinite(total)) for total in self.losses(drawn).values())

    @torch.no_grad()
    def _update_mean(self) -> None:
        """Source: Polyak and Juditsky 1992; the decay rises with the steps, so that the first weights are soon forgotten."""
        if self.mean_state:
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            values = self.task.model.state_dict()
            for name, mean in self.mean_state.items():
                mean.lerp_(values[name], 1 - decay)

    def _rows_of(self, step: int) -> tuple[list[int], int]:
        n, size = self.task.n_train, self.config.batch_size
        per_epoch = -(-n // size)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([self.config.seed, epoch]).permutation(n)
        return order[place * size : (place + 1) * size].tolist(), epoch

    def _learning_rate(self, step: int) -> float:
        config = self.config
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        done = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
        if config.schedule == "linear":
            return config.learning_rate * (1 - done)
        return config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    # ---------------------------------------------------------------- validation

    def _keep_start(self) -> None:
        """What training starts from is kept until something is better; patience is not measured by it, as a warm-up may cost at first."""
        self._validate()
        self.n_without_gain, self.last_gain = 0, math.inf

    def _validate(self) -> tuple[dict[str, float], dict[str, float]]:
        """Losses of the validation rows, and of as many training rows drawn in the same way."""
        model, own_state = self.task.model.eval(), {}
        if self.mean_state:
            own_state = _copy_state(model)
            _load_state(model, self.mean_state)
        losses, train = self._evaluate(VALIDATION), self._evaluate(TRAINING)
        if not math.isfinite(losses["loss"]):
            hint = "give a lower --learning-rate" if self.step else "look at the validation videos' features, and at what --init names"
            raise VbcliError(f"the validation loss is {losses['loss']} at step {self.step}", hint=hint)
        if losses["loss"] < self.best_loss:
            self.best_loss, self.best_step, self.best_train_loss = losses["loss"], self.step, train["loss"]
            self.best_state = _copy_state(model)
        if losses["loss"] < self.last_gain * (1 - self.config.min_gain):
            self.n_without_gain, self.last_gain = 0, losses["loss"]
        else:
            self.n_without_gain += 1
        if own_state:
            _load_state(model, own_state)
        return losses, train

    @torch.no_grad()
    def _evaluate(self, part: int) -> dict[str, float]:
        sums = dict.fromkeys(self.task.loss_names, 0.0)
        counts = dict.fromkeys(self.task.loss_names, 0)
        for rows, epoch in self._evaluated_rows(part):
            drawn = self.task.draw(part, rows, epoch, is_disturbed=False).to(self.accelerator.device)
            for name, total in self.losses(drawn).items():
                sums[name] += float(total)
                counts[name] += drawn.counts[name]
        losses = {name: sums[name] / counts[name] for name in sorted(sums) if counts[name]}
        return {**losses, "loss": sum(losses.values())}

    def _evaluated_rows(self, part: int) -> Iterator[tuple[list[int], int]]:
        """Batches of rows, alike at every validation: all validation rows, or a few of the training rows."""
        n, size = len(self.task.parts[part]), self.config.batch_size
        if part == VALIDATION:
            rows, n_draws = list(range(n)), -(-MIN_VALIDATION_ROWS // n)
        else:
            rows, n_draws = np.random.default_rng(self.config.seed).permutation(n)[:MIN_VALIDATION_ROWS].tolist(), 1
        for draw in range(n_draws):
            for start in range(0, len(rows), size):
                yield rows[start : start + size], draw

    # ---------------------------------------------------------------- the record and the state

    @contextmanager
    def _open_board(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """What writes a row of the history for TensorBoard; a run that goes on overwrites what came after its state."""
        if not self.accelerator.is_main_process:
            yield lambda row: None
            return
        with SummaryWriter(str(self.checkpoint_dir / "tensorboard"), purge_step=self.step + 1) as board:

            def write(row: dict[str, Any]) -> None:
                for name, value in row.items():
                    if isinstance(value, dict):
                        for part, number in value.items():
                            board.add_scalar(f"{name}/{part}", number, row["step"])
                    elif name != "step":
                        board.add_scalar(name, value, row["step"])

            yield write

    def _save_state(self) -> None:
        if not self.accelerator.is_main_process:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "key": self.key,
                "step": self.step,
                "model": _learned_state(self.task.model),
                "optimizer": self.optimizer.state_dict(),
                "best": [self.best_step, self.best_loss, self.best_train_loss, self.n_without_gain, self.last_gain],
                "best_state": self.best_state,
                "mean_state": self.mean_state,
                "history": json.dumps(self.history),
            },
            buffer,
        )
        write_atomic(self._state_path, buffer.getvalue())
        self._write_metrics()

    def _write_metrics(self) -> None:
        if self.accelerator.is_main_process:
            lines = "".join(json.dumps(row) + "\n" for row in self.history)
            write_atomic(self.checkpoint_dir / "metrics.jsonl", lines.encode())

    def _load_state(self) -> None:
        if not self._state_path.is_file():
            return
        try:
            state = torch.load(self._state_path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise VbcliError(f"{self._state_path} cannot be read: {str(error).splitlines()[0]}", hint="remove it to start again") from error
        if state["key"] != self.key:
            raise VbcliError(
                f"{self.checkpoint_dir} holds a training run begun with other options or data",
                hint="give the same options again, name another folder, or remove this one",
            )
        self.step = state["step"]
        _load_state(self.task.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_step, self.best_loss, self.best_train_loss, self.n_without_gain, self.last_gain = state["best"]
        self.best_state, self.mean_state = state["best_state"], state["mean_state"]
        self.history = json.loads(state["history"])


def _learned_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: a frozen part is kept once, in the model."""
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in _learned_state(model).items()}


def _load_state(model: nn.Module, learned: dict[str, Tensor]) -> None:
    model.load_state_dict({**model.state_dict(), **learned})


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and embedding tables do not (rows that are kept fixed would shrink)."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    learned = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim >= 2 and id(p) not in tables]
    plain = [p for p in learned if p.ndim < 2 or id(p) in tables]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
