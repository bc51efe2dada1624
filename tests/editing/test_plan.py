"""Decision lists, by hand and by counting small steps of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.editing.grammar import Description, parse_instruction
from vbcli.editing.plan import Span, plan_edit
from vbcli.errors import VbcliError

DURATIONS = (10.0, 6.0)
FOUND = {
    "a dog": [Span(0, 2, 4, 0.7), Span(1, 0, 3, 0.9)],
    "rain": [Span(0, 3, 6, 0.8)],
}


def plan(text: str) -> list[tuple[int, float, float, float, bool]]:
    def ground(what: Description) -> list[Span]:
        return FOUND[what.text]

    return [
        (p.span.video, p.span.start_s, p.span.end_s, p.speed, p.is_mute)
        for p in plan_edit(parse_instruction(text), DURATIONS, ground).pieces
    ]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("join", [(0, 0, 10), (1, 0, 6)]),
        ("keep a dog", [(0, 2, 4), (1, 0, 3)]),
        ("keep a dog, order by score", [(1, 0, 3), (0, 2, 4)]),
        ("keep a dog, keep rain", [(0, 2, 3), (0, 3, 6), (1, 0, 3)]),
        ("keep the first 3 seconds, keep rain, order by score", [(0, 3, 6), (0, 0, 3), (1, 0, 3)]),
        ("drop rain", [(0, 0, 3), (0, 6, 10), (1, 0, 6)]),
        ("keep a dog, drop rain", [(0, 2, 3), (1, 0, 3)]),
        ("keep a dog, drop the first two seconds", [(0, 2, 4), (1, 2, 3)]),
        ("drop the last 4 s", [(0, 0, 6), (1, 0, 2)]),
        ("keep the first second and the last 2 s", [(0, 0, 1), (0, 8, 10), (1, 0, 1), (1, 4, 6)]),
        ("keep the last 2 s, drop from 0:06 to 0:08", [(0, 8, 10), (1, 4, 6)]),
        (
            "put from 1 to 2 and the last second first",
            [(0, 1, 2), (0, 9, 10), (1, 1, 2), (1, 5, 6), (0, 0, 1), (0, 2, 9), (1, 0, 1), (1, 2, 5)],
        ),
        ("keep from 0:04 to 0:08", [(0, 4, 8), (1, 4, 6)]),
        ("put a dog first", [(0, 2, 4), (1, 0, 3), (0, 0, 2), (0, 4, 10), (1, 3, 6)]),
        ("put rain last, drop a dog", [(0, 0, 2), (0, 6, 10), (1, 3, 6), (0, 4, 6)]),
    ],
)
def test_what_is_left_and_in_which_order(text: str, pieces: list[tuple[int, float, float]]):
    assert [p[:3] for p in plan(text)] == pieces


def test_how_pieces_are_played():
    assert plan("keep a dog, mute rain, speed up a dog 2x") == [(0, 2, 3, 2, False), (0, 3, 4, 2, True), (1, 0, 3, 2, False)]
    # Where the stretches of a clause overlap, its speed counts once.
    assert plan("speed up the first 6 s and the last 6 s 2x") == [(0, 0, 10, 2, False), (1, 0, 6, 2, False)]


def test_an_instruction_that_leaves_nothing_is_refused():
    with pytest.raises(VbcliError, match="after 'drop the first 20 seconds'"):
        plan("keep a dog, drop the first 20 seconds")


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("drop from 0:20 to 0:30", "drop from 0:20 to 0:30"),
        ("keep from 0:20 to 0:30", "keep from 0:20 to 0:30"),
        ("keep the first second and from 0:20 to 0:30", "keep the first second and from 0:20 to 0:30"),
        ("put from 0:10 to 0:30 first", "put from 0:10 to 0:30 first"),
        ("speed up from 0:20 to the end 2x", "speed up from 0:20 to the end 2x"),
    ],
)
def test_a_clause_about_no_part_of_the_videos_is_named(text: str, clause: str):
    with pytest.raises(VbcliError, match=f"'{clause}' is about no part of the videos") as caught:
        plan(f"mute, {text}")
    assert "10.00 seconds" in str(caught.value.hint)


@pytest.mark.parametrize("clause", ["put rain first", "put rain last", "mute rain", "speed up from 6 to 10 2x"])
def test_a_clause_about_nothing_of_what_is_kept_is_named(clause: str):
    with pytest.raises(VbcliError, match=f"'{clause}' is about nothing of what is kept"):
        plan(f"keep the first 2 s, drop from 0:08 to 0:09, {clause}")


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        # A second at a time, of the first video: what is asked for by time alone has no score.
        ("keep the first 3 seconds, keep a dog", [None, None, 0.7, 0.7]),
        ("keep a dog, keep rain", [None, None, 0.7, 0.8, 0.8, 0.8]),
        ("keep rain, keep from 4 to 5, keep the first 2 seconds", [None, None, None, 0.8, 0.8, 0.8]),
    ],
)
def test_a_piece_has_the_score_of_what_it_shows_and_not_of_its_neighbour(text: str, scores: list[float | None]):
    pieces = plan_edit(parse_instruction(text), DURATIONS, lambda what: FOUND[what.text]).pieces
    found = {t: p.span.score for p in pieces if p.span.video == 0 for t in range(round(p.span.start_s), round(p.span.end_s))}
    assert [found.get(t) for t in range(len(scores))] == scores
    assert max(found) == len(scores) - 1


def test_what_each_description_means_is_told_whatever_is_done_with_it():
    text = "keep the first 8 s, keep a dog, drop rain, put a dog first, mute the first second, speed up rain 2x"
    with pytest.raises(VbcliError, match="'speed up rain 2x' is about nothing"):
        plan(text)
    found = plan_edit(parse_instruction(text.replace("drop rain", "mute rain")), DURATIONS, lambda what: FOUND[what.text]).matches
    dog, rain = FOUND["a dog"], FOUND["rain"]
    clauses = [("keep a dog", dog), ("mute rain", rain), ("put a dog first", dog), ("speed up rain 2x", rain)]
    assert found == [(clause, span) for clause, spans in clauses for span in spans]
    assert plan_edit(parse_instruction("drop the first 2 s"), DURATIONS, lambda what: FOUND[what.text]).matches == []


spans = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(1, 5)), max_size=5)


@given(spans, spans)
def test_kept_and_not_dropped_is_what_is_left(kept: list, dropped: list):
    def clip(rows: list) -> list[Span]:
        return [Span(v, a, min(a + n, DURATIONS[v])) for v, a, n in rows if a < DURATIONS[v]]

    def seconds(rows: list[Span]) -> set[tuple[int, int]]:
        return {(s.video, t) for s in rows for t in range(int(s.start_s), int(s.end_s))}

    known = {"a dog": clip(kept), "rain": clip(dropped)}
    text = "keep a dog, drop rain"
    wanted = sorted(seconds(known["a dog"]) - seconds(known["rain"]))
    if not wanted or not known["rain"]:
        with pytest.raises(VbcliError):
            plan_edit(parse_instruction(text), DURATIONS, lambda what: known[what.text])
        return
    found = plan_edit(parse_instruction(text), DURATIONS, lambda what: known[what.text]).pieces
    assert [(p.span.video, t) for p in found for t in range(int(p.span.start_s), int(p.span.end_s))] == wanted
    assert all(p.span.end_s > p.span.start_s for p in found)
