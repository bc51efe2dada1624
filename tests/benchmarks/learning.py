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
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SHARES = (10, 30, 100)
PRETRAIN_STEPS, CAPTION_STEPS, DENOISE_STEPS, ENCODER_STEPS = 4000, 1500, 1500, 400
SLOTS = {
    "colour": "you can see a [MASK] ball in front of the wall.",
    "shape": "you can see a red [MASK] in front of the wall.",
    "action": "now the ball [MASK], just like that.",
}
"""Sentences as the narrator says them, each with one word to fill in: zero-shot classification by cloze."""
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
        """Tokens of the world: `all`, or with so many per cent of the captions or of the training videos."""
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
    """The world, its features and vocabulary, and tokens with fewer captions or fewer training videos."""
    if not (place.world / "README.txt").exists():
        vbcli("demo-data", place.world, "--n-videos", str(n_videos))
    frames, features = place.root / "frames", place.root / "features"
    vbcli("extract", place.world / "videos", frames, "--captions", place.world / "captions.csv")
    vbcli("encode", frames, features)
    vbcli("build-vocab", features, place.vocab)
    vbcli("tokenize", features, place.tokens("all"), "--vocab", place.vocab)
    rows = list(csv.DictReader((place.world / "captions.csv").open(encoding="utf-8")))
    for share in SHARES[:-1]:
        few_captions = [{**row, "caption": row["caption"] if row["split"] != "train" or _is_within(row, share) else ""} for row in rows]
        few_videos = [{**row, "split": row["split"] if row["split"] != "train" or _is_within(row, share) else "unused"} for row in rows]
        for name, changed in ((f"captions-{share}", few_captions), (f"videos-{share}", few_videos)):
            table = place.root / f"{name}.csv"
            _write_csv(table, changed)
            vbcli("tokenize", features, place.tokens(name), "--vocab", place.vocab, "--captions", table)


def _is_within(row: dict[str, str], share: int) -> bool:
    """Whether a video is among the first so many per cent by a hash of its name."""
    return int(hashlib.sha256(row["video"].encode()).hexdigest()[:8], 16) % 100 < share


def _write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# ---------------------------------------------------------------- cells


def pretrain(place: Place, seed: int, *, name: str, tokens: str = "all", options: Sequence[str] = ()) -> Path:
    """A VideoBERT, trained once and kept."""
    target = place.checkpoint(f"pretrain-{name}", seed)
    common = ("--task", "pretrain", "--max-steps", str(PRETRAIN_STEPS), "--patience", "1000", "--threads", "1", "--seed", str(seed))
    vbcli("train", place.tokens(tokens), target, *common, *options)
    return target


def cloze(place: Place, seed: int, *, name: str, tokens: str = "all", options: Sequence[str] = ()) -> Scores:
    """Zero-shot accuracy of a VideoBERT's guesses about unseen videos in which one thing happens, and of its guesses without the video."""
    from vbcli.cloze import fill_text
    from vbcli.demo.language import NOUNS, VERBS
    from vbcli.demo.world import COLOURS
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.training.batches import read_tokens

    forms = {"colour": {c: (c,) for c in COLOURS}, "shape": NOUNS, "action": VERBS}
    checkpoint = load_checkpoint(pretrain(place, seed, name=name, tokens=tokens, options=options), "pretrain")
    labels = {row["video"]: row["label"] for row in csv.DictReader((place.world / "captions.csv").open(encoding="utf-8"))}
    videos = [v for v in read_tokens(place.tokens("all")) if v.split == "test" and len(v.labels) == 1]
    scores: Scores = {}
    for slot, sentence in SLOTS.items():
        values = {words[0]: value for value, words in forms[slot].items()}
        hits = prior_hits = 0
        for video in videos:
            truth = labels[video.video_id] if slot == "action" else _value_in(video.captions[0], forms[slot])
            guesses = fill_text(checkpoint, video, sentence, [list(values)])[0]
            hits += values[guesses[0].answer] == truth
            prior_hits += values[max(guesses, key=lambda guess: guess.prior).answer] == truth
        scores |= {slot: hits / len(videos), f"{slot}, text-only prior": prior_hits / len(videos)}
    return scores


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
    """Labels told by a linear probe of frame features, beside what a captioner of them says."""
    return {"actions, linear probe": _probed_labels(place.vocab), **caption(place, seed, name="joint-both", tokens="all")}


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
    vbcli("train", place.tokens("captions-10"), target, *common)
    return target


VIDEO_TEXT = partial(pretrain, name="video-text")
Cell = partial[Scores]
"""Called with a place and a seed."""
GROUPS: dict[str, dict[str, Cell]] = {
    "a. A captioner on 10 % of the captions": {
        "from scratch": partial(caption, name="scratch-10", tokens="captions-10"),
        "from a pre-trained VideoBERT": partial(caption, name="pretrained-10", tokens="captions-10", start=VIDEO_TEXT),
    },
    "b. Zero-shot cloze after pre-training on": {
        "video and text": partial(cloze, name="video-text"),
        "text only": partial(cloze, name="text-only", options=("--regime-weights", "0", "1", "0")),
        "video only": partial(cloze, name="video-only", options=("--regime-weights", "0", "0", "1")),
    },
    "c. Zero-shot cloze after pre-training on so much of the data": {
        "10 %": partial(cloze, name="videos-10", tokens="videos-10"),
        "30 %": partial(cloze, name="videos-30", tokens="videos-30"),
        "100 %": partial(cloze, name="video-text"),
    },
    "d. A captioner from scratch on all captions": {
        "joint, tokens": partial(caption, name="joint-tokens", tokens="all", options=("--visual-input", "tokens")),
        "joint, features": partial(caption, name="joint-features", tokens="all", options=("--visual-input", "features")),
        "joint, both": partial(caption, name="joint-both", tokens="all"),
        "cross, both": partial(caption, name="cross-both", tokens="all", options=("--fusion", "cross")),
    },
    "e. A captioner on 10 % of the captions, after denoising": {
        "none": partial(caption, name="scratch-10", tokens="captions-10"),
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
    # What several cells start from is trained first, so that no two of them train it at once.
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda seed: VIDEO_TEXT(place, seed), seeds))
        cells = {key_of(cell): cell for rows in wanted.values() for cell in rows.values()}
        jobs = {(key, seed): pool.submit(run_cell, place, cell, seed) for seed in seeds for key, cell in cells.items()}
        results = {g: {row: [jobs[key_of(cell), s].result() for s in seeds] for row, cell in rows.items()} for g, rows in wanted.items()}
    text = table(results)
    (place.root / "table.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
