"""measure and filter: how good videos are, and a dataset of those that are good enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vbcli.cli import console
from vbcli.cli.options import DEFAULT_WORKSPACE, AsJson, Executor, ExecutorName, Workers, Workspace
from vbcli.cli.runs import finish_run, run_options
from vbcli.workspace import Workspace as Places


def measure(
    frames_dir: Annotated[Path | None, typer.Argument(help="The workspace's frames/ if left out.")] = None,
    quality_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's quality/ if left out.")] = None,
    features: Annotated[Path | None, typer.Option(help="Features of the same videos, to find those that show the same.")] = None,
    hash_distance: Annotated[
        float, typer.Option(min=0, max=1, help="Near-duplicates differ in no larger share of the bits of their hashes.")
    ] = 0.2,
    similarity: Annotated[
        float,
        typer.Option(min=-1, max=1, help="Near-duplicates have no smaller cosine of their mean features; other encoders want another."),
    ] = 0.9,
    executor: Executor = ExecutorName.processes,
    workers: Workers = 0,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Measure videos: brightness, sharpness, motion, text, black and frozen frames, near-duplicates, leaks between splits, fit of captions.

    Nothing is left out: that is for vbcli filter.
    """
    from vbcli.curation.quality import score_quality

    places = Places(workspace)
    target = quality_dir or places.root / "quality"
    with run_options("measure", executor, workers, False, "bundled") as options:
        report = score_quality(
            frames_dir or places.frames_dir, target, features, options, hash_distance=hash_distance, similarity=similarity
        )
    finish_run(report, "videos", as_json)


def filter_rows(
    dataset_dir: Annotated[Path, typer.Argument(help="Any dataset.")],
    out_dir: Annotated[Path, typer.Argument(help="Output.")],
    where: Annotated[
        list[str],
        typer.Option(help="SQL over the columns, such as: duration_s > 2. May be repeated: each counts what it leaves out."),
    ],
    quality: Annotated[Path | None, typer.Option(help="Of vbcli measure: its columns, too.")] = None,
    executor: Executor = ExecutorName.serial,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Copy a dataset without the rows that an expression is not true of; its manifest counts what was left out, and why."""
    from vbcli.curation.filtering import filter_dataset

    with run_options("filter", executor, workers, False, "bundled") as options:
        report, counts = filter_dataset(dataset_dir, out_dir, where, quality, options)
    if not as_json:
        console.print_table("Left out", ("because this is not true", "rows"), [(name, str(n)) for name, n in counts.items()])
    finish_run(report, "rows kept", as_json, left_out=counts)
