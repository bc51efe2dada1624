"""From cues as files have them to transcript segments: disorder repaired and counted, endless speech cut into sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import NamedTuple

from vbcli.text.subtitles import REPLACEMENT, Cue

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
BLINK_S = 0.05
"""No one reads what is shown so shortly; so short a gap between cues is none."""
ROLLING_LINES = 4
"""Rolling captions show no more at once."""
ROLLING_SHARE = 0.1
"""Where so many cues begin with lines of the one before, the captions roll."""

# Scripts without spaces between words: Han and kana; Thai, Lao, Burmese and Khmer.
_LETTERS_PER_WORD = (
    (2, re.compile("[\u2e80-\u2fff\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")),
    (4, re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f]")),
)
# Full stops of Europe end words; what Unicode calls terminals of sentences elsewhere (and the Arabic semicolon) stands within them, too.
_STOP = re.compile(
    "[.!?\u2026][\"'\u00ab\u00bb\u2019\u201c\u201d\u203a)\\]]*(?=\\s|$)"
    "|[\u0589\u061b\u061d-\u061f\u06d4\u0700-\u0702\u0964\u0965\u0f0d\u0f0e\u104a\u104b\u1362\u1367\u1368\u17d4\u17d5\u1803\u1809"
    "\u203c\u203d\u2047-\u2049\u3002\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61]+"
)


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
        n_repeated: lines of rolling captions that stayed while others came, left out.
        n_damaged: cues with characters that cannot be read, which are U+FFFD.
        n_guessed: files in no Unicode encoding.
    """

    n_empty: int = 0
    n_unusable: int = 0
    n_disordered: int = 0
    n_overlapping: int = 0
    n_sentences: int = 0
    n_repeated: int = 0
    n_damaged: int = 0
    n_guessed: int = 0

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
            "n_repeated": "lines that stayed on the screen left out",
            "n_damaged": "cues with damaged characters",
            "n_guessed": "files read as Windows-1252 as they are not UTF-8 (save them so if their letters are wrong)",
        }
        return ", ".join(f"{n} {text}" for name, text in words.items() if (n := getattr(self, name)))


class Transcript(NamedTuple):
    """Segments in order of time, none of them overlapping, and what was mended to get there."""

    segments: list[TranscriptSegment]
    repairs: Repairs


def repair_cues(cues: Iterable[Cue]) -> Transcript:
    """Puts cues in order, ends each where the next begins, and leaves out what says nothing, nowhere or again what is still shown.

    Where most of the words have no punctuation, as in the captions of speech recognition, they are cut into sentences anew
    (`split_sentences`).
    """
    kept, repairs = _usable(cues)
    ordered = sorted(kept, key=lambda cue: (cue.start_s, cue.end_s))
    latest_s, n_disordered = -math.inf, 0
    for cue in kept:
        n_disordered += cue.start_s < latest_s
        latest_s = max(latest_s, cue.start_s)
    said, n_repeated = _said_once(ordered)
    apart, n_overlapping = _apart(said)
    repairs = replace(repairs, n_disordered=n_disordered, n_repeated=n_repeated, n_overlapping=n_overlapping)
    if is_unpunctuated(cue.text for cue in apart):
        segments = split_sentences(apart)
        return Transcript(segments, replace(repairs, n_sentences=len(segments)))
    return Transcript([TranscriptSegment(cue.start_s, cue.end_s, " ".join(cue.text.split())) for cue in apart], repairs)


def _usable(cues: Iterable[Cue]) -> tuple[list[Cue], Repairs]:
    kept, n_empty, n_unusable = [], 0, 0
    for cue in cues:
        if not (math.isfinite(cue.start_s) and math.isfinite(cue.end_s) and max(cue.start_s, 0.0) <= cue.end_s):
            n_unusable += 1
        elif not cue.text:
            n_empty += 1
        else:
            has_times = all(math.isfinite(word.start_s) and math.isfinite(word.end_s or 0.0) for word in cue.words)
            kept.append(cue._replace(start_s=max(cue.start_s, 0.0), words=cue.words if has_times else ()))
    return kept, Repairs(n_empty=n_empty, n_unusable=n_unusable, n_damaged=sum(REPLACEMENT in cue.text for cue in kept))


def _said_once(ordered: Sequence[Cue]) -> tuple[list[Cue], int]:
    """Cues in order without the lines that only stay on the screen, and the number of these.

    Captions that roll show every line in two to four cues in a row: at the end of one, and at the beginning of the next, which it
    touches. A whole cue that says what the one before did is left out if it is gone in a blink or captions roll in this file;
    otherwise it was said twice.
    """
    lines_of = [cue.text.split("\n") for cue in ordered]
    staying = [0] * len(ordered)
    for i in range(1, len(ordered)):
        if ordered[i].start_s <= ordered[i - 1].end_s + BLINK_S:
            staying[i] = _n_staying(lines_of[i - 1], lines_of[i])
    is_sure = [
        len(lines) > n > 0 or (n > 0 and cue.end_s - cue.start_s <= BLINK_S)
        for cue, lines, n in zip(ordered, lines_of, staying, strict=True)
    ]
    rolls = sum(is_sure) >= ROLLING_SHARE * len(ordered)
    once, n_repeated = [], 0
    for cue, lines, n, sure in zip(ordered, lines_of, staying, is_sure, strict=True):
        n_left_out = n if sure or rolls else 0
        n_repeated += n_left_out
        if n_left_out < len(lines):
            once.append(_without_first_lines(cue, n_left_out))
    return once, n_repeated


