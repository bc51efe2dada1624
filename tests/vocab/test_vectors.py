"""Vectors in files against the arrays that they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vbcli.errors import VbcliError
from vbcli.vocab import vectors as files
from vbcli.vocab.vectors import VectorFile, even_blocks, even_numbers, partition, take_rows

ROWS = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)


@pytest.fixture(params=[True, False], ids=["in memory", "on disk"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> VectorFile:
    monkeypatch.setattr(files, "MEMORY_BYTES", 10**6 if request.param else 100)
    monkeypatch.setattr(files, "BLOCK_BYTES", 1)
    monkeypatch.setattr(files, "ROW_UNIT", 64)
    file = VectorFile.create(1000, 3, np.float32, tmp_path / "made" / "for it")
    file.write(500, ROWS[500:])
    file.write(0, ROWS[:500])
    assert file.fits == request.param
    return file


def test_what_was_written_is_read(held: VectorFile, tmp_path: Path):
    np.testing.assert_array_equal(held.read(), ROWS)
    starts, blocks = zip(*held.blocks(), strict=True)
    assert list(starts) == list(range(0, 1000, 64))
    np.testing.assert_array_equal(np.concatenate(blocks), ROWS)
    np.testing.assert_array_equal(held.part(100, 900).part(1, 5).read(), ROWS[101:105])
    np.testing.assert_array_equal(held.take(np.array([0, 63, 64, 999])), ROWS[[0, 63, 64, 999]])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_parts_hold_their_members_in_order(held: VectorFile):
    groups = np.random.default_rng(1).integers(0, 4, 1000)
    groups[groups == 2] = 3
    parts = partition(held, groups, 4, None)
    assert [part.n for part in parts] == np.bincount(groups, minlength=4).tolist()
    for k in (0, 1, 3):
        np.testing.assert_array_equal(parts[k].read(), ROWS[groups == k])


def test_half_precision_is_kept_on_disk_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "MEMORY_BYTES", 100)
    file = VectorFile.create(1000, 3, np.float16, None)
    file.write(0, ROWS)
    np.testing.assert_array_equal(file.read(), ROWS.astype(np.float16))
    assert file.read().dtype == np.float32


def test_rows_of_a_stream_do_not_depend_on_how_it_came():
    cut = np.split(ROWS, [1, 2, 300, 300, 999])
    wanted = even_numbers(1000, 7)
    assert (wanted[0], wanted[-1], len(wanted)) == (0, 999, 7)
    np.testing.assert_array_equal(take_rows(cut, wanted), ROWS[wanted])
    np.testing.assert_array_equal(even_numbers(5, 7), np.arange(5))
    for n_rows in (64, 300, 5000):
        expected = np.array_split(ROWS, max(1, 1000 // n_rows))
        found = list(even_blocks(cut, 1000, n_rows))
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_disk_without_room_is_an_error_with_a_hint():
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(VbcliError, match="No space left on device"):
        VectorFile(1000, 3, np.dtype(np.float32), full).write(0, ROWS)
