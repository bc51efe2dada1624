"""Inputs of the speed benchmarks, made once and kept in the work folder."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
from harness import run_process, vbcli_command

FPS, SIDE_PX, QUALITY = 2, 224, 3
"""How frames are taken: the defaults of `vbcli extract`."""


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


def read_captions(inputs: Inputs) -> dict[str, str]:
    """Caption of each clip."""
    with (inputs.clips_dir / "captions.csv").open(encoding="utf-8", newline="") as file:
        return {row["video"]: row["caption"] for row in csv.DictReader(file)}


def clips(inputs: Inputs) -> Path:
    """Folder of real clips."""

    def make(place: Path) -> None:
        place.mkdir()
        for path in sorted(inputs.clips_dir.glob("*.mp4"))[: inputs.size(1 << 30, 6)]:
            shutil.copyfile(path, place / path.name)

    return inputs.made("clips", make)


def long_video(inputs: Inputs) -> Path:
    """Folder with one 720p H.264 file of two minutes: clips one after the other, enlarged."""

    def make(place: Path) -> None:
        place.mkdir()
        paths = sorted(inputs.clips_dir.glob("*.mp4"))[: inputs.size(20, 2)]
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


def tokens(inputs: Inputs) -> Path:
    """Folder with `features`, `vocab` and `tokens` of the clips and their captions, made with the defaults."""

    def make(place: Path) -> None:
        place.mkdir()
        captions = place / "captions.csv"
        shutil.copyfile(inputs.clips_dir / "captions.csv", captions)
        run_process(vbcli_command("encode", clips(inputs), place / "features", "--captions", captions))
        run_process(vbcli_command("build-vocab", place / "features", place / "vocab"))
        run_process(vbcli_command("tokenize", place / "features", place / "tokens", "--vocab", place / "vocab"))

    return inputs.made("chain", make)


def tokens_of(inputs: Inputs) -> Path:
    """Tokens dataset of the clips."""
    return tokens(inputs) / "tokens"


def fresh(inputs: Inputs, name: str) -> Path:
    """A folder for outputs that is not there yet."""
    path = inputs.work_dir / "out" / f"{name}-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
