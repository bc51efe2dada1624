"""Captions of real clips, cross-validated: every clip is captioned by captioners that have not seen it, and scored beside baselines.

    python tests/benchmarks/real_clips.py CLIPS_DIR SENTENCES OUT_DIR [--folds 5] [--seeds 3] [--jobs 2] [--recipe NAME ...]

CLIPS_DIR holds videos and `captions.csv` (video, caption); SENTENCES is text to learn the language from, a text a line. All folds are
pooled, so that each score is of all clips. The gain over the better baseline is bootstrapped over the clips, in pairs. What is finished
stays.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from learning import vbcli

from vbcli import shards
from vbcli.metrics.baselines import best_constant_caption, nearest_captions, permutation_scores
from vbcli.metrics.bootstrap import paired_gain
from vbcli.metrics.captions import score_captions
from vbcli.vocab.build import feature_matrix

VALIDATION_SHARE = 10
"""Every tenth of the clips that a fold learns from tells when to stop."""
POOLS = ("grid3", "names")
Captions = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """How a captioner is made.

    Args:
        pool: of the encoder.
        language: options of a training of the language alone, which all folds start from; None: no such training.
        train: options of the training on a fold's clips.
    """

    pool: str
    language: tuple[str, ...] | None
    train: tuple[str, ...]


RECIPES = {
    "from the clips": Recipe("grid3", None, ("--max-steps", "600")),
    "from text": Recipe(
        "names",
        ("--max-steps", "2500", "--batch-size", "64"),
        ("--max-steps", "150", "--batch-size", "64", "--learning-rate", "2e-4", "--patience", "1000"),
    ),
}


def read_captions(clips_dir: Path) -> dict[str, list[str]]:
    """Captions of each clip."""
    found: dict[str, list[str]] = {}
    with (clips_dir / "captions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["video"], []).append(row["caption"])
    return found


def split_of(video_ids: Sequence[str], n_folds: int, fold: int) -> dict[str, str]:
    """Clips in a random order are dealt to the folds in turn."""
    order = np.random.default_rng(0).permutation(len(video_ids))
    splits = {}
    for place, number in enumerate(order):
        is_validation = (place // n_folds) % VALIDATION_SHARE == 0
        splits[video_ids[number]] = "test" if place % n_folds == fold else "val" if is_validation else "train"
    return splits


def make_tokens(clips_dir: Path, place: Path, out_dir: Path, pool: str, captions: dict[str, list[str]], splits: dict[str, str]) -> None:
    """Tokens of a fold, by a vocabulary of the clips that it learns from.

    Args:
        place: where the features are, which all folds copy: they differ in their captions and splits.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    vbcli("encode", clips_dir, place / f"features-{pool}", "--pool", pool)
    shutil.copytree(place / f"features-{pool}", out_dir / "features", dirs_exist_ok=True)
    table = out_dir / "captions.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "caption", "split"])
        rows.writerows([video, text, splits[video]] for video, texts in captions.items() for text in texts)
    vbcli("encode", clips_dir, out_dir / "features", "--captions", table, "--pool", pool)
    vbcli("build-vocab", out_dir / "features", out_dir / "vocab")
    vbcli("tokenize", out_dir / "features", out_dir / "tokens", "--vocab", out_dir / "vocab")


def learn_language(place: Path, recipe: Recipe, sentences: Path, seed: int) -> Path:
    """A captioner that has seen text alone: its clips have no captions."""
    common = ("--threads", "1", "--seed", str(seed))
    target = place / f"language-{seed}"
    vbcli("train", place / "silent" / "tokens", target, "--task", "caption", "--text", sentences, *common, *(recipe.language or ()))
    return target


def write_captions(fold_dir: Path, name: str, start: Path | None, sentences: Path, seed: int) -> Captions:
    """Captions of a fold's test clips."""
    recipe = RECIPES[name]
    place, tokens = fold_dir / name.replace(" ", "-") / f"seed-{seed}", fold_dir / recipe.pool / "tokens"
    init = () if start is None else ("--init", str(start), "--text", str(sentences))
    common = ("--task", "caption", "--threads", "1", "--seed", str(seed))
    vbcli("train", tokens, place / "model", *common, *init, *recipe.train)
    vbcli("caption", tokens, place / "captions", "--checkpoint", place / "model", "--split", "test", "--executor", "serial")
    rows = [
        row for path in shards.list_shards(place / "captions") for row in pq.read_table(path, columns=["video_id", "caption"]).to_pylist()
    ]
    return {row["video_id"]: row["caption"] for row in rows}


