"""The demo world: what exists, what happens in each clip, and which combinations only the test part holds.

One rule keeps single frames silent about actions: everything that can be seen is drawn for the clip's *middle* time,
from distributions that do not know the action, and the action then carries the object away from there, forwards and
backwards in time. The middle frame of a clip in which a ball falls is therefore distributed as that of one in which it rises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

Split = Literal["train", "val", "test"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 30),
    "green": (25, 165, 50),
    "blue": (35, 65, 225),
    "yellow": (245, 215, 25),
    "white": (246, 246, 246),
    "black": (18, 18, 20),
}
SHAPES = ("ball", "cube", "triangle", "star", "ring")
ACTIONS = ("left", "right", "rise", "fall", "grow", "shrink", "blink", "circle")
TEXTURES = ("plain", "striped", "dotted")

WIDTH_PX = 160
HEIGHT_PX = 120
FPS = 10
DURATIONS_S = (4.0, 5.0, 6.0)
"""Whole seconds, so that the middle is among the frames sampled at 2 fps."""

TWO_EVENTS_SHARE = 0.3
TEST_SHARE = 0.2
VAL_SHARE = 0.1

TRAVEL_X = 0.34 * WIDTH_PX
TRAVEL_Y = 0.40 * HEIGHT_PX
GROWTH = math.log(1.8)
CIRCLE_RADIUS = 0.20 * HEIGHT_PX
MAX_PAN_PX = 6.0

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Thing:
    """An object as it is at the clip's middle time; positions and sizes in pixels, tilt in radians."""

    colour: str
    shape: str
    texture: str
    x: float
    y: float
    size: float
    tilt: float

    @property
    def name(self) -> str:
        """Canonical name, such as `red ball`."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Event:
    """One thing doing one action between two times."""

    thing: Thing
    action: str
    start_s: float
    end_s: float
    blink_period_s: float


@dataclass(frozen=True)
class Clip:
    """Everything that determines a video and its texts.

    `seed` feeds the background, the camera and the noise. `bystanders` do nothing.
    """

    name: str
    split: Split
    seed: tuple[int, int]
    duration_s: float
    events: tuple[Event, ...]
    bystanders: tuple[Thing, ...]

    @property
    def middle_s(self) -> float:
        return self.duration_s / 2

    @property
    def actors(self) -> tuple[Thing, ...]:
        """The things that act, each once, in order of first action."""
        return tuple(dict.fromkeys(event.thing for event in self.events))


@dataclass(frozen=True)
class Offset:
    """How far an action has carried a thing: pixels, log size ratio, and whether it can be seen."""

    dx: float = 0.0
    dy: float = 0.0
    log_scale: float = 0.0
    is_visible: bool = True


def is_held_out(colour: str, shape: str, action: str) -> bool:
    """Whether a triple belongs to the test part alone: two of the eight actions of each coloured shape.

    The rule does not depend on the seed, so that results of different seeds compare. Its constants leave every colour at least
    three shapes, and every shape at least four colours, to do each action with in training.
    """
    c, s, a = list(COLOURS).index(colour), SHAPES.index(shape), ACTIONS.index(action)
    first = (c + 3 * s) % len(ACTIONS)
    second = (first + 1 + (5 * c + 3 * s) % (len(ACTIONS) - 1)) % len(ACTIONS)
    return a in (first, second)


def allowed_triples(split: Split) -> list[Triple]:
    """The (colour, shape, action) triples that clips of a split may show."""
    return [(c, s, a) for c in COLOURS for s in SHAPES for a in ACTIONS if is_held_out(c, s, a) == (split == "test")]


def plan_clips(n_videos: int, seed: int) -> list[Clip]:
    """Decides what happens in every clip.

    Args:
        n_videos: at least 3, one for each split.
        seed: the same seed and count give the same clips.
    """
    rng = np.random.default_rng([seed, n_videos])
    n_test = max(1, round(TEST_SHARE * n_videos))
    n_val = max(1, round(VAL_SHARE * n_videos))
    splits: list[Split] = ["test" if i < n_test else "val" if i < n_test + n_val else "train" for i in rng.permutation(n_videos)]
    decks: dict[Split, Iterator[Triple]] = {split: _deal(allowed_triples(split), rng) for split in ("train", "val", "test")}
    n_digits = max(4, len(str(n_videos - 1)))
    clips = []
    for i, split in enumerate(splits):
        triples = _draw_triples(decks[split], split, rng)
        clips.append(_build_clip(f"clip-{i:0{n_digits}d}.mp4", split, (seed, i), triples, rng))
    return clips


def motion(event: Event, time_s: float) -> Offset:
    """How far an event has carried its thing since the event's start."""
    progress = min(max((time_s - event.start_s) / (event.end_s - event.start_s), 0.0), 1.0)
    eased = progress * progress * (3 - 2 * progress)
    angle = 2 * math.pi * progress
    match event.action:
        case "left":
            return Offset(dx=-TRAVEL_X * eased)
        case "right":
            return Offset(dx=TRAVEL_X * eased)
        case "rise":
            return Offset(dy=-TRAVEL_Y * eased)
        case "fall":
            return Offset(dy=TRAVEL_Y * eased)
        case "grow":
            return Offset(log_scale=GROWTH * eased)
        case "shrink":
            return Offset(log_scale=-GROWTH * eased)
        case "circle":
            return Offset(dx=CIRCLE_RADIUS * math.sin(angle), dy=CIRCLE_RADIUS * (1 - math.cos(angle)))
    return Offset()


