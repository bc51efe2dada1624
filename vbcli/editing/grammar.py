"""The language of editing instructions.

An instruction is a list of clauses, separated by commas, semicolons, `then` (each with or without `and`), or `and` before another clause:

    keep WHAT           only these parts; several of them add up
    drop WHAT           without these parts (also: remove, cut, trim)
    put WHAT first      or `last`: where these parts go
    order by time       or `by score`: how parts follow each other; by time if nothing is said
    mute [WHAT]         without sound (also: drop the sound, without sound, mute the sound of WHAT; `keep the sound` is how it is anyway)
    speed [WHAT] N      N times as fast: `speed up 2x`, `slow down 2x`, `play at 0.5x`
    at most N seconds   how long the result may be (also: no longer than, limit to, trim to)
    join                one video of all (which is what comes out anyway)

    WHAT is a description: `[the parts where] a red ball falls`
         or times of each video: `the first N seconds`, `the last second`, `from 0:05 to 0:12.5`, `from the start to 1:00:05`,
            `from 0:05 to the end`, `between 5 and 7 seconds`, several of them with `and` in between, or `everything`

Numbers are digits, or words up to twenty; times are seconds, minutes:seconds or hours:minutes:seconds, lengths also `1 minute 20 seconds`.
A description has no words of time: those that are not understood would be looked for in the pictures.

What follows `and` after a description may be its rest: `a man peels and cut an onion`. It is a clause where it can be nothing else:
after another verb than keep, drop, remove, cut, trim, put or play; `put ... first` or `last`, `play ... 2x`; and with times, `everything`,
the sound or `the parts where` after the verb. Else it is refused, and a comma makes it a clause.
"""

from __future__ import annotations

import itertools
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
_SOUND = r"(?:all )?(?:the |any )?(?:sound|audio)(?: ?track)?"
_BORDER = re.compile(r"(?: and)?\s*[,;]\s*(?:and )?(?:then\b,?\s*)?| (?:and )?then\b,?\s*", re.IGNORECASE)
_AND = re.compile(rf" and (?=(?:{_VERBS})\b)| (?:and )?(?=without {_SOUND}$)", re.IGNORECASE)
_NUMBER_WORDS = [
    *["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    *["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"],
]
_NUMBER = rf"(\d+(?:\.\d+)?|{'|'.join(_NUMBER_WORDS)}|half an?|half|an?)"
_UNIT = r"(seconds?|secs?|s|minutes?|mins?|hours?)"
_UNIT_S = {"s": 1, "m": 60, "h": 3600}
_CLOCK = r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)"
_LENGTH = rf"(?:{_NUMBER}\s*hours?)?(?:(?:\s*and)?\s*{_NUMBER}\s*min(?:ute)?s?)?(?:(?:\s*and)?\s*{_NUMBER}\s*(?:seconds?|secs?|s))?"
_STARTS, _ENDS = ("the start", "start", "the beginning", "beginning"), ("the end", "end")
_OF_EACH = re.compile(r" of (?:each|every|the|all) (?:the )?videos?$")
_EDGE = "(?:start|beginning|middle|end|ending|rest)"
_DASH = "[-\u2013\u2212]"
# Halves are times, but what is cut in half is a thing; so are a second dog and the frame of a picture.
_TIME_WORDS = re.compile(
    "|".join(
        [
            r"\b(?:(?:milli)?seconds|secs?|minutes?|mins?|hours?|per ?cent)\b",
            rf"(?:\d|\b(?:first|last|{'|'.join(_NUMBER_WORDS)}))[\s-]+(?:second|frames?)\b",
            r"\bsecond$|\b(?:first|last|few|of) frames$|\bframes? \d|\d(?:st|nd|rd|th) frame",
            r"(?<!\bin )\bhalf\b|\d:\d\d|\d\s*%|\b\d+(?:\.\d+)?\s*(?:s|m|h|ms)\b",
            rf"\d\s*(?:to|until|till|{_DASH})\s*{_DASH}?\d|^[\W\d]*\d[\W\d]*$",
            rf"^(?:(?:the )?parts? )?from .+ (?:to|until|till) |^(?:from|between|until|before|after|up to) (?:\+|{_DASH})?\d",
            rf"^(?:the )?(?:first|last)(?: (?:{_NUMBER}|part|third|quarter|tenth))?$",
            rf"^(?:(?:until|before|after|up to) )?(?:the )?(?:very )?{_EDGE}$",
        ]
    )
)
_LIMIT = r"(?:at most|no longer than|(?:limit|trim|cut)(?: it| everything)? to) (.+?)(?: long| in all)?"
_PUT = re.compile(r"put (.+) (first|last)", re.IGNORECASE)
_MUTE = re.compile(
    rf"(?:mute|without {_SOUND}|(?:mute|drop|remove|cut(?: out)?|trim) {_SOUND})(?: (?:of|in|during) (.+)| ((?:from|between) .+))?",
    re.IGNORECASE,
)
_PART = re.compile(r"(keep|drop|remove|cut(?: out)?|trim|mute)(?: (.+))?", re.IGNORECASE)
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
    clauses = _clauses(" ".join(text.split()))
    if not clauses:
        raise UsageError("the instruction is empty", hint="such as: keep the parts where a red ball falls, at most 20 seconds")
    parts: list[Part] = []
    speeds: list[Speed] = []
    orders: list[str] = []
    limits: list[float] = []
    sounds: list[str] = []
    for clause in clauses:
        lower = clause.lower()
        if lower in ("join", "join them", "join everything", "join the parts"):
            continue
        if re.fullmatch(f"keep {_SOUND}", lower):
            sounds.append(clause)
        elif found := re.fullmatch(_LIMIT, lower):
            limits.append(_limit_s(found[1], clause))
        elif found := re.fullmatch(r"order(?: them| the parts)?(?: by)? (\w+)", lower):
            if found[1] not in ORDERS:
                raise _unknown(clause, f"parts can be ordered by {' or '.join(ORDERS)}")
            orders.append(found[1])
        elif found := _PUT.fullmatch(clause):
            parts.append(Part("first" if found[2].lower() == "first" else "last", _what(found[1], clause), clause))
        elif speed := _speed(clause):
            speeds.append(speed)
        elif found := _MUTE.fullmatch(clause):
            parts.append(Part("mute", _what(found[1] or found[2] or "everything", clause), clause))
        elif found := _PART.fullmatch(clause):
            verb: Verb = "keep" if found[1].lower() == "keep" else "mute" if found[1].lower() == "mute" else "drop"
            if found[2] is None:
                raise _unknown(clause, f"say what to {verb}")
            parts.append(Part(verb, _what(found[2], clause), clause))
        else:
            raise _unknown(clause, "clauses begin with keep, drop, put, order, mute, speed up, slow down, at most N seconds, or join")
    _check(parts, speeds, orders, limits, sounds)
    return Instruction(tuple(parts), tuple(speeds), orders[0] if orders else "time", limits[0] if limits else None)


