"""Rows from videos to features: `extract` and `encode`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pyarrow.parquet as pq
from harness import (
    N_CORES,
    OURS,
    SECONDS,
    Prepared,
    Row,
    Run,
    Side,
    at_least,
    at_most,
    peer_command,
    run_beside,
    run_process,
    vbcli_command,
)
from materials import FPS, QUALITY, SIDE_PX, Inputs, clips, frames, fresh, long_video, seconds_of

from vbcli import shards

SHORT_SIDE = f"fps={FPS},scale='if(gt(iw,ih),-2,{SIDE_PX})':'if(gt(iw,ih),{SIDE_PX},-2)'"
SQUARE = f"fps={FPS},scale={SIDE_PX}:{SIDE_PX}:flags=bicubic"
MIN_COSINE = 0.999


def media_rows(inputs: Inputs) -> list[Row]:
    """`extract` and `encode` against bare ffmpeg, OpenCV, timm and open_clip."""
    return [
        Row("extract-clips", (at_most(1.15, "ffmpeg"), at_most(1.0, "OpenCV")), partial(_extract, inputs, clips)),
        Row(
            "extract-long",
            (at_most(1.15, "ffmpeg"), at_most(1.15, "ffmpeg in stretches"), at_most(1.0, "OpenCV")),
            partial(_extract, inputs, long_video),
        ),
        Row("keyframes-long", (at_least(3.5, "full decode"),), partial(_keyframes, inputs)),
        Row(
            "encode-efficientnet", (at_least(2.5, "timm"),), partial(_encode_frames, inputs, "timm:tf_efficientnet_lite0", "grid3", "timm")
        ),
        Row("encode-vit", (at_least(2.5, "open-clip"),), partial(_encode_frames, inputs, "open_clip:ViT-B-32/random", "mean", "open-clip")),
        Row("encode-videos", (at_most(1.1, "ffmpeg + forward pass"),), partial(_encode_videos, inputs)),
    ]


def command_side(inputs: Inputs, name: str, *command: str | Path, read: Callable[[Path], Any], watches_memory: bool = False) -> Side:
    """A `vbcli` command as a whole process into a folder that is not there yet; the result is what `read` finds in the folder.

    Args:
        command: its last argument but for options is the output folder, written as `OUT`.
    """

    def side() -> Run:
        out = fresh(inputs, name)
        run = run_process(vbcli_command(*(out if part == "OUT" else part for part in command)), watches_memory=watches_memory)
        result = read(out)
        shutil.rmtree(out)
        return Run(run.quantities, result)

    return side


def ffmpeg(path: Path, filters: str, *output: str, threads: int = 1, stretch: tuple[float, float] | None = None) -> list[str]:
    """ffmpeg to a null sink."""
    place = [] if stretch is None else ["-ss", f"{stretch[0]:.3f}", "-t", f"{stretch[1]:.3f}"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-threads", str(threads), *place, "-i", str(path), "-an"]
    return [*command, *(("-vf", filters) if filters else ()), *output, "-f", "null", "-"]


def video_rows(dataset_dir: Path) -> dict[str, int]:
    """Rows of each video of a dataset."""
    counts: dict[str, int] = {}
    for path in shards.list_shards(dataset_dir):
        for video_id in pq.read_table(path, columns=["video_id"]).column("video_id").to_pylist():
            counts[video_id] = counts.get(video_id, 0) + 1
    return counts


# ---------------------------------------------------------------- frames


def _extract(inputs: Inputs, make: Callable[[Inputs], Path]) -> Prepared:
    folder = make(inputs)
    paths = sorted(folder.glob("*.mp4"))
    jpeg = ("-c:v", "mjpeg", "-q:v", str(QUALITY), "-fps_mode", "passthrough")
    is_one = len(paths) == 1
    commands = [ffmpeg(path, SHORT_SIDE, *jpeg, threads=N_CORES if is_one else 1) for path in paths]
    sides: dict[str, Side] = {
        OURS: command_side(inputs, "frames", "extract", folder, "OUT", read=video_rows),
        "ffmpeg": partial(run_beside, commands),
    }
    if is_one:
        length = seconds_of(paths[0]) / N_CORES
        parts = [ffmpeg(paths[0], SHORT_SIDE, *jpeg, stretch=(i * length, length)) for i in range(N_CORES)]
        sides["ffmpeg in stretches"] = partial(run_beside, parts)

    def opencv() -> Run:
        run = run_process(peer_command("opencv", str(FPS), str(SIDE_PX), *paths))
        return Run(run.quantities, json.loads(run.result))

    sides["OpenCV"] = opencv

    def check(results: dict[str, Any]) -> str:
        ours, theirs = results[OURS], results["OpenCV"]
        wrong = [name for name, n in theirs.items() if abs(ours.get(name, 0) - n) > 1]
        return f"{len(wrong)} videos have other numbers of frames, first {wrong[0]}" if wrong else ""

    n_frames = sum(video_rows(frames(inputs)).values()) if not is_one else round(FPS * seconds_of(paths[0]))
    return Prepared(sides, check, n_frames, "frames")


def _keyframes(inputs: Inputs) -> Prepared:
    folder = long_video(inputs)
    (path,) = folder.glob("*.mp4")
    with av.open(str(path)) as container:
        n_keyframes = sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    sides: dict[str, Side] = {
        OURS: command_side(inputs, "keyframes", "extract", folder, "OUT", "--keyframes", read=video_rows),
        "full decode": partial(run_process, ffmpeg(path, "", threads=N_CORES)),
    }

    def check(results: dict[str, Any]) -> str:
        found = sum(results[OURS].values())
        return "" if found == n_keyframes else f"{found} frames of {n_keyframes} that are coded without others"

    return Prepared(sides, check, round(seconds_of(path)), "seconds of video")


# ---------------------------------------------------------------- features


def features_of(dataset_dir: Path) -> dict[str, np.ndarray]:
    """Features of each video, float32 (N, D)."""
    found: dict[str, list[np.ndarray]] = {}
    for path in shards.list_shards(dataset_dir):
        table = pq.read_table(path, columns=["video_id", "feature"])
        rows = table.column("feature").combine_chunks()
        matrix = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1).astype(np.float32)
        for video_id, row in zip(table.column("video_id").to_pylist(), matrix, strict=True):
            found.setdefault(video_id, []).append(row)
    return {video_id: np.stack(rows) for video_id, rows in found.items()}


def cosines(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> np.ndarray:
    """Cosine of the two features of each clip; -1 where there are other clips."""
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in wanted.items()}:
        return np.array([-1.0])
    a, b = (np.concatenate([features[k] for k in found]) for features in (found, wanted))
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _cosine_check(inputs: Inputs, name: str, source: Path, *options: str) -> Callable[[dict[str, Any]], str]:
    """That features are those of float32; a quick benchmark, for which that takes long, asks it of stored frames alone."""

    def make(place: Path) -> None:
        run_process(vbcli_command("encode", source, place, "--precision", "float32", *options))

    if inputs.is_quick and name != "timm":
        return lambda results: ""
    wanted = features_of(inputs.made(f"float32-{name}", make))

    def check(results: dict[str, Any]) -> str:
        found = cosines(results[OURS], wanted)
        mean = float(found.mean())
        return "" if mean >= MIN_COSINE else f"mean cosine with float32 features {mean:.5f}, least {found.min():.5f}"

    return check


def _encode_frames(inputs: Inputs, encoder: str, pool: str, peer: str) -> Prepared:
    source, options = frames(inputs), ("--encoder", encoder, "--pool", pool)
    out = inputs.work_dir / f"{peer}.npy"
    sides: dict[str, Side] = {
        OURS: command_side(inputs, peer, "encode", source, "OUT", *options, read=features_of),
        peer: partial(run_process, peer_command(peer, source, out)),
    }
    return Prepared(sides, _cosine_check(inputs, peer, source, *options), sum(video_rows(source).values()), "images")


def _encode_videos(inputs: Inputs) -> Prepared:
    folder = clips(inputs)
    paths = sorted(folder.glob("*.mp4"))
    raw = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-an"]

    def decode(place: Path) -> None:
        pictures = []
        for path in paths:
            run = run_pixels([*raw, "-i", str(path), "-vf", SQUARE, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
            pictures.append(run.reshape(-1, SIDE_PX, SIDE_PX, 3))
        with place.open("wb") as file:
            np.save(file, np.concatenate(pictures))

    images = inputs.made("frames.npy", decode)
    commands = [ffmpeg(path, SQUARE, "-pix_fmt", "rgb24") for path in paths]

    def sum_of_parts() -> Run:
        decoding, encoding = run_beside(commands), run_process(peer_command("forward", images))
        return Run({SECONDS: decoding.quantities[SECONDS] + float(encoding.result)})

    sides: dict[str, Side] = {
        OURS: command_side(inputs, "features", "encode", folder, "OUT", read=features_of),
        "ffmpeg + forward pass": sum_of_parts,
    }
    return Prepared(sides, _cosine_check(inputs, "videos", folder), len(np.load(images, mmap_mode="r")), "frames")


def run_pixels(command: list[str]) -> np.ndarray:
    """What a command writes, uint8."""
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
