"""Features that others computed: a file a video (.npy, .npz, .csv, .parquet, .h5), or one HDF5 file with an entry a video."""

from __future__ import annotations

import csv
import itertools
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vbcli.errors import MediaError, VbcliError
from vbcli.listing import ScannedVideo

if TYPE_CHECKING:
    import h5py

HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".npy", ".npz", ".csv", ".parquet", *HDF5_SUFFIXES)
FEATURE_NAMES = ("features", "feature", "feats", "x")
"""What the features are called where a file holds several things; else the largest table is taken."""


_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError, NotImplementedError, struct.error),
    *(pa.ArrowException, zipfile.BadZipFile, zlib.error, csv.Error, SyntaxError, tokenize.TokenError),
)
"""What numpy (whose headers are Python), h5py and their like raise of a damaged file."""


def find_feature_files(source: Path) -> list[ScannedVideo]:
    """The videos that features are of: by the names of files, without their suffix, or by the entries of an HDF5 file.

    Raises:
        VbcliError: there are none, or two files would be of one video.
    """
    if not source.exists():
        raise VbcliError(f"{source} does not exist", hint="name a folder of feature files, or an HDF5 file")
    if source.is_file():
        if source.suffix.lower() not in HDF5_SUFFIXES:
            raise VbcliError(f"{source} is no HDF5 file", hint="name a folder with a file a video, or an HDF5 file with an entry a video")
        with _opened_hdf5(source) as file:
            names = sorted(file)
        found = [_scanned(source, name) for name in names]
    else:
        paths = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
        found = [_scanned(path, path.relative_to(source).with_suffix("").as_posix()) for path in paths]
    if not found:
        raise VbcliError(f"{source} holds no features", hint=f"files with these suffixes are read: {' '.join(SUFFIXES)}")
    if len({video.video_id for video in found}) < len(found):
        twice = next(a.video_id for a, b in itertools.pairwise(found) if a.video_id == b.video_id)
        raise VbcliError(f"several files in {source} are of the video '{twice}'", hint="keep one of each")
    return sorted(found, key=lambda video: video.video_id)


def _scanned(path: Path, video_id: str) -> ScannedVideo:
    status = os.stat(path)
    return ScannedVideo(video_id, str(path.absolute()), status.st_size, status.st_mtime_ns)


def read_features(path: Path, video_id: str, times_name: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The features of a video, float32 (T, D), and their times in seconds, float64 (T,), where `times_name` names them.

    Raises:
        MediaError: they cannot be read, or are no numbers.
    """
    try:
        tables = dict(_read_tables(path, video_id))
    except _DAMAGED as error:
        raise MediaError(
            f"{path} cannot be read as features: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    times = None
    if times_name is not None:
        if times_name not in tables:
            raise MediaError(f"{path} has no '{times_name}' (found: {', '.join(tables) or 'nothing'})")
        times = np.asarray(tables.pop(times_name), np.float64).ravel()
    features = _choose(tables, path)
    if times is not None and len(times) != len(features):
        raise MediaError(f"{path} has {len(features)} features and {len(times)} times")
    if times is not None and not (np.isfinite(times).all() and (np.diff(times) > 0).all() and times[0] >= 0):
        raise MediaError(f"{path}: the times in '{times_name}' do not rise from 0 on")
    if not np.isfinite(features).all():
        raise MediaError(f"{path} holds features that are no finite numbers")
    return features, times


def _choose(tables: dict[str, Any], path: Path) -> np.ndarray:
    name = next((n for n in FEATURE_NAMES if n in tables), None) or max(tables, key=lambda n: np.size(tables[n]), default=None)
    if name is None:
        raise MediaError(f"{path} holds no features")
    try:
        features = np.asarray(tables[name], np.float32)
    except (ValueError, TypeError) as error:
        raise MediaError(f"{path}: '{name}' is no table of numbers") from error
    if features.ndim == 1:
        features = features[None]
    # Maps of a frame, (T, D, H, W), are averaged, as global pooling does.
    if features.ndim > 2:
        features = features.reshape(*features.shape[:2], -1).mean(2)
    if not features.size:
        raise MediaError(f"{path} holds no features")
    return features


def _read_tables(path: Path, video_id: str) -> Iterator[tuple[str, Any]]:
    """The tables of a file by name; pickles are never loaded."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        yield FEATURE_NAMES[0], np.load(path, mmap_mode="r", allow_pickle=False)
    elif suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            yield from ((name, file[name]) for name in file.files)
    elif suffix == ".csv":
        yield from _read_csv(path)
    elif suffix == ".parquet":
        yield from _read_parquet(path)
    else:
        with _opened_hdf5(path) as file:
            import h5py

            entry: Any = file.get(video_id, file)
            found = {FEATURE_NAMES[0]: entry} if isinstance(entry, h5py.Dataset) else dict(entry.items())
            yield from ((name, value[()]) for name, value in found.items() if isinstance(value, h5py.Dataset))


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    """Columns of a table: named ones for themselves, all the others as the features."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    has_header = bool(rows) and not all(_is_number(cell) for cell in rows[0])
    header = [name.strip() for name in rows.pop(0)] if has_header else []
    table = np.array(rows, np.float64)
    if table.ndim != 2:
        raise ValueError("it has no rows of numbers")
    if header and len(header) != table.shape[1]:
        raise ValueError(f"its first line names {len(header)} columns, and its rows have {table.shape[1]}")
    named = {name: i for i, name in enumerate(header) if not _is_number(name)}
    yield from ((name, table[:, i]) for name, i in named.items())
    times = [i for name, i in named.items() if name.lower() in ("time", "times", "time_s", "start", "start_s", "timestamp", "pts_s")]
    yield FEATURE_NAMES[0], np.delete(table, times, axis=1)


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    table = pq.read_table(path)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            yield name, np.array(column.to_pylist())
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            yield name, column.to_numpy()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _opened_hdf5(path: Path) -> h5py.File:
    try:
        import h5py
    except ImportError as error:
        raise VbcliError(f"{path} needs the package h5py", hint="pip install 'vbcli[hdf5]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise VbcliError(f"{path} cannot be read as HDF5: {error}", hint="it is damaged, or another kind of file") from error
