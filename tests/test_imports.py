"""The order of the modules: who may import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vbcli

ROOT = Path(vbcli.__file__).parent
# Later layers may import earlier ones, never the other way round.
LAYERS = [
    {"errors", "schemas", "memory", "digests", "workers", "ahead"},
    {"storage"},
    {"config", "files", "encoderfolders", "checkpointfiles"},
    {"shards", "media", "text", "tars", "workspace", "splits", "ptb"},
    {"metrics", "pixels", "duplicates", "rendering", "copying", "selection", "timelines", "listing", "walk", "videotext"},
    {"stage", "jobs", "runner", "executors", "vocab", "textvocab", "tokens", "encoderspecs"},
    {"models", "encoders"},
    {"clips", "shots", "featurefiles", "training", "cloze", "stages", "segments", "grounding"},
    {"retrieval"},
    {
        "evaluation",
        "exports",
        "storyboards",
        "forecasts",
        "inspection",
        "validation",
        "demo",
    },
    {"pipeline", "pictures"},
    {"curation"},
    {"inference"},
    {"editing"},
    {"cli"},
]
ONLY_IN = {
    "typer": {"cli"},
    "rich": {"cli"},
    "ffmpeg": {"media"},
    "imageio_ffmpeg": {"media", "demo"},
    "faiss": {"vocab", "retrieval", "duplicates"},
    "ray": {"executors"},
    "matplotlib": {"pictures"},
    "opentimelineio": {"timelines"},
    "click": set(),
}


def modules():
    return sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py" or p.parent != ROOT)


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "vbcli":
                yield from (f"vbcli.{alias.name}" for alias in node.names)
            else:
                yield node.module


def layer(part: str) -> int:
    found = [i for i, parts in enumerate(LAYERS) if part in parts]
    assert found, f"vbcli/{part} is in no layer: add it to LAYERS and docs/architecture.md"
    return found[0]


def test_nothing_imports_upward():
    for path in modules():
        mine = layer(part_of(path))
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "vbcli" and len(parts) > 1 and parts[1] != "__version__":
                assert layer(parts[1]) <= mine, f"{path} imports {name}, which is above it"


def test_libraries_stay_in_their_places():
    for path in modules():
        for name in imports(path):
            allowed = ONLY_IN.get(name.split(".")[0])
            assert allowed is None or part_of(path) in allowed, f"{path} imports {name}"


def test_parquet_is_written_only_in_shards():
    for path in modules():
        if part_of(path) != "shards":
            text = path.read_text()
            assert "ParquetWriter" not in text, path
            assert "write_table" not in text, path


@pytest.mark.parametrize("arguments", [["--help"], ["extract", "--help"], ["train", "--help"]])
def test_help_loads_no_heavy_library(arguments):
    code = (
        "import sys; sys.argv = ['vbcli', *" + repr(arguments) + "]\n"
        "from vbcli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'faiss', 'pyarrow', 'av', 'numpy', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_who_asks_a_model_loads_none_of_its_libraries():
    # Its workers do; in this process they would be a second and half a gigabyte for nothing.
    modules = "vbcli.pipeline, vbcli.inference, vbcli.stages.caption, vbcli.stages.classify, vbcli.stages.answer, vbcli.stages.summarize"
    code = f"import sys, {modules}; heavy = {{'torch', 'faiss', 'timm', 'transformers'}} & set(sys.modules); assert not heavy, heavy"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_help_takes_at_most_three_times_typer_and_rich():
    def seconds(*command: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds("-m", "vbcli.cli.app", "--help") <= 3 * seconds("-c", "import typer, rich")