def _clauses(text: str) -> list[str]:
    """The clauses of an instruction.

    Raises:
        UsageError: what follows an `and` may be a clause, or the rest of a description.
    """
    clauses: list[str] = []
    for said in _BORDER.split(text):
        joined = [clause for part in _AND.split(said) if (clause := part.strip(" ."))]
        for before, after in itertools.pairwise(joined):
            if _described(before) is not None and _may_describe(after):
                verb = after.split()[0].lower()
                raise UsageError(
                    f"'and {after}' may be a clause of its own, or the rest of '{before}'",
                    hint=f"a clause has a comma before it: {before}, {after}; a description does without '{verb}': say it in other words",
                )
        clauses += joined
    return clauses


def _described(clause: str) -> str | None:
    """What a clause describes at its end; None where it says no more than times, sound or a limit."""
    found = _PART.fullmatch(clause)
    if not found or not found[2] or re.fullmatch(rf"{_LIMIT}|keep {_SOUND}", clause, re.IGNORECASE) or _MUTE.fullmatch(clause):
        return None
    return found[2] if isinstance(_what(found[2], clause), Description) else None


def _may_describe(clause: str) -> bool:
    """Whether what follows `and` may as well be the rest of a description."""
    verb = clause.split()[0].lower()
    if verb in ("put", "play"):
        return not _PUT.fullmatch(clause) and not _speed(clause)
    described = _described(clause)
    return verb != "mute" and described is not None and not _LEADING.match(described)


def _unknown(clause: str, hint: str) -> UsageError:
    return UsageError(f"'{clause}' is no editing instruction", hint=hint)


