"""Scoring classes against labels, beside the class that most training videos have and a linear probe of the features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.evaluation.captions import Evaluation
from vbcli.metrics.classes import (
    ClassCounts,
    ClassGuesses,
    ReliabilityBin,
    are_right,
    confusions,
    gather_guesses,
    one_against_rest,
    reliability,
    score_classes,
)
from vbcli.models.classifier import chosen_classes
from vbcli.training.batches import VideoTokens, read_tokens
from vbcli.vocab.probe import linear_probe

GIVEN, PROBE, MOST_FREQUENT, FREQUENCIES = "classes", "linear probe", "most frequent class", "class frequencies"
ROWS = (GIVEN, PROBE, MOST_FREQUENT, FREQUENCIES)
"""Rows of the table that do not come from `others`."""


@dataclass
class ClassEvaluation(Evaluation):
    """Scores by row of the table; gains are in `accuracy`, or in `exact match` where videos may have several classes.

    Args:
        classes: names, in the order of `confusions`.
        confusions: videos by true class (rows) and first guess (columns), of the first run; empty where videos may have several classes.
        counts: of each class against the rest, of the first run; empty where videos have one class.
        reliability: how often guesses are right, by their probability, of the first run: of first guesses, or of all classes where videos
            may have several.
    """

    classes: list[str] = field(default_factory=list)
    confusions: list[list[int]] = field(default_factory=list)
    counts: list[ClassCounts] = field(default_factory=list)
    reliability: list[ReliabilityBin] = field(default_factory=list)

    @property
    def guess(self) -> str:
        """What `reliability` counts, in words."""
        return "first guess" if self.confusions else "class"


@dataclass(frozen=True)
class ClassRows:
    """What a classes dataset says: the classes of each video, and the probability of every class."""

    labels: dict[str, list[str]]
    scores: dict[str, dict[str, float]]


def read_classes(classes_dir: Path) -> ClassRows:
    """Reads a classes dataset.

    Raises:
        VbcliError: it is none, or holds no videos.
    """
    shards.read_manifest(classes_dir, "classes")
    rows = shards.read_rows(classes_dir, ["video_id", "labels", "scores"])
    if not rows:
        raise VbcliError(f"{classes_dir} holds no videos", hint="all of its videos failed: see its folder _errors")
    labels = {row["video_id"]: row["labels"] for row in rows}
    return ClassRows(labels, {row["video_id"]: {s["label"]: s["probability"] for s in row["scores"]} for row in rows})


def evaluate_classes(
    rows: ClassRows,
    truths: Mapping[str, Sequence[str]],
    video_ids: Sequence[str],
    tokens_dir: Path | None = None,
    *,
    reruns: Sequence[ClassRows] = (),
    others: Mapping[str, Sequence[ClassRows]] | None = None,
) -> ClassEvaluation:
    """Scores classes and baselines.

    Args:
        truths: video to labels of people.
        video_ids: the videos to score; those without a label are left out, and counted.
        tokens_dir: tokens dataset with the training videos, for the baselines.
        reruns: classes by the same system, trained with other seeds.
        others: classes of other systems by name, of each run of one, for rows of their own. All runs must have the same videos.

    Raises:
        VbcliError: nothing to score, or a run lacks a video.
    """
    labelled = {v: list(dict.fromkeys(truths[v])) for v in video_ids if truths.get(v)}
    if not labelled:
        raise VbcliError(f"none of the {len(video_ids)} videos has a label", hint="both sides must name the same videos")
    systems = {GIVEN: [rows, *reruns], **(others or {})}
    _check_same(systems, list(labelled))
    said = [labelled, *(run.labels for runs in systems.values() for run in runs)]
    is_single_label = all(len(of[v]) == 1 for of in said for v in labelled)

    def gather(run: ClassRows) -> ClassGuesses:
        return gather_guesses(run.scores, run.labels, labelled, is_single_label=is_single_label)

    table = {name: [gather(run) for run in runs] for name, runs in systems.items()}
    guesses = table[GIVEN][0]
    evaluation = ClassEvaluation({})
    if len(labelled) < len(video_ids):
        evaluation.notes.append(f"{len(video_ids) - len(labelled)} of {len(video_ids)} videos have no label and are left out")
    evaluation.notes.append(f"{len(labelled)} videos, {len(guesses.classes)} classes")
    evaluation.classes = list(guesses.classes)
    evaluation.reliability = reliability(guesses)
    if is_single_label:
        evaluation.confusions = confusions(guesses).tolist()
    else:
        evaluation.counts = one_against_rest(guesses)
    if tokens_dir is None:
        evaluation.notes.append("no tokens dataset named (--baselines): no baselines from training videos")
    else:
        found = _baselines(labelled, read_tokens(tokens_dir), is_single_label, evaluation.notes)
        table |= {name: [gather(run)] for name, run in found.items()}
    for name, runs in table.items():
        evaluation.add_system(name, [score_classes(run) for run in runs])
    evaluation.add_gains({name: [are_right(run) for run in runs] for name, runs in table.items()})
    return evaluation


def _check_same(systems: Mapping[str, Sequence[ClassRows]], video_ids: Sequence[str]) -> None:
    for name, run in ((name, run) for name, runs in systems.items() for run in runs):
        missing = [v for v in video_ids if v not in run.labels]
        if missing:
            message = f"{name} has no classes for {len(missing)} of the {len(video_ids)} videos, first {missing[0]}"
            raise VbcliError(message, hint="classify the same videos with each system")


def _baselines(
    labelled: dict[str, list[str]], videos: Sequence[VideoTokens], is_single_label: bool, notes: list[str]
) -> dict[str, ClassRows]:
    """What a linear probe of the features says, and the most frequent class for all (of several a video, their frequencies)."""

    def choose(found: dict[str, dict[str, float]]) -> ClassRows:
        return ClassRows({video: chosen_classes(of, is_multi_label=not is_single_label) for video, of in found.items()}, found)

    known = {v.video_id: v for v in videos}
    training = [v for v in videos if v.split == "train" and v.labels and v.video_id not in labelled]
    if is_single_label:
        training = [v for v in training if len(set(v.labels)) == 1]
    counts = Counter(label for v in training for label in dict.fromkeys(v.labels))
    if len(counts) < 2:
        notes.append("fewer than two classes among the training videos besides those scored: no baselines")
        return {}
    frequencies = {name: count / len(training) for name, count in counts.most_common()}
    constant = dict.fromkeys([next(iter(frequencies))], 1.0) if is_single_label else frequencies
    rows = {MOST_FREQUENT if is_single_label else FREQUENCIES: choose(dict.fromkeys(labelled, constant))}
    missing = [v for v in labelled if v not in known]
    if missing:
        notes.append(f"{len(missing)} of the videos are not in the tokens dataset: no linear probe")
        return rows
    answers = [list(dict.fromkeys(v.labels)) for v in training]
    classes, probabilities = linear_probe([v.features for v in training], answers, [known[v].features for v in labelled])
    probed = {v: dict(zip(classes, row, strict=True)) for v, row in zip(labelled, probabilities.tolist(), strict=True)}
    return {PROBE: choose(probed), **rows}
