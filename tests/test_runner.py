"""Stages over shards: kills, retries and executors against one uninterrupted run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.textstages import SEEN, ReadLines, Shout, Together, data_of, inputs_of, lines_in, run, stamps
from vbcli import shards
from vbcli.config import config_hash
from vbcli.errors import VbcliError
from vbcli.executors import ProcessExecutor, SerialExecutor, open_executor
from vbcli.media.decode import MediaOptions
from vbcli.pipeline import RunOptions, extract_videos
from vbcli.runner import ShardInput, carry_videos, count_jobs, dataset_inputs, run_stage
from vbcli.stage import Chain
from vbcli.stages.extract import Extract

# ---------------------------------------------------------------- runs in one process


def test_a_run_writes_every_row_in_order(texts: Path, tmp_path: Path) -> None:
    report = run(ReadLines(), inputs_of(texts), tmp_path / "out")
    expected = [
        {"video_id": f"{i}.txt", "line": t, "n_chars": len(t)} for i in range(9) for t in (texts / f"{i}.txt").read_text().splitlines()
    ]
    assert lines_in(tmp_path / "out") == expected
    assert (report.n_shards, report.n_done, report.n_rows, report.n_failed, report.exit_status) == (3, 3, len(expected), 0, 0)
    footer = shards.read_footer(tmp_path / "out" / "shard-00001.parquet")
    assert (footer["stage"], footer["config"], footer["n_items"], footer["failed"]) == ("read", {}, 3, [])


def test_the_same_run_again_does_nothing(texts: Path, tmp_path: Path) -> None:
    (texts / "4.txt").unlink()
    first = run(ReadLines(), inputs_of(texts), tmp_path / "out")
    before, made = stamps(tmp_path / "out"), data_of(tmp_path / "out")
    again = run(ReadLines(), inputs_of(texts), tmp_path / "out")
    assert SEEN == []
    assert (stamps(tmp_path / "out"), data_of(tmp_path / "out")) == (before, made)
    assert (first.n_failed, first.n_waiting, first.exit_status) == (1, 0, 3)
    assert (again.n_failed, again.n_waiting, again.exit_status) == (0, 1, 3)
    assert (again.n_done, again.n_skipped, again.n_rows) == (0, 3, first.n_rows)
    assert len(list((tmp_path / "out" / "_runs").iterdir())) == 1


@pytest.mark.parametrize("n_bytes", [0, 100, -1])
def test_a_shard_that_is_no_parquet_is_made_again(texts: Path, tmp_path: Path, n_bytes: int) -> None:
    run(ReadLines(), inputs_of(texts), tmp_path / "out")
    made = data_of(tmp_path / "out")
    path = tmp_path / "out" / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:n_bytes])
    inputs = inputs_of(texts)
    assert count_jobs(ReadLines(), inputs, tmp_path / "out", is_retry=False).n_planned == 1
    report = run(ReadLines(), inputs, tmp_path / "out", is_retry=True)
    assert (report.n_done, report.n_skipped, SEEN) == (1, 2, ["3.txt", "4.txt", "5.txt"])
    (note,) = report.notes
    assert note.startswith(f"{path} cannot be read as Parquet: ")
    assert note.endswith("; it is made again")
    assert data_of(tmp_path / "out") == made
    # Of a video that is gone nothing is left.
    path.write_bytes(b"")
    (note,) = run(ReadLines(), [replace(shard, gone=frozenset({"4.txt", "8.txt"})) for shard in inputs], tmp_path / "out").notes
    assert note.endswith("; it is made again without 1 videos that are gone, first 4.txt")
    assert {row["video_id"] for row in shards.read_rows(tmp_path / "out")} == {f"{i}.txt" for i in range(9) if i != 4}


def test_a_damaged_copy_of_the_videos_is_made_anew(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts), tmp_path / "from" / "videos")
    carry_videos(tmp_path / "from" / "videos", tmp_path / "to" / "videos")
    (tmp_path / "to" / "videos" / "shard-00002.parquet").write_bytes(b"PAR1")
    carry_videos(tmp_path / "from" / "videos", tmp_path / "to" / "videos")
    assert lines_in(tmp_path / "to" / "videos") == lines_in(tmp_path / "from" / "videos")


def test_failures_are_recorded_and_a_shard_of_failures_is_called_out(texts: Path, tmp_path: Path) -> None:
    for i in (0, 6, 7, 8):
        (texts / f"{i}.txt").unlink()
    report = run(ReadLines(), inputs_of(texts), tmp_path / "out")
    assert [f.as_row() for f in shards.read_failures(tmp_path / "out")] == [
        {"video_id": f"{i}.txt", "stage": "read", "error": "FileNotFoundError", "message": f"{i}.txt is missing"} for i in (0, 6, 7, 8)
    ]
    assert report.notes == [f"all 3 items of {tmp_path / 'out' / 'shard-00002.parquet'} failed"]
    assert [shards.read_footer(p)["failed"] for p in shards.list_shards(tmp_path / "out")] == [["0.txt"], [], ["6.txt", "7.txt", "8.txt"]]
    after = run(Shout(), dataset_inputs(tmp_path / "out", Shout()), tmp_path / "loud")
    assert after.notes == []
    assert {row["video_id"] for row in lines_in(tmp_path / "loud")} == {"1.txt", "2.txt", "4.txt", "5.txt"}


def test_a_retry_redoes_the_failed_items_and_gives_what_one_run_would_have(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts), tmp_path / "one")
    hidden = tmp_path / "hidden"
    shutil.copytree(texts, hidden)
    for i in (0, 1, 5, 6, 7, 8):
        (texts / f"{i}.txt").unlink()
    run(ReadLines(), inputs_of(texts), tmp_path / "out")
    for returned, seen, n_failed in (((0, 6, 7), [0, 1, 5, 6, 7, 8], 3), ((1, 5, 8), [1, 5, 8], 0)):
        for i in returned:
            shutil.copy(hidden / f"{i}.txt", texts)
        report = run(ReadLines(), inputs_of(texts), tmp_path / "out", is_retry=True)
        assert [f"{i}.txt" for i in seen] == SEEN
        assert (report.n_failed, report.n_waiting, report.exit_status) == (n_failed, 0, 3 if n_failed else 0)
    assert data_of(tmp_path / "out") == data_of(tmp_path / "one")


def test_a_retry_of_what_depends_on_its_batch_redoes_the_shard(texts: Path, tmp_path: Path) -> None:
    stage = Chain((Together(), Shout()))
    for i in (3, 8):
        (texts / f"{i}.txt").write_text("quiet")
    run(stage, inputs_of(texts), tmp_path / "one")
    hidden = (texts / "1.txt").rename(tmp_path / "1.txt")
    run(stage, inputs_of(texts), tmp_path / "out")
    hidden.rename(texts / "1.txt")
    run(stage, inputs_of(texts), tmp_path / "out", is_retry=True)
    assert SEEN == ["0.txt", "1.txt", "2.txt"]
    assert data_of(tmp_path / "out") == data_of(tmp_path / "one")


def test_a_retry_that_was_killed_between_its_two_files_loses_nothing(texts: Path, tmp_path: Path) -> None:
    """The record of failures is of the retry, the shard is still the one before it."""
    run(ReadLines(), inputs_of(texts), tmp_path / "one")
    hidden = texts.rename(tmp_path / "hidden")
    texts.mkdir()
    run(ReadLines(), inputs_of(texts), tmp_path / "out")
    shutil.copytree(hidden, texts, dirs_exist_ok=True)
    shards.write_failures(tmp_path / "out", 0, [])
    shards.write_failures(tmp_path / "out", 1, shards.read_failures(tmp_path / "out", 1)[:1])
    run(ReadLines(), inputs_of(texts), tmp_path / "out", is_retry=True)
    assert data_of(tmp_path / "out") == data_of(tmp_path / "one")


def test_what_killed_processes_left_is_removed_and_not_what_others_write(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts), tmp_path / "out")
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    host, names = platform.node(), (".manifest.json", "_errors/.shard-00001.jsonl", "_plan/.0000.json", ".shard-00000.parquet")
    (tmp_path / "out" / "_errors").mkdir()
    (tmp_path / "out" / "_plan").mkdir()
    for owner in (f"{host}-{dead.pid}", f"{host}-{os.getppid()}", f"elsewhere-{dead.pid}"):
        for name in names:
            (tmp_path / "out" / f"{name}.tmp-{owner}").touch()
    run(ReadLines(), inputs_of(texts), tmp_path / "out")
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob(".*")}
    assert left == {f"{name}.tmp-{owner}" for name in names for owner in (f"{host}-{os.getppid()}", f"elsewhere-{dead.pid}")}


def test_a_changed_input_redoes_its_shard_alone_and_says_so(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts), tmp_path / "out")
    before = stamps(tmp_path / "out")
    (texts / "4.txt").write_text("new")
    report = run(ReadLines(), inputs_of(texts, salt="changed"), tmp_path / "out")
    assert SEEN == ["3.txt", "4.txt", "5.txt"]
    assert report.notes == [f"{tmp_path / 'out' / 'shard-00001.parquet'} is made again: its input changed"]
    changed = {name for name, stamp in stamps(tmp_path / "out").items() if stamp != before[name]}
    assert changed == {"shard-00001.parquet"}
    assert [row["line"] for row in lines_in(tmp_path / "out") if row["video_id"] == "4.txt"] == ["new"]


def test_another_configuration_is_refused_before_any_work(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts), tmp_path / "lines")
    (texts / "3.txt").write_text("quiet")
    run(Shout(), dataset_inputs(tmp_path / "lines", Shout()), tmp_path / "out")
    made = data_of(tmp_path / "out")
    with pytest.raises(VbcliError, match='was made with mark = "!", not "\\?"'):
        run(Shout("?"), dataset_inputs(tmp_path / "lines", Shout()), tmp_path / "out")
    assert data_of(tmp_path / "out") == made


def test_a_chain_is_its_stages_one_after_the_other(texts: Path, tmp_path: Path) -> None:
    (texts / "2.txt").unlink()
    run(ReadLines(), inputs_of(texts), tmp_path / "lines")
    run(Shout(), dataset_inputs(tmp_path / "lines", Shout()), tmp_path / "apart")
    report = run(Chain((ReadLines(), Shout())), inputs_of(texts), tmp_path / "chained")
    assert lines_in(tmp_path / "chained") == lines_in(tmp_path / "apart")
    assert {row["video_id"] for row in lines_in(tmp_path / "chained")} == {f"{i}.txt" for i in (0, 1, 4, 5, 6, 7)}
    apart = [f for d in ("lines", "apart") for f in shards.read_failures(tmp_path / d)]
    assert sorted(shards.read_failures(tmp_path / "chained"), key=str) == sorted(apart, key=str)
    assert [(f.video_id, f.stage) for f in shards.read_failures(tmp_path / "chained")] == [
        ("2.txt", "read"),
        ("3.txt", "shout"),
        ("8.txt", "shout"),
    ]
    assert (report.n_failed, report.exit_status) == (3, 3)


def test_a_chain_keeps_one_video_in_memory_at_a_time(texts: Path) -> None:
    process = Chain((ReadLines(), Shout())).open()
    rows = process(iter(shards.split_by_video(inputs_of(texts, per_shard=9)[0].source)))  # type: ignore[arg-type]
    SEEN.clear()
    next(rows)
    assert SEEN == ["0.txt"]


def test_a_bug_stops_the_run_and_leaves_no_shard(texts: Path, tmp_path: Path) -> None:
    (texts / "5.txt").write_text("fine\n5")
    stage = Chain((ReadLines(), Shout()))
    with pytest.raises(ZeroDivisionError):
        run(stage, inputs_of(texts), tmp_path / "out")
    assert sorted(data_of(tmp_path / "out")) == ["manifest.json", "shard-00000.parquet"]
    before = stamps(tmp_path / "out")
    (texts / "5.txt").write_text("fine")
    report = run(stage, inputs_of(texts), tmp_path / "out")
    assert (report.n_done, report.n_skipped) == (2, 1)
    assert stamps(tmp_path / "out")["shard-00000.parquet"] == before["shard-00000.parquet"]


def test_the_videos_dataset_is_carried_along(texts: Path, tmp_path: Path) -> None:
    run(ReadLines(), inputs_of(texts), tmp_path / "videos")
    run(Shout(), dataset_inputs(tmp_path / "videos", Shout()), tmp_path / "out", videos_dir=tmp_path / "videos")
    source = {k: v for k, v in data_of(tmp_path / "videos").items() if not k.startswith("_errors")}
    assert data_of(tmp_path / "out" / "videos") == source
    (texts / "4.txt").write_text("new")
    run(ReadLines(), inputs_of(texts, salt="changed"), tmp_path / "videos")
    run(Shout(), dataset_inputs(tmp_path / "videos", Shout()), tmp_path / "out", videos_dir=tmp_path / "videos")
    assert data_of(tmp_path / "out" / "videos") == {k: v for k, v in data_of(tmp_path / "videos").items() if not k.startswith("_errors")}


# ---------------------------------------------------------------- worker processes


def video_inputs(paths: Sequence[Path], per_shard: int) -> list[ShardInput]:
    rows = [{"video_id": p.name, "path": str(p), "bytes": p.stat().st_size, "mtime_ns": 0} for p in paths]
    groups = [rows[i : i + per_shard] for i in range(0, len(rows), per_shard)]
    return [ShardInput(i, pa.Table.from_pylist(g), config_hash(g)) for i, g in enumerate(groups)]


def test_worker_processes_give_the_bytes_of_one_process_and_survive_one_that_is_killed(video_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    paths = [*sorted(video_folder.rglob("*.m*")), broken]
    inputs = video_inputs(paths, per_shard=2)
    serial = run(Extract(size_px=32), inputs, tmp_path / "serial")
    assert (serial.n_shards, serial.n_failed, serial.n_rows) == (3, 1, 2 + 3 + 4 + 5)

    killer = tmp_path / "killer"
    killer.write_text("#!/bin/sh\nkill -9 $PPID\n")
    killer.chmod(0o755)
    with pytest.raises(VbcliError) as caught, open_executor("processes", 2) as executor:
        run_stage(Extract(size_px=32, media=MediaOptions(str(killer))), inputs[:2], tmp_path / "out", executor)
    assert caught.value.message.startswith(f"a worker process died while making {tmp_path / 'out'}/shard-0000")
    assert "run the same command again" in str(caught.value.hint)
    assert shards.list_shards(tmp_path / "out") == []

    with open_executor("processes", 2) as executor:
        report = run_stage(Extract(size_px=32), inputs, tmp_path / "out", executor)
        # A bug in a worker stops the run, too.
        unplanned = [ShardInput(0, pa.table({"video_id": ["a"]}), "")]
        with pytest.raises(KeyError, match="path"):
            run_stage(Extract(), unplanned, tmp_path / "bug", executor)
    assert shards.list_shards(tmp_path / "bug") == []
    assert (report.n_done, report.n_rows, report.n_failed, report.exit_status) == (3, serial.n_rows, 1, 3)
    assert data_of(tmp_path / "out") == data_of(tmp_path / "serial")


def test_a_video_that_kills_its_worker_is_found_and_costs_itself(video_folder: Path, tmp_path: Path, ffmpeg_exe: str) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(video_folder, videos)
    shutil.copy(videos / "a.mp4", videos / "deadly.mp4")
    killer = tmp_path / "killer"
    killer.write_text(f'#!/bin/sh\ncase "$*" in *deadly*) kill -9 $PPID; exit 1;; esac\nexec "{ffmpeg_exe}" "$@"\n')
    killer.chmod(0o755)
    inputs = video_inputs(sorted(videos.rglob("*.m*")), per_shard=2)
    stage = Extract(size_px=32, media=MediaOptions(str(killer)))
    with open_executor("processes", 2) as executor:
        report = run_stage(stage, inputs, tmp_path / "out", executor)
        again = run_stage(stage, inputs, tmp_path / "out", executor)
        retried = run_stage(stage, [*inputs, ShardInput(9, inputs[0].source, "x")], tmp_path / "out", executor, is_retry=True)
    assert (report.n_shards, report.n_done, report.n_failed, report.exit_status) == (3, 3, 1, 3)
    assert (again.n_done, again.n_waiting) == (0, 1)
    assert (retried.n_done, retried.n_failed) == (2, 1)
    (failure,) = shards.read_failures(tmp_path / "out")
    assert (failure.video_id, failure.stage, failure.error) == ("deadly.mp4", "extract", "WorkerDied")
    assert "the process that worked on it died" in failure.message
    others = run(Extract(size_px=32), video_inputs(sorted(video_folder.rglob("*.m*")), per_shard=9), tmp_path / "others")
    assert report.n_rows == others.n_rows

    # One that kills the command itself, where it works alone, does so once.
    command = [sys.executable, "-m", "vbcli.cli.app", "extract", videos, tmp_path / "alone", "--size", "32", "--ffmpeg", killer]
    ended = [subprocess.run(command, capture_output=True, text=True) for _ in range(2)]
    assert [run.returncode for run in ended] == [-signal.SIGKILL, 3]
    # It is not tried again, even by an ffmpeg that would get through.
    once_more = extract_videos(videos, tmp_path / "alone", Extract(size_px=32), options=RunOptions("serial"))
    assert (once_more.n_done, once_more.n_waiting, once_more.exit_status) == (0, 1, 3)
    (failure,) = shards.read_failures(tmp_path / "alone")
    assert (failure.video_id, failure.error) == ("deadly.mp4", "WorkerDied")
    assert json.loads((tmp_path / "alone" / "manifest.json").read_text())["stage"] == "extract"
    assert sum(shards.read_footer(path)["n_rows"] for path in shards.list_shards(tmp_path / "alone")) == others.n_rows


def test_a_video_that_was_worked_on_when_somebody_else_killed_the_process_is_made(
    video_folder: Path, tmp_path: Path, ffmpeg_exe: str
) -> None:
    """The worker dies, and once more while the videos of its shard are tried one by one."""
    killer, deaths = tmp_path / "killer", tmp_path / "deaths"
    killer.write_text(
        f'#!/bin/sh\ncase "$*" in *c.mp4*) [ "$(cat "{deaths}")" = xx ] || {{ printf x >> "{deaths}"; kill -9 $PPID; exit 1; }};; esac\n'
        f'exec "{ffmpeg_exe}" "$@"\n'
    )
    killer.chmod(0o755)
    deaths.touch()
    inputs = video_inputs(sorted(video_folder.rglob("*.m*")), per_shard=2)
    with open_executor("processes", 1) as serial:
        run_stage(Extract(size_px=32), inputs, tmp_path / "one", serial)
    with open_executor("processes", 2) as executor:
        report = run_stage(Extract(size_px=32, media=MediaOptions(str(killer))), inputs, tmp_path / "out", executor)
    assert deaths.read_text() == "xx"
    assert (report.n_done, report.n_failed) == (2, 0)
    assert data_of(tmp_path / "out") == data_of(tmp_path / "one")


@pytest.mark.parametrize(("n_cores", "threads", "n_workers"), [(8, 1, 8), (8, 2, 4), (5, 2, 2), (2, 2, 1), (4, 8, 1)])
def test_workers_keep_all_cores_busy(monkeypatch: pytest.MonkeyPatch, n_cores: int, threads: int, n_workers: int) -> None:
    monkeypatch.setattr("vbcli.executors.count_cores", lambda: n_cores)
    monkeypatch.setattr("vbcli.executors.preload", lambda modules: None)
    with open_executor("processes", 0, threads=threads) as executor:
        # A single one, too, is a process of its own: what kills it does not end the run.
        assert isinstance(executor, ProcessExecutor)
        assert executor.n_workers == n_workers
        assert executor.call(os.getpid) != os.getpid()
    with open_executor("processes", 1, threads=threads) as executor:
        assert isinstance(executor, SerialExecutor)
