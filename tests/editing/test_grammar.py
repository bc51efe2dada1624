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
        *[
            (f"keep {seen}", Description(seen))
            for seen in (
                *["2 dogs", "the first dog", "a second dog", "a dog runs from left to right", "the start of a race", "3 of 5 balls"],
                *["球 2", "a picture in its frame", "from above", "a cut onion and a spoon"],
            )
        ],
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


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("0:20", 20),
        ("1:20", 80),
        ("1:00:05.5", 3605.5),
        ("1 minute 20 seconds", 80),
        ("one hour, and then mute", 3600),
        ("1 minute and 20 seconds", 80),
        ("half a minute", 30),
        ("an hour and 5 s", 3605),
    ],
)
def test_limits_and_lengths_are_any_times(time: str, seconds: float):
    for limit in ("at most", "no longer than", "trim it to"):
        assert parse_instruction(f"{limit} {time}").limit_s == seconds
    assert parse_instruction(f"keep the first {time}").parts[0].what == Stretch(None, seconds)


@pytest.mark.parametrize("limit", ["at most 20", "at most a dog", "no longer than 10%", "trim to the first 10 seconds", "cut to the chase"])
def test_limits_that_are_no_times_are_refused(limit: str):
    with pytest.raises(UsageError, match=f"'{limit}' is no editing instruction") as caught:
        parse_instruction(f"join, {limit}")
    assert "at most 1:20" in str(caught.value.hint)


@pytest.mark.parametrize(
    "border", [" and then ", ", then ", " then ", ", and then ", "; then ", ", and ", "; and then, ", " and, then, ", " AND THEN\n"]
)
def test_clauses_follow_each_other_by_then(border: str):
    first, second, third = parse_instruction(f"keep the first 2 seconds{border}mute{border}drop a dog").parts
    assert (first.what, second.clause, third.what) == (Stretch(None, 2), "mute", Description("a dog"))


@pytest.mark.parametrize(
    ("clause", "what"),
    [
        *[(clause, EVERYTHING) for clause in ("mute", "mute the sound", "mute the audio", "drop the sound", "remove the audio track")],
        *[(clause, EVERYTHING) for clause in ("without sound", "Without the audio", "cut out all sound", "drop the sound of each video")],
        ("mute the sound of the first 2 seconds", Stretch(None, 2)),
        ("mute sound from 0:01 to 0:02", Stretch(1, 2)),
        ("drop the sound of the parts where a dog barks", Description("a dog barks")),
        ("mute the sound engineer", Description("the sound engineer")),
    ],
)
def test_sound_is_muted_and_no_picture(clause: str, what: object):
    for text in (f"keep the last second, {clause}", f"keep the last second and {clause}", f"{clause}, keep the last second"):
        assert Part("mute", what, clause) in parse_instruction(text).parts  # type: ignore[arg-type]
        assert len(parse_instruction(text).parts) == 2


def test_what_is_kept_keeps_its_sound():
    assert parse_instruction("keep the first 2 seconds, keep the sound") == parse_instruction("keep the first 2 seconds")
    assert [part.verb for part in parse_instruction("keep a dog without sound").parts] == ["keep", "mute"]
    for clause in ("keep the sound of a bell", "put the sound first", "speed up the audio 2x"):
        with pytest.raises(UsageError, match=f"'{clause}' is no editing instruction"):
            parse_instruction(clause)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("keep the parts where a man plays the piano", "cut an onion"),
        ("keep scenes in which people walk", "play the piano"),
        ("drop all the shots that show a man who can read", "keep a secret"),
        ("mute a dog", "drop a cat"),
        ("keep a woman", "put a hat on"),
    ],
)
def test_a_verb_within_a_description_is_no_clause(before: str, after: str):
    with pytest.raises(UsageError, match=f"'and {after}' may be a clause of its own, or the rest of '{before}'") as caught:
        parse_instruction(f"mute, {before} and {after}, join")
    assert f"{before}, {after}" in str(caught.value.hint)
    assert f"without '{after.split()[0]}'" in str(caught.value.hint)


@pytest.mark.parametrize(
    "after",
    [
        *["drop the last second", "drop from 0:01 to 0:02", "mute", "mute a dog", "order by score", "speed up 2x", "play at 0.5x", "join"],
        *["at most 5 seconds", "trim to 5 seconds", "put a cat first", "keep the parts where a cat falls", "drop the sound"],
        *["slow down the cat 2x", "drop all shots with a cat", "without sound", "no longer than 0:10", "limit to 3 s"],
    ],
)
def test_a_clause_that_can_be_nothing_else_follows_a_description(after: str):
    before = "keep the parts where a red ball falls"
    assert parse_instruction(f"{before} and {after}") == parse_instruction(f"{before}, {after}")
    assert parse_instruction(f"{before} and {after}").parts[0].what == Description("a red ball falls")


def test_a_description_after_times_is_a_clause():
    text = "keep the first 2 seconds and drop a dog"
    assert [part.what for part in parse_instruction(text).parts] == [Stretch(None, 2), Description("a dog")]


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
        *["keep the first 10%", "keep frames 10 to 20", "keep from -3 to -1", "keep from \u22121 to 3", "drop the 3rd frame", "keep 5-10"],
        *["keep the first 2", "keep the last third", "keep the beginning", "keep from the middle to the end", "mute ten percent", "keep 3"],
        *["keep the first quarter of each video", "keep the last few frames", "keep the rest", "drop after the beginning"],
        *["keep 5 to 10", "keep the first 500 milliseconds", "drop frame 7", "keep the first two-second part"],
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
        ("speed 0.5x", 0.5),
        ("slow down to half", 0.5),
        ("slow down by half", 0.5),
        ("speed up to 3x", 3),
        ("speed up 1x", 1),
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
        ("mute, speed up 0.5x", "'speed up 0.5x' would be slower"),
        ("slow down 0.5x", "'slow down 0.5x' would be faster"),
        ("slow down a dog to 2x", "'slow down a dog to 2x' would be faster"),
        ("slow down 0x", "'slow down 0x' would be faster"),
        ("mute the first second, keep the sound", "'keep the sound' contradicts"),
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
