"""Scores of captions against published figures."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vbcli.errors import VbcliError
from vbcli.metrics.captions import CaptionScores, caption_alarms, score_captions

GOLD_DIR = Path(__file__).parents[2] / "../shared/data/metrics"


JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java on the PATH")


def gold_captions() -> tuple[dict[str, str], dict[str, list[str]]]:
    if not GOLD_DIR.exists():
        pytest.skip(f"no metric examples at {GOLD_DIR}")
    columns = [(GOLD_DIR / name).read_text(encoding="utf-8").splitlines() for name in ("hyp.txt", "ref1.txt", "ref2.txt")]
    rows = {f"v{row}": texts for row, texts in enumerate(zip(*columns, strict=True))}
    return {video_id: texts[0] for video_id, texts in rows.items()}, {video_id: list(texts[1:]) for video_id, texts in rows.items()}


@pytest.fixture(scope="module")
def meteor_scores() -> tuple[CaptionScores, CaptionScores]:
    """The published example, and the same with a third video whose caption is empty; two programs at once, for they start slowly."""
    hypotheses, references = gold_captions()
    with ThreadPoolExecutor() as pool:
        plain = pool.submit(score_captions, hypotheses, references)
        emptied = pool.submit(score_captions, hypotheses | {"v2": ""}, references | {"v2": ["a man ||| is eating"]})
        return plain.result(), emptied.result()


def test_published_scores(capsys: pytest.CaptureFixture[str]) -> None:
    scores = score_captions(*gold_captions(), with_meteor=False)
    assert scores.bleu == pytest.approx((0.55, 0.428174, 0.284043, 0.201143), abs=1e-6)
    assert scores.rouge_l == pytest.approx(0.522104, abs=1e-6)
    assert scores.cider == pytest.approx(1.242192, abs=1e-6)
    assert np.mean(scores.cider_per_video) == pytest.approx(scores.cider)
    assert scores.meteor is None
    assert list(scores.as_row()) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert capsys.readouterr().out == ""


@JAVA
def test_published_meteor(meteor_scores: tuple[CaptionScores, CaptionScores]) -> None:
    assert meteor_scores[0].meteor == pytest.approx(0.295797, abs=1e-6)
    assert meteor_scores[0].as_row()["METEOR"] == meteor_scores[0].meteor


@JAVA
def test_meteor_with_an_empty_caption(meteor_scores: tuple[CaptionScores, CaptionScores]) -> None:
    plain, emptied = meteor_scores
    assert plain.meteor is not None
    assert emptied.meteor is not None, emptied.meteor_reason
    assert 0 < emptied.meteor < plain.meteor


@JAVA
def test_meteor_gives_up_in_time() -> None:
    scores = score_captions(*gold_captions(), meteor_timeout_s=0.05)
    assert scores.meteor is None
    assert scores.meteor_reason == "METEOR took more than 0.05 s"
    assert scores.cider > 1


def test_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    scores = score_captions({"a": "a man eats"}, {"a": ["a man eats"]})
    assert (scores.meteor, scores.bleu[0]) == (None, pytest.approx(1))
    assert scores.meteor_reason is not None
    assert "Java" in scores.meteor_reason


def test_empty_captions_score_nothing() -> None:
    references = {"a": ["a man eats rice"], "b": ["a dog runs in the park", "..."], "c": ["two girls sing a song"]}
    one_empty = score_captions({"a": "a man eats rice", "b": "", "c": "..."}, references, with_meteor=False)
    assert one_empty.cider_per_video == (pytest.approx(10), 0, 0)
    assert one_empty.rouge_l == pytest.approx(1 / 3)
    nothing = score_captions(dict.fromkeys(references, ""), references, with_meteor=False)
    assert set(nothing.as_row().values()) == {0}


@pytest.mark.parametrize(
    ("hypotheses", "references", "named"),
    [
        ({"a": "x", "b": "y"}, {"a": ["x"]}, "1 videos have no reference: b"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "1 videos have no caption: b"),
        ({"a": "x"}, {"a": []}, "video a has no reference"),
        ({"a": "x"}, {"a": ["..."]}, "video a has no reference"),
        ({}, {}, "no captions"),
    ],
)
def test_captions_that_cannot_be_scored(hypotheses: dict[str, str], references: dict[str, list[str]], named: str) -> None:
    with pytest.raises(VbcliError, match=named):
        score_captions(hypotheses, references, with_meteor=False)


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ([], []),
        (["a man eats", "a dog runs", "two girls sing", "a car drives"], []),
        (["A man.", "a man", "a man", "a dog"], ["3 of 4 captions are the same"]),
        (["a man", "a man", "a dog", "a cat"], []),
        (["a man", "a man", "a man"], []),
        (["", " . ", "a dog"], ["2 of 3 captions are empty"]),
        (["a man and a man and a man", "a dog runs"], ["1 of 2 captions say the same three words twice"]),
        (["a man and a man and a man", *(f"dog {place}" for place in range(19))], []),
        ([""] * 4, ["4 of 4 captions are empty"]),
    ],
)
def test_caption_alarms(captions: list[str], words: list[str]) -> None:
    alarms = caption_alarms(captions)
    assert len(alarms) == len(words)
    assert all(word in alarm for alarm, word in zip(alarms, words, strict=True))
