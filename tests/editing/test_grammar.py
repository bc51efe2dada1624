"""What instructions mean, and which are refused."""

from __future__ import annotations

import pytest

from vbcli.editing.grammar import EVERYTHING, Description, Instruction, Part, Speed, Stretch, parse_instruction
from vbcli.errors import UsageError


def test_the_whole_language():
    found = parse_instruction(
        "Keep the parts where a red ball falls and rises, and drop the first two seconds; then put a star first, "
        "slow down the scenes with rain 2x, mute, order by score, join, at most 1 minute."
    )
    assert found == Instruction(
        parts=(
            Part("keep", Description("a red ball falls and rises"), "Keep the parts where a red ball falls and rises"),
            Part("drop", Stretch(None, 2), "drop the first two seconds"),
            Part("first", Description("a star"), "put a star first"),
            Part("mute", EVERYTHING, "mute"),
        ),
        speeds=(Speed(0.5, Description("rain"), "slow down the scenes with rain 2x"),),
        order="score",
        limit_s=60,
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("keep the last 1.5 s", Stretch(-1.5, None)),
        ("keep from 0:05 to 1:02.5", Stretch(5, 62.5)),
        ("keep from 5 to 7 seconds", Stretch(5, 7)),
        ("keep everything", EVERYTHING),
        ("keep all the shots showing a dog and a cat", Description("a dog and a cat")),
        ("keep a dog", Description("a dog")),
    ],
)
def test_what_is_meant(text: str, what: object):
    (part,) = parse_instruction(text).parts
    assert part.what == what


@pytest.mark.parametrize(("text", "factor"), [("speed up 2x", 2), ("slow down by two times", 0.5), ("play at 0.5x", 0.5), ("speed x3", 3)])
def test_speeds(text: str, factor: float):
    (speed,) = parse_instruction(text).speeds
    assert (speed.factor, speed.what) == (factor, EVERYTHING)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        (" , ; ", "empty"),
        ("make it nice", "'make it nice'"),
        ("keep a dog, frobnicate", "'frobnicate'"),
        ("keep", "'keep'"),
        ("drop everything", "leaves nothing"),
        ("keep a dog, drop a dog", "'drop a dog' contradicts"),
        ("put a dog first, put a dog last", "contradicts"),
        ("at most 5 seconds, at most 6 seconds", "two limits"),
        ("at most 0 seconds", "leaves nothing"),
        ("order by colour", "'order by colour'"),
        ("order by time, order by score", "twice"),
        ("keep from 7 to 5", "'keep from 7 to 5'"),
        ("speed up 2x, speed up 3x", "again"),
        ("speed up 100x", "'speed up 100x'"),
        ("keep the parts where ...", "is no editing instruction"),
    ],
)
def test_what_is_refused_is_named(text: str, named: str):
    with pytest.raises(UsageError) as caught:
        parse_instruction(text)
    assert named in caught.value.message
