"""Features that others computed: a file a video (.npy, .npz, .csv, .parquet, .h5), or one HDF5 file with an entry a video.

Notation: T features of a video, D dimensions of each.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vbcli.errors import MediaError, VbcliError
from vbcli.files import escape_name
from vbcli.listing import Listing, ScannedVideo
from vbcli.media.containers import leads_out, open_path
from vbcli.storage import is_remote, list_files
from vbcli.walk import Passed, walk

if TYPE_CHECKING:
    import h5py

HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".npy", ".npz", ".csv", ".parquet", *HDF5_SUFFIXES)
FEATURE_NAMES = ("features", "feature", "feats", "x")
"""What the features are called where a file holds several tables."""
_COUNTS = ("", "unnamed: 0", "index", "idx", "id", "frame", "frame_index", "frame_idx", "frame_id", "clip", "clip_index", "segment")
_TIMES = (
    "time",
    "times",
    "time_s",
    "timestamp",
    "pts_s",
    "start",
    "start_s",
    "start_time",
    "end",
    "end_s",
    "end_time",
    "duration",
    "duration_s",
)
PLACES = ("video", "video_id", *_COUNTS, *_TIMES)
"""Columns of a table, in lower case, that say of what and where a feature is, and are no part of it."""

_ENTRY = re.compile(r"(.*?\.(?:h5|hdf5))::/(.*)", re.DOTALL | re.IGNORECASE)
_MIN_NUMBERED = 4
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError, NotImplementedError, RuntimeError, struct.error),
    *(pa.ArrowException, zipfile.BadZipFile, zlib.error, csv.Error, SyntaxError, tokenize.TokenError),
)
"""What numpy (whose headers are Python), h5py and their like raise of a damaged file."""


# ---------------------------------------------------------------- which videos there are


def find_feature_files(source: Path, times_name: str | None = None, *, follows_links: bool = False) -> Listing:
    """The videos that features are of: by the names of files, without their suffix, or by the entries of an HDF5 file.

    Args:
        source: a folder, whose hidden files are passed over, or an HDF5 file; an entry's path is `FILE.h5::/ENTRY`.
        times_name: what a file calls the times of its features.
        follows_links: look into linked folders, too.

    Returns:
        The videos in the order of their ids, and sentences on what is passed over.

    Raises:
        VbcliError: there are none, they cannot be read, or two files would be of one video.
    """
    if not source.exists():
        raise VbcliError(f"{_shown(source)} does not exist", hint="name a folder of feature files, or an HDF5 file")
    passed = Passed()
    if source.is_file():
        found = _scan_entries(source, times_name)
    elif is_remote(source):
        found = _scan_remote(source)
    else:
        found = _scan_local(os.path.abspath(os.fsencode(source)), follows_links, passed)
    if not found:
        raise VbcliError(f"{_shown(source)} holds no features", hint=f"files with these suffixes are read: {' '.join(SUFFIXES)}")
    found.sort(key=lambda video: video.video_id)
    for one, other in itertools.pairwise(found):
        if one.video_id == other.video_id:
            raise VbcliError(f"several files in {_shown(source)} are of the video '{one.video_id}'", hint="keep one of each")
    return Listing(found, passed.notes())


def _shown(path: Path) -> str:
    return str(path) if is_remote(path) else escape_name(os.fsencode(path))


def _scan_local(base: bytes, follows_links: bool, passed: Passed) -> list[ScannedVideo]:
    found = []
    for path in walk(base, follows_links, passed):
        if _is_feature_name(os.path.basename(path)):
            # A link to nothing stays a video, one that will fail.
            status = os.stat(path) if os.path.exists(path) else os.lstat(path)
            video_id = escape_name(os.path.splitext(os.path.relpath(path, base))[0])
            found.append(ScannedVideo(video_id, escape_name(path), status.st_size, status.st_mtime_ns))
    return found


def _scan_remote(source: Path) -> list[ScannedVideo]:
    found = []
    for path in list_files(source):
        status = path.stat()
        relative = os.path.splitext(str(path).removeprefix(str(source)).lstrip("/"))[0]
        if _is_feature_name(os.fsencode(path.name)) and not any(part.startswith(".") for part in relative.split("/")):
            found.append(ScannedVideo(relative, str(path), status.st_size, round(status.st_mtime * 1e9)))
    return found


def _is_feature_name(name: bytes) -> bool:
    return not name.startswith(b".") and os.path.splitext(name)[1].decode("latin-1").lower() in SUFFIXES


def _scan_entries(source: Path, times_name: str | None) -> list[ScannedVideo]:
    path = str(source) if is_remote(source) else _shown(source.absolute())
    if source.suffix.lower() not in HDF5_SUFFIXES:
        raise VbcliError(f"{path} is no HDF5 file", hint="name a folder with a file a video, or an HDF5 file with an entry a video")
    status = source.stat()
    try:
        with _opened_hdf5(path) as file:
            names = _entries(file, path, times_name)
    except _DAMAGED as error:
        raise VbcliError(f"{path} cannot be read as HDF5: {_cause(error)}", hint="it is damaged, or another kind of file") from error
    return [ScannedVideo(name, f"{path}::/{name}", status.st_size, round(status.st_mtime * 1e9)) for name in names]


def _entries(file: h5py.File, path: str, times_name: str | None) -> list[str]:
    """The videos of an HDF5 file: a table each, in whatever group, or a group with the features and what belongs to them.

    Raises:
        VbcliError: the file is of one video, is one table of all, or has parts in other files.
    """
    import h5py

    linked = file.visititems_links(lambda name, link: name if isinstance(link, h5py.ExternalLink) else None)
    if linked is not None:
        raise VbcliError(f"{path} has a link to another file, '{linked}'", hint="name that file, or copy what it holds")
    tables: dict[str, list[str]] = {}

    def add(name: str, thing: object) -> None:
        if isinstance(thing, h5py.Dataset):
            group, _, table = name.rpartition("/")
            tables.setdefault(group, []).append(table)

    file.visititems(add)
    own = tables.get("", [])
    if _has_features(own, times_name):
        raise VbcliError(
            f"{path} has no entry a video: at its top are {', '.join(own)}",
            hint="name its folder if it is of one video; write an entry a video if it is one table of all",
        )
    beside: dict[str, list[list[str]]] = {}
    for group, names in tables.items():
        beside.setdefault(group.rpartition("/")[0], []).append(names)
    found = []
    for group, names in tables.items():
        # Groups beside each other with equal contents are videos, whatever the contents are called.
        others = beside[group.rpartition("/")[0]]
        is_video = _has_features(names, times_name) or (len(others) > 1 and all(other == names for other in others))
        found += [group] if group and is_video else [f"{group}/{name}".lstrip("/") for name in names]
    return [escape_name(os.fsencode(name)) for name in found]


def _has_features(names: Sequence[str], times_name: str | None) -> bool:
    # A video may well be called x.
    return any(name == times_name or (name in FEATURE_NAMES and name != "x") for name in names)


# ---------------------------------------------------------------- what is in them


def read_features(path: str, video_id: str, times_name: str | None, *, follows_links: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """The features of a video, float32 (T, D), and their times in seconds, float64 (T,), where `times_name` names them.

    Args:
        path: as `find_feature_files` gives it.
        follows_links: also read files that are links out of their folder.

    Raises:
        MediaError: they cannot be read, are no numbers, or it is not clear which or of what shape they are.
    """
    entry = _ENTRY.fullmatch(path)
    if entry is None and not follows_links and leads_out(path, video_id):
        raise MediaError(f"{path} is a link that leads out of its folder: --follow-links takes such files")
    try:
        tables = dict(_read_tables(path, times_name) if entry is None else _read_hdf5(entry[1], entry[2]))
    except _DAMAGED as error:
        raise MediaError(f"{path} cannot be read as features: {_cause(error)}") from error
    times = None
    if times_name is not None:
        if times_name not in tables:
            raise MediaError(f"{path} has no '{times_name}' (found: {', '.join(tables) or 'nothing'})")
        try:
            times = np.asarray(tables.pop(times_name), np.float64).ravel()
        except (ValueError, TypeError) as error:
            raise MediaError(f"{path}: '{times_name}' are no numbers") from error
    features = _choose(tables, path)
    if times is not None and len(times) != len(features):
        raise MediaError(f"{path} has {len(features)} features and {len(times)} times")
    if times is not None and not (np.isfinite(times).all() and (np.diff(times) > 0).all() and times[0] >= 0):
        raise MediaError(f"{path}: the times in '{times_name}' do not rise from 0 on")
    if not np.isfinite(features).all():
        raise MediaError(f"{path} holds features that are no finite numbers")
    return features, times


def _cause(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _choose(tables: dict[str, Any], path: str) -> np.ndarray:
    name = next((n for n in FEATURE_NAMES if n in tables), None)
    if name is None:
        wide = [n for n in tables if np.ndim(tables[n]) > 1]
        if len(wide) > 1:
            raise MediaError(f"{path} holds several tables ({', '.join(wide)}), and none is called features")
        name = wide[0] if wide else max(tables, key=lambda n: np.size(tables[n]), default=None)
    if name is None:
        raise MediaError(f"{path} holds no features")
    try:
        features = np.asarray(tables[name], np.float32)
    except (ValueError, TypeError) as error:
        raise MediaError(f"{path}: '{name}' is no table of numbers") from error
    if not features.size:
        raise MediaError(f"{path} holds no features")
    return _as_rows(features, path)


def _as_rows(features: np.ndarray, path: str) -> np.ndarray:
    """(T, D) of what is that but for dimensions of length 1, or is maps of frames: (T, D, H, W) or (T, H, W, D), D being the largest.

    Raises:
        MediaError: it is of another shape.
    """
    if features.ndim > 2 and features.squeeze().ndim <= 2:
        features = features.squeeze()
    if features.ndim <= 2:
        return np.atleast_2d(features)
    # Maps are averaged, as global pooling does.
    if features.ndim == 4:
        _, one, two, three = features.shape
        if one > max(two, three):
            return features.mean((2, 3))
        if three > max(one, two):
            return features.mean((1, 2))
    raise MediaError(f"{path} holds features of the shape {features.shape}: (T, D), or maps (T, D, H, W), are read")


def _read_tables(path: str, times_name: str | None) -> Iterator[tuple[str, Any]]:
    """The tables of a file by name; pickles are never loaded."""
    # What fetches a remote file raises MediaError, too.
    local = Path(os.fsdecode(open_path(path)))
    suffix = local.suffix.lower()
    if suffix in (".npy", ".npz"):
        yield from _read_arrays(local)
    elif suffix == ".csv":
        yield from _read_csv(local, times_name)
    elif suffix == ".parquet":
        yield from _read_parquet(local, times_name)
    else:
        yield from _read_hdf5(path, None)


def _read_arrays(path: Path) -> list[tuple[str, Any]]:
    with warnings.catch_warnings():
        # What Python 2 wrote, as many published features are, takes a little longer to read, and numpy tells that.
        warnings.simplefilter("ignore", UserWarning)
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return [(FEATURE_NAMES[0], loaded)]
        with loaded:
            return [(name, loaded[name]) for name in loaded.files]


def _read_csv(path: Path, times_name: str | None) -> Iterator[tuple[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    header = [name.strip() for name in rows.pop(0)] if rows and _is_header(rows[0]) else []
    table = np.array(rows, np.float64)
    if table.ndim != 2:
        raise ValueError("it has no rows of numbers")
    if header and len(header) != table.shape[1]:
        raise ValueError(f"its first line names {len(header)} columns, and its rows have {table.shape[1]}")
    yield from _columns(header, table, times_name)


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a line has names: of columns without names pandas writes the numbers, 0, 1, 2, ..."""
    is_numbered = len(cells) >= _MIN_NUMBERED and list(cells) == [str(i) for i in range(len(cells))]
    return is_numbered or not all(_is_number(cell) for cell in cells)


