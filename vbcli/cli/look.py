"""inspect and validate: what something is and where it came from, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vbcli.cli import console
from vbcli.cli.options import AsJson


def inspect(
    path: Annotated[Path, typer.Argument(help="Dataset, shard, checkpoint, encoder, vocabulary or index.")],
    as_json: AsJson = False,
) -> None:
    """Say what something is, how it was made and what it came from, back to the videos."""
    from vbcli.inspection import describe

    description = describe(path)
    if as_json:
        console.print_json(description)
    else:
        console.print_lines(_lines(description))


def _lines(value: dict[str, Any], indent: int = 0) -> list[str]:
    lines = []
    for key, entry in value.items():
        pad = "  " * indent
        if isinstance(entry, dict):
            lines += [f"{pad}{key}:", *_lines(entry, indent + 1)]
        elif isinstance(entry, list) and entry and isinstance(entry[0], dict):
            lines.append(f"{pad}{key}:")
            for item in entry:
                first, *rest = _lines(item, indent + 2)
                lines += [f"{pad}  - {first.strip()}", *rest]
        else:
            lines.append(f"{pad}{key}: {entry}")
    return lines


def validate(
    path: Annotated[Path, typer.Argument(help="Dataset, shard, checkpoint, encoder, vocabulary or index.")],
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Also read every row, decode every frame and compare with what was written.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that something is whole and says of itself what is true; the exit status is 1 where it is not."""
    from vbcli.validation import validate as find_problems

    problems = list(find_problems(path, reads_data=read_data))
    if as_json:
        console.print_json({"path": str(path), "problems": problems})
    else:
        console.print_lines(problems or [f"{path} is whole"])
    if problems:
        raise typer.Exit(1)
