"""Scoring classes against labels, beside the class that most training videos have and a linear probe of the features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.metrics.classes import ReliabilityBin, confusions, gather_guesses, reliability, score_classes
from vbcli.training.batches import VideoTokens, read_tokens
from vbcli.vocab.probe import linear_probe

GIVEN, PROBE, MOST_FREQUENT = "classes", "linear probe", "most frequent class"


@dataclass
class ClassEvaluation:
    """Scores by row of the table.

    Args:
        scores: row name to score name to value; the first row is the classes that were given.
        classes: names, in the order of `confusions`; empty where videos have several classes.
        confusions: videos by true class (rows) and first guess (columns).
        reliability: how often first guesses are right, by their probability.
        notes: sentences on what was scored, and what was left out.
    """

    scores: dict[str, dict[str, float]]
    classes: list[str] = field(default_factory=list)
    confusions: list[list[int]] = field(default_factory=list)
    reliability: list[ReliabilityBin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    tables = [shards.read_shard(p, columns=["video_id", "labels", "scores"]).to_pylist() for p in shards.list_shards(classes_dir)]
    rows = [row for table in tables for row in table]
    if not rows:
        raise VbcliError(f"{classes_dir} holds no videos")
    labels = {row["video_id"]: row["labels"] for row in rows}
    return ClassRows(labels, {row["video_id"]: {s["label"]: s["probability"] for s in row["scores"]} for row in rows})


def evaluate_classes(
    rows: ClassRows, truths: Mapping[str, Sequence[str]], video_ids: Sequence[str], tokens_dir: Path | None = None
) -> ClassEvaluation:
    """Scores classes and baselines.

    Args:
        truths: video to labels of people.
        video_ids: the videos to score; those without a label are left out, and counted.
        tokens_dir: tokens dataset with the training videos, for the baselines.

    Raises:
        VbcliError: nothing to score.
    """
    labelled = {v: list(dict.fromkeys(truths[v])) for v in video_ids if truths.get(v)}
    if not labelled:
        raise VbcliError(f"none of the {len(video_ids)} videos has a label", hint="both sides must name the same videos")
    guesses = gather_guesses(rows.scores, rows.labels, labelled)
    evaluation = ClassEvaluation({GIVEN: score_classes(guesses)})
    if len(labelled) < len(video_ids):
        evaluation.notes.append(f"{len(video_ids) - len(labelled)} of {len(video_ids)} videos have no label and are left out")
    evaluation.notes.append(f"{len(labelled)} videos, {len(guesses.classes)} classes")
    if guesses.is_single_label:
        evaluation.classes = list(guesses.classes)
        evaluation.confusions = confusions(guesses).tolist()
        evaluation.reliability = reliability(guesses)
    if tokens_dir is None:
        evaluation.notes.append("no tokens dataset named (--baselines): no baselines from training videos")
    elif guesses.is_single_label:
        evaluation.scores |= _baselines(labelled, read_tokens(tokens_dir), evaluation.notes)
    else:
        evaluation.notes.append("videos with several labels: no baselines")
    return evaluation


def _baselines(labelled: dict[str, list[str]], videos: Sequence[VideoTokens], notes: list[str]) -> dict[str, dict[str, float]]:
    """Scores of a linear probe of the features, and of the most frequent class for all."""
    known = {v.video_id: v for v in videos}
    training = [v for v in videos if v.split == "train" and len(v.labels) == 1 and v.video_id not in labelled]
    if len({v.labels[0] for v in training}) < 2:
        notes.append("fewer than two classes among the training videos besides those scored: no baselines")
        return {}
    answers = [v.labels[0] for v in training]
    (most_frequent, _), *_ = Counter(answers).most_common(1)
    rows = {MOST_FREQUENT: _score_names(labelled, {video: {most_frequent: 1.0} for video in labelled})}
    missing = [v for v in labelled if v not in known]
    if missing:
        notes.append(f"{len(missing)} of the videos are not in the tokens dataset: no linear probe")
        return rows
    classes, probabilities = linear_probe([v.features for v in training], answers, [known[v].features for v in labelled])
    probed = {v: dict(zip(classes, row, strict=True)) for v, row in zip(labelled, probabilities.tolist(), strict=True)}
    return {PROBE: _score_names(labelled, probed), **rows}


def _score_names(truths: dict[str, list[str]], scores: dict[str, dict[str, float]]) -> dict[str, float]:
    best = {video: [max(found, key=lambda name: found[name])] for video, found in scores.items()}
    return score_classes(gather_guesses(scores, best, truths))