def write_baselines(features_dir: Path, references: dict[str, list[str]], splits: dict[str, str]) -> tuple[Captions, Captions]:
    """What the nearest of a fold's other clips is called, and the best caption for all, for its test clips."""
    means = {
        table.column("video_id")[0].as_py(): feature_matrix(table).mean(0, dtype=np.float32)
        for path in shards.list_shards(features_dir)
        for table in shards.iter_videos(path)
    }
    test = [v for v in means if splits[v] == "test"]
    known = [v for v in means if splits[v] != "test"]
    nearest = nearest_captions(np.stack([means[v] for v in test]), np.stack([means[v] for v in known]), [references[v] for v in known])
    constant, _ = best_constant_caption({v: references[v] for v in known})
    return {v: texts[0] for v, texts in zip(test, nearest, strict=True)}, dict.fromkeys(test, constant)


def cider(captions: Captions, references: dict[str, list[str]]) -> np.ndarray:
    """CIDEr of each clip, float (N,), in the order of `references`."""
    ordered = {video: captions[video] for video in references}
    return np.array(score_captions(ordered, references, with_meteor=False).cider_per_video)


def score(written: Sequence[Captions], references: dict[str, list[str]], better: np.ndarray) -> dict[str, float | list[float]]:
    """Figures of the captions of each seed."""
    scores = np.stack([cider(captions, references) for captions in written])  # (seeds, N)

    def total(hypotheses: Mapping[str, str], truths: Mapping[str, Sequence[str]]) -> dict[str, float]:
        return {"CIDEr": score_captions(hypotheses, truths, with_meteor=False).cider}

    shuffled = [permutation_scores(captions, references, total).mean["CIDEr"] for captions in written]
    gain = paired_gain(scores.mean(0), better)
    return {
        "CIDEr": float(scores.mean()),
        "by seed": [float(s.mean()) for s in scores],
        "shuffled": float(np.mean(shuffled)),
        "gain": gain.mean,
        "interval": [gain.low, gain.high],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips_dir", type=Path)
    parser.add_argument("sentences", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings beside each other, one thread each")
    parser.add_argument("--recipe", nargs="*", default=list(RECIPES), choices=list(RECIPES), metavar="NAME")
    arguments = parser.parse_args()
    references = read_captions(arguments.clips_dir)
    folds, seeds = range(arguments.folds), range(arguments.seeds)
    splits = [split_of(list(references), arguments.folds, fold) for fold in folds]
    places = [arguments.out_dir / f"fold-{fold}" for fold in folds]
    baselines: dict[str, Captions] = {}
    for fold in folds:
        for pool in POOLS:
            make_tokens(arguments.clips_dir, arguments.out_dir, places[fold] / pool, pool, references, splits[fold])
            near, same = write_baselines(places[fold] / pool / "features", references, splits[fold])
            baselines.setdefault(f"nearest clip, {pool}", {}).update(near)
            baselines.setdefault("best constant", {}).update(same)
    baseline_scores = {name: cider(captions, references) for name, captions in baselines.items()}
    better = max(baseline_scores.values(), key=lambda scores: scores.mean())
    report: dict[str, dict[str, float | list[float]]] = {name: {"CIDEr": float(s.mean())} for name, s in baseline_scores.items()}
    for name in arguments.recipe:
        recipe, place = RECIPES[name], arguments.out_dir / name.replace(" ", "-")
        with ThreadPoolExecutor(arguments.jobs) as workers:
            starts: list[Path | None] = [None for _ in seeds]
            if recipe.language is not None:
                silent = {video: [""] for video in references}
                make_tokens(
                    arguments.clips_dir, arguments.out_dir, place / "silent", recipe.pool, silent, dict.fromkeys(references, "train")
                )
                starts = list(workers.map(partial(learn_language, place, recipe, arguments.sentences), seeds))
            jobs = [
                [workers.submit(write_captions, places[fold], name, starts[seed], arguments.sentences, seed) for fold in folds]
                for seed in seeds
            ]
            written = [{video: text for job in of_seed for video, text in job.result().items()} for of_seed in jobs]
        report[name] = score(written, references, better)
        sys.stdout.write(f"{name}: {json.dumps(report[name])}\n")
        sys.stdout.flush()
    (arguments.out_dir / "report.json").write_text(json.dumps(report, indent=1))
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
