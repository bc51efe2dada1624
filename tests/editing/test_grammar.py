"""What instructions mean, and which are refused."""

from __future__ import annotations

import pytest

from vbcli.editing.grammar import EVERYTHING, Description, Instruction, Part, Speed, Stretch, Stretches, parse_instruction
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
        ("keep the first second", Stretch(None, 1)),
        ("keep only the last minute of each video", Stretch(-60, None)),
        ("keep from 1:00:05 to 1:00:10", Stretch(3605, 3610)),
        ("keep from 0:05 to the end", Stretch(5, None)),
        ("keep from the start to 1:10", Stretch(None, 70)),
        ("keep between 1 and 2 seconds", Stretch(1, 2)),
        ("keep between one and two minutes", Stretch(60, 120)),
        ("keep the first 2 seconds and the last 2 seconds", Stretches((Stretch(None, 2), Stretch(-2, None)))),
        (
            "keep from 1 to 3 and between 5 and 6 s and the last second",
            Stretches((Stretch(1, 3), Stretch(5, 6), Stretch(-1, None))),
        ),
        ("keep between a dog and a cat", Description("between a dog and a cat")),
        ("keep a man cuts an onion in half", Description("a man cuts an onion in half")),
        ("keep all the shots showing a dog and a cat", Description("a dog and a cat")),
        ("keep a dog", Description("a dog")),
    ],
)
def test_what_is_meant(text: str, what: object):
    (part,) = parse_instruction(text).parts
    assert part.what == what


@pytest.mark.parametrize(
    "limit",
    ["at most 10 seconds", "no longer than ten seconds", "limit to 10 s", "trim to 10 seconds", "trim it to 10 secs", "cut to 10 seconds"],
)
def test_limits(limit: str):
    assert parse_instruction(limit) == Instruction(limit_s=10)
    said = parse_instruction(f"keep a dog and {limit}")
    assert (said.limit_s, [part.what for part in said.parts]) == (10, [Description("a dog")])


def test_what_is_trimmed_is_dropped():
    assert parse_instruction("trim the first 2 seconds").parts == (Part("drop", Stretch(None, 2), "trim the first 2 seconds"),)


@pytest.mark.parametrize(
    "clause",
    [
        *[
            "keep the first half",
            "keep 0:05",
            "drop from 0:05",
            "keep a dog and the last second",
            "keep the first seconds",
            "mute 20 frames",
        ],
        *["drop 5s", "keep twenty-five seconds", "keep from 5 on", "speed up from 1 to 2", "speed up the first half", "drop half"],
    ],
)
def test_times_that_are_not_understood_are_no_descriptions(clause: str):
    with pytest.raises(UsageError, match=f"the times of '{clause}' cannot be read") as caught:
        parse_instruction(f"mute, {clause}")
    assert "from 0:05 to the end" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("speed up 2x", 2),
        ("slow down by two times", 0.5),
        ("play at 0.5x", 0.5),
        ("speed x3", 3),
        ("slow down 4x", 0.25),
        ("speed up 8x", 8),
    ],
)
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
        ("speed up 100x", "'speed up 100x' would play at 100 times the speed"),
        ("slow down 8x", "'slow down 8x' would play at 0.125 times the speed"),
        ("drop the last 0 seconds", "'drop the last 0 seconds'"),
        ("keep a dog, drop from the start to the end", "leaves nothing"),
        ("keep from the start to 0:00", "'keep from the start to 0:00'"),
        ("keep the parts where ...", "is no editing instruction"),
    ],
)
def test_what_is_refused_is_named(text: str, named: str):
    with pytest.raises(UsageError) as caught:
        parse_instruction(text)
    assert named in caught.value.message