def _columns(names: Sequence[str], table: np.ndarray, times_name: str | None) -> Iterator[tuple[str, Any]]:
    """Columns of a table (T, C): named ones for themselves, and those that are not of `PLACES` as the features."""
    yield from ((name, table[:, i]) for i, name in enumerate(names))
    places = [i for i, name in enumerate(names) if name == times_name or name.lower() in PLACES]
    yield FEATURE_NAMES[0], np.delete(table, places, axis=1)


def _read_parquet(path: Path, times_name: str | None) -> Iterator[tuple[str, Any]]:
    # Arrow opens no file whose name is not UTF-8.
    with path.open("rb") as file:
        table = pq.read_table(file)
    kinds = dict(zip(table.column_names, table.schema.types, strict=True))
    videos = next((name for name in ("video_id", "video") if name in kinds), None)
    if videos is not None and len(table.column(videos).unique()) > 1:
        raise ValueError(f"it has rows of several videos, by its column {videos}")
    numbers = [name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    lists = [name for name, kind in kinds.items() if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)]
    if lists:
        yield from ((name, table.column(name).to_numpy()) for name in numbers)
        yield from ((name, np.array(table.column(name).to_pylist())) for name in lists)
    elif numbers:
        yield from _columns(numbers, np.stack([table.column(name).to_numpy() for name in numbers], 1), times_name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_hdf5(path: str, entry: str | None) -> Iterator[tuple[str, Any]]:
    """The tables of an entry, or of a file that is of one video."""
    with _opened_hdf5(path) as file:
        import h5py

        name = entry if entry is None or entry in file else os.fsdecode(unquote_to_bytes(entry))
        place: Any = file if name is None else file[name]
        found = {FEATURE_NAMES[0]: place} if isinstance(place, h5py.Dataset) else dict(place.items())
        for table, values in found.items():
            if not isinstance(values, h5py.Dataset):
                continue
            # HDF5 reads other files, of any kind, where a file tells it to.
            if values.external or values.is_virtual or values.file.filename != file.filename:
                raise ValueError(f"'{table}' lies in another file")
            yield table, values[()]


def _opened_hdf5(path: str) -> h5py.File:
    try:
        import h5py
    except ImportError as error:
        raise VbcliError(f"{path} needs the package h5py", hint="pip install 'vbcli[hdf5]'") from error
    return h5py.File(os.fsdecode(open_path(path)), "r")
