"""Vectors in a scratch file, of which a block at a time is in memory; those that are few stay in memory.

Notation: N vectors, P dimensions, K groups.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from vbcli.errors import VbcliError

MEMORY_BYTES = 512 << 20
"""Of float32 vectors that are in memory at once."""
BLOCK_BYTES = 64 << 20
ROW_UNIT = 4096
"""Blocks are of a multiple of so many vectors, as FAISS's own are: how they are cut changes no result."""


def n_rows_of(n_bytes: int, width: int) -> int:
    """How many float32 vectors of `width` dimensions take so many bytes, at least one."""
    return max(1, n_bytes // (4 * width))


@dataclass(frozen=True)
class VectorFile:
    """Rows of a scratch file, which has no name and goes with the last object that holds it, however a process ends.

    Args:
        n: N.
        width: P.
        dtype: float16 or float32, that rows are kept as; they are read as float32.
    """

    n: int
    width: int
    dtype: np.dtype
    _file: BinaryIO
    _first: int = 0

    @classmethod
    def create(cls, n: int, width: int, dtype: DTypeLike, scratch_dir: Path | None) -> VectorFile:
        """Room for N vectors: in memory where `fits` them, else in a file.

        Args:
            scratch_dir: where the file is; the system's folder for temporary files where it is None.
        """
        if 4 * n * width <= MEMORY_BYTES:
            return cls(n, width, np.dtype(np.float32), io.BytesIO())
        try:
            if scratch_dir is not None:
                scratch_dir.mkdir(parents=True, exist_ok=True)
            return cls(n, width, np.dtype(dtype), tempfile.TemporaryFile(dir=scratch_dir, buffering=0))
        except OSError as error:
            raise _not_written(error) from error

    @property
    def fits(self) -> bool:
        """Whether all vectors may be in memory at once."""
        return 4 * self.n * self.width <= MEMORY_BYTES

    def part(self, start: int, stop: int) -> VectorFile:
        """Rows `start` to `stop`, in the same file."""
        return VectorFile(stop - start, self.width, self.dtype, self._file, self._first + start)

    def write(self, start: int, rows: np.ndarray) -> None:
        """Writes float (n, P) from row `start` on.

        Raises:
            VbcliError: the disk is full.
        """
        try:
            self._seek(start)
            data = np.ascontiguousarray(rows, self.dtype).data.cast("B")
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise _not_written(error) from error

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `start` to `stop`, float32 (n, P)."""
        rows = np.empty(((self.n if stop is None else stop) - start, self.width), self.dtype)
        self._seek(start)
        data = rows.data.cast("B")
        while data:
            n_read = self._file.readinto(data)  # type: ignore[attr-defined]
            if not n_read:
                raise EOFError(f"vectors {start} to {start + len(rows)} of a scratch file were not written")
            data = data[n_read:]
        return rows.astype(np.float32, copy=False)

    def take(self, wanted: np.ndarray) -> np.ndarray:
        """Rows of the numbers int (n,), ascending: float32 (n, P)."""
        return take_rows((block for _, block in self.blocks()), wanted)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All rows: the number of the first and float32 (n, P), a block at a time."""
        n_rows = max(1, n_rows_of(BLOCK_BYTES, self.width) // ROW_UNIT) * ROW_UNIT
        for start in range(0, self.n, n_rows):
            yield start, self.read(start, min(start + n_rows, self.n))

    def _seek(self, row: int) -> None:
        self._file.seek((self._first + row) * self.width * self.dtype.itemsize)


def _not_written(error: OSError) -> VbcliError:
    return VbcliError(
        f"a scratch file of vectors cannot be written: {error.strerror or error}",
        hint="the features of the training videos, after their reduction, need room twice beside the vocabulary",
    )


def take_rows(blocks: Iterable[np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """Rows of a stream, as they are in it.

    Args:
        blocks: (n_i, P).
        wanted: int (n,), numbers of rows, ascending.

    Returns:
        (n, P).
    """
    rows: np.ndarray | None = None
    seen = 0
    for block in blocks:
        if rows is None:
            rows = np.empty((len(wanted), block.shape[1]), block.dtype)
        a, b = np.searchsorted(wanted, (seen, seen + len(block)))
        rows[a:b] = block[wanted[a:b] - seen]
        seen += len(block)
    assert rows is not None
    return rows


def even_numbers(n: int, n_rows: int) -> np.ndarray:
    """Numbers of `n_rows` evenly spaced rows of `n`; of all of them where there are no more."""
    return np.arange(n) if n <= n_rows else np.linspace(0, n - 1, n_rows).astype(np.int64)


def even_blocks(blocks: Iterable[np.ndarray], n: int, n_rows: int) -> Iterator[np.ndarray]:
    """Cuts a stream of N rows into blocks that differ by one row at most, of `n_rows` or a little more, however it came."""
    n_blocks = max(1, n // n_rows)
    edges = [i * (n // n_blocks) + min(i, n % n_blocks) for i in range(1, n_blocks + 1)]
    gathered: list[np.ndarray] = []
    seen = start = 0
    for block in blocks:
        while edges and seen + len(block) >= edges[0]:
            edge = edges.pop(0)
            gathered.append(block[: edge - seen])
            block, seen = block[edge - seen :], edge
            yield np.concatenate(gathered) if len(gathered) > 1 else gathered[0]
            gathered, start = [], edge
        if len(block):
            gathered.append(block)
            seen += len(block)
    assert start == n


def partition(vectors: VectorFile, groups: np.ndarray, n_groups: int, scratch_dir: Path | None) -> list[VectorFile]:
    """Copies vectors into another file, group by group, in their order within each.

    Args:
        groups: int (N,), 0 <= group < K.

    Returns:
        K files of the members of each.
    """
    counts = np.bincount(groups, minlength=n_groups)
    edges = np.concatenate([[0], np.cumsum(counts)])
    copy = VectorFile.create(vectors.n, vectors.width, vectors.dtype, scratch_dir)
    written = edges[:-1].copy()
    for start, block in vectors.blocks():
        group = groups[start : start + len(block)]
        ordered = block[np.argsort(group, kind="stable")]
        inside = np.bincount(group, minlength=n_groups)
        stops = np.cumsum(inside)
        for k in np.nonzero(inside)[0]:
            copy.write(int(written[k]), ordered[stops[k] - inside[k] : stops[k]])
        written += inside
    return [copy.part(int(a), int(b)) for a, b in itertools.pairwise(edges)]