def offset_at(clip: Clip, thing: Thing, time_s: float) -> Offset:
    """Where a thing is at a time, relative to its state at the clip's middle, where the offset is zero."""
    dx = dy = log_scale = 0.0
    is_visible = True
    for event in clip.events:
        if event.thing != thing:
            continue
        now, middle = motion(event, time_s), motion(event, clip.middle_s)
        dx, dy, log_scale = dx + now.dx - middle.dx, dy + now.dy - middle.dy, log_scale + now.log_scale - middle.log_scale
        if event.action == "blink" and event.start_s <= time_s <= event.end_s:
            cycles = (time_s - clip.middle_s) / event.blink_period_s
            is_visible = abs(cycles - round(cycles)) < 0.25
    return Offset(dx, dy, log_scale, is_visible)


def _deal(triples: list[Triple], rng: Generator) -> Iterator[Triple]:
    """Deals shuffled decks for ever, so that all triples come about equally often."""
    while True:
        for i in rng.permutation(len(triples)):
            yield triples[i]


def _draw_triples(deck: Iterator[Triple], split: Split, rng: Generator) -> list[Triple]:
    """One triple, or two with different actions: of the same thing as often as of two things."""
    first = next(deck)
    if rng.random() >= TWO_EVENTS_SHARE:
        return [first]
    if rng.random() < 0.5:
        colour, shape, action = first
        others = [a for a in ACTIONS if a != action and is_held_out(colour, shape, a) == (split == "test")]
        return [first, (colour, shape, others[rng.integers(len(others))])]
    second = next(deck)
    while second[:2] == first[:2] or second[2] == first[2]:
        second = next(deck)
    return [first, second]


def _build_clip(name: str, split: Split, seed: tuple[int, int], triples: list[Triple], rng: Generator) -> Clip:
    duration_s = float(rng.choice(DURATIONS_S))
    names = list(dict.fromkeys(triple[:2] for triple in triples))
    actors = _place_actors(names, rng)
    spans = _event_spans(len(triples), duration_s, rng)
    events = tuple(
        Event(actors[names.index((colour, shape))], action, start_s, end_s, float(rng.uniform(0.9, 1.1)))
        for (colour, shape, action), (start_s, end_s) in zip(triples, spans, strict=True)
    )
    return Clip(name, split, seed, duration_s, events, _place_bystanders(actors, rng))


def _event_spans(n_events: int, duration_s: float, rng: Generator) -> list[tuple[float, float]]:
    """One event around the middle, or one on each side of it."""
    lead, tail = rng.uniform(0.1, 0.5, size=2)
    if n_events == 1:
        return [(float(lead), float(duration_s - tail))]
    before, after = rng.uniform(0.0, 0.2, size=2)
    return [(float(lead) / 2, float(duration_s / 2 - before)), (float(duration_s / 2 + after), float(duration_s - tail / 2))]


def _place_actors(names: list[tuple[str, str]], rng: Generator) -> list[Thing]:
    centres = [0.5] if len(names) == 1 else list(rng.permutation([0.3, 0.7]))
    spread = 0.12 if len(names) == 1 else 0.04
    return [
        Thing(
            colour,
            shape,
            str(rng.choice(TEXTURES)),
            x=WIDTH_PX * float(centre + rng.uniform(-spread, spread)),
            y=HEIGHT_PX * float(rng.uniform(0.42, 0.58)),
            size=HEIGHT_PX * float(rng.uniform(0.34, 0.42)),
            tilt=float(rng.uniform(-0.2, 0.2)),
        )
        for (colour, shape), centre in zip(names, centres, strict=True)
    ]


def _place_bystanders(actors: list[Thing], rng: Generator) -> tuple[Thing, ...]:
    """None, one or two smaller things, clear of the actors at the middle time and named differently."""
    bystanders: list[Thing] = []
    n_wanted = int(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2]))
    while len(bystanders) < n_wanted:
        size = HEIGHT_PX * float(rng.uniform(0.15, 0.19))
        thing = Thing(
            str(rng.choice(list(COLOURS))),
            str(rng.choice(SHAPES)),
            str(rng.choice(TEXTURES)),
            x=float(rng.uniform(size, WIDTH_PX - size)),
            y=float(rng.uniform(size, HEIGHT_PX - size)),
            size=size,
            tilt=float(rng.uniform(-0.2, 0.2)),
        )
        placed = [*actors, *bystanders]
        is_clear = all(math.hypot(thing.x - other.x, thing.y - other.y) > 0.6 * (size + other.size) for other in placed)
        if is_clear and thing.name not in {other.name for other in placed}:
            bystanders.append(thing)
    return tuple(bystanders)
