"""How cost grows with the number of videos, of vectors, and the length of sequences.

    python tests/benchmarks/scaling.py [WORK_DIR] [--clips DIR] [--text DIR] [--only STAGE ...] [--full]

Prints a Markdown table: seconds for each size, the exponent fitted to all sizes, and that of the last two, which the time that a command
takes to start does not lower. `--full` goes on to 10,000 videos and ten million vectors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import imageio_ffmpeg
import numpy as np
import torch
from harness import N_CORES, SECONDS, fit_exponent, machine, run_process, timed, vbcli_command
from materials import Inputs, fresh, inputs_parser
from vectors import features_dataset, unit_vectors

from vbcli.config import BartConfig, VideoBertConfig, load_preset
from vbcli.models.bart import BartDecoder
from vbcli.models.decoding import DecodingConfig, generate
from vbcli.models.videobert import VideoBert
from vbcli.retrieval.index import VectorIndex

CLIP_S, N_PLAIN_CLIPS = 2, 10
DIM = 64
"""Of the vectors: what features are projected to."""
BATCH = 8
N_REPEATS = 3
Cost = Callable[[int], float]
"""Seconds for a size."""


def plain_videos(inputs: Inputs, n: int) -> Path:
    """Folder of `n` videos of two seconds: a few of real content, linked again and again."""

    def make(place: Path) -> None:
        place.mkdir()
        sources = sorted(inputs.clips_dir.glob("*.mp4"))[:N_PLAIN_CLIPS]
        for number in range(n):
            path = place / f"{number:05d}.mp4"
            if number >= len(sources):
                os.link(place / f"{number % len(sources):05d}.mp4", path)
                continue
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(sources[number]), "-t", str(CLIP_S), "-an"]
            subprocess.run([*command, "-vf", "scale=320:-2", "-c:v", "libx264", "-crf", "23", str(path)], check=True)

    return inputs.made(f"videos-{n}", make)


def command_seconds(inputs: Inputs, name: str, make: Callable[[int], Path], options: Sequence[str], n: int) -> float:
    """A command as a whole process, once: the inputs of the next size tell whether it was disturbed."""
    source, out = make(n), fresh(inputs, name)
    seconds = run_process(vbcli_command(name, source, out, *options)).quantities[SECONDS]
    shutil.rmtree(out)
    return seconds


def median_seconds(function: Callable[[], object]) -> float:
    """Of a few calls after one that warms up."""
    side = timed(function)
    return median([side().quantities[SECONDS] for _ in range(1 + N_REPEATS)][1:])


def search_seconds(n: int) -> float:
    """One query in an index of `n` vectors."""
    vectors = unit_vectors(n, DIM)
    index = VectorIndex(vectors)
    queries = vectors[np.random.default_rng(2).integers(0, n, 50)]
    return median_seconds(lambda: [index.search(query[None], 10) for query in queries]) / len(queries)


def _encoder() -> VideoBert:
    torch.manual_seed(0)
    return VideoBert(load_preset("videobert-mini", VideoBertConfig, visual_input="tokens")).eval()


def _tokens(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1000, 30000, (BATCH, length), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids, dtype=torch.bool)


@torch.inference_mode()
def forward_seconds(length: int) -> float:
    """A forward pass of videobert-mini over a batch of sequences."""
    model, (ids, mask) = _encoder(), _tokens(length)
    return median_seconds(lambda: model(ids, torch.zeros_like(ids), mask))


@torch.inference_mode()
def caption_seconds(length: int) -> float:
    """Captions of 16 tokens of a batch of sequences by bart-mini, four beams, the encoder's pass included."""
    encoder, (ids, mask) = _encoder(), _tokens(length)
    decoder = BartDecoder(load_preset("bart-mini", BartConfig, n_tokens=encoder.config.n_tokens)).eval()
    # All sentences are of the same length, whatever random weights would say.
    decoding = DecodingConfig(n_beams=4, max_length=16, min_length=15)
    return median_seconds(lambda: generate(decoder, encoder(ids, torch.zeros_like(ids), mask), mask, decoding))


def stages(inputs: Inputs, is_full: bool) -> dict[str, tuple[str, list[int], Cost]]:
    """Of each stage, what its size counts, the sizes, and its cost."""
    videos = [10, 30, 100, 300, 1000, *([3000, 10_000] if is_full else [])]
    vectors = [10_000, 100_000, 1_000_000, *([10_000_000] if is_full else [])]
    lengths = [32, 64, 128, 256, 512]
    clips = partial(plain_videos, inputs)
    flat = ("--codebooks", "1", "--branching", "12", "--levels", "4", "--whiten", "0")
    return {
        "extract": ("videos", videos, partial(command_seconds, inputs, "extract", clips, ())),
        "encode": ("videos", videos, partial(command_seconds, inputs, "encode", clips, ())),
        "build-vocab": (
            f"vectors of {DIM}",
            vectors,
            partial(command_seconds, inputs, "build-vocab", lambda n: features_dataset(inputs, n, DIM), flat),
        ),
        "search": (f"vectors of {DIM}", vectors, search_seconds),
        "videobert-mini": ("positions", lengths, forward_seconds),
        "caption": ("positions", lengths, caption_seconds),
    }


def line_of(name: str, unit: str, sizes: Sequence[int], costs: Sequence[float]) -> str:
    """A stage's line in the table."""
    figures = ", ".join(f"{n:,}: {cost:.3g} s" for n, cost in zip(sizes, costs, strict=True))
    return f"| {name} | {unit} | {figures} | {fit_exponent(sizes, costs):.2f} | {fit_exponent(sizes[-2:], costs[-2:]):.2f} |\n"


def main() -> None:
    parser = inputs_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these only")
    parser.add_argument("--full", action="store_true", help="up to 10,000 videos and ten million vectors")
    arguments = parser.parse_args()
    inputs = Inputs(arguments.work_dir.resolve() / "scaling", arguments.clips.resolve(), arguments.text.resolve(), is_quick=False)
    torch.set_num_threads(N_CORES)
    sys.stdout.writelines(f"{name}: {value}\n" for name, value in machine().items())
    sys.stdout.write("\n| stage | n | seconds | exponent | of the last two |\n|---|---|---|---|---|\n")
    for name, (unit, sizes, cost) in stages(inputs, arguments.full).items():
        if not arguments.only or name in arguments.only:
            sys.stdout.write(line_of(name, unit, sizes, [cost(n) for n in sizes]))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
