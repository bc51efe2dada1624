"""Scores against published figures and the reference scorers; baselines against brute force."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from vbcli import metrics
from vbcli.errors import VbcliError
from vbcli.metrics import (
    CaptionScores,
    best_constant_caption,
    caption_alarms,
    find_mentions,
    load_lexicon,
    nearest_captions,
    permutation_scores,
    score_captions,
    score_mentions,
)

GOLD_DIR = Path(__file__).parents[1] / "../shared/data/metrics"
JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java on the PATH")

TOYS = {"red ball": ["red ball"], "ball": ["ball"], "box": ["box", "crate"]}


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
    ("text", "values"),
    [
        ("A Red  ball falls into the box", ["red ball", "box"]),
        ("a crate, a ball and a box", ["box", "ball", "box"]),
        ("a redball in a boxcar, footballs", []),
        ("", []),
    ],
)
def test_find_mentions(text: str, values: list[str]) -> None:
    assert find_mentions(text, TOYS) == values


def test_longest_form_wins() -> None:
    assert find_mentions("a red ball, a red box", {"red": ["red"], "ball": ["red ball", "ball"]}) == ["ball", "red"]


@given(st.lists(st.sampled_from(sorted(TOYS)), max_size=6))
def test_mentions_are_found_in_order(values: list[str]) -> None:
    assert find_mentions(" then ".join(values), TOYS) == values


def test_score_mentions() -> None:
    references = {
        "same": ["a ball then a box", "a box then a ball"],
        "swapped": ["a ball then a box"],
        "wrong": ["a ball then a box"],
        "one": ["a box"],
        "none": ["a man"],
        "twice": ["a box and a box"],
    }
    hypotheses = {
        "same": "a box, a ball",
        "swapped": "a box, a ball",
        "wrong": "a ball",
        "one": "the crate",
        "none": "a dog",
        "twice": "a box",
    }
    scores = score_mentions(hypotheses, references, {"object": TOYS})["object"]
    assert scores.n_videos == 6
    assert scores.share_same_sequence == pytest.approx(3 / 6)
    assert scores.share_same_values == pytest.approx(4 / 6)
    assert scores.n_ordered == 3
    assert scores.share_ordered == pytest.approx(1 / 3)
    assert scores.share_ordered_given_values == pytest.approx(1 / 2)
    single = score_mentions({"one": "a box"}, {"one": ["a box"]}, {"object": TOYS})["object"]
    assert (single.n_ordered, single.share_ordered, single.share_ordered_given_values) == (0, None, None)


def test_load_lexicon(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.json"
    lexicon = {"object": TOYS, "action": {"fall": ["falls", "drops"]}}
    path.write_text(json.dumps(lexicon), encoding="utf-8")
    assert load_lexicon(path) == lexicon


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"a": []}', '{"a": {"b": []}}', '{"a": {"b": "form"}}', '{"a": {"b": [" "]}}', '{"a": {"b": ["x"], "c": ["X"]}}'],
)
def test_lexicon_of_another_shape(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lexicon.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VbcliError, match=r"lexicon\.json"):
        load_lexicon(path)


def test_lexicon_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=r"absent\.json"):
        load_lexicon(tmp_path / "absent.json")


@given(st.integers(2, 7), st.integers(0, 100))
def test_permutations_move_every_caption(n_videos: int, seed: int) -> None:
    hypotheses = {f"v{place}": f"caption {place}" for place in range(n_videos)}
    seen = []

    def watch(exchanged: object, references: object) -> dict[str, float]:
        assert isinstance(exchanged, dict)
        assert list(exchanged) == list(hypotheses)
        assert Counter(exchanged.values()) == Counter(hypotheses.values())
        assert all(exchanged[video_id] != hypotheses[video_id] for video_id in hypotheses)
        seen.append(float(len(seen)))
        return {"turn": seen[-1]}

    scores = permutation_scores(hypotheses, {}, watch, n_permutations=4, seed=seed)
    assert scores.mean == {"turn": 1.5}
    assert scores.std["turn"] == pytest.approx(np.sqrt(5 / 3))


def test_permutations_are_random_and_repeatable() -> None:
    hypotheses = {f"v{place}": str(place) for place in range(8)}

    def position(exchanged: object, references: object) -> dict[str, float]:
        assert isinstance(exchanged, dict)
        return {"first": float(exchanged["v0"])}

    first = permutation_scores(hypotheses, {}, position, n_permutations=300)
    assert first == permutation_scores(hypotheses, {}, position, n_permutations=300)
    # Uniform over 1 to 7: mean 4, standard deviation 2.
    assert first.mean["first"] == pytest.approx(4, abs=0.5)
    assert first.std["first"] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize(("n_videos", "n_permutations"), [(1, 20), (3, 1)])
def test_too_few_to_permute(n_videos: int, n_permutations: int) -> None:
    with pytest.raises(VbcliError, match="permute"):
        permutation_scores({str(place): "x" for place in range(n_videos)}, {}, lambda h, r: {}, n_permutations)


def test_nearest_captions_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(20, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32)
    train *= rng.uniform(0.1, 10, size=(20, 1)).astype(np.float32)
    train[3] = 0
    captions = [[f"caption {place}"] for place in range(20)]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))

    expected = [captions[max(range(20), key=lambda place: cosine(row, train[place]))] for row in test]
    assert nearest_captions(test, train, captions, block_size=4) == expected


def test_features_that_do_not_compare() -> None:
    with pytest.raises(VbcliError, match="captions of 1"):
        nearest_captions(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), [["x"]])
    with pytest.raises(VbcliError, match="do not compare"):
        nearest_captions(np.ones((2, 4), np.float32), np.ones((1, 3), np.float32), [["x"]])


def test_best_constant_caption_against_the_reference_scorer() -> None:
    rng = np.random.default_rng(1)
    words = ["a", "man", "woman", "dog", "is", "eating", "running", "rice", "the", "park", "red"]
    train = {f"v{video}": [" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(1 + video % 3)] for video in range(15)}
    reference = {
        caption: Cider().compute_score(train, {video_id: [caption] for video_id in train})[0]
        for captions in train.values()
        for caption in captions
    }
    caption, score = best_constant_caption(train)
    assert caption == max(reference, key=lambda candidate: reference[candidate])
    assert score == pytest.approx(reference[caption])
    table = metrics._CiderTable(train)
    assert {candidate: table.mean_score(candidate) for candidate in reference} == pytest.approx(reference)
    assert best_constant_caption(train, n_candidates=1)[1] <= score


def test_best_constant_caption_keeps_its_spelling() -> None:
    train = {"a": ["A man eats."], "b": ["A man eats!", "A man runs."], "c": ["Two dogs."]}
    assert best_constant_caption(train)[0] in {"A man eats.", "A man eats!", "A man runs.", "Two dogs."}
    with pytest.raises(VbcliError, match="no training captions"):
        best_constant_caption({})


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ([], []),
        (["a man eats", "a dog runs", "two girls sing", "a car drives"], []),
        (["A man.", "a man", "a man", "a dog"], ["3 of 4 captions are the same"]),
        (["a man", "a man", "a dog", "a cat"], []),
        (["a man", "a man", "a man"], []),
        (["", " . ", "a dog"], ["2 of 3 captions are empty"]),
        (["a man and a man and a man", "a dog runs"], ["1 of 2 captions repeat"]),
        (["a man and a man and a man", *(f"dog {place}" for place in range(19))], []),
        ([""] * 4, ["4 of 4 captions are empty"]),
    ],
)
def test_caption_alarms(captions: list[str], words: list[str]) -> None:
    alarms = caption_alarms(captions)
    assert len(alarms) == len(words)
    assert all(word in alarm for alarm, word in zip(alarms, words, strict=True))
