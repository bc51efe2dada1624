"""What pre-training, fusion, inputs, denoising and a 3-D encoder are worth: the table of docs/learning.md.

    python tests/benchmarks/learning.py OUT_DIR [--n-videos 1200] [--seeds 3] [--jobs 2] [--only NAME ...]

One command makes the demo world, trains every cell with every seed and writes OUT_DIR/table.md. Each cell runs the command line as a user
does, on one thread, so that as many cells as there are cores run beside each other; what is finished stays, and the same command goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SHARES = (10, 30, 100)
PRETRAIN_STEPS, CAPTION_STEPS, DENOISE_STEPS, ENCODER_STEPS = 2000, 1000, 1000, 400
MASK_RATE = "0.3"
SLOTS = ("colour", "shape", "action")
AS_CAPTIONED, AS_NARRATED = "we see how a [MASK] [MASK] [MASK]", "and there we go, the [MASK] [MASK] [MASK], just like that."
"""Zero-shot classification by cloze: a sentence of the form that pre-training has read, with a word of each slot to fill in."""
TOGETHER = ("1", "0", "0")
Scores = dict[str, float]


@dataclass(frozen=True)
class Place:
    """The folders of a run of the table."""

    root: Path

    @property
    def world(self) -> Path:
        return self.root / "world"

    @property
    def vocab(self) -> Path:
        return self.root / "vocab"

    def tokens(self, name: str) -> Path:
        """Tokens of the silent world: `all`, or with so many per cent of the captions or of the training videos; or of the narrated one."""
        return self.root / "tokens" / name

    def checkpoint(self, name: str, seed: int) -> Path:
        return self.root / "checkpoints" / f"{name}-{seed}"

    def cell(self, name: str, seed: int) -> Path:
        return self.root / "cells" / f"{name}-{seed}.json"


def vbcli(*arguments: str | Path) -> str:
    """Runs the command line on one thread; its standard output.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vbcli.cli.app", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{run.stderr}")
    return run.stdout


# ---------------------------------------------------------------- the data of all cells


def make_data(place: Place, n_videos: int) -> None:
    """The world with and without its narration, its vocabulary, and tokens with fewer captions or fewer training videos."""
    if not (place.world / "README.txt").exists():
        vbcli("demo-data", place.world, "--n-videos", str(n_videos))
    silent, frames, features, narrated = (place.root / name for name in ("silent", "frames", "features", "narrated-features"))
    silent.mkdir(exist_ok=True)
    for video in (place.world / "videos").glob("*.mp4"):
        if not (silent / video.name).exists():
            os.link(video, silent / video.name)
    vbcli("extract", silent, frames, "--captions", place.world / "captions.csv")
    vbcli("encode", frames, features)
    vbcli("encode", place.world / "videos", narrated, "--captions", place.world / "captions.csv")
    vbcli("build-vocab", features, place.vocab)
    vbcli("tokenize", features, place.tokens("all"), "--vocab", place.vocab)
    rows = list(csv.DictReader((place.world / "captions.csv").open(encoding="utf-8")))
    for share in SHARES[:-1]:
        few_captions = [{**row, "caption": row["caption"] if row["split"] != "train" or _is_within(row, share) else ""} for row in rows]
        few_videos = [{**row, "split": row["split"] if row["split"] != "train" or _is_within(row, share) else "unused"} for row in rows]
        for name, source, changed in (
            (f"captions-{share}", features, few_captions),
            (f"narrated-captions-{share}", narrated, few_captions),
            (f"videos-{share}", features, few_videos),
        ):
            table = place.root / f"{name}.csv"
            _write_csv(table, changed)
            vbcli("tokenize", source, place.tokens(name), "--vocab", place.vocab, "--captions", table)


def _is_within(row: dict[str, str], share: int) -> bool:
    """Whether a video is among the first so many per cent by a hash of its name."""
    return int(hashlib.sha256(row["video"].encode()).hexdigest()[:8], 16) % 100 < share


def _write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# ---------------------------------------------------------------- cells


def pretrain(
    place: Place, seed: int, *, name: str, tokens: str = "all", regimes: Sequence[str] = TOGETHER, n_steps: int = PRETRAIN_STEPS
) -> Path:
    """A VideoBERT, trained once and kept.

    Args:
        regimes: how often it is shown video and text, text alone, video alone.
    """
    target = place.checkpoint(f"pretrain-{name}", seed)
    common = ("--task", "pretrain", "--max-steps", str(n_steps), "--patience", "1000", "--mask-rate", MASK_RATE)
    with ONE_AT_A_TIME[target]:
        vbcli("train", place.tokens(tokens), target, *common, "--threads", "1", "--seed", str(seed), "--regime-weights", *regimes)
    return target


