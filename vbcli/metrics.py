"""Scores of captions against references, baselines to read them by, and alarms about captions that cannot be right.

CIDEr is given on the scale of the reference implementation: ten times an average cosine, so 1.24 and not 124.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from threading import Timer

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from vbcli.errors import VbcliError
from vbcli.ptb import caption_tokens

Lexicon = Mapping[str, Mapping[str, Sequence[str]]]
"""Slot ("object") to value ("red ball") to the surface forms that name the value in a caption."""

CIDER_ORDERS = 4
CIDER_SIGMA = 6.0
ALIKE_SHARE = 0.5
ALIKE_FROM = 4
REPEATED_SHARE = 0.1


@dataclass(frozen=True)
class CaptionScores:
    """Corpus scores of one set of captions.

    Attributes:
        bleu: BLEU-1 to BLEU-4, each in [0, 1], with the closest reference length.
        rouge_l: in [0, 1], the mean over videos.
        cider: in [0, 10], the mean of `cider_per_video`; document frequencies come from these references, so the figure belongs to this
            set of videos, and is 0 for a single one.
        meteor: in [0, 1], or None where it was not computed; then `meteor_reason` says why.
        video_ids: the videos, in the order of the hypotheses.
        cider_per_video: one CIDEr for each of `video_ids`.
    """

    bleu: tuple[float, float, float, float]
    rouge_l: float
    cider: float
    meteor: float | None
    meteor_reason: str | None
    video_ids: tuple[str, ...] = field(repr=False)
    cider_per_video: tuple[float, ...] = field(repr=False)

    def as_row(self) -> dict[str, float]:
        """The scores under their usual names: Bleu_1 to Bleu_4, ROUGE_L, CIDEr and, where it was computed, METEOR."""
        row = {f"Bleu_{order}": score for order, score in enumerate(self.bleu, start=1)}
        row |= {"ROUGE_L": self.rouge_l, "CIDEr": self.cider}
        return row if self.meteor is None else row | {"METEOR": self.meteor}


def score_captions(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], *, with_meteor: bool = True, meteor_timeout_s: float = 300.0
) -> CaptionScores:
    """Score one caption a video against one or more references, all cut into Penn Treebank tokens without punctuation.

    Args:
        hypotheses: video id to caption; an empty caption scores 0.
        references: the same video ids to captions; at least one of each video has a word in it.
        with_meteor: compute METEOR where Java is installed; its program takes some seconds to start.
        meteor_timeout_s: seconds after which METEOR is given up.

    Returns:
        The scores; METEOR is None, with the reason, where it could not be computed.

    Raises:
        VbcliError: no captions, ids on one side only, or a video without a reference.

    Source: BLEU, Papineni et al. 2002; ROUGE-L, Lin 2004; CIDEr-D, Vedantam et al. 2015; METEOR 1.5, Denkowski and Lavie 2014; all as the
        COCO caption evaluation computes them (Chen et al. 2015).
    """
    _check_ids(hypotheses, references)
    results = {video_id: [" ".join(caption_tokens(caption))] for video_id, caption in hypotheses.items()}
    truths = {video_id: _tokenised_references(video_id, references[video_id]) for video_id in hypotheses}
    bleu, _ = Bleu(4).compute_score(truths, results, verbose=0)
    rouge_l, _ = Rouge().compute_score(truths, results)
    cider, cider_per_video = Cider(n=CIDER_ORDERS, sigma=CIDER_SIGMA).compute_score(truths, results)
    meteor, reason = _meteor(truths, results, meteor_timeout_s) if with_meteor else (None, "METEOR was not asked for")
    return CaptionScores(
        bleu=(float(bleu[0]), float(bleu[1]), float(bleu[2]), float(bleu[3])),
        rouge_l=float(rouge_l),
        cider=float(cider),
        meteor=meteor,
        meteor_reason=reason,
        video_ids=tuple(hypotheses),
        cider_per_video=tuple(float(score) for score in cider_per_video),
    )


def _check_ids(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not hypotheses and not references:
        raise VbcliError("there are no captions to score")
    for missing, side in ((hypotheses.keys() - references.keys(), "reference"), (references.keys() - hypotheses.keys(), "caption")):
        if missing:
            shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
            raise VbcliError(f"{len(missing)} videos have no {side}: {shown}", "score the same videos on both sides")


def _tokenised_references(video_id: str, references: Sequence[str]) -> list[str]:
    # A reference without words would count as a perfect match of an empty caption in ROUGE-L.
    tokenised = [joined for reference in references if (joined := " ".join(caption_tokens(reference)))]
    if not tokenised:
        raise VbcliError(f"video {video_id} has no reference with a word in it", "remove the video or give it a reference")
    return tokenised


def _meteor(truths: Mapping[str, Sequence[str]], results: Mapping[str, Sequence[str]], timeout_s: float) -> tuple[float | None, str | None]:
    """METEOR of tokenised captions by its Java program, or None and the reason. The program is always ended."""
    java = shutil.which("java")
    spec = util.find_spec("pycocoevalcap.meteor")
    if java is None:
        return None, "METEOR needs Java, and no java is on the PATH"
    locations = list(spec.submodule_search_locations or []) if spec else []
    jars = [jar for location in locations for jar in Path(location).glob("meteor-*.jar")]
    if not jars:
        return None, "the installed pycocoevalcap has no METEOR program in it"
    # The serial collector starts no thread a core; the encoding would otherwise be the locale's.
    options = ["-XX:+UseSerialGC", "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jars[0].name, "-", "-", "-stdio", "-l", "en", "-norm"]
    deadline_s = time.monotonic() + timeout_s
    try:
        with subprocess.Popen(
            [java, *options], cwd=jars[0].parent, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            timer = Timer(timeout_s, process.kill)
            timer.start()
            try:
                return _ask_meteor(process, truths, results), None
            finally:
                timer.cancel()
                process.kill()
    except (OSError, ValueError):
        late = time.monotonic() >= deadline_s
        return None, f"METEOR took more than {timeout_s:g} s" if late else "METEOR's Java program ended with an error"


def _ask_meteor(process: subprocess.Popen[str], truths: Mapping[str, Sequence[str]], results: Mapping[str, Sequence[str]]) -> float:
    """Speak the program's line protocol: statistics of each video, then one evaluation of them all."""
    assert process.stdin is not None
    assert process.stdout is not None
    statistics = []
    for video_id, references in truths.items():
        # The space after the last bar is part of the protocol: without it an empty caption is an error.
        fields = [" ".join(text.replace("|||", " ").split()) for text in (*references, results[video_id][0])]
        process.stdin.write(" ||| ".join(["SCORE", *fields]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline().strip()
        if not line or line.startswith("Error"):
            raise ValueError(line)
        statistics.append(line)
    process.stdin.write(" ||| ".join(["EVAL", *statistics]) + "\n")
    process.stdin.flush()
    scores = [float(process.stdout.readline()) for _ in range(len(statistics) + 1)]
    return scores[-1]


@dataclass(frozen=True)
class MentionScores:
    """How well captions name the values of one slot, over all videos.

    Attributes:
        n_videos: videos scored.
        share_same_sequence: share of them whose caption mentions exactly the values, in the order, of at least one reference.
        share_same_values: the same, with the order left out of account (repeated mentions count).
        n_ordered: videos with a reference that mentions two different values or more.
        share_ordered: share of the `n_ordered` videos whose caption's sequence equals that of such a reference; None where there are none.
        share_ordered_given_values: the same, over those of the `n_ordered` videos whose caption has the values of such a reference in any
            order; chance is 0.5 for two values. None where there are none.
    """

    n_videos: int
    share_same_sequence: float
    share_same_values: float
    n_ordered: int
    share_ordered: float | None
    share_ordered_given_values: float | None


def load_lexicon(path: Path | str) -> dict[str, dict[str, list[str]]]:
    """Read a lexicon, a JSON file such as `{"object": {"red ball": ["red ball"]}, "action": {"fall": ["falls", "drops"]}}`.

    Raises:
        VbcliError: no such file, another shape, an empty form, or one form given to two values of a slot.
    """
    hint = 'write {"slot": {"value": ["form", "another form"]}}'
    try:
        lexicon = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise VbcliError(f"cannot read the lexicon {path}: {error.strerror}") from error
    except ValueError as error:
        raise VbcliError(f"the lexicon {path} is not JSON: {error}", hint) from error
    if not isinstance(lexicon, dict) or not lexicon:
        raise VbcliError(f"the lexicon {path} is not an object of slots", hint)
    for slot, values in lexicon.items():
        if not isinstance(values, dict) or not values:
            raise VbcliError(f"slot {slot!r} of the lexicon {path} is not an object of values", hint)
        owners: dict[str, str] = {}
        for value, forms in values.items():
            if not isinstance(forms, list) or not forms or not all(isinstance(form, str) and form.strip() for form in forms):
                raise VbcliError(f"value {value!r} of slot {slot!r} of the lexicon {path} has no list of forms", hint)
            for form in map(_normal_form, forms):
                if owners.setdefault(form, value) != value:
                    raise VbcliError(f"form {form!r} stands for both {owners[form]!r} and {value!r} in the lexicon {path}")
    return lexicon


def _normal_form(form: str) -> str:
    return " ".join(form.lower().split())


def find_mentions(text: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """List the values that a caption mentions.

    Args:
        text: the caption, in any case.
        values: one slot of a lexicon, value to surface forms. Forms match at word boundaries; where several match at one place the
            longest is taken, and mentions do not overlap.

    Returns:
        The values in the order of mention, repeated as often as they are mentioned.
    """
    value_of = {_normal_form(form): value for value, forms in values.items() for form in forms}
    if not value_of:
        return []
    longest_first = sorted(value_of, key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(re.escape(form) for form in longest_first)})(?!\w)"
    return [value_of[match] for match in re.findall(pattern, _normal_form(text))]


def score_mentions(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], lexicon: Lexicon) -> dict[str, MentionScores]:
    """Compare what captions name with what their references name, slot by slot.

    Args:
        hypotheses: video id to caption.
        references: the same video ids to captions, at least one each.
        lexicon: slots, their values and the forms of these, as `load_lexicon` gives it.

    Returns:
        Slot to scores. A caption that names nothing agrees with a reference that names nothing.

    Raises:
        VbcliError: no captions, or ids on one side only.
    """
    _check_ids(hypotheses, references)
    return {slot: _score_slot(hypotheses, references, values) for slot, values in lexicon.items()}


def _score_slot(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]]
) -> MentionScores:
    same_sequence, same_values, ordered, ordered_values = [], [], [], []
    for video_id, caption in hypotheses.items():
        said = find_mentions(caption, values)
        truths = [find_mentions(reference, values) for reference in references[video_id]]
        same_sequence.append(said in truths)
        same_values.append(sorted(said) in map(sorted, truths))
        several = [truth for truth in truths if len(set(truth)) >= 2]
        if several:
            ordered.append(said in several)
            ordered_values.append(sorted(said) in map(sorted, several))
    return MentionScores(
        n_videos=len(hypotheses),
        share_same_sequence=sum(same_sequence) / len(hypotheses),
        share_same_values=sum(same_values) / len(hypotheses),
        n_ordered=len(ordered),
        share_ordered=sum(ordered) / len(ordered) if ordered else None,
        share_ordered_given_values=sum(ordered) / sum(ordered_values) if any(ordered_values) else None,
    )