def _n_staying(before: Sequence[str], lines: Sequence[str]) -> int:
    """How many lines are the last of one cue and the first of the next."""
    most = min(len(before), len(lines), ROLLING_LINES)
    return next((n for n in range(most, 0, -1) if before[-n:] == lines[:n]), 0)


def _without_first_lines(cue: Cue, n_lines: int) -> Cue:
    if not n_lines:
        return cue
    *_, text = cue.text.split("\n", n_lines)
    starts = _word_starts(cue)
    n_words = sum(start < len(cue.text) - len(text) for start in starts)
    return cue._replace(text=text, words=() if -1 in starts else cue.words[n_words:])


def _word_starts(cue: Cue) -> list[int]:
    """Where each of the words stands in the text of their cue; -1 where it does not follow the one before."""
    starts, end = [], 0
    for word in cue.words:
        start = end + 1 if cue.text[end : end + 1].isspace() else end
        found = cue.text.startswith(word.text, start)
        starts.append(start if found else -1)
        end = start + len(word.text) if found else end
    return starts


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
            end_s = max(before.end_s, cue.end_s)
            # The times of words that are said at once are of no use: those of one cue would lie before those of the other again.
            same = cue.text == before.text
            apart[-1] = before._replace(end_s=end_s) if same else Cue(before.start_s, end_s, f"{before.text} {cue.text}")
    return apart, n_overlapping


def is_unpunctuated(texts: Iterable[str]) -> bool:
    """Whether texts are speech without punctuation: hardly any of the words ends a sentence."""
    n_words, n_stops = 0.0, 0
    for text in texts:
        n_words += sum(map(count_words, text.split()))
        n_stops += len(_STOP.findall(text))
    return n_words >= LEAST_WORDS and n_stops * WORDS_PER_STOP < n_words


def count_words(token: str) -> float:
    """How many words stand between two spaces: one, or a part of the letters in scripts that have no spaces between words."""
    if token.isascii():
        return 1
    return sum(len(letters.findall(token)) / n for n, letters in _LETTERS_PER_WORD) or 1


class _Timed(NamedTuple):
    """What stands between two spaces of a cue, or is a word of it that has a time.

    Args:
        n_words: of speech; not a whole number in scripts without spaces.
        is_joined: no space stands before it.
    """

    start_s: float
    end_s: float
    text: str
    n_words: float
    begins_cue: bool
    is_joined: bool = False


def split_sentences(cues: Sequence[Cue]) -> list[TranscriptSegment]:
    """Cuts speech into sentences at silences of `PAUSE_S`, and what is still longer than `LONGEST_SENTENCE` words at its longest silences.

    Of equal silences, as where a file has times of cues alone, one between cues counts more than one within, and then the one nearest to
    the middle. Where words have neither spaces nor times between them, none is cut.

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
        for i, (word, at) in enumerate(zip(cue.words, _word_starts(cue), strict=True)):
            next_s = starts_s[i + 1] if i + 1 < len(starts_s) else until_s
            end_s = word.end_s if word.end_s is not None else min(starts_s[i] + LONGEST_WORD_S, cue.end_s if next_s == until_s else next_s)
            end_s = max(starts_s[i], min(end_s, max(next_s, starts_s[i])))
            yield _Timed(starts_s[i], end_s, word.text, count_words(word.text), i == 0, at > 0 and not cue.text[at - 1].isspace())


def _spread_words(cue: Cue) -> Iterator[_Timed]:
    """The words of a cue, as if each letter took the same time."""
    texts = cue.text.split()
    n_letters = sum(map(len, texts))
    said = 0
    for i, text in enumerate(texts):
        start_s, said = cue.start_s + (cue.end_s - cue.start_s) * said / n_letters, said + len(text)
        yield _Timed(start_s, cue.start_s + (cue.end_s - cue.start_s) * said / n_letters, text, count_words(text), i == 0)


def _shortened(words: list[_Timed]) -> Iterator[list[_Timed]]:
    waiting = [words]
    while waiting:
        part = waiting.pop()
        said = list(accumulate(word.n_words for word in part))
        cuts = [i for i in range(1, len(part)) if SHORTEST_SENTENCE <= said[i - 1] <= said[-1] - SHORTEST_SENTENCE]
        if said[-1] <= LONGEST_SENTENCE or not cuts:
            yield part
            continue
        # Silences within a microsecond of each other are the same.
        cut = max(cuts, key=lambda i: (round(part[i].start_s - part[i - 1].end_s, 6), part[i].begins_cue, -abs(said[i - 1] - said[-1] / 2)))
        waiting += [part[cut:], part[:cut]]


def _sentence(words: Sequence[_Timed]) -> TranscriptSegment:
    text = "".join(word.text if word.is_joined or i == 0 else f" {word.text}" for i, word in enumerate(words))
    return TranscriptSegment(words[0].start_s, max(words[0].start_s, words[-1].end_s), text)