def cloze(
    place: Place,
    seed: int,
    *,
    name: str,
    tokens: str = "all",
    regimes: Sequence[str] = TOGETHER,
    n_steps: int = PRETRAIN_STEPS,
    sentence: str = AS_CAPTIONED,
) -> Scores:
    """Zero-shot accuracy of a VideoBERT's guesses about unseen videos in which one thing happens, and of its guesses without the video."""
    from vbcli.cloze import fill_text
    from vbcli.demo.language import NOUNS, VERBS
    from vbcli.demo.world import COLOURS
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.training.batches import read_tokens

    forms: dict[str, dict[str, tuple[str, ...]]] = {"colour": {c: (c,) for c in COLOURS}, "shape": NOUNS, "action": VERBS}
    values = {slot: {words[0]: value for value, words in forms[slot].items()} for slot in SLOTS}
    start = pretrain(place, seed, name=name, tokens=tokens, regimes=regimes, n_steps=n_steps)
    checkpoint = load_checkpoint(start, "pretrain")
    videos = [v for v in read_tokens(place.tokens("all")) if v.split == "test" and len(v.labels) == 1]
    hits: Scores = defaultdict(float)
    for video in videos:
        truth = {slot: _value_in(video.captions[0], forms[slot]) for slot in SLOTS[:2]} | {"action": video.labels[0]}
        for slot, guesses in zip(SLOTS, fill_text(checkpoint, video, sentence, [list(values[slot]) for slot in SLOTS]), strict=True):
            blind = max(guesses, key=lambda guess: guess.prior)
            hits[slot] += values[slot][guesses[0].answer] == truth[slot]
            hits[f"{slot}, text-only prior"] += values[slot][blind.answer] == truth[slot]
    return {slot: n / len(videos) for slot, n in hits.items()}


def _value_in(caption: str, forms: dict[str, tuple[str, ...]]) -> str | None:
    return next((value for value, words in forms.items() if any(word in caption.split() for word in words)), None)


def caption(
    place: Place, seed: int, *, name: str, tokens: str, options: Sequence[str] = (), start: Callable[[Place, int], Path] | None = None
) -> Scores:
    """A captioner's scores on unseen combinations; it starts fresh or from what `start` trains."""
    target, written = place.checkpoint(f"caption-{name}", seed), place.root / "captions" / f"{name}-{seed}"
    init = ["--init", str(start(place, seed))] if start else []
    common = ("--task", "caption", "--max-steps", str(CAPTION_STEPS), "--threads", "1", "--seed", str(seed))
    vbcli("train", place.tokens(tokens), target, *common, *options, *init)
    vbcli("caption", place.tokens(tokens), written, "--checkpoint", target, "--split", "test", "--executor", "serial")
    lexicon = place.world / "lexicon.json"
    found = json.loads(vbcli("evaluate", written, place.tokens("all"), "--lexicon", lexicon, "--no-meteor", "--json"))["scores"]["captions"]
    return {"objects": found["object"], "actions": found["action"], "CIDEr": found["CIDEr"]}


def probe_frames(place: Place, seed: int) -> Scores:
    """Actions told by a linear probe of frame features, beside what a captioner of them says."""
    return {"actions, linear probe": _probed_labels(place.vocab), **run_cell(place, JOINT_BOTH, seed)}


def probe_clips(place: Place, seed: int) -> Scores:
    """The same of a 3-D encoder that learns the labels of the training clips."""
    encoder, features = place.checkpoint("encoder", seed), place.root / f"features-3d-{seed}"
    vocab, tokens = place.root / f"vocab-3d-{seed}", f"3d-{seed}"
    common = ("--max-steps", str(ENCODER_STEPS), "--threads", "1", "--seed", str(seed))
    vbcli("train", place.root / "frames", encoder, "--task", "encoder", *common)
    vbcli("encode", place.root / "frames", features, "--encoder", encoder, "--executor", "serial")
    vbcli("build-vocab", features, vocab)
    vbcli("tokenize", features, place.tokens(tokens), "--vocab", vocab, "--executor", "serial")
    return {"actions, linear probe": _probed_labels(vocab), **caption(place, seed, name="joint-3d", tokens=tokens)}


def _probed_labels(vocab: Path) -> float:
    return json.loads((vocab / "report.json").read_text())["probe"]["labels"]["features"]


def denoise(place: Place, seed: int) -> Path:
    """An encoder-decoder that restores narration and captions."""
    target = place.checkpoint("denoise", seed)
    common = ("--task", "denoise", "--max-steps", str(DENOISE_STEPS), "--threads", "1", "--seed", str(seed))
    vbcli("train", place.tokens("narrated-captions-10"), target, *common)
    return target


