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
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from learning import vbcli

from vbcli import shards
from vbcli.metrics.baselines import best_constant_caption, nearest_captions, permutation_scores
from vbcli.metrics.captions import score_captions
from vbcli.vocab.build import feature_matrix

VALIDATION_SHARE = 10
"""Every tenth of the clips that a fold learns from tells when to stop."""
N_RESAMPLED = 10_000
PRETRAIN_STEPS, CAPTION_STEPS = "1500", "600"
Captions = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """Options of `train --task denoise` (None: no such training), of `train --task caption`, and of `caption`."""

    denoise: tuple[str, ...] | None
    train: tuple[str, ...] = ()
    caption: tuple[str, ...] = ()


RECIPES = {
    "from scratch": Recipe(None),
    "text first": Recipe(()),
    "text first, all kept": Recipe((), ("--keep-init", "1")),
    "text first, features alone": Recipe((), ("--visual-input", "features")),
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


def make_fold(clips_dir: Path, out_dir: Path, references: dict[str, list[str]], splits: dict[str, str]) -> Path:
    """Tokens of a fold, by a vocabulary of the clips that it learns from."""
    out_dir.mkdir(parents=True, exist_ok=True)
    table = out_dir / "captions.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "caption", "split"])
        rows.writerows([video, text, splits[video]] for video, texts in references.items() for text in texts)
    vbcli("encode", clips_dir, out_dir / "features", "--captions", table)
    vbcli("build-vocab", out_dir / "features", out_dir / "vocab")
    vbcli("tokenize", out_dir / "features", out_dir / "tokens", "--vocab", out_dir / "vocab")
    return out_dir / "tokens"


def write_captions(fold_dir: Path, sentences: Path, name: str, recipe: Recipe, seed: int) -> Captions:
    """Captions of a fold's test clips."""
    place = fold_dir / name.replace(" ", "-").replace(",", "") / f"seed-{seed}"
    tokens, common = fold_dir / "tokens", ("--threads", "1", "--seed", str(seed))
    init: tuple[str, ...] = ()
    if recipe.denoise is not None:
        start = fold_dir / f"denoise-{seed}"
        vbcli("train", tokens, start, "--task", "denoise", "--text", sentences, "--max-steps", PRETRAIN_STEPS, *common, *recipe.denoise)
        init = ("--init", str(start))
    vbcli("train", tokens, place / "model", "--task", "caption", "--max-steps", CAPTION_STEPS, *init, *common, *recipe.train)
    vbcli(
        "caption", tokens, place / "captions", "--checkpoint", place / "model", "--split", "test", "--executor", "serial", *recipe.caption
    )
    rows = [
        row for path in shards.list_shards(place / "captions") for row in pq.read_table(path, columns=["video_id", "caption"]).to_pylist()
    ]
    return {row["video_id"]: row["caption"] for row in rows}


def write_baselines(fold_dir: Path, references: dict[str, list[str]], splits: dict[str, str]) -> tuple[Captions, Captions]:
    """What the nearest of a fold's other clips is called, and the best caption for all, for its test clips."""
    means = {
        table.column("video_id")[0].as_py(): feature_matrix(table).mean(0, dtype=np.float32)
        for path in shards.list_shards(fold_dir / "features")
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


def interval(gains: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the mean of resampled clips."""
    rng = np.random.default_rng(0)
    means = gains[rng.integers(0, len(gains), (N_RESAMPLED, len(gains)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


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
    folds = range(arguments.folds)
    splits = [split_of(list(references), arguments.folds, fold) for fold in folds]
    places = [arguments.out_dir / f"fold-{fold}" for fold in folds]
    for fold in folds:
        make_fold(arguments.clips_dir, places[fold], references, splits[fold])
    nearest: Captions = {}
    constant: Captions = {}
    for fold in folds:
        near, same = write_baselines(places[fold], references, splits[fold])
        nearest |= near
        constant |= same
    baselines = {"nearest clip": cider(nearest, references), "best constant": cider(constant, references)}
    better = max(baselines.values(), key=lambda scores: scores.mean())
    report: dict[str, dict[str, float | list[float]]] = {name: {"CIDEr": float(scores.mean())} for name, scores in baselines.items()}
    for name in arguments.recipe:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [
                [pool.submit(write_captions, places[fold], arguments.sentences, name, RECIPES[name], seed) for fold in folds]
                for seed in range(arguments.seeds)
            ]
            written = [{video: text for job in of_seed for video, text in job.result().items()} for of_seed in jobs]
        scores = np.stack([cider(captions, references) for captions in written])  # (seeds, N)
        shuffled = [
            permutation_scores(c, references, lambda h, r: {"CIDEr": score_captions(h, r, with_meteor=False).cider}).mean["CIDEr"]
            for c in written
        ]
        gains = scores.mean(0) - better
        low, high = interval(gains)
        report[name] = {
            "CIDEr": float(scores.mean()),
            "by seed": [float(s.mean()) for s in scores],
            "shuffled": float(np.mean(shuffled)),
            "gain": float(gains.mean()),
            "interval": [low, high],
        }
        sys.stdout.write(f"{name}: {json.dumps(report[name])}\n")
        sys.stdout.flush()
    (arguments.out_dir / "report.json").write_text(json.dumps(report, indent=1))
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
