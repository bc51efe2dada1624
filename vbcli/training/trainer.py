"""The training loop: schedule, early stopping, and a state from which an interrupted run goes on to the same loss curve."""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vbcli.config import config_hash, to_dict
from vbcli.errors import VbcliError
from vbcli.files import write_atomic
from vbcli.training.tasks import StepResult, Task


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Args:
        max_steps: most optimiser steps; early stopping may end before.
        batch_size: rows a step.
        learning_rate: at its highest, after the warm-up; it falls along a cosine to a tenth.
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
    learning_rate: float = 1e-3
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
    """How training ended."""

    n_steps: int
    best_step: int
    best_loss: float
    is_early: bool


class Trainer:
    """Trains a task's model in place; at the end the weights with the best validation loss are in it.

    Args:
        checkpoint_dir: where `metrics.jsonl` and, while it runs, `_training/state.pt` are.
        identity: what decides the run besides the configuration; a state of another identity is refused.
    """

    def __init__(
        self,
        task: Task[Any, Any],
        config: TrainConfig,
        checkpoint_dir: Path,
        identity: dict[str, Any],
        on_progress: Callable[[TrainProgress], None],
    ) -> None:
        self.task = task
        self.config = config
        self.checkpoint_dir = checkpoint_dir
        self.key = config_hash([to_dict(config), identity])
        self.on_progress = on_progress
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(task.model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.history: list[dict[str, Any]] = []
        self.step = 0
        self.best_step, self.best_loss = 0, math.inf
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
        while self.step < config.max_steps and self.n_without_gain < config.patience:
            started = time.perf_counter()
            loss, n_tokens = self._train_step()
            seconds = time.perf_counter() - started
            self.step += 1
            row: dict[str, Any] = {"step": self.step, "loss": loss, "learning_rate": self._learning_rate(self.step - 1)}
            if self.step % config.eval_every == 0 or self.step == config.max_steps:
                row["validation"] = self._validate()
            self.history.append(row)
            last = next((r["validation"]["loss"] for r in reversed(self.history) if "validation" in r), math.nan)
            self.on_progress(TrainProgress(self.step, config.max_steps, loss, last, n_tokens / max(seconds, 1e-9), seconds))
            if "validation" in row:
                self._save_state()
        model.load_state_dict(self.best_state)
        model.eval()
        return TrainResult(self.step, self.best_step, self.best_loss, self.step < config.max_steps)

    def finish(self) -> None:
        """Removes the saved state: the checkpoint is whole."""
        self._state_path.unlink(missing_ok=True)
        if self._state_path.parent.is_dir():
            self._state_path.parent.rmdir()

    def _train_step(self) -> tuple[float, int]:
        config, model = self.config, self.task.model
        model.train()
        rows, epoch = self._rows_of(self.step)
        # Dropout depends on (seed, step) alone, so a run that goes on draws what the uninterrupted one drew.
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        result = self.task.step(rows, epoch)
        loss = _mean_loss(result)
        if not torch.isfinite(loss):
            raise VbcliError(f"the loss became {float(loss.detach())} at step {self.step + 1}", hint="give a lower --learning-rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        self.optimizer.step()
        self._update_mean()
        return float(loss.detach()), result.n_tokens

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
        done = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
        return config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        model, own_state = self.task.model.eval(), {}
        if self.mean_state:
            own_state = _copy_state(model)
            model.load_state_dict(self.mean_state)
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        size = self.config.batch_size
        for start in range(0, self.task.n_validation, size):
            rows = list(range(start, min(start + size, self.task.n_validation)))
            for name, part in self.task.step(rows, 0, is_validation=True).losses.items():
                sums[name] = sums.get(name, 0.0) + float(part.total)
                counts[name] = counts.get(name, 0) + part.count
        losses = {name: sums[name] / counts[name] for name in sorted(sums)}
        losses["loss"] = sum(losses.values())
        if not math.isfinite(losses["loss"]):
            raise VbcliError(f"the validation loss became {losses['loss']} at step {self.step}", hint="give a lower --learning-rate")
        if losses["loss"] < self.best_loss:
            self.best_loss, self.best_step = losses["loss"], self.step
            self.best_state = _copy_state(model)
        if losses["loss"] < self.last_gain * (1 - self.config.min_gain):
            self.n_without_gain, self.last_gain = 0, losses["loss"]
        else:
            self.n_without_gain += 1
        if own_state:
            model.load_state_dict(own_state)
        return losses

    def _save_state(self) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "key": self.key,
                "step": self.step,
                "model": self.task.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": [self.best_step, self.best_loss, self.n_without_gain, self.last_gain],
                "best_state": self.best_state,
                "mean_state": self.mean_state,
                "history": json.dumps(self.history),
            },
            buffer,
        )
        write_atomic(self._state_path, buffer.getvalue())
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
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_step, self.best_loss, self.n_without_gain, self.last_gain = state["best"]
        self.best_state, self.mean_state = state["best_state"], state["mean_state"]
        self.history = json.loads(state["history"])


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def _mean_loss(result: StepResult) -> Tensor:
    """Sum over the parts of each part's mean."""
    return torch.stack([part.total / part.count for part in result.losses.values()]).sum()


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and embedding tables do not (rows that are kept fixed would shrink)."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in tables]
    plain = [p for p in model.parameters() if p.ndim < 2 or id(p) in tables]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