Cell = partial[Scores]
"""Called with a place and a seed."""
ONE_AT_A_TIME: dict[Path, threading.Lock] = defaultdict(threading.Lock)
"""Cells share what they start from."""
NARRATED = {"name": "narration", "tokens": "narrated-captions-10"}
SCRATCH_10 = partial(caption, name="scratch-10", tokens="captions-10")
VIDEO_TEXT = partial(cloze, name="video-text")
LONGER = {"name": "video-text-longer", "n_steps": 3 * PRETRAIN_STEPS}
JOINT_BOTH = partial(caption, name="joint-both", tokens="all")
GROUPS: dict[str, dict[str, Cell]] = {
    "a. A captioner on 10 % of the captions": {
        "from scratch": SCRATCH_10,
        "from a VideoBERT of all videos and their narration": partial(
            caption, name="narrated-10", tokens="captions-10", start=partial(pretrain, **NARRATED)
        ),
        "from a VideoBERT of all videos and these captions": partial(
            caption, name="pretrained-10", tokens="captions-10", start=partial(pretrain, name="captions-10", tokens="captions-10")
        ),
        "from a VideoBERT of these videos and captions, its weights as they are": partial(
            caption,
            name="same-10",
            tokens="captions-10",
            options=("--keep-init", "1"),
            start=partial(pretrain, name="videos-10", tokens="videos-10"),
        ),
        "from a VideoBERT of all videos and all captions": partial(
            caption, name="captioned-10", tokens="captions-10", start=partial(pretrain, name="video-text")
        ),
        "the same, its weights as they are": partial(
            caption, name="kept-10", tokens="captions-10", options=("--keep-init", "1"), start=partial(pretrain, name="video-text")
        ),
        "the same, after three times as many steps": partial(
            caption, name="kept-longer-10", tokens="captions-10", options=("--keep-init", "1"), start=partial(pretrain, **LONGER)
        ),
    },
    "b. Zero-shot cloze after pre-training on": {
        "video and captions": VIDEO_TEXT,
        "video and narration": partial(cloze, **NARRATED, sentence=AS_NARRATED),
        "text only": partial(cloze, name="text-only", regimes=("0", "1", "0")),
        "all three, as `train` does": partial(cloze, name="mixed", regimes=("0.6", "0.2", "0.2")),
        "video only": partial(cloze, name="video-only", regimes=("0", "0", "1")),
    },
    "c. Zero-shot cloze after pre-training on so much of the data": {
        "10 %": partial(cloze, name="videos-10", tokens="videos-10"),
        "30 %": partial(cloze, name="videos-30", tokens="videos-30"),
        "100 %": VIDEO_TEXT,
        "100 %, three times as many steps": partial(cloze, **LONGER),
    },
    "d. A captioner from scratch on all captions": {
        "joint, tokens": partial(caption, name="joint-tokens", tokens="all", options=("--visual-input", "tokens")),
        "joint, features": partial(caption, name="joint-features", tokens="all", options=("--visual-input", "features")),
        "joint, both": JOINT_BOTH,
        "cross, both": partial(caption, name="cross-both", tokens="all", options=("--fusion", "cross")),
    },
    "e. A captioner on 10 % of the captions, after denoising": {
        "none": SCRATCH_10,
        "narration and captions": partial(caption, name="denoised-10", tokens="captions-10", start=denoise),
    },
    "f. Actions from": {
        "frame features": partial(probe_frames),
        "a 3-D encoder": partial(probe_clips),
    },
}


def run_cell(place: Place, cell: Cell, seed: int) -> Scores:
    """The scores of a cell; those of an earlier run are read."""
    key = key_of(cell)
    path = place.cell(key, seed)
    with ONE_AT_A_TIME[path]:
        if not path.exists():
            started = time.monotonic()
            scores = cell(place, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps({**scores, "minutes": (time.monotonic() - started) / 60}))
            temporary.replace(path)
            sys.stderr.write(f"{key}, seed {seed}: {scores}\n")
    return json.loads(path.read_text())


def table(results: dict[str, dict[str, list[Scores]]]) -> str:
    """The results as Markdown: mean and standard deviation over the seeds."""
    lines = []
    for group, rows in results.items():
        names = list(dict.fromkeys(name for scores in rows.values() for row in scores for name in row))
        lines += [f"**{group}**", "", f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for row, scores in rows.items():
            lines.append(f"| {row} | {' | '.join(_mean_and_spread([s[name] for s in scores if name in s]) for name in names)} |")
        lines.append("")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def key_of(cell: Cell) -> str:
    """Name of a cell's file: groups share cells."""
    return "-".join([cell.func.__name__, *filter(None, [cell.keywords.get("name")])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--n-videos", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="cells beside each other, one thread each")
    parser.add_argument("--only", nargs="*", default=[], help="letters of groups")
    arguments = parser.parse_args()
    place = Place(arguments.out_dir)
    make_data(place, arguments.n_videos)
    wanted = {group: rows for group, rows in GROUPS.items() if not arguments.only or group[0] in arguments.only}
    seeds = range(arguments.seeds)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        cells = {key_of(cell): cell for rows in wanted.values() for cell in rows.values()}
        jobs = {(key, seed): pool.submit(run_cell, place, cell, seed) for seed in seeds for key, cell in cells.items()}
        results = {g: {row: [jobs[key_of(cell), s].result() for s in seeds] for row, cell in rows.items()} for g, rows in wanted.items()}
    text = table(results)
    (place.root / "table.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
