"""Runs that are interrupted: the video in hand is finished, and what is finished is not made again."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.textstages import INTERRUPTS, SEEN, ReadLines, Together, data_of, inputs_of, lines_in, run, stamps
from vbcli import shards
from vbcli.runner import ShardInput
from vbcli.stage import Stage


def interrupted(stage: Stage, inputs: list[ShardInput], output_dir: Path, *at: str, **options: Any) -> None:
    """A run that interrupts come to."""
    INTERRUPTS.extend(at)
    # What runs in the background of a shell is deaf to interrupts, and so are these tests there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(stage, inputs, output_dir, **options)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert INTERRUPTS == []


def test_an_interrupt_waits_for_the_video_in_hand_and_what_is_finished_is_not_made_again(texts: Path, tmp_path: Path) -> None:
    (texts / "3.txt").unlink()
    run(ReadLines(), inputs_of(texts, 5), tmp_path / "one")
    notes: list[str] = []
    interrupted(ReadLines(), inputs_of(texts, 5), tmp_path / "out", "1.txt", on_note=notes.append)
    assert SEEN == ["0.txt", "1.txt"]
    interrupted(ReadLines(), inputs_of(texts, 5), tmp_path / "out", "3.txt")
    assert SEEN == ["2.txt", "3.txt"]
    assert stamps(tmp_path / "out") == {}
    assert [row["line"] for row in lines_in(tmp_path / "out" / "_unfinished")] == [f"line {i} {j}" for i in range(3) for j in range(i + 1)]
    report = run(ReadLines(), inputs_of(texts, 5), tmp_path / "out")
    assert SEEN == ["4.txt", "5.txt", "6.txt", "7.txt", "8.txt"]
    assert (report.n_done, report.n_failed) == (2, 1)
    assert data_of(tmp_path / "out") == data_of(tmp_path / "one")
    assert notes == ["the videos in hand are finished first; another interrupt ends at once"]


def test_a_second_interrupt_ends_at_once(texts: Path, tmp_path: Path) -> None:
    interrupted(ReadLines(), inputs_of(texts), tmp_path / "out", "4.txt", "4.txt")
    assert sorted(data_of(tmp_path / "out")) == ["manifest.json", "shard-00000.parquet"]


def test_an_interrupt_of_what_is_made_together_ends_at_once(texts: Path, tmp_path: Path) -> None:
    interrupted(Together(), inputs_of(texts), tmp_path / "out", "4.txt")
    assert SEEN[-1] == "4.txt"
    assert sorted(data_of(tmp_path / "out")) == ["manifest.json", "shard-00000.parquet"]


def without(texts: Path, *missing: int) -> Path:
    """Takes text files away; the folder that has them all."""
    hidden = texts.rename(texts.with_name("hidden"))
    shutil.copytree(hidden, texts)
    for i in missing:
        (texts / f"{i}.txt").unlink()
    return hidden


def test_a_retry_that_is_interrupted_goes_on(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts, 9), tmp_path / "one")
    hidden = without(texts, 1, 3, 5)
    run(ReadLines(), inputs_of(texts, 9), tmp_path / "out")
    before = stamps(tmp_path / "out")
    for i in (3, 5):
        shutil.copy(hidden / f"{i}.txt", texts)
    interrupted(ReadLines(), inputs_of(texts, 9), tmp_path / "out", "3.txt", is_retry=True)
    assert SEEN == ["1.txt", "3.txt"]
    assert stamps(tmp_path / "out") == before
    shutil.copy(hidden / "1.txt", texts)
    run(ReadLines(), inputs_of(texts, 9), tmp_path / "out", is_retry=True)
    assert SEEN == ["1.txt", "5.txt"]
    assert data_of(tmp_path / "out") == data_of(tmp_path / "one")


def test_what_failed_before_an_interrupt_is_tried_again_where_that_is_asked_for(texts: Path, tmp_path: Path) -> None:
    hidden = without(texts, 1, 3)
    run(ReadLines(), inputs_of(texts, 9), tmp_path / "one")
    for is_retry, seen in ((False, ["6.txt", "7.txt", "8.txt"]), (True, ["1.txt", "3.txt", "6.txt", "7.txt", "8.txt"])):
        out = tmp_path / f"out-{is_retry}"
        interrupted(ReadLines(), inputs_of(texts, 9), out, "5.txt")
        run(ReadLines(), inputs_of(texts, 9), out, is_retry=is_retry)
        assert seen == SEEN
        assert data_of(out) == data_of(tmp_path / "one")
    # A run that does not go on with a retry leaves nothing of it.
    shutil.copy(hidden / "1.txt", texts)
    interrupted(ReadLines(), inputs_of(texts, 9), tmp_path / "out-True", "1.txt", is_retry=True)
    assert run(ReadLines(), inputs_of(texts, 9), tmp_path / "out-True").n_waiting == 2
    assert data_of(tmp_path / "out-True") == data_of(tmp_path / "one")


def test_what_is_kept_of_a_shard_is_of_its_input_alone(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts, 9), tmp_path / "one")
    (texts / "0.txt").write_text("old")
    interrupted(ReadLines(), inputs_of(texts, 9), tmp_path / "out", "5.txt")
    (texts / "0.txt").write_text("line 0 0")
    changed = [ShardInput(0, inputs_of(texts, 9)[0].source, "another digest")]
    run(ReadLines(), changed, tmp_path / "out")
    assert [f"{i}.txt" for i in range(9)] == SEEN
    assert lines_in(tmp_path / "out") == lines_in(tmp_path / "one")
    assert shards.list_shards(tmp_path / "out" / "_unfinished") == []
