"""What the user sees: results on stdout, messages and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from vbcli.errors import VbcliError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Row = TypeVar("Row")


@lru_cache
def out() -> Console:
    """The console on stdout."""
    from rich.console import Console

    # A pipe or file has no width of its own: nothing is folded there. No emoji: `:b:` in the name of a file stays as it is.
    return Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)


@lru_cache
def err() -> Console:
    """The console on stderr."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def note(text: str) -> None:
    """A message on what happens."""
    err().print(text, markup=False)


def warn(text: str) -> None:
    """A message on what may be wrong."""
    err().print(f"[yellow]warning:[/] {_escaped(text)}")


def show_error(error: VbcliError) -> None:
    """`error: ...`, an empty line, `hint: ...`."""
    err().print(f"[bold red]error:[/] {_escaped(error.message)}")
    if error.hint:
        err().print(f"\n[cyan]hint:[/] {_escaped(error.hint)}")


def print_json(value: Any) -> None:
    """A value on stdout, one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Lines of text on stdout."""
    for line in lines:
        sys.stdout.write(line + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """A table on stdout; the first column is text, the others are figures."""
    from rich.table import Table

    table = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(cell) for cell in row))
    out().print(table, soft_wrap=False)


def shown(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """The first rows on a terminal; all of them in a pipe or a file."""
    return rows[:most] if out().is_terminal else rows


def format_span(start_s: float | None, end_s: float | None) -> str:
    """Two times in seconds; a dash where there are none."""
    return "-" if start_s is None or end_s is None else f"{start_s:.1f} to {end_s:.1f} s"


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Progress]:
    """A progress display on stderr, drawn only on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=err(), disable=not err().is_terminal, transient=True) as progress:
        progress.add_task(description, total=None, text="")
        yield progress
