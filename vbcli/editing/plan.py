"""From an instruction and what was found to a list of cuts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vbcli.editing.grammar import FASTEST, SLOWEST, SPEED_HINT, Description, Instruction, Stretch, Stretches, What
from vbcli.errors import VbcliError

EPSILON_S = 1e-6


@dataclass(frozen=True)
class Span:
    """A stretch of a video, and how likely it is that it shows what was asked for (None where nothing was asked).

    Args:
        video: number of the video.
    """

    video: int
    start_s: float
    end_s: float
    score: float | None = None


@dataclass(frozen=True)
class Piece:
    """An entry of the decision list: a span, and how it is played."""

    span: Span
    speed: float = 1.0
    is_mute: bool = False


@dataclass(frozen=True)
class Plan:
    """What an instruction comes to.

    Args:
        pieces: what it leaves, in the order in which they are played.
        matches: what each clause with a description means, in the order of the clauses, those of speed last.
    """

    pieces: list[Piece]
    matches: list[tuple[str, Span]]


def plan_edit(instruction: Instruction, durations_s: Sequence[float], ground: Callable[[Description], Sequence[Span]]) -> Plan:
    """What an instruction means and leaves.

    Its limit is not kept here: how long a piece lasts is known when it is cut at frames.

    Args:
        durations_s: of the videos.
        ground: the parts that fit a description.

    Raises:
        VbcliError: a clause is about nothing that is there, or nothing is left; the message names the clause.
    """

    matches: list[tuple[str, Span]] = []

    def spans_of(what: What, clause: str) -> list[Span]:
        if isinstance(what, Stretches):
            return [span for stretch in what.each for span in spans_of(stretch, clause)]
        if isinstance(what, Description):
            spans = list(ground(what))
            matches.extend((clause, span) for span in spans)
        else:
            spans = [span for video, end_s in enumerate(durations_s) for span in _stretch(what, video, end_s)]
        if not spans:
            raise VbcliError(f"'{clause}' is about no part of the videos", hint=f"they last up to {max(durations_s):.2f} seconds")
        return spans

    found = {part: spans_of(part.what, part.clause) for part in instruction.parts}
    whole = [Span(video, 0.0, end_s) for video, end_s in enumerate(durations_s)]
    kept = [span for part, spans in found.items() if part.verb == "keep" for span in spans]
    pieces = [Piece(span) for span in (_union(kept) if any(part.verb == "keep" for part in found) else whole)]
    for part, spans in found.items():
        if part.verb == "drop":
            pieces = [piece for piece in _split(pieces, spans) if not _is_within(piece, spans)]
            if not pieces:
                raise VbcliError(f"nothing is left after '{part.clause}'", hint="drop less, or keep more")
    if instruction.order == "score":
        pieces.sort(key=lambda piece: -(piece.span.score or 0.0))
    for part, spans in found.items():
        if part.verb in ("first", "last"):
            marked = _marked(pieces, spans, part.clause)
            is_first = part.verb == "first"
            pieces = [piece for is_next in (is_first, not is_first) for piece, is_meant in marked if is_meant == is_next]
        elif part.verb == "mute":
            pieces = [replace(p, is_mute=p.is_mute or is_meant) for p, is_meant in _marked(pieces, spans, part.clause)]
    for speed in instruction.speeds:
        marked = _marked(pieces, spans_of(speed.what, speed.clause), speed.clause)
        pieces = [replace(p, speed=p.speed * speed.factor) if is_meant else p for p, is_meant in marked]
        wrong = next((p.speed for p in pieces if not SLOWEST <= p.speed <= FASTEST), None)
        if wrong is not None:
            raise VbcliError(f"with '{speed.clause}' a part would play at {wrong:.3g} times the speed", hint=SPEED_HINT)
    return Plan(_joined(pieces), matches)


def _marked(pieces: Sequence[Piece], spans: Sequence[Span], clause: str) -> list[tuple[Piece, bool]]:
    """The pieces, cut at the borders of spans, and whether each is in one of them."""
    marked = [(piece, _is_within(piece, spans)) for piece in _split(pieces, spans)]
    if not any(is_meant for _, is_meant in marked):
        raise VbcliError(f"'{clause}' is about nothing of what is kept", hint="keep more, or leave this out")
    return marked


def _stretch(what: Stretch, video: int, duration_s: float) -> list[Span]:
    def place(time_s: float | None, default_s: float) -> float:
        time_s = default_s if time_s is None else time_s + duration_s if time_s < 0 else time_s
        return min(max(time_s, 0.0), duration_s)

    start_s, end_s = place(what.start_s, 0.0), place(what.end_s, duration_s)
    return [Span(video, start_s, end_s)] if start_s < end_s else []


def _union(spans: Sequence[Span]) -> list[Span]:
    """Spans in order of time, cut at all borders; what several cover is there once, with the highest score."""
    kept: list[Span] = []
    for video in sorted({span.video for span in spans}):
        of_video = [span for span in spans if span.video == video]
        borders = sorted({time_s for span in of_video for time_s in (span.start_s, span.end_s)})
        for start_s, end_s in itertools.pairwise(borders):
            covering = [span for span in of_video if span.start_s <= start_s and end_s <= span.end_s]
            if covering and end_s - start_s > EPSILON_S:
                score = max((span.score for span in covering if span.score is not None), default=None)
                kept.append(Span(video, start_s, end_s, score))
    return kept


def _split(pieces: Sequence[Piece], spans: Sequence[Span]) -> list[Piece]:
    """The same pieces, cut at the borders of spans."""
    parts = []
    for piece in pieces:
        a, b = piece.span.start_s, piece.span.end_s
        borders = {t for s in spans if s.video == piece.span.video for t in (s.start_s, s.end_s) if a + EPSILON_S < t < b - EPSILON_S}
        edges = [a, *sorted(borders), b]
        parts += [replace(piece, span=replace(piece.span, start_s=x, end_s=y)) for x, y in itertools.pairwise(edges)]
    return parts


def _is_within(piece: Piece, spans: Sequence[Span]) -> bool:
    """Whether a piece that was split at the borders of spans lies in one of them."""
    middle_s = (piece.span.start_s + piece.span.end_s) / 2
    return any(s.video == piece.span.video and s.start_s <= middle_s < s.end_s for s in spans)


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces that follow each other in their video, too, and are played alike, as one; those of different scores stay apart."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if (
            before
            and replace(before, span=piece.span) == piece
            and (before.span.video, before.span.score) == (piece.span.video, piece.span.score)
            and abs(before.span.end_s - piece.span.start_s) < EPSILON_S
        ):
            joined[-1] = replace(before, span=replace(before.span, end_s=piece.span.end_s))
        else:
            joined.append(piece)
    return joined