@dataclass(frozen=True)
class PermutationScores:
    """Scores of captions handed to the wrong videos: `mean` and sample standard deviation `std` over the permutations, by score name."""

    mean: dict[str, float]
    std: dict[str, float]
    n_permutations: int


def permutation_scores(
    hypotheses: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    score_fn: Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Mapping[str, float]],
    n_permutations: int = 20,
    seed: int = 0,
) -> PermutationScores:
    """Score the same captions with the videos exchanged: what captions get for their style alone.

    Each permutation is one random cycle through all videos, so no video keeps its own caption.

    Args:
        hypotheses: video id to caption, two videos or more.
        references: the same video ids to captions.
        score_fn: hypotheses and references to scores by name.
        n_permutations: two or more, for the standard deviation.
        seed: of the permutations.

    Raises:
        VbcliError: fewer than two videos or two permutations.
    """
    if len(hypotheses) < 2 or n_permutations < 2:
        raise VbcliError(f"cannot permute {len(hypotheses)} captions {n_permutations} times: two of each are needed")
    random = np.random.default_rng(seed)
    video_ids = list(hypotheses)
    rows = []
    for _ in range(n_permutations):
        cycle = random.permutation(len(video_ids))
        giver = dict(zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True))
        exchanged = {video_id: hypotheses[video_ids[giver[place]]] for place, video_id in enumerate(video_ids)}
        rows.append(score_fn(exchanged, references))
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return PermutationScores(
        mean={name: float(column.mean()) for name, column in columns.items()},
        std={name: float(column.std(ddof=1)) for name, column in columns.items()},
        n_permutations=n_permutations,
    )


