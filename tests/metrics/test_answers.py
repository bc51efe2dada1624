"""Scores of answers by hand, as the script of SQuAD has them."""

from __future__ import annotations

import pytest

from vbcli.metrics.answers import exact_match, normalise, score_answers, word_f1


def test_what_does_not_matter_is_taken_off():
    assert normalise("  The red, BALL! an apple") == "red ball apple"
    assert exact_match("It falls.", ["it rises", "it falls"]) == 1
    assert exact_match("it fell", ["it falls"]) == 0


def test_f1_of_words_by_hand():
    # Two of three words said, two of four wanted: 2 * 2 / 7.
    assert word_f1("red ball falls", ["red ball moves up"]) == pytest.approx(4 / 7)
    assert word_f1("the", ["a"]) == 1
    assert word_f1("red", [""]) == 0
    assert score_answers(["red", "blue"], [["red"], ["green", "blue sky"]]) == {"exact match": 0.5, "F1": pytest.approx((1 + 2 / 3) / 2)}
