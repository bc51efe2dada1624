"""What the training runs of all models share: device and precision, the refusal of another run's folder, and the record of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, KwargsHandler

from vbcli.config import to_dict
from vbcli.errors import VbcliError
from vbcli.memory import keep_freed_memory
from vbcli.training.options import FitOptions
from vbcli.training.tasks import Source, Task
from vbcli.training.trainer import TrainResult

RUN_OPTIONS = ("init", "threads", "device", "accumulation")
"""Options that change nothing of what is learned, or whose change is told by what they lead to."""
OVERFITTED = 1.5
"""A validation loss so many times that of training rows is worth a word."""


@dataclass(frozen=True)
class FitReport:
    """What came out; `result` is None where the checkpoint was there already."""

    checkpoint_dir: Path
    result: TrainResult | None
    trained_on: dict[str, Any]


def prepare_process(options: FitOptions) -> None:
    """Seeds and threads of this process, before a model is built."""
    keep_freed_memory()
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)


def open_accelerator(options: FitOptions) -> Accelerator:
    """Device, precision and, under `accelerate launch`, the other processes."""
    # A captioner has no use for its encoder's heads.
    unused: list[KwargsHandler] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    mixed_precision = "bf16" if resolve_precision(options) == "bfloat16" else "no"
    return Accelerator(cpu=options.device == "cpu", mixed_precision=mixed_precision, kwargs_handlers=unused)


def resolve_precision(options: FitOptions) -> str:
    """What `auto` means here."""
    is_fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported() and options.device != "cpu"
    return options.precision if options.precision != "auto" else "bfloat16" if is_fast else "float32"


def check_same_run(values: dict[str, Any], checkpoint_dir: Path, options: FitOptions, identity: dict[str, Any]) -> FitReport:
    """The report of a run that ended before.

    Args:
        values: the checkpoint's `config.json`.
        identity: of the run that is asked for.

    Raises:
        VbcliError: the folder is of another run.
    """
    found = values["trained_on"]
    if found.get("identity") != identity:
        changed = [k for k in identity if found.get("identity", {}).get(k) != identity[k]]
        raise VbcliError(
            f"{checkpoint_dir} holds a checkpoint of the task '{found.get('task')}', trained with other {' and '.join(changed) or 'data'}"
            + _changed_options(found.get("options", {}), options),
            hint="name another checkpoint folder, or remove this one",
        )
    return FitReport(checkpoint_dir, None, found)


def _changed_options(found: dict[str, Any], options: FitOptions) -> str:
    mine = json.loads(json.dumps(to_dict(options)))
    changed = [
        f"--{k.replace('_', '-')} {found[k]}, not {v}" for k, v in mine.items() if k in found and found[k] != v and k not in RUN_OPTIONS
    ]
    return f" ({'; '.join(changed)})" if changed else ""


def note_overfitting(result: TrainResult, on_note: Callable[[str], None]) -> None:
    """A word where much was learned by heart."""
    if result.best_loss > OVERFITTED * result.train_loss:
        gap = f"{result.best_loss:.3f} against {result.train_loss:.3f} on training rows"
        on_note(f"validation loss {gap}: much is learned by heart; more videos would help, or a smaller model")


def record_run(
    options: FitOptions,
    identity: dict[str, Any],
    facts: dict[str, Any],
    task: Task[Any, Any, Any, Any],
    result: TrainResult,
    train: Sequence[Source],
    validation: Sequence[Source],
) -> dict[str, Any]:
    """What a checkpoint says of its training.

    Args:
        facts: of the dataset.
        train: training videos.
        validation: the others.
    """
    return {
        "task": options.task,
        "options": to_dict(options),
        "identity": identity,
        "dataset": facts,
        "n_train_videos": len(train),
        "n_validation_videos": len(validation),
        "n_rows": task.n_train,
        "n_steps": result.n_steps,
        "best_step": result.best_step,
        "validation_loss": result.best_loss,
        "train_loss": result.train_loss,
    }
