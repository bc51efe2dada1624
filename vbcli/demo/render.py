"""Pictures of the demo world: shapes by signed distance, on a background that the camera pans and shakes over."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from vbcli.demo.world import COLOURS, FPS, HEIGHT_PX, MAX_PAN_PX, WIDTH_PX, Clip, Thing, offset_at
from vbcli.errors import VbcliError
from vbcli.media.program import find_ffmpeg

MARGIN_PX = 12
"""Background beyond each edge of the frame; the camera never looks further."""

Floats = NDArray[np.floating]


def render_clip(clip: Clip) -> Iterator[NDArray[np.uint8]]:
    """Yields the frames of a clip: uint8 (HEIGHT_PX, WIDTH_PX, 3), RGB, one every 1 / FPS seconds."""
    rng = np.random.default_rng([*clip.seed, 1])
    background = _paint_background(rng)
    n_frames = round(clip.duration_s * FPS)
    camera = _camera_path(n_frames, rng)
    noise_level = float(rng.uniform(2.0, 6.0))
    light = float(rng.uniform(0.92, 1.08))
    for i in range(n_frames):
        time_s = i / FPS
        cx, cy = int(camera[i, 0]), int(camera[i, 1])
        frame = background[MARGIN_PX + cy : MARGIN_PX + cy + HEIGHT_PX, MARGIN_PX + cx : MARGIN_PX + cx + WIDTH_PX].copy()
        for thing in (*clip.bystanders, *clip.actors):
            offset = offset_at(clip, thing, time_s)
            if offset.is_visible:
                size = thing.size * math.exp(offset.log_scale)
                _draw(frame, thing, thing.x + offset.dx - cx, thing.y + offset.dy - cy, size)
        frame *= light
        frame += noise_level * rng.standard_normal((HEIGHT_PX, WIDTH_PX, 1), dtype=np.float32)
        yield np.clip(frame, 0, 255).astype(np.uint8)


def write_clip(clip: Clip, path: Path) -> None:
    """Renders a clip to an H.264 MP4 file.

    Raises:
        VbcliError: ffmpeg could not write the file.
    """
    options = [find_ffmpeg(), "-v", "error", "-nostdin", "-y"]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH_PX}x{HEIGHT_PX}", "-r", str(FPS), "-i", "pipe:0"]
    # One thread and bitexact flags, so that the same encoder writes the same bytes again.
    codec = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", "-threads", "1"]
    exact = ["-flags:v", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"]
    pixels = b"".join(frame.tobytes() for frame in render_clip(clip))
    run = subprocess.run([*options, *source, *codec, *exact, f"file:{path}"], input=pixels, capture_output=True, check=False)
    if run.returncode:
        reason = run.stderr.decode(errors="replace").strip().splitlines()
        raise VbcliError(f"ffmpeg could not write {path}: {reason[-1] if reason else run.returncode}")


def _camera_path(n_frames: int, rng: Generator) -> NDArray[np.int64]:
    """Where the camera looks, whole pixels (n_frames, 2), x then y: a slow pan through zero at the middle, and shake in half of the clips.

    Whole pixels keep things exactly still against the background.
    """
    pan = np.linspace(-0.5, 0.5, n_frames)[:, None] * rng.uniform(-2 * MAX_PAN_PX, 2 * MAX_PAN_PX, size=2)
    shake = rng.uniform(0.5, 1.2) * rng.standard_normal((n_frames, 2)) if rng.random() < 0.5 else 0.0
    return np.clip(np.rint(pan + shake), -MARGIN_PX, MARGIN_PX).astype(np.int64)


def _paint_background(rng: Generator) -> Floats:
    """A dull surface, float32 (HEIGHT_PX + 2 * MARGIN_PX, WIDTH_PX + 2 * MARGIN_PX, 3): blotches, planks, tiles or a gradient."""
    height, width = HEIGHT_PX + 2 * MARGIN_PX, WIDTH_PX + 2 * MARGIN_PX
    base = rng.uniform(105, 150) + rng.uniform(-8, 8, size=3)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    match int(rng.integers(4)):
        case 0:
            relief = _smooth_noise((8, 10), height, width, rng)
        case 1:
            plank = (rows // int(rng.integers(14, 30))).astype(np.int64)
            relief = rng.uniform(-1, 1, size=plank.max() + 1)[plank] + 0.4 * _smooth_noise((60, 4), height, width, rng)
        case 2:
            tile_px = int(rng.integers(16, 32))
            relief = ((rows // tile_px + columns // tile_px) % 2) - 0.5 + 0.3 * _smooth_noise((20, 20), height, width, rng)
        case _:
            angle = rng.uniform(0, 2 * math.pi)
            relief = (math.cos(angle) * (columns / width - 0.5) + math.sin(angle) * (rows / height - 0.5)) * 2
    return (base + rng.uniform(8, 18) * np.asarray(relief)[:, :, None]).astype(np.float32)


def _smooth_noise(grid: tuple[int, int], height: int, width: int, rng: Generator) -> Floats:
    """Uniform noise in [-1, 1] on a coarse grid, interpolated to (height, width)."""
    coarse = Image.fromarray(rng.uniform(-1, 1, size=grid).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _draw(frame: Floats, thing: Thing, x: float, y: float, size: float) -> None:
    """Draws a thing into a frame, in place, with antialiased edges."""
    radius = size / 2
    reach = radius * 1.45 + 2
    top, bottom = max(0, math.floor(y - reach)), min(frame.shape[0], math.ceil(y + reach))
    left, right = max(0, math.floor(x - reach)), min(frame.shape[1], math.ceil(x + reach))
    if top >= bottom or left >= right:
        return
    v, u = np.ogrid[top:bottom, left:right]
    u0, v0 = ((u - x) / radius).astype(np.float32), ((v - y) / radius).astype(np.float32)
    u, v = u0 * math.cos(thing.tilt) + v0 * math.sin(thing.tilt), v0 * math.cos(thing.tilt) - u0 * math.sin(thing.tilt)
    distance = _distance(thing.shape, u, v)
    coverage = np.clip(0.5 - distance * radius, 0, 1)[:, :, None]
    paint = _texture(thing.texture, u, v)[:, :, None] * np.array(COLOURS[thing.colour], dtype=np.float32)
    region = frame[top:bottom, left:right]
    region += coverage * (paint - region)


def _distance(shape: str, u: Floats, v: Floats) -> Floats:
    """Signed distance (negative inside) to the outline of a shape of about unit radius; u to the right, v downwards."""
    match shape:
        case "ball":
            return np.hypot(u, v) - 1
        case "cube":
            return np.maximum(np.abs(u), np.abs(v)) - 0.88
        case "triangle":
            return np.maximum(v - 0.75, 0.866 * np.abs(u) - 0.5 * v - 0.55)
        case "ring":
            return np.abs(np.hypot(u, v) - 0.75) - 0.27
    return _star_distance(u, v)


def _star_distance(u: Floats, v: Floats) -> Floats:
    """Distance along the normal of the nearest edge of a five-pointed star, by folding the plane into one half-point."""
    radius, inner, step = np.hypot(u, v), 0.48, math.pi / 5
    angle = np.abs((np.arctan2(u, -v) + step) % (2 * step) - step)
    # The edge runs from the tip (1.1, 0) to the notch at angle `step`, in (along, across) coordinates of the half-point.
    tip, notch = (1.1, 0.0), (inner * math.cos(step), inner * math.sin(step))
    edge = (notch[0] - tip[0], notch[1] - tip[1])
    length = math.hypot(*edge)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    return (edge[0] * (across - tip[1]) - edge[1] * (along - tip[0])) * (-1 / length)


def _texture(texture: str, u: Floats, v: Floats) -> Floats:
    """Factors on the colour, from 0.8 to 1."""
    match texture:
        case "striped":
            return np.where(np.sin(9 * (u + 0.4 * v)) > 0, 1.0, 0.8).astype(np.float32)
        case "dotted":
            return np.where(np.cos(8 * u) + np.cos(8 * v) > 0.9, 0.8, 1.0).astype(np.float32)
    return np.ones_like(u)
