"""What people say about clips of the demo world: captions, narration, questions, and the lexicon that reads captions back."""

from __future__ import annotations

from numpy.random import Generator

from vbcli.demo.world import ACTIONS, COLOURS, SHAPES, Clip, Event, Thing

NOUNS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere"),
    "cube": ("cube", "block"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "hoop"),
}
VERBS: dict[str, tuple[str, ...]] = {
    "left": ("moves left", "slides to the left", "goes left"),
    "right": ("moves right", "slides to the right", "goes right"),
    "rise": ("rises", "floats up", "goes up"),
    "fall": ("falls", "drops", "goes down"),
    "grow": ("grows", "gets bigger", "expands"),
    "shrink": ("shrinks", "gets smaller", "contracts"),
    "blink": ("blinks", "flashes", "flickers"),
    "circle": ("circles", "loops around", "moves in a circle"),
}
"""The first form of each is the one that questions and answers use. No form is part of another."""

SINGLE_TEMPLATES = ("{a}", "{a} here", "we see how {a}")
SEQUENCE_TEMPLATES = ("{a}, then {b}", "first {a} and then {b}", "{a} before {b}", "{a}, and after that {b}")

OPENINGS = (
    "okay, let's see what we have in this clip.",
    "alright, here is another little scene for you.",
    "hello again, let's have a look at this one.",
    "so, this is what our small world looks like today.",
)
SIGHTINGS = ("we have {things} in the picture.", "you can see {things} in front of the wall.", "there is {things} waiting for us.")
COMMENTS = (
    "watch the {noun} closely now, it {verb}, can you see that?",
    "and there we go, the {noun} {verb}, just like that.",
    "now the {noun} {verb}, take your time and look at it again if you like.",
    "and what does the {noun} do? well, it {verb}, of course.",
)
ASIDES = ("the little {noun} does nothing at all, so don't mind it.", "never mind the small {noun}, it just stays where it is.")
CLOSINGS = ("and that's all for this one.", "nice, that was it, thanks for watching.", "okay, on to the next one.")


def build_lexicon() -> dict[str, dict[str, list[str]]]:
    """Every surface form that captions use, by slot (`object`, `action`) and value, for reading captions back."""
    objects = {f"{colour} {shape}": [f"{colour} {noun}" for noun in NOUNS[shape]] for colour in COLOURS for shape in SHAPES}
    return {"object": objects, "action": {action: list(VERBS[action]) for action in ACTIONS}}


def write_captions(clip: Clip, n_captions: int, rng: Generator) -> list[str]:
    """Different sentences about a clip; each mentions the actors and the actions once, in order of time."""
    captions: list[str] = []
    while len(captions) < n_captions:
        caption = _caption(clip, rng)
        if caption not in captions:
            captions.append(caption)
    return captions


def write_narration(clip: Clip, rng: Generator) -> str:
    """What a presenter says over a clip, as SubRip text with cues roughly at the events, in order and without overlap."""
    cues: list[tuple[float, str]] = []
    scene = " and ".join(f"a {_noun_phrase(clip.actors[i], rng)}" for i in rng.permutation(len(clip.actors)))
    cues.append((0.0, f"{_pick(OPENINGS, rng)} {_pick(SIGHTINGS, rng).format(things=scene)}"))
    for event in clip.events:
        said = _pick(COMMENTS, rng).format(noun=_noun_phrase(event.thing, rng), verb=_pick(VERBS[event.action], rng))
        cues.append((event.start_s + float(rng.uniform(0.3, 0.6)), said))
    last = [_pick(ASIDES, rng).format(noun=_noun_phrase(thing, rng)) for thing in clip.bystanders[:1]]
    cues.append((clip.duration_s - float(rng.uniform(0.5, 0.8)), " ".join([*last, _pick(CLOSINGS, rng)])))
    ends = [start_s for start_s, _ in cues[1:]] + [clip.duration_s]
    lines = [
        f"{i}\n{_srt_time(start_s)} --> {_srt_time(end_s)}\n{text}\n"
        for i, ((start_s, text), end_s) in enumerate(zip(cues, ends, strict=True), start=1)
    ]
    return "\n".join(lines)


def write_questions(clip: Clip, rng: Generator) -> list[tuple[str, str]]:
    """Question-answer pairs about the action, colour and shape of one event, and about the order of two."""
    event = clip.events[rng.integers(len(clip.events))]
    verb, thing = VERBS[event.action][0], event.thing
    questions = [
        (f"what color is the thing that {verb}?", thing.colour),
        (f"which shape {verb}?", thing.shape),
    ]
    if len(clip.events) == 1:
        return [*questions, (f"what does the {thing.name} do?", f"it {verb}")]
    if len(clip.actors) == 2:
        questions += [(f"what does the {thing.name} do?", f"it {verb}")]
        one, other = (clip.actors[i].name for i in rng.permutation(2))
        return [*questions, (f"which one acts first, the {one} or the {other}?", f"the {clip.actors[0].name}")]
    first, last = clip.events
    return [
        *questions,
        (f"what does the {thing.name} do first?", f"it {VERBS[first.action][0]}"),
        (f"what does the {thing.name} do last?", f"it {VERBS[last.action][0]}"),
    ]


def _caption(clip: Clip, rng: Generator) -> str:
    article = "the" if rng.random() < 0.25 else "a"
    clauses = [_clause(event, article, rng) for event in clip.events]
    if len(clauses) == 1:
        return _pick(SINGLE_TEMPLATES, rng).format(a=clauses[0])
    if len(clip.actors) == 1:
        clauses[1] = f"it {_pick(VERBS[clip.events[1].action], rng)}"
    return _pick(SEQUENCE_TEMPLATES, rng).format(a=clauses[0], b=clauses[1])


def _clause(event: Event, article: str, rng: Generator) -> str:
    return f"{article} {_noun_phrase(event.thing, rng)} {_pick(VERBS[event.action], rng)}"


def _noun_phrase(thing: Thing, rng: Generator) -> str:
    return f"{thing.colour} {_pick(NOUNS[thing.shape], rng)}"


def _pick(choices: tuple[str, ...], rng: Generator) -> str:
    return choices[rng.integers(len(choices))]


def _srt_time(time_s: float) -> str:
    total_ms = round(time_s * 1000)
    return f"{total_ms // 3_600_000:02d}:{total_ms // 60_000 % 60:02d}:{total_ms // 1000 % 60:02d},{total_ms % 1000:03d}"