def nearest_captions(
    test_features: np.ndarray, train_features: np.ndarray, train_captions: Sequence[Sequence[str]], block_size: int = 1024
) -> list[Sequence[str]]:
    """Give each test video the captions of the training video that looks most like it.

    Args:
        test_features: float32 (M, D), the mean feature of each test video.
        train_features: float32 (N, D), of each training video, from the same encoder.
        train_captions: N sequences of captions.
        block_size: test videos compared at a time, which bounds memory.

    Returns:
        M sequences of captions, those of the training video with the highest cosine (the first of equals). A feature of zeros has cosine 0.

    Raises:
        VbcliError: no training videos, or counts or dimensions that do not agree.
    """
    if len(train_features) == 0 or len(train_features) != len(train_captions):
        raise VbcliError(f"{len(train_features)} training features do not go with the captions of {len(train_captions)} training videos")
    if test_features.shape[1:] != train_features.shape[1:]:
        raise VbcliError(f"test features of shape {test_features.shape} do not compare with training features of {train_features.shape}")
    unit = _unit_rows(train_features)
    nearest: list[Sequence[str]] = []
    for start in range(0, len(test_features), block_size):
        cosines = _unit_rows(test_features[start : start + block_size]) @ unit.T
        places: list[int] = cosines.argmax(axis=1).tolist()
        nearest += [train_captions[place] for place in places]
    return nearest


