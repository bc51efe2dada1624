"""Digests of files, and of tables: equal for equal rows, however these are chunked or sliced, and whatever file they were read from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table_digest(table: pa.Table) -> str:
    """SHA-256 (hex) of a table's rows."""
    digest = hashlib.sha256()
    for data in iter_bytes(table):
        digest.update(data)
    return digest.hexdigest()


def iter_bytes(table: pa.Table) -> Iterator[bytes | memoryview]:
    """A table's rows as bytes, column by column.

    Arrow's own formats will not do: they keep what lies under nulls and around slices, and change with its version.
    """
    yield f"{table.num_rows} rows".encode()
    for name, column in zip(table.column_names, table.columns, strict=True):
        yield name.encode()
        yield from _array_bytes(pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type))


def _array_bytes(array: pa.Array) -> Iterator[bytes | memoryview]:
    kind = array.type
    yield np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    valid = array.drop_null()
    if pa.types.is_struct(kind):
        for field, values in zip(kind, valid.flatten(), strict=True):
            yield field.name.encode()
            yield from _array_bytes(values)
    elif pa.types.is_list(kind):
        yield valid.value_lengths().to_numpy().tobytes()
        yield from _array_bytes(valid.flatten())
    elif pa.types.is_fixed_size_list(kind):
        yield from _array_bytes(valid.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        yield from _text_bytes(valid.cast(pa.large_binary()))
    else:
        yield str(kind).encode()
        yield valid.to_numpy(zero_copy_only=False).tobytes()


def _text_bytes(array: pa.LargeBinaryArray) -> Iterator[bytes | memoryview]:
    if len(array) == 0:
        return
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    yield np.diff(bounds).tobytes()
    if data is not None:
        yield memoryview(data)[bounds[0] : bounds[-1]]
