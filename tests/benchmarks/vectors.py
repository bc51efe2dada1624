"""Vectors that vocabularies and indexes are made of: features of real frames, mixtures, and datasets of them on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from harness import N_CORES, run_process, vbcli_command
from materials import Inputs, clips

from vbcli.encoders import DEFAULT_ENCODER, load_encoder
from vbcli.vocab.projection import fit_projection

VIDEO_ROWS = 1000
"""Features of a video of a dataset that is made of vectors."""


def width(inputs: Inputs) -> int:
    """Dimensions of the vectors."""
    return inputs.size(512, 64)


def real_vectors(inputs: Inputs) -> np.ndarray:
    """Features of random crops and flips of all frames of the clips, float32 (200,000, 512); some 20 minutes the first time."""

    def make(place: Path) -> None:
        torch.set_num_threads(N_CORES)
        encoder, rng = load_encoder(DEFAULT_ENCODER, pool="mean"), np.random.default_rng(0)
        paths = sorted(clips(inputs).glob("*.mp4"))[: inputs.size(1 << 30, 1)]
        n_frames = sum(1 for path in paths for _ in _pictures(path))
        n = inputs.size(200_000, 500)
        views, batch, found = -(-n // n_frames), [], []
        for path in paths:
            for picture in _pictures(path):
                batch += [_view(picture, rng) for _ in range(views)]
                while len(batch) >= encoder.batch_size:
                    found.append(encoder.encode(np.stack(batch[: encoder.batch_size])[:, None]))
                    del batch[: encoder.batch_size]
        features = np.concatenate(found)
        features = features[rng.permutation(len(features))[:n]]
        projection = fit_projection(features, width(inputs), 0.0)
        with place.open("wb") as file:
            np.save(file, projection.apply(features))

    return np.load(inputs.made("real.npy", make))


def _pictures(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _view(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture, of 60 to 100 per cent of its sides, half of the time mirrored: uint8 (224, 224, 3)."""
    height, width = (int(side * rng.uniform(0.6, 1)) for side in picture.shape[:2])
    top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(picture.shape[:2], (height, width), strict=True))
    part = cv2.resize(picture[top : top + height, left : left + width], (224, 224), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(part[:, ::-1]) if rng.random() < 0.5 else part


def mixture(n: int, dim: int, n_clusters: int, seed: int = 0) -> np.ndarray:
    """A mixture of Gaussians, float32 (n, dim): each cluster is half as wide as the centres lie apart."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_clusters, dim), np.float32)
    vectors = centres[rng.integers(0, n_clusters, n)]
    for start in range(0, n, 1 << 16):
        vectors[start : start + (1 << 16)] += 0.5 * rng.standard_normal(vectors[start : start + (1 << 16)].shape, np.float32)
    return vectors


def unit_vectors(n: int, dim: int) -> np.ndarray:
    """A mixture of vectors of length 1."""
    vectors = mixture(n, dim, max(10, n // 100))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def features_dataset(inputs: Inputs, n: int, dim: int) -> Path:
    """Features dataset of a mixture of `n` vectors, float16."""

    def make(place: Path) -> None:
        arrays, splits = place.with_name("arrays"), place.with_name("splits.csv")
        shutil.rmtree(arrays, ignore_errors=True)
        arrays.mkdir(parents=True)
        names = []
        for number, start in enumerate(range(0, n, 100 * VIDEO_ROWS)):
            block = _mixture_block(min(100 * VIDEO_ROWS, n - start), dim, number)
            for part in range(0, len(block), VIDEO_ROWS):
                names.append(f"{start + part:09d}")
                np.save(arrays / f"{names[-1]}.npy", block[part : part + VIDEO_ROWS])
        # A vocabulary is made of the training split: all of them.
        splits.write_text("".join(["video,split\n", *(f"{name},train\n" for name in names)]))
        command = ("import-features", arrays, place, "--rate", "2", "--name", "mixture", "--captions", splits)
        run_process(vbcli_command(*command))
        shutil.rmtree(arrays)

    return inputs.made(f"features-{n}x{dim}", make)


def _mixture_block(n: int, dim: int, number: int) -> np.ndarray:
    """Part of a mixture, float16 (n, dim): the centres are the same in all parts."""
    centres = np.random.default_rng(0).standard_normal((5000, dim), np.float32)
    rng = np.random.default_rng([1, number])
    return (centres[rng.integers(0, len(centres), n)] + 0.5 * rng.standard_normal((n, dim), np.float32)).astype(np.float16)
