"""import-features: features that others computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vbcli.cli.options import DEFAULT_WORKSPACE, AsJson, Captions, Executor, ExecutorName, RetryFailed, Workers, Workspace
from vbcli.cli.runs import finish_run, run_options
from vbcli.workspace import Workspace as Places


def import_features(
    source: Annotated[
        Path, typer.Argument(help="Folder with a file a video (.npy, .npz, .csv, .parquet, .h5), or an HDF5 file with an entry a video.")
    ],
    features_dir: Annotated[Path | None, typer.Argument(help="Output; the workspace's features/ if left out.")] = None,
    name: Annotated[str, typer.Option(help="What made them, such as s3d-howto100m; those of other names cannot be mixed with them.")] = "",
    rate: Annotated[float | None, typer.Option(help="Features a second.")] = None,
    times: Annotated[str | None, typer.Option(help="Instead of --rate, what a file calls the times of its features, in seconds.")] = None,
    captions: Captions = None,
    executor: Executor = ExecutorName.serial,
    workers: Workers = 0,
    retry_failed: RetryFailed = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also take files and folders that are links out of the folder.")
    ] = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Take features that were computed elsewhere: build-vocab, tokenize and train go on from there. Videos are named by their files."""
    from vbcli.curation.feature_import import FeatureTimes
    from vbcli.curation.feature_import import import_features as run_import
    from vbcli.files import escape_name

    when = FeatureTimes(rate, times)
    target = features_dir or Places(workspace).features_dir
    with run_options("import-features", executor, workers, retry_failed, "bundled") as options:
        named = name or escape_name(os.fsencode(source.stem))
        report = run_import(source, target, named, when, captions or (), options, follows_links=follow_links)
    finish_run(report, "features", as_json)