def _what(text: str, clause: str) -> What:
    plain = text.strip()
    lower = plain.lower()
    if lower in ("everything", "all", "it", "the video", "the videos", "each video", "every video", "all videos", "all of it"):
        return EVERYTHING
    if re.fullmatch(rf"{_SOUND}(?: of .+)?", lower):
        raise _unknown(clause, "sound stays with its pictures; it can be left out, such as: mute the first 2 seconds")
    if stretches := _stretches(lower, clause):
        return stretches[0] if len(stretches) == 1 else Stretches(tuple(stretches))
    described = _LEADING.sub("", f"{plain} ").strip()
    if not re.search(r"\w", described):
        raise _unknown(clause, "say what the parts show")
    if _TIME_WORDS.search(_OF_EACH.sub("", described.lower())):
        raise UsageError(
            f"the times of '{clause}' cannot be read",
            hint="times are: the first 2 seconds, the last second, from 0:05 to 1:00:12, from 0:05 to the end, between 5 and 7 seconds, "
            "or as a clause of its own at most 20 seconds; a description has no words of time (seconds, frames, 10%, from 1 to 3)",
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
    if found := re.fullmatch(r"(?:only )?(?:the )?(first|last) (.+)", text):
        length_s = _length_s(f"one {found[2]}" if found[2] in ("second", "minute", "hour") else found[2])
        if length_s is None:
            return None
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
    if clock := re.fullmatch(_CLOCK, text):
        return _clock_s(clock)
    found = re.fullmatch(rf"{_NUMBER}(?:\s*{_UNIT})?", text)
    return _seconds(found[1], found[2] or unit) if found else None


def _length_s(text: str) -> float | None:
    """Seconds of a length such as `2 seconds`, `half a minute`, `1 minute 20 seconds` or `1:20`; None where the text is none."""
    if clock := re.fullmatch(_CLOCK, text):
        return _clock_s(clock)
    found = re.fullmatch(_LENGTH, text)
    measures = [(n, unit) for n, unit in zip(found.groups(), "hms", strict=True) if n] if found else []
    return sum(_seconds(n, unit) for n, unit in measures) if measures else None


def _clock_s(clock: re.Match[str]) -> float:
    return 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])


def _limit_s(text: str, clause: str) -> float:
    length_s = _length_s(text)
    if length_s is None:
        raise _unknown(clause, "a limit is a length of time, such as: at most 20 seconds, at most 1 minute 20 seconds, at most 1:20")
    return length_s


def _speed(clause: str) -> Speed | None:
    number = rf"(?:(by|to|at) )?(?:x\s*)?{_NUMBER}\s*(?:x|times)?"
    found = re.fullmatch(rf"(speed up|speed|slow down|play)(?: (.+?))?? {number}", clause, re.IGNORECASE)
    if not found:
        return None
    verb, _, how, said = (group and group.lower() for group in found.groups())
    what, factor = _what(found[2] or "everything", clause), _number(said)
    if verb == "slow down" and how != "to" and not said.startswith("half"):
        # Slowed down 2x it lasts 2 times as long; slowed down by half it is half as fast.
        is_contradiction, factor = factor < 1, 1 / max(factor, 1)
    else:
        is_contradiction = (verb == "speed up" and factor < 1) or (verb == "slow down" and factor > 1)
    if is_contradiction:
        other = "slower" if verb == "speed up" else "faster"
        raise UsageError(f"'{clause}' would be {other}", hint="such as: speed up 2x, slow down 2x; or play at 0.5x, which is half as fast")
    if not SLOWEST <= factor <= FASTEST:
        raise UsageError(f"'{clause}' would play at {factor:.3g} times the speed", hint=SPEED_HINT)
    return Speed(factor, what, clause)


def _number(text: str) -> float:
    if text.startswith("half"):
        return 0.5
    return 1.0 if text in ("a", "an") else float(_NUMBER_WORDS.index(text) + 1) if text in _NUMBER_WORDS else float(text)


def _seconds(number: str, unit: str) -> float:
    return _number(number) * _UNIT_S[unit[0]]


def _check(parts: list[Part], speeds: list[Speed], orders: list[str], limits: list[float], sounds: list[str]) -> None:
    verbs: dict[What, set[str]] = {}
    for part in parts:
        verbs.setdefault(part.what, set()).add(part.verb)
        for one, other in (("keep", "drop"), ("first", "last")):
            if {one, other} <= verbs[part.what]:
                raise UsageError(f"'{part.clause}' contradicts another part of the instruction", hint="leave one of them out")
        if part.verb == "drop" and part.what == EVERYTHING:
            raise UsageError(f"'{part.clause}' leaves nothing", hint="say what to keep")
    if sounds and "mute" in {part.verb for part in parts}:
        raise UsageError(
            f"'{sounds[0]}' contradicts another part of the instruction", hint="leave it out: what is not muted keeps its sound"
        )
    if len(set(orders)) > 1:
        raise UsageError("the instruction orders the parts twice", hint="name one order")
    if len(set(limits)) > 1:
        raise UsageError("the instruction sets two limits", hint="name one")
    if limits and limits[0] <= 0:
        raise UsageError("the limit leaves nothing", hint="it must be above 0 seconds")
    if len({speed.what for speed in speeds}) < len(speeds):
        raise UsageError(f"'{speeds[-1].clause}' sets a speed again", hint="name one speed for the same parts")
