"""What captions name, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.errors import VbcliError
from vbcli.metrics.mentions import find_mentions, load_lexicon, score_mentions

TOYS = {"red ball": ["red ball"], "ball": ["ball"], "box": ["box", "crate"]}


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
