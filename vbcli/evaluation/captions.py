"""Scoring a set of captions against references, with the baselines that a score must be read beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.exports import paragraphs
from vbcli.metrics.baselines import best_constant_caption, nearest_captions, permutation_scores
from vbcli.metrics.bootstrap import Gain, paired_gain
from vbcli.metrics.captions import score_captions
from vbcli.metrics.mentions import Lexicon, score_mentions
from vbcli.runner import read_videos
from vbcli.storage import as_path
from vbcli.text import captionfiles
from vbcli.training.batches import VideoTokens, read_tokens

N_PERMUTATIONS = 20
GIVEN, NEAREST, CONSTANT, SHUFFLED = "captions", "nearest training video", "best constant", "shuffled videos"
ROWS = (GIVEN, NEAREST, CONSTANT, SHUFFLED)
"""Rows of the table that do not come from `others`."""


@dataclass
class Evaluation:
    """Scores by row of the table.

    Args:
        scores: row name to score name to value; the first row is what was given. Of a system with several runs, the mean.
        spread: row name to score name to standard deviation: over the permutations of the row `shuffled videos`, and over the runs of
            a system that has several.
        notes: sentences on what was scored, and what was left out.
        gains: row name to what was given has above it, with the interval of a paired bootstrap: of captions in CIDEr over the videos.
    """

    scores: dict[str, dict[str, float]]
    spread: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    gains: dict[str, Gain] = field(default_factory=dict)

    def add_system(self, name: str, runs: Sequence[Mapping[str, float]]) -> None:
        """The row of a system, from the scores of each of its runs; of several, also their standard deviation."""
        columns = {key: np.array([row[key] for row in runs]) for key in runs[0] if all(key in row for row in runs)}
        self.scores[name] = {key: float(column.mean()) for key, column in columns.items()}
        if len(runs) > 1:
            self.spread[name] = {key: float(column.std(ddof=1)) for key, column in columns.items()}
            self.notes.append(f"{name}: mean and standard deviation of {len(runs)} runs")

    def add_gains(self, items: Mapping[str, Sequence[np.ndarray]]) -> None:
        """What the first row has above each other one.

        Args:
            items: row name to one score of each video or question, in each run, float (N,).
        """
        means = {name: np.mean(runs, axis=0) for name, runs in items.items()}
        first, *others = means
        self.gains = {name: paired_gain(means[first], means[name]) for name in others}


def evaluate_captions(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    reruns: Sequence[Mapping[str, str]] = (),
    others: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
    tokens_dir: Path | None = None,
    lexicon: Lexicon | None = None,
    with_meteor: bool = True,
    seed: int = 0,
) -> Evaluation:
    """Scores captions and baselines.

    Args:
        captions: video to caption.
        references: video to captions of people; only videos on both sides are scored.
        reruns: captions by the same system, trained with other seeds.
        others: captions of other systems by name, of each run of one, for rows of their own. All runs must have the same videos.
        tokens_dir: tokens dataset with the training videos, for the baselines that need them.
        lexicon: what captions should name, for the share of videos that do.
        with_meteor: also compute METEOR of the captions, where Java is installed.

    Raises:
        VbcliError: nothing to score.
    """
    shared = [v for v in captions if references.get(v)]
    if not shared:
        raise VbcliError(
            f"none of the {len(captions)} captioned videos has a reference",
            hint="both sides must name the same videos",
        )
    hypotheses = {v: captions[v] for v in shared}
    truths = {v: references[v] for v in shared}
    evaluation = Evaluation({})
    if len(shared) < len(captions):
        evaluation.notes.append(f"{len(captions) - len(shared)} of {len(captions)} captions have no reference and are left out")
    n_references = sum(len(r) for r in truths.values())
    evaluation.notes.append(
        f"{len(shared)} videos, {n_references} references, PTB tokens; CIDEr is CIDEr-D as pycocoevalcap scales it (10 is a perfect match)"
    )

    per_video: dict[str, list[np.ndarray]] = {}

    def score(name: str, runs: Sequence[Mapping[str, str]], has_meteor: bool = False) -> None:
        rows = []
        for run in runs:
            missing = [v for v in shared if v not in run]
            if missing:
                raise VbcliError(
                    f"{name} has no caption for {len(missing)} of the {len(shared)} videos, first {missing[0]}",
                    hint="caption the same videos with each system",
                )
            said = {v: run[v] for v in shared}
            found = score_captions(said, truths, with_meteor=has_meteor)
            if has_meteor and found.meteor_reason and not rows:
                evaluation.notes.append(f"no METEOR: {found.meteor_reason}")
            rows.append((found, {**found.as_row(), **_mention_row(said, truths, lexicon)}))
        per_video[name] = [found.cider_per_video for found, _ in rows]
        evaluation.add_system(name, [row for _, row in rows])

    # METEOR's Java takes many seconds to start: it is asked for the captions in question alone.
    score(GIVEN, [captions, *reruns], with_meteor)
    baselines = {} if tokens_dir is None else _training_baselines(shared, tokens_dir, evaluation)
    for name, runs in {**(others or {}), **{name: [rows] for name, rows in baselines.items()}}.items():
        score(name, runs)
    evaluation.add_gains(per_video)
    if len(shared) > 1:
        shuffled = permutation_scores(
            hypotheses,
            truths,
            lambda h, r: {**score_captions(h, r, with_meteor=False).as_row(), **_mention_row(h, r, lexicon)},
            N_PERMUTATIONS,
            seed,
        )
        evaluation.scores[SHUFFLED] = shuffled.mean
        evaluation.spread[SHUFFLED] = shuffled.std
    return evaluation


def _mention_row(hypotheses: Mapping[str, str], truths: Mapping[str, Sequence[str]], lexicon: Lexicon | None) -> dict[str, float]:
    row: dict[str, float] = {}
    for slot, found in (score_mentions(hypotheses, truths, lexicon) if lexicon else {}).items():
        row[slot] = found.share_same_values
        if found.share_ordered is not None:
            row[f"{slot} order"] = found.share_ordered
    return row


def _training_baselines(video_ids: Sequence[str], tokens_dir: Path, evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """Captions of the nearest training video, and the best single training caption for all."""
    videos = {v.video_id: v for v in read_tokens(tokens_dir)}
    training = [v for v in videos.values() if v.split == "train" and v.caption_texts and v.video_id not in set(video_ids)]
    if not training:
        evaluation.notes.append(f"{tokens_dir} has no captioned training videos besides those scored: no baselines from training captions")
        return {}
    constant, _ = best_constant_caption({v.video_id: v.caption_texts for v in training})
    rows = {CONSTANT: dict.fromkeys(video_ids, constant)}
    known = [v for v in video_ids if v in videos]
    if len(known) == len(video_ids):
        nearest = nearest_captions(
            np.stack([_mean_feature(videos[v]) for v in video_ids]),
            np.stack([_mean_feature(v) for v in training]),
            [v.caption_texts for v in training],
        )
        rows = {NEAREST: {v: captions[0] for v, captions in zip(video_ids, nearest, strict=True)}, **rows}
    else:
        evaluation.notes.append(f"{len(video_ids) - len(known)} of the videos are not in {tokens_dir}: no nearest training video")
    return rows


def _mean_feature(video: VideoTokens) -> np.ndarray:
    return video.features.mean(0)


# ---------------------------------------------------------------- reading both sides


def name_systems(given: Sequence[str], rows: Sequence[str] = ROWS) -> dict[str, list[Path]]:
    """The runs of each system, for its row of the table.

    Args:
        given: `NAME=PATH`, or just a path, whose name is the last part of it where that tells it from the others, else all of it. Paths
            of one name are runs of one system.
        rows: names that the table has already; the first is that of the results to compare with, which may have more runs.

    Raises:
        VbcliError: a path is given twice, or a name is that of a baseline.
    """
    pairs = [_name_and_path(text) for text in given]
    if len({path for _, path in pairs}) < len(pairs):
        raise VbcliError("--also names the same results twice", hint="name each once")
    taken = next((name for name, _ in pairs if name in rows[1:]), None)
    if taken:
        raise VbcliError(f"--also calls a system '{taken}', as a baseline is called", hint="give it another name")
    named: dict[str, list[Path]] = {}
    for name, path in pairs:
        if name:
            named.setdefault(name, []).append(path)
    # Only a name that is given joins runs.
    counts = Counter([*rows, *named, *(path.name for name, path in pairs if not name)])
    taken_names = {*rows, *named}
    for path in (path for name, path in pairs if not name):
        shown = path.name if counts[path.name] == 1 else str(path)
        named[shown if shown not in taken_names else f"./{path}"] = [path]
    return named


def _name_and_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    # A path may hold an equals sign, too.
    return (name, as_path(path)) if separator and not Path(text).exists() else ("", as_path(text))


def read_captions(path: Path, references: Path) -> dict[str, str]:
    """Captions by video: of a captions dataset (of segments, their paragraph), or of a file with the columns `video` and `caption`.

    Args:
        references: where it is a dataset, the names in a file are matched to its videos.

    Raises:
        VbcliError: a video has several captions in a file.
    """
    if path.is_dir():
        shards.read_manifest(path, "captions")
        pairs = list(paragraphs(path).items())
    else:
        rows = captionfiles.read_caption_file(path)
        known: list[str] = read_videos(references).column("video_id").to_pylist() if (references / "manifest.json").is_file() else []
        names = captionfiles.resolve_names(rows, known, str(path))
        pairs = [(name, row.caption or "") for name, row in zip(names, rows, strict=True)]
    captions: dict[str, str] = {}
    for video, caption in pairs:
        if video in captions:
            raise VbcliError(f"{path} has several captions for {video}", hint="score one caption a video")
        captions[video] = caption
    if not captions:
        raise VbcliError(f"{path} holds no captions", hint="all of its videos failed, or the file is empty: make them with vbcli caption")
    return captions


@dataclass(frozen=True)
class References:
    """What people say of videos: captions and labels by video, captions of parts of it (text, start_s, end_s), answers by video and
    question, and the split of each video (None where none is named)."""

    captions: dict[str, list[str]]
    events: dict[str, list[tuple[str, float, float]]]
    labels: dict[str, list[str]]
    answers: dict[tuple[str, str], list[str]]
    splits: dict[str, str | None]

    def held_out(self, video_ids: Sequence[str], split: str | None) -> list[str]:
        """The videos to score: those of `split`; without one those that are not for training, or all where all are.

        Raises:
            VbcliError: none is of `split`.
        """
        if split is not None:
            held = [v for v in video_ids if self.splits.get(v) == split]
            if not held:
                known = ", ".join(sorted({s for s in self.splits.values() if s})) or "none"
                raise VbcliError(f"no video to score is in the split '{split}'", hint=f"the references name: {known}")
            return held
        return [v for v in video_ids if self.splits.get(v) != "train"] or list(video_ids)

    def are_for_training(self, video_ids: Sequence[str]) -> bool:
        """Whether all of these videos are for training."""
        return all(self.splits.get(v) == "train" for v in video_ids)

    def failure_notes(
        self, failed: Sequence[str], truths: Mapping[str, Sequence[Any]], scored: Sequence[str], split: str | None
    ) -> list[str]:
        """A sentence on the videos that would be scored if they had not failed; none where there are none.

        Args:
            truths: what is known of videos, of the kind that is scored.
            scored: of `held_out`, for the same `split`.
        """
        counts_training = self.are_for_training(scored)
        n = sum(
            bool(truths.get(v)) and split in (None, self.splits.get(v)) and (self.splits.get(v) != "train" or counts_training)
            for v in failed
        )
        return [f"{n} more videos with references failed (see the folder _errors) and are left out"] if n else []


def read_failed(results: Path) -> list[str]:
    """The videos that failed when a dataset of results was made; none of a file."""
    return [failure.video_id for failure in shards.read_failures(results)] if results.is_dir() else []


def read_references(path: Path, video_ids: Sequence[str]) -> References:
    """References of any dataset (its videos carry them), or of a caption file.

    Args:
        video_ids: the videos that were captioned or classified, or failed; the names in a file are matched to them.
    """
    if path.is_dir() and not (path / "manifest.json").is_file():
        raise VbcliError(f"{path} is neither a dataset nor a caption file", hint="name a dataset of vbcli or a caption file as REFERENCES")
    if path.is_dir():
        rows = read_videos(path).select(["video_id", "captions", "labels", "questions", "split"]).to_pylist()
        return References(
            {r["video_id"]: [c["text"] for c in r["captions"]] for r in rows},
            {r["video_id"]: [(c["text"], c["start_s"], c["end_s"]) for c in r["captions"] if c["start_s"] is not None] for r in rows},
            {r["video_id"]: r["labels"] or [] for r in rows},
            {(r["video_id"], q["question"]): q["answers"] or [] for r in rows for q in r["questions"] or []},
            {r["video_id"]: r["split"] for r in rows},
        )
    texts = captionfiles.match_rows(captionfiles.read_caption_file(path), video_ids, str(path)).texts
    return References(
        {v: [c[0] for c in text.captions] for v, text in texts.items()},
        {v: [(said, a, b) for said, a, b in text.captions if a is not None and b is not None] for v, text in texts.items()},
        {v: list(text.labels) for v, text in texts.items()},
        {(v, question): answers for v, text in texts.items() for question, answers, _ in text.questions},
        {v: text.split for v, text in texts.items()},
    )
