"""From cues as files have them to transcript segments: disorder repaired and counted, endless speech cut into sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from vbcli.text.subtitles import Cue

PAUSE_S = 0.5
"""A silence so long ends a sentence of speech without punctuation."""
LONGEST_SENTENCE = 20
"""Words; a longer stretch of speech is cut at its longest silences."""
SHORTEST_SENTENCE = 4
LONGEST_WORD_S = 0.6
"""So long a word lasts at most, where only its beginning is known."""
LEAST_WORDS = 20
"""Of fewer words nothing can be said on whether they have punctuation."""
WORDS_PER_STOP = 50
"""Text with fewer full stops than one in so many words has no punctuation."""

_STOP = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*$")


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """Words said (or shown) during a part of a video.

    Args:
        start_s: first moment in seconds, 0 or more.
        end_s: moment after the last, in seconds, `start_s` or later.
        text: one line of plain text.

    Raises:
        ValueError: the times are negative, not finite or in the wrong order.
    """

    start_s: float
    end_s: float
    text: str

    def __post_init__(self) -> None:
        if not 0 <= self.start_s <= self.end_s < math.inf:
            raise ValueError(f"not a time span: {self.start_s} s to {self.end_s} s")


@dataclass(frozen=True)
class Repairs:
    """How many cues were mended, and how.

    Args:
        n_empty: without text, left out.
        n_unusable: whose times cannot be read or run backwards, left out.
        n_disordered: that came after a later one, put in order.
        n_overlapping: that lasted into the next, ended where it begins; of the same beginning, joined with it.
        n_sentences: sentences that unpunctuated speech was cut into.
    """

    n_empty: int = 0
    n_unusable: int = 0
    n_disordered: int = 0
    n_overlapping: int = 0
    n_sentences: int = 0

    def __add__(self, other: Repairs) -> Repairs:
        return Repairs(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def __str__(self) -> str:
        words = {
            "n_empty": "empty cues left out",
            "n_unusable": "cues with unusable times left out",
            "n_disordered": "cues put in order",
            "n_overlapping": "overlapping cues shortened or joined",
            "n_sentences": "sentences made of speech without punctuation",
        }
        return ", ".join(f"{n} {text}" for name, text in words.items() if (n := getattr(self, name)))


class Transcript(NamedTuple):
    """Segments in order of time, none of them overlapping, and what was mended to get there."""

    segments: list[TranscriptSegment]
    repairs: Repairs


def repair_cues(cues: Iterable[Cue]) -> Transcript:
    """Puts cues in order, ends each where the next begins, and leaves out those that say nothing or nowhere.

    Where most of the words have no punctuation, as in the captions of speech recognition, they are cut into sentences anew
    (`split_sentences`).
    """
    kept, repairs = _usable(cues)
    ordered = sorted(kept, key=lambda cue: (cue.start_s, cue.end_s))
    latest_s, n_disordered = -math.inf, 0
    for cue in kept:
        n_disordered += cue.start_s < latest_s
        latest_s = max(latest_s, cue.start_s)
    apart, n_overlapping = _apart(ordered)
    repairs = replace(repairs, n_disordered=n_disordered, n_overlapping=n_overlapping)
    if is_unpunctuated(cue.text for cue in apart):
        segments = split_sentences(apart)
        return Transcript(segments, replace(repairs, n_sentences=len(segments)))
    return Transcript([TranscriptSegment(cue.start_s, cue.end_s, cue.text) for cue in apart], repairs)


def _usable(cues: Iterable[Cue]) -> tuple[list[Cue], Repairs]:
    kept, n_empty, n_unusable = [], 0, 0
    for cue in cues:
        if not cue.text:
            n_empty += 1
        elif not (math.isfinite(cue.start_s) and math.isfinite(cue.end_s) and max(cue.start_s, 0.0) <= cue.end_s):
            n_unusable += 1
        else:
            kept.append(cue._replace(start_s=max(cue.start_s, 0.0)))
    return kept, Repairs(n_empty=n_empty, n_unusable=n_unusable)


def _apart(ordered: Sequence[Cue]) -> tuple[list[Cue], int]:
    """Cues in order without overlap."""
    apart: list[Cue] = []
    n_overlapping = 0
    for cue in ordered:
        before = apart[-1] if apart else None
        if before is None or before.end_s <= cue.start_s < cue.end_s or before.end_s < cue.start_s:
            apart.append(cue)
            continue
        n_overlapping += before.end_s > cue.start_s
        if before.start_s < cue.start_s:
            apart[-1] = before._replace(end_s=min(before.end_s, cue.start_s))
            apart.append(cue)
        else:
            # The words of both, where both have some: half of them would be lost in the other's.
            words = (*before.words, *cue.words) if before.words and cue.words else ()
            text = before.text if cue.text == before.text else f"{before.text} {cue.text}"
            apart[-1] = Cue(before.start_s, max(before.end_s, cue.end_s), text, words if len(words) == len(text.split()) else ())
    return apart, n_overlapping


def is_unpunctuated(texts: Iterable[str]) -> bool:
    """Whether texts are speech without punctuation: hardly any of the words ends a sentence."""
    words = [word for text in texts for word in text.split()]
    return len(words) >= LEAST_WORDS and sum(1 for word in words if _STOP.search(word)) * WORDS_PER_STOP < len(words)


class _Timed(NamedTuple):
    start_s: float
    end_s: float
    text: str
    begins_cue: bool


def split_sentences(cues: Sequence[Cue]) -> list[TranscriptSegment]:
    """Cuts speech into sentences at silences of `PAUSE_S`, and what is still longer than `LONGEST_SENTENCE` words at its longest silences.

    Of equal silences, as where a file has times of cues alone, one between cues counts more than one within, and then the one nearest to
    the middle.

    Args:
        cues: in order of time, without overlap.
    """
    words = list(_timed_words(cues))
    sentences: list[TranscriptSegment] = []
    start = 0
    for i in range(1, len(words) + 1):
        if i == len(words) or words[i].start_s - words[i - 1].end_s >= PAUSE_S:
            sentences += [_sentence(part) for part in _shortened(words[start:i])]
            start = i
    return sentences


def _timed_words(cues: Sequence[Cue]) -> Iterator[_Timed]:
    for n, cue in enumerate(cues):
        until_s = cues[n + 1].start_s if n + 1 < len(cues) else math.inf
        if not cue.words:
            yield from _spread_words(cue)
            continue
        starts_s = [min(max(word.start_s, cue.start_s), max(until_s, cue.start_s)) for word in cue.words]
        for i, word in enumerate(cue.words):
            next_s = starts_s[i + 1] if i + 1 < len(starts_s) else until_s
            end_s = word.end_s if word.end_s is not None else min(starts_s[i] + LONGEST_WORD_S, cue.end_s if next_s == until_s else next_s)
            yield _Timed(starts_s[i], max(starts_s[i], min(end_s, max(next_s, starts_s[i]))), word.text, i == 0)


def _spread_words(cue: Cue) -> Iterator[_Timed]:
    """The words of a cue, as if each letter took the same time."""
    texts = cue.text.split()
    n_letters = sum(map(len, texts))
    said = 0
    for i, text in enumerate(texts):
        start_s, said = cue.start_s + (cue.end_s - cue.start_s) * said / n_letters, said + len(text)
        yield _Timed(start_s, cue.start_s + (cue.end_s - cue.start_s) * said / n_letters, text, i == 0)


def _shortened(words: list[_Timed]) -> Iterator[list[_Timed]]:
    waiting = [words]
    while waiting:
        part = waiting.pop()
        if len(part) <= LONGEST_SENTENCE:
            yield part
            continue
        middle = len(part) / 2
        # Silences within a microsecond of each other are the same.
        cut = max(
            range(SHORTEST_SENTENCE, len(part) - SHORTEST_SENTENCE + 1),
            key=lambda i: (round(part[i].start_s - part[i - 1].end_s, 6), part[i].begins_cue, -abs(i - middle)),
        )
        waiting += [part[cut:], part[:cut]]


def _sentence(words: Sequence[_Timed]) -> TranscriptSegment:
    return TranscriptSegment(words[0].start_s, max(words[0].start_s, words[-1].end_s), " ".join(word.text for word in words))
