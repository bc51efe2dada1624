"""How a run over a dataset is shown: progress while it goes on, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from vbcli.cli import console
from vbcli.cli.options import ExecutorName
from vbcli.errors import ItemFailure, MediaError, UsageError

if TYPE_CHECKING:
    from vbcli.media.limits import Limits
    from vbcli.pipeline import RunOptions
    from vbcli.runner import RunReport

SHOWN_FAILURES = 20


@contextmanager
def run_options(
    command: str,
    executor: ExecutorName,
    workers: int,
    is_retry: bool,
    ffmpeg: str,
    *,
    follows_links: bool = False,
    limits: Limits | None = None,
) -> Iterator[RunOptions]:
    """Options of a run whose progress is shown while the block lasts."""
    from vbcli.media.decode import MediaOptions
    from vbcli.media.limits import Limits
    from vbcli.pipeline import RunOptions

    media = MediaOptions(ffmpeg, limits or Limits(), follows_links)
    with console.progress_bar(command, "shards") as progress:
        bar = progress.task_ids[0]

        def on_progress(done: int, total: int, text: str) -> None:
            progress.update(bar, completed=done, total=total, text=text)

        def on_note(text: str) -> None:
            console.note(f"{command}: {text}")

        yield RunOptions(executor.value, workers, is_retry, media, on_note=on_note, on_progress=on_progress)


def render_each(jobs: Iterable[tuple[str, Callable[[], object]]]) -> list[ItemFailure]:
    """Writes the video or the pictures of each (video_id, job); the failures, each of which is told."""
    failures = []
    for video_id, render in jobs:
        try:
            render()
        except MediaError as error:
            console.warn(error.message)
            failures.append(ItemFailure(video_id, "render", type(error).__name__, error.message))
    return failures


def parse_part(text: str) -> tuple[int, int]:
    """What `--part` says: (i, n) of 'i/n'.

    Raises:
        UsageError: it is no part.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--part is '{text}'", hint="2/4 makes the second of four parts")
    return int(found[1]), int(found[2])


def check_language(code: str | None) -> None:
    """Refuses what is no code of a language after `--language`.

    Raises:
        UsageError: no file could have it in its name.
    """
    from vbcli.text.transcripts import is_language

    if code is not None and not is_language(code):
        raise UsageError(f"--language is '{code}'", hint="name a code as the names of subtitles have it: en, eng, pt-BR")


def finish_dry_run(report: RunReport, as_json: bool) -> None:
    """Prints what a run would do."""
    counts = {"shards": report.n_shards, "there already": report.n_skipped, "to be made": report.n_planned}
    if as_json:
        console.print_json(
            {
                "output_dir": str(report.output_dir),
                "n_shards": report.n_shards,
                "n_skipped": report.n_skipped,
                "n_planned": report.n_planned,
                "n_waiting": report.n_waiting,
            }
        )
        return
    console.print_table(f"Plan for {report.output_dir}", ("", "shards"), [(name, str(n)) for name, n in counts.items()])
    if report.n_waiting:
        console.note(f"{report.n_waiting} videos that failed before wait for --retry-failed")


def finish_run(report: RunReport, unit: str, as_json: bool, not_rendered: Sequence[ItemFailure] = (), **more: Any) -> None:
    """Prints the counts of a run and leaves with its exit status.

    Args:
        not_rendered: of `render_each`; they count as failures of the run.
        more: printed in JSON, too.
    """
    report = replace(report, n_failed=report.n_failed + len(not_rendered))
    if as_json:
        failures = [*_failures(report), *not_rendered]
        counts = {k: getattr(report, k) for k in ("n_shards", "n_done", "n_skipped", "n_rows", "n_failed", "n_waiting")}
        console.print_json({"output_dir": str(report.output_dir), **counts, "failures": [f.as_row() for f in failures], **more})
    else:
        show_run(report, unit)
    if report.exit_status:
        raise typer.Exit(report.exit_status)


def show_run(report: RunReport, unit: str) -> None:
    """Tells what came of a run."""
    failures = _failures(report)
    done = (
        f"{report.n_done} shards made, {report.n_skipped} there already"
        if report.n_done
        else f"all {report.n_skipped} shards were there already"
    )
    console.note(f"{report.output_dir}: {report.n_rows} {unit}; {done}")
    for failure in failures[:SHOWN_FAILURES]:
        console.warn(f"{failure.video_id}: {failure.message}")
    if len(failures) > SHOWN_FAILURES:
        console.warn(f"{len(failures) - SHOWN_FAILURES} more are recorded in {report.output_dir / '_errors'}")
    if report.n_waiting:
        console.note(f"{report.n_waiting} videos that failed before wait for --retry-failed")


def _failures(report: RunReport) -> list[ItemFailure]:
    from vbcli.shards import read_failures

    return [failure for failure in read_failures(report.output_dir) if failure.video_id not in report.gone]
