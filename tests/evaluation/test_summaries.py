"""Several systems' summaries, by hand."""

from __future__ import annotations

import pytest

from vbcli.errors import VbcliError
from vbcli.evaluation.summaries import evaluate_summaries

EVENTS = {v: [("rain", 0.0, 4.0), ("sun", 4.0, 8.0)] for v in "ab"}
BOTH, RAIN = [(0.0, 2.0), (5.0, 7.0)], [(0.0, 2.0)]


def test_systems_and_runs_have_rows_and_gains_in_f1():
    whole, half = {"a": BOTH, "b": BOTH}, {"a": RAIN, "b": BOTH}
    found = evaluate_summaries(whole, EVENTS, reruns=[half], others={"rain": [{"a": RAIN, "b": RAIN}]})
    # One of two events without a wrong segment: 2 * 1 * 0.5 / 1.5.
    assert {name: of["F1"] for name, of in found.scores.items()} == pytest.approx(
        {"summary": (1 + 5 / 6) / 2, "rain": 2 / 3, "even distances": 1}
    )
    assert found.spread["summary"]["F1"] == pytest.approx((1 - 5 / 6) / 2**0.5)
    # Above on a by (1 + 2/3) / 2 - 2/3, on b by 1/3.
    assert (found.gains["rain"].low, found.gains["rain"].mean, found.gains["rain"].high) == pytest.approx((1 / 6, 1 / 4, 1 / 3))
    with pytest.raises(VbcliError, match="other has no summary of 1 of the 2 videos, first b"):
        evaluate_summaries(whole, EVENTS, others={"other": [{"a": BOTH}]})
