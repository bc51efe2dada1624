"""What a path is: dataset, shard, checkpoint, encoder, vocabulary or index, and the chain of what made it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from vbcli import shards
from vbcli.errors import VbcliError
from vbcli.files import read_json


def describe(path: Path) -> dict[str, Any]:
    """Facts about a path, JSON-ready.

    Raises:
        VbcliError: vbcli did not make it.
    """
    if path.is_file() and path.suffix == ".parquet":
        return {"shard": str(path), **shards.read_footer(path)}
    if (path / "manifest.json").is_file():
        return _describe_dataset(path)
    if (path / "config.json").is_file():
        values = read_json(path / "config.json")
        if isinstance(values, dict) and values.get("kind") in ("checkpoint", "encoder", "vocabulary"):
            return _describe_artifact(path, values)
        if isinstance(values, dict) and values.get("kind") == "index":
            return _describe_index(path, values)
    raise not_ours(path)


def not_ours(path: Path) -> VbcliError:
    return VbcliError(
        f"{path} is no dataset, shard, checkpoint, encoder, vocabulary or index of vbcli" if path.exists() else f"{path} does not exist",
        hint="name a folder or shard that vbcli made",
    )


def _describe_dataset(path: Path) -> dict[str, Any]:
    manifest = shards.read_manifest(path)
    footers = [shards.read_footer(p) for p in shards.list_shards(path)]
    n_planned = len(shards.list_shards(path / "videos"))
    failures = shards.read_failures(path)
    return {
        "dataset": str(path),
        "kind": manifest.kind,
        "shards": len(footers),
        "shards_planned": n_planned or len(footers),
        "rows": sum(f["n_rows"] for f in footers),
        "videos": sum(f["n_items"] for f in footers),
        "failed": len(failures),
        "failures": [f.as_row() for f in failures],
        "chain": [
            {"stage": manifest.stage, "version": manifest.version, "config": manifest.config, "facts": manifest.facts},
            *manifest.parents,
        ],
    }


def _describe_index(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    vectors = _describe_dataset(path / "vectors")
    n_rows = Counter(row["video_id"] for row in shards.read_rows(path / "vectors", ["video_id"]))
    removed = set(values["removed"])
    n_kept = [n for video_id, n in n_rows.items() if video_id not in removed]
    return {
        "index": str(path),
        **{k: v for k, v in values.items() if k not in ("kind", "removed")},
        "videos": len(n_kept),
        # A row of each is of the whole; a video of one segment is its own only segment.
        "segments": sum(max(n - 1, 1) for n in n_kept),
        "removed": values["removed"],
        "failed": vectors["failed"],
        "failures": vectors["failures"],
        "chain": vectors["chain"],
    }


def _describe_artifact(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    described = {values["kind"]: str(path), **{k: v for k, v in values.items() if k not in ("kind", "splits")}}
    if values["kind"] == "vocabulary":
        report = read_json(path / "report.json")
        described["report"] = {k: v for k, v in report.items() if k != "counts"}
    return described
