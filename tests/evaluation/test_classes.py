"""Several systems' classes, by hand: means and spread of runs, and gains video by video."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vbcli.errors import VbcliError
from vbcli.evaluation.classes import ClassRows, evaluate_classes

TRUTHS = {"1": ["cat"], "2": ["dog"], "3": ["cat"], "4": ["dog"]}


def rows(*labels: str) -> ClassRows:
    """Each video's class, or classes where there are several words."""
    found = {str(i): of.split() for i, of in enumerate(labels, start=1)}
    return ClassRows(found, {v: {name: float(name in of) for name in ("cat", "dog")} for v, of in found.items()})


RIGHT, HALF, ALL_CATS = rows("cat", "dog", "cat", "dog"), rows("cat", "dog", "dog", "cat"), rows("cat", "cat", "cat", "cat")


def test_runs_of_a_system_have_a_mean_and_a_spread():
    found = evaluate_classes(RIGHT, TRUTHS, list(TRUTHS), reruns=[HALF], others={"cats": [ALL_CATS], "mixed": [HALF, HALF, RIGHT]})
    assert {name: of["accuracy"] for name, of in found.scores.items()} == pytest.approx({"classes": 0.75, "cats": 0.5, "mixed": 2 / 3})
    # Of 1 and 1/2, and of 1/2, 1/2 and 1.
    assert {name: of["accuracy"] for name, of in found.spread.items()} == pytest.approx({"classes": 0.125**0.5, "mixed": 12**-0.5})
    # Right on 1 and 2 always, on 3 and 4 half the time; cats are right on 1 and 3, the mixed runs on 3 and 4 a third of the time.
    assert (found.gains["cats"].mean, found.gains["mixed"].mean) == pytest.approx((0.25, 1 / 12))
    # The interval is that of all ways to draw four videos of these gains.
    means = [np.mean(drawn) for drawn in itertools.product((0, 1, -0.5, 0.5), repeat=4)]
    assert (found.gains["cats"].low, found.gains["cats"].high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=1e-9)
    assert {"classes: mean and standard deviation of 2 runs", "mixed: mean and standard deviation of 3 runs"} <= set(found.notes)
    # The matrix is of the first run.
    assert found.confusions == [[2, 0], [0, 2]]


def test_videos_are_of_several_classes_where_one_system_says_so():
    """Else who says all classes of every video would be right everywhere."""
    found = evaluate_classes(RIGHT, TRUTHS, list(TRUTHS), others={"both": [rows("cat dog", "cat dog", "cat dog", "dog")]})
    assert {name: of["exact match"] for name, of in found.scores.items()} == {"classes": 1, "both": 0.25}
    assert found.gains["both"].mean == 0.75
    assert found.confusions == []


def test_systems_must_have_the_same_videos():
    with pytest.raises(VbcliError, match="short has no classes for 2 of the 4 videos, first 3"):
        evaluate_classes(RIGHT, TRUTHS, list(TRUTHS), others={"short": [RIGHT, rows("cat", "dog")]})
