"""The language of editing instructions.

An instruction is a list of clauses, separated by commas, semicolons, `then`, or `and` before another clause:

    keep WHAT           only these parts; several of them add up
    drop WHAT           without these parts (also: remove, cut, trim)
    put WHAT first      or `last`: where these parts go
    order by time       or `by score`: how parts follow each other; by time if nothing is said
    mute [WHAT]         without sound
    speed [WHAT] N      N times as fast: `speed up 2x`, `slow down 2x`
    at most N seconds   how long the result may be (also: no longer than, limit to, trim to)
    join                one video of all (which is what comes out anyway)

    WHAT is a description: `[the parts where] a red ball falls`
         or times of each video: `the first N seconds`, `the last second`, `from 0:05 to 0:12.5`, `from the start to 1:00:05`,
            `from 0:05 to the end`, `between 5 and 7 seconds`, several of them with `and` in between, or `everything`

Numbers are digits, or words up to twenty; times are seconds, minutes:seconds or hours:minutes:seconds. A description has no words of time:
those that are not understood would be looked for in the pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vbcli.errors import UsageError

Verb = Literal["keep", "drop", "first", "last", "mute"]
ORDERS = ("time", "score")
SLOWEST, FASTEST = 0.25, 8.0
"""How many times as fast a part may be played."""
SPEED_HINT = "0.25 to 8 times it is: slow down at most 4x, speed up at most 8x"

_VERBS = r"keep|drop|remove|cut|put|order|mute|speed|slow|play|at most|no longer than|limit|join|trim"
_SPLIT = re.compile(rf"\s*[,;]\s*(?:and\s+|then\s+)?|\s+then\s+|\s+and\s+(?=(?:then\s+)?(?:{_VERBS})\b)", re.IGNORECASE)
_NUMBER_WORDS = [
    *["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    *["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"],
]
_NUMBER = rf"(\d+(?:\.\d+)?|{'|'.join(_NUMBER_WORDS)}|half a|half|a)"
_UNIT = r"(seconds?|secs?|s|minutes?|mins?|hours?)"
_UNIT_S = {"s": 1, "m": 60, "h": 3600}
_POINT = rf"(?:(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)|{_NUMBER}(?:\s*{_UNIT})?)"
_STARTS, _ENDS = ("the start", "start", "the beginning", "beginning"), ("the end", "end")
_OF_EACH = re.compile(r" of (?:each|every|the|all) (?:the )?videos?$")
# Halves are times, but what is cut in half is a thing; so are a second dog and the frame of a picture.
_TIME_WORDS = re.compile(
    rf"\b(?:seconds|secs?|minutes?|mins?|hours?)\b|(?:\d|\b(?:first|last|{'|'.join(_NUMBER_WORDS)}))\s+(?:second|frames?)\b|\bsecond$"
    r"|(?<!\bin )\bhalf\b|\d:\d\d|\b\d+(?:\.\d+)?\s*(?:s|m|h|ms)\b|^(?:from|between|until|before|after|up to) \d|^(?:the )?(?:first|last)$"
)
_LIMIT = rf"(?:at most|no longer than|(?:limit|trim|cut)(?: it| everything)? to)\s+{_NUMBER}\s*{_UNIT}(?:\s+long|\s+in all)?"
_LEADING = re.compile(
    r"^(?:only\s+)?(?:(?:all\s+)?the\s+|all\s+|every\s+|any\s+)?(?:parts?|segments?|scenes?|shots?|clips?|moments?|bits?)\s+"
    r"(?:where|when|in which|with|of|that show|showing)\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Description:
    """Parts that show what a sentence says."""

    text: str


@dataclass(frozen=True)
class Stretch:
    """The same stretch of every video, in seconds; negative times count from its end, None is an end of it."""

    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Stretches:
    """Several stretches of every video."""

    each: tuple[Stretch, ...]


What = Description | Stretch | Stretches


@dataclass(frozen=True)
class Part:
    """What is done with some parts."""

    verb: Verb
    what: What
    clause: str


@dataclass(frozen=True)
class Speed:
    """How many times as fast some parts are played."""

    factor: float
    what: What
    clause: str


@dataclass(frozen=True)
class Instruction:
    """A parsed instruction.

    Args:
        parts: in the order of the clauses.
        limit_s: how long the result may be.
    """

    parts: tuple[Part, ...] = ()
    speeds: tuple[Speed, ...] = ()
    order: str = "time"
    limit_s: float | None = None


EVERYTHING = Stretch(None, None)


def parse_instruction(text: str) -> Instruction:
    """Parses an instruction.

    Raises:
        UsageError: a clause is not of the language, or contradicts another; the message names it.
    """
    clauses = [clause.strip(" .") for clause in _SPLIT.split(text.strip()) if clause.strip(" .")]
    if not clauses:
        raise UsageError("the instruction is empty", hint="such as: keep the parts where a red ball falls, at most 20 seconds")
    parts: list[Part] = []
    speeds: list[Speed] = []
    orders: list[str] = []
    limits: list[float] = []
    for clause in clauses:
        lower = clause.lower()
        if lower in ("join", "join them", "join everything", "join the parts"):
            continue
        if found := re.fullmatch(_LIMIT, lower):
            limits.append(_seconds(found[1], found[2]))
        elif found := re.fullmatch(r"order(?: them| the parts)?(?: by)? (\w+)", lower):
            if found[1] not in ORDERS:
                raise _unknown(clause, f"parts can be ordered by {' or '.join(ORDERS)}")
            orders.append(found[1])
        elif found := re.fullmatch(r"put (.+) (first|last)", clause, re.IGNORECASE):
            parts.append(Part("first" if found[2].lower() == "first" else "last", _what(found[1], clause), clause))
        elif speed := _speed(clause):
            speeds.append(speed)
        elif found := re.fullmatch(r"(keep|drop|remove|cut(?: out)?|trim|mute)(?:\s+(.+))?", clause, re.IGNORECASE):
            verb: Verb = "keep" if found[1].lower() == "keep" else "mute" if found[1].lower() == "mute" else "drop"
            if found[2] is None and verb != "mute":
                raise _unknown(clause, f"say what to {verb}")
            parts.append(Part(verb, _what(found[2] or "everything", clause), clause))
        else:
            raise _unknown(clause, "clauses begin with keep, drop, put, order, mute, speed up, slow down, at most N seconds, or join")
    _check(parts, speeds, orders, limits)
    return Instruction(tuple(parts), tuple(speeds), orders[0] if orders else "time", limits[0] if limits else None)


def _unknown(clause: str, hint: str) -> UsageError:
    return UsageError(f"'{clause}' is no editing instruction", hint=hint)


def _what(text: str, clause: str) -> What:
    plain = text.strip()
    lower = plain.lower()
    if lower in ("everything", "all", "it", "the video", "the sound", "all of it"):
        return EVERYTHING
    if stretches := _stretches(lower, clause):
        return stretches[0] if len(stretches) == 1 else Stretches(tuple(stretches))
    described = _LEADING.sub("", f"{plain} ").strip()
    if not re.search(r"\w", described):
        raise _unknown(clause, "say what the parts show")
    if _TIME_WORDS.search(described.lower()):
        raise UsageError(
            f"the times of '{clause}' cannot be read",
            hint="times are: the first 2 seconds, the last second, from 0:05 to 1:00:12, from 0:05 to the end, between 5 and 7 seconds, "
            "or as a clause of its own at most 20 seconds; a description has no words of time",
        )
    return Description(described)


def _stretches(text: str, clause: str) -> list[Stretch]:
    """The stretches that times joined by `and` mean; none where some of the text is no time."""
    if whole := _stretch(text, clause):
        return [whole]
    for border in re.finditer(r"\s+and\s+", text):
        first = _stretch(text[: border.start()], clause)
        if first and (others := _stretches(text[border.end() :], clause)):
            return [first, *others]
    return []


def _stretch(text: str, clause: str) -> Stretch | None:
    text = _OF_EACH.sub("", text)
    if found := re.fullmatch(rf"(?:only )?(?:the )?(first|last) (?:{_NUMBER}\s*)?{_UNIT}", text):
        if found[2] is None and found[3] not in ("second", "minute", "hour"):
            return None
        length_s = _seconds(found[2] or "one", found[3])
        if length_s <= 0:
            raise _unknown(clause, "a part of no length is none: name more than 0 seconds")
        return Stretch(None, length_s) if found[1] == "first" else Stretch(-length_s, None)
    found = re.fullmatch(r"(?:only )?(?:the )?(?:parts? )?(?:from (.+?) (?:to|until|till) (.+)|between (.+?) and (.+))", text)
    if not found:
        return None
    first, second = [group for group in found.groups() if group is not None]
    # Between 1 and 2 minutes: the unit is that of both.
    unit = re.search(rf"[\w.]\s*{_UNIT}$", second)
    start_s = None if first in _STARTS else _point_s(first, unit[1] if unit else "s")
    end_s = None if second in _ENDS else _point_s(second, "s")
    if (start_s is None and first not in _STARTS) or (end_s is None and second not in _ENDS):
        return None
    if end_s is not None and (start_s or 0.0) >= end_s:
        raise _unknown(clause, "the first time must be before the second")
    return Stretch(start_s, end_s)


def _point_s(text: str, unit: str) -> float | None:
    """Seconds from the start of a video; `unit` is that of a number without one. None where the text is no time."""
    found = re.fullmatch(_POINT, text)
    if not found:
        return None
    hours, minutes, seconds, number, own_unit = found.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds) if number is None else _seconds(number, own_unit or unit)


def _speed(clause: str) -> Speed | None:
    number = rf"(?:by |to |at )?(?:x\s*)?{_NUMBER}\s*(?:x|times)?"
    found = re.fullmatch(rf"(speed up|speed|slow down|play)(?:\s+(.+?))??\s+{number}", clause, re.IGNORECASE)
    if not found:
        return None
    factor = _number(found[3].lower())
    if found[1].lower() == "slow down" and factor > 1:
        factor = 1 / factor
    if not SLOWEST <= factor <= FASTEST:
        raise UsageError(
            f"'{clause}' would play at {factor:.3g} times the speed",
            hint=SPEED_HINT,
        )
    return Speed(factor, _what(found[2] or "everything", clause), clause)


def _number(text: str) -> float:
    if text in ("half", "half a"):
        return 0.5
    return 1.0 if text == "a" else float(_NUMBER_WORDS.index(text) + 1) if text in _NUMBER_WORDS else float(text)


def _seconds(number: str, unit: str) -> float:
    return _number(number) * _UNIT_S[unit[0]]


def _check(parts: list[Part], speeds: list[Speed], orders: list[str], limits: list[float]) -> None:
    verbs: dict[What, set[str]] = {}
    for part in parts:
        verbs.setdefault(part.what, set()).add(part.verb)
        for one, other in (("keep", "drop"), ("first", "last")):
            if {one, other} <= verbs[part.what]:
                raise UsageError(f"'{part.clause}' contradicts another part of the instruction", hint="leave one of them out")
        if part.verb == "drop" and part.what == EVERYTHING:
            raise UsageError(f"'{part.clause}' leaves nothing", hint="say what to keep")
    if len(set(orders)) > 1:
        raise UsageError("the instruction orders the parts twice", hint="name one order")
    if len(set(limits)) > 1:
        raise UsageError("the instruction sets two limits", hint="name one")
    if limits and limits[0] <= 0:
        raise UsageError("the limit leaves nothing", hint="it must be above 0 seconds")
    if len({speed.what for speed in speeds}) < len(speeds):
        raise UsageError(f"'{speeds[-1].clause}' sets a speed again", hint="name one speed for the same parts")