def _unit_rows(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def best_constant_caption(train_references: Mapping[str, Sequence[str]], n_candidates: int = 500, seed: int = 0) -> tuple[str, float]:
    """Find the one training caption that, given to every training video, has the best CIDEr.

    Only training captions are looked at, so the caption is a fair baseline on other videos.

    Args:
        train_references: training video id to its captions.
        n_candidates: distinct captions tried at most, drawn at random where there are more; each costs milliseconds.
        seed: of the draw.

    Returns:
        The caption as it is written, and its CIDEr on the training references, which contain it.

    Raises:
        VbcliError: no training captions, or a video without one.
    """
    if not train_references:
        raise VbcliError("there are no training captions to choose from")
    table = _CiderTable({video_id: _tokenised_references(video_id, captions) for video_id, captions in train_references.items()})
    by_tokens = {" ".join(caption_tokens(caption)): caption for captions in train_references.values() for caption in captions}
    by_tokens.pop("", None)
    candidates = sorted(by_tokens)
    if len(candidates) > n_candidates:
        chosen = np.random.default_rng(seed).choice(len(candidates), size=n_candidates, replace=False)
        candidates = [candidates[place] for place in sorted(chosen)]
    scores = [table.mean_score(candidate) for candidate in candidates]
    best = int(np.argmax(scores))
    return by_tokens[candidates[best]], scores[best]


def _counts(caption: str) -> Counter[tuple[str, ...]]:
    """N-grams of orders 1 to 4, counted."""
    words = caption.split()
    return Counter(tuple(words[start : start + n]) for n in range(1, CIDER_ORDERS + 1) for start in range(len(words) - n + 1))


class _CiderTable:
    """All references by n-gram, so that one caption is compared with every video at once.

    Source: Vedantam et al. 2015, section 5 (CIDEr-D): clipped tf-idf cosines of orders 1 to 4, times a Gaussian of the length difference.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        counts = [[_counts(caption) for caption in captions] for captions in references.values()]
        frequency = Counter(ngram for video in counts for ngram in set().union(*video))
        self._idf = {ngram: math.log(len(counts) / n_videos) for ngram, n_videos in frequency.items()}
        # A reference weighs 1 / (videos x references of its video) in the mean.
        self._shares = np.array([1 / (len(counts) * len(video)) for video in counts for _ in video])
        self._n_bigrams = np.array([_n_bigrams(caption) for video in counts for caption in video])
        rows: dict[tuple[str, ...], list[int]] = defaultdict(list)
        weights: dict[tuple[str, ...], list[float]] = defaultdict(list)
        norms = np.zeros((CIDER_ORDERS, len(self._shares)))
        for row, caption in enumerate(caption for video in counts for caption in video):
            for ngram, count in caption.items():
                weight = count * self._idf[ngram]
                if weight > 0:
                    rows[ngram].append(row)
                    weights[ngram].append(weight)
                    norms[len(ngram) - 1, row] += weight**2
        self._rows = {ngram: np.array(places) for ngram, places in rows.items()}
        self._weights = {ngram: np.array(values) for ngram, values in weights.items()}
        self._norms = np.sqrt(norms)

    def mean_score(self, caption: str) -> float:
        """CIDEr of a tokenised caption, one of the references, given to all videos."""
        counts = _counts(caption)
        products = np.zeros_like(self._norms)
        squares = np.zeros(CIDER_ORDERS)
        for ngram, count in counts.items():
            weight = count * self._idf[ngram]
            squares[len(ngram) - 1] += weight**2
            if weight > 0:
                theirs = self._weights[ngram]
                products[len(ngram) - 1, self._rows[ngram]] += np.minimum(weight, theirs) * theirs
        lengths = self._norms * np.sqrt(squares)[:, None]
        cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        penalty = np.exp(-((_n_bigrams(counts) - self._n_bigrams) ** 2) / (2 * CIDER_SIGMA**2))
        return float(10 * (cosines.mean(axis=0) * penalty * self._shares).sum())


def _n_bigrams(counts: Counter[tuple[str, ...]]) -> int:
    """What the reference implementation takes for the length of a caption."""
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)


def caption_alarms(captions: Sequence[str]) -> list[str]:
    """Say what cannot be right about a set of generated captions.

    Args:
        captions: one a video.

    Returns:
        Sentences of warning, none where all is well: any empty captions; one caption given to more than half of four or more; a trigram
        repeated within at least a tenth of the captions.
    """
    alarms = []
    tokens = [tuple(caption_tokens(caption)) for caption in captions]
    n_empty = sum(not words for words in tokens)
    if n_empty:
        alarms.append(f"{n_empty} of {len(captions)} captions are empty")
    if len(captions) >= ALIKE_FROM:
        ((most_common, n_alike),) = Counter(tokens).most_common(1)
        if most_common and n_alike > ALIKE_SHARE * len(captions):
            alarms.append(f'{n_alike} of {len(captions)} captions are the same: "{" ".join(most_common)}"')
    n_repeating = sum(len(set(trigrams)) < len(trigrams) for trigrams in (list(zip(w, w[1:], w[2:], strict=False)) for w in tokens))
    if n_repeating and n_repeating >= REPEATED_SHARE * len(captions):
        alarms.append(f"{n_repeating} of {len(captions)} captions repeat three words in a row")
    return alarms
