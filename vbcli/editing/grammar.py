"""The language of editing instructions.

An instruction is a list of clauses, separated by commas, semicolons, `then`, or `and` before another clause:

    keep WHAT           only these parts; several of them add up
    drop WHAT           without these parts (also: remove, cut)
    put WHAT first      or `last`: where these parts go
    order by time       or `by score`: how parts follow each other; by time if nothing is said
    mute [WHAT]         without sound
    speed [WHAT] N      N times as fast: `speed up 2x`, `slow down 2x`
    at most N seconds   how long the result may be (also: limit to N seconds)
    join                one video of all (which is what comes out anyway)

    WHAT is a description: `[the parts where] a red ball falls`
         or times of each video: `the first N seconds`, `the last N seconds`, `from 0:05 to 0:12.5`, `everything`

Numbers are digits, or words up to twenty; times are seconds or minutes:seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vbcli.errors import UsageError

Verb = Literal["keep", "drop", "first", "last", "mute"]
ORDERS = ("time", "score")
_VERBS = r"keep|drop|remove|cut|put|order|mute|speed|slow|play|at most|limit|join|trim"
_SPLIT = re.compile(rf"\s*[,;]\s*(?:and\s+|then\s+)?|\s+then\s+|\s+and\s+(?=(?:then\s+)?(?:{_VERBS})\b)", re.IGNORECASE)
_NUMBER_WORDS = [
    *["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    *["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"],
]
_NUMBER = rf"(\d+(?:\.\d+)?|{'|'.join(_NUMBER_WORDS)}|half a|half|a)"
_SECONDS = rf"{_NUMBER}\s*(seconds?|secs?|s|minutes?|min)"
_CLOCK = r"(?:(\d+):)?(\d+(?:\.\d+)?)\s*s?(?:econds?)?"
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


What = Description | Stretch


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
        if found := re.fullmatch(rf"(?:at most|limit(?: it)? to|no longer than)\s+{_SECONDS}(?:\s+long|\s+in all)?", lower):
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
            raise _unknown(clause, "clauses begin with keep, drop, put, order, mute, speed up, slow down, at most, or join")
    _check(parts, speeds, orders, limits)
    return Instruction(tuple(parts), tuple(speeds), orders[0] if orders else "time", limits[0] if limits else None)


def _unknown(clause: str, hint: str) -> UsageError:
    return UsageError(f"'{clause}' is no editing instruction", hint=hint)


def _what(text: str, clause: str) -> What:
    plain = text.strip()
    lower = plain.lower()
    if lower in ("everything", "all", "it", "the video", "the sound", "all of it"):
        return EVERYTHING
    if found := re.fullmatch(rf"(?:the )?(first|last) {_SECONDS}(?: of (?:each|every|the) videos?)?", lower):
        length_s = _seconds(found[2], found[3])
        return Stretch(None, length_s) if found[1] == "first" else Stretch(-length_s, None)
    if found := re.fullmatch(rf"(?:the part )?from {_CLOCK} (?:to|until) {_CLOCK}", lower):
        start_s, end_s = _clock(found[1], found[2]), _clock(found[3], found[4])
        if start_s >= end_s:
            raise _unknown(clause, "the first time must be before the second")
        return Stretch(start_s, end_s)
    described = _LEADING.sub("", f"{plain} ").strip()
    if not re.search(r"\w", described):
        raise _unknown(clause, "say what the parts show")
    return Description(described)


def _speed(clause: str) -> Speed | None:
    number = rf"(?:by |to |at )?(?:x\s*)?{_NUMBER}\s*(?:x|times)?"
    found = re.fullmatch(rf"(speed up|speed|slow down|play)(?:\s+(.+?))??\s+{number}", clause, re.IGNORECASE)
    if not found:
        return None
    factor = _number(found[3].lower())
    if not 0.25 <= factor <= 8:
        raise _unknown(clause, "between 0.25 and 8 times")
    is_slower = found[1].lower() == "slow down" and factor > 1
    return Speed(1 / factor if is_slower else factor, _what(found[2] or "everything", clause), clause)


def _number(text: str) -> float:
    if text in ("half", "half a"):
        return 0.5
    return 1.0 if text == "a" else float(_NUMBER_WORDS.index(text) + 1) if text in _NUMBER_WORDS else float(text)


def _seconds(number: str, unit: str) -> float:
    return _number(number) * (60 if unit.startswith("m") else 1)


def _clock(minutes: str | None, seconds: str) -> float:
    return 60 * float(minutes or 0) + float(seconds)


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
