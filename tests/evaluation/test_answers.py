"""Scores of answers, by hand: what was not answered, and what training answers alone would score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vbcli.evaluation.answers
from vbcli.errors import VbcliError
from vbcli.evaluation.answers import AnswerEvaluation, GivenAnswers, evaluate_answers
from vbcli.evaluation.captions import References
from vbcli.training.batches import Question, SegmentRow, VideoTokens

WHAT, WHERE = "what is it?", "where is it?"
TRUTHS = {("a", WHAT): ["ball"], ("a", WHERE): ["left"], ("b", WHAT): ["cube"], ("c", WHAT): ["ball"], ("d", WHAT): []}


def evaluate(
    answers: dict[tuple[str, str], str], video_ids: list[str], training: list[list[Question]], own: set[tuple[str, str]]
) -> AnswerEvaluation:
    rows = [SegmentRow("t", 0, 1, np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), "")]
    known = [VideoTokens(f"t{i}", rows, split="train", questions=questions) for i, questions in enumerate(training)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vbcli.evaluation.answers, "read_tokens", lambda path: known)
        references = References({}, {}, {}, TRUTHS, {})
        return evaluate_answers(GivenAnswers(answers, video_ids, frozenset(own)), references, video_ids, Path("tokens"))


TRAINING = [[Question(WHAT, ("ball", "ball", "cube")), Question("why?")], [Question("how?")], [Question(WHERE, ("right",))]]


def test_what_was_not_answered_is_wrong_where_all_was_asked():
    found = evaluate(
        {("a", WHAT): "ball", ("b", WHAT): "ball"}, ["a", "b", "d"], TRAINING, {("a", WHAT), ("a", WHERE), ("b", WHAT), ("d", WHAT)}
    )
    # Right: one of three; the question about d has no known answer, and c was not asked.
    assert found.scores["answers"]["exact match"] == pytest.approx(1 / 3)
    assert "1 questions about these videos have no answer and count as wrong" in found.notes
    assert {kind: (of["questions"], of["exact match"]) for kind, of in found.kinds.items()} == {"what is": (2, 0.5), "where is": (1, 0)}
    # The truths ball, left, cube; suggested to what: ball, to where: right.
    assert found.scores["the question alone"]["exact match"] == pytest.approx(1 / 3)
    # Drawn from ball, ball, cube, right: 2/4, 0 and 1/4.
    assert found.scores["a random training answer"] == {"exact match": pytest.approx(0.25), "F1": pytest.approx(0.25)}


def test_questions_that_were_not_asked_are_counted_alone():
    found = evaluate({("a", WHAT): "ball", ("b", WHAT): "ball"}, ["a", "b"], TRAINING, set())
    assert found.scores["answers"]["exact match"] == pytest.approx(1 / 2)
    assert "1 more questions about these videos that the references ask were not asked" in found.notes


@pytest.mark.parametrize("training", [[], [[Question(WHAT)]]])
def test_training_questions_without_answers_give_no_baselines(training: list[list[Question]]):
    found = evaluate({("a", WHAT): "ball"}, ["a"], training, {("a", WHAT)})
    assert list(found.scores) == ["answers"]
    assert "no training videos with answered questions" in found.notes[-1]


def test_other_systems_have_rows_and_gains_question_by_question():
    asked = {("a", WHAT): "ball", ("a", WHERE): "left", ("b", WHAT): "ball"}
    own = frozenset(asked)
    given = GivenAnswers(asked, ["a", "b"], own)
    better = GivenAnswers({**asked, ("b", WHAT): "cube"}, ["a", "b"], own)
    # What it was asked and did not answer is wrong.
    silent = GivenAnswers({("a", WHAT): "ball"}, ["a", "b"], own)
    references = References({}, {}, {}, TRUTHS, {})
    found = evaluate_answers(given, references, ["a", "b"], None, reruns=[better], others={"silent": [silent], "runs": [silent, better]})
    exact = {name: of["exact match"] for name, of in found.scores.items()}
    assert exact == pytest.approx({"answers": 5 / 6, "silent": 1 / 3, "runs": 2 / 3})
    assert {name: of["exact match"] for name, of in found.spread.items()} == pytest.approx(
        {"answers": (1 / 3) / 2**0.5, "runs": (2 / 3) / 2**0.5}
    )
    # Above the silent one by 0, 1 and 1/2 on the three questions.
    assert (found.gains["silent"].low, found.gains["silent"].mean, found.gains["silent"].high) == pytest.approx((0, 1 / 2, 1))
    assert found.gains["runs"].mean == pytest.approx(1 / 6)
    with pytest.raises(VbcliError, match=r"other has no answer to 2 of the 3 questions, first 'where is it\?' of a"):
        evaluate_answers(given, references, ["a", "b"], None, others={"other": [GivenAnswers(silent.answers, ["a"])]})
