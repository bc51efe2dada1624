"""Inputs of the speed benchmarks, made once and kept in the work folder."""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
from harness import run_process, vbcli_command

FPS, SIDE_PX, QUALITY = 2, 224, 3
"""How frames are taken: the defaults of `vbcli extract`."""
AGAIN = "again-"
"""What the name of a clip begins with that is in the chain a second time."""


@dataclass(frozen=True)
class Inputs:
    """Where inputs come from and where they are kept.

    Args:
        work_dir: what is made.
        clips_dir: real clips with `captions.csv` (video, caption, category, split).
        text_dir: with `msvd_train_sentences.tsv`.
        is_quick: tiny ones.
    """

    work_dir: Path
    clips_dir: Path
    text_dir: Path
    is_quick: bool

    def size(self, full: int, quick: int) -> int:
        """A size that depends on how long the benchmark may take."""
        return quick if self.is_quick else full

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """A file or folder of the work folder; `make` is given a place to make it in, which gets its name when it is whole."""
        path = self.work_dir / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"making-{path.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(path)
        return path


def inputs_parser(description: str | None) -> argparse.ArgumentParser:
    """A command line that names a work folder and what is measured on."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path, nargs="?", default=Path("bench"))
    parser.add_argument("--clips", type=Path, default=Path("../shared/data/clips"), help="real clips")
    parser.add_argument("--text", type=Path, default=Path("../shared/data/text"), help="sentences")
    return parser


def read_captions(inputs: Inputs) -> dict[str, str]:
    """Caption of each clip."""
    with (inputs.clips_dir / "captions.csv").open(encoding="utf-8", newline="") as file:
        return {row["video"]: row["caption"] for row in csv.DictReader(file)}


def seconds_of(path: Path) -> float:
    """Length of a video."""
    with av.open(str(path)) as container:
        return (container.duration or 0) / 1e6


def clips(inputs: Inputs) -> Path:
    """Folder of real clips."""

    def make(place: Path) -> None:
        place.mkdir()
        for path in sorted(inputs.clips_dir.glob("*.mp4"))[: inputs.size(1 << 30, 3)]:
            shutil.copyfile(path, place / path.name)

    return inputs.made("clips", make)


def long_video(inputs: Inputs) -> Path:
    """Folder with one 720p H.264 file of two minutes: clips one after the other, enlarged."""

    def make(place: Path) -> None:
        place.mkdir()
        paths = sorted(inputs.clips_dir.glob("*.mp4"))[: inputs.size(32, 2)]
        parts = "".join(f"[{i}:v]fps=30,scale=1280:720,setsar=1,format=yuv420p[v{i}];" for i in range(len(paths)))
        joined = "".join(f"[v{i}]" for i in range(len(paths)))
        files = [argument for path in paths for argument in ("-i", str(path))]
        graph = f"{parts}{joined}concat=n={len(paths)}[v]"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *files, "-filter_complex", graph, "-map", "[v]", "-an"]
        subprocess.run([*command, "-t", str(inputs.size(120, 10)), "-c:v", "libx264", "-crf", "23", str(place / "long.mp4")], check=True)

    return inputs.made("long", make)


def frames(inputs: Inputs) -> Path:
    """Frames dataset of the clips."""
    return inputs.made("frames", lambda place: run_process(vbcli_command("extract", clips(inputs), place)))


def chain(inputs: Inputs) -> Path:
    """Folder with `features`, `vocab` and `tokens` of the clips and their captions, made with the defaults.

    All clips are trained on, and some of them validate under another name.
    """

    def make(place: Path) -> None:
        folder, captions = place / "clips", read_captions(inputs)
        shutil.copytree(clips(inputs), folder)
        rows = [(path.name, captions[path.name], "train") for path in sorted(folder.glob("*.mp4"))]
        for name, caption, _ in rows[::10]:
            shutil.copyfile(folder / name, folder / f"{AGAIN}{name}")
            rows.append((f"{AGAIN}{name}", caption, "val"))
        with (place / "captions.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("video", "caption", "split"), *rows])
        run_process(vbcli_command("encode", folder, place / "features", "--captions", place / "captions.csv"))
        run_process(vbcli_command("build-vocab", place / "features", place / "vocab"))
        run_process(vbcli_command("tokenize", place / "features", place / "tokens", "--vocab", place / "vocab"))

    return inputs.made("chain", make)


def plain_vocabulary(inputs: Inputs) -> Path:
    """The visual vocabulary as arrays: `mean`, `components`, and the centroids `codebook0`, `codebook1`, ..."""

    def make(place: Path) -> None:
        from vbcli.vocab.artifact import load_vocabulary

        vocabulary = load_vocabulary(chain(inputs) / "vocab")
        arrays = {f"codebook{m}": tree.leaf_centroids for m, tree in enumerate(vocabulary.trees)}
        with place.open("wb") as file:
            np.savez(file, mean=vocabulary.projection.mean, components=vocabulary.projection.components, allow_pickle=False, **arrays)

    return inputs.made("vocabulary.npz", make)


def fresh(inputs: Inputs, name: str) -> Path:
    """A folder for outputs that is not there yet."""
    path = inputs.work_dir / "out" / f"{name}-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
