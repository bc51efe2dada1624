"""Scores of answers by hand, as the script of SQuAD has them."""

from __future__ import annotations

import pytest

from vbcli.metrics.answers import exact_match, expected_scores, normalise, score_answers, word_f1


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


def test_expected_scores_are_means_over_every_draw():
    drawn = {"a red ball": 3, "Red ball.": 1, "blue": 2, "the": 1, "a blue cube falls": 3}
    truths = [["red ball"], ["blue cube", "cube"], ["green"], ["an"], ["blue", "red ball"]]
    each = [answer for answer, n in drawn.items() for _ in range(n)]
    for name, value in expected_scores(drawn, truths).items():
        assert value == pytest.approx(sum(score_answers([answer] * len(truths), truths)[name] for answer in each) / len(each))
    # By hand: four of ten draws are "red ball", and one is nothing but an article, as the fourth truth is.
    assert expected_scores(drawn, [["red ball"], ["an"]])["exact match"] == pytest.approx((4 + 1) / 10 / 2)
