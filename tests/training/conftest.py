"""Fixtures of the tests of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from vbcli.training.tasks import TRAINING, Task

LossesOf = Callable[..., dict[str, tuple[float, int]]]


@pytest.fixture
def losses_of() -> LossesOf:
    """A function that gives the sum of each loss of some rows of a task, and the number of its predictions."""

    def losses_of(
        task: Task[Any, Any, Any, Any], rows: Sequence[int], epoch: int = 0, part: int = TRAINING, is_disturbed: bool = True
    ) -> dict[str, tuple[float, int]]:
        drawn = task.draw(part, rows, epoch, is_disturbed=is_disturbed)
        return {name: (float(total.detach()), drawn.counts[name]) for name, total in task.losses(drawn).items()}

    return losses_of
