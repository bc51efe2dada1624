"""The README's commands, as they stand."""

from __future__ import annotations

import ast
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import vbcli

ROOT = Path(__file__).parents[2]
WORDS = ["red", "green", "blue", "white", "ball", "cube", "ring", "star", "falls", "rises", "turns", "stops"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_video) -> Path:
    """An empty directory but for what the README says that a user has."""
    folder = tmp_path_factory.mktemp("readme")
    lines = ["video,caption,label"]
    # Captions that nothing can be learned from: training sees that soon, and stops.
    rng = random.Random(0)
    for i in range(12):
        make_video(folder / "videos" / f"v{i}.mp4", hue=30 * i, duration_s=3)
        lines.append(f"v{i}.mp4,{' '.join(rng.choices(WORDS, k=6))},{rng.choice(WORDS[:4])}")
    make_video(folder / "folder" / "new.mp4", hue=90, duration_s=2)
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    (folder / "labels.csv").write_text("video,label\nnew,green\n")
    (folder / "classes.txt").write_text("\n".join(WORDS[4:8]) + "\n")
    (folder / "references.csv").write_text("video,caption\nnew,a green ball falls\n")
    return folder


def test_shell_commands_in_order(place: Path, monkeypatch: pytest.MonkeyPatch):
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("vbcli ")]
    assert len(commands) >= 14
    # The first is typed into a shell, which finds the program; the others run in this process, which has loaded the libraries.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(commands[0], shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, f"{commands[0]}\n{run.stdout}\n{run.stderr}"
    for command in commands[1:]:
        arguments = shlex.split(command, comments=True)[1:]
        vbcli(*arguments, cwd=place)
        if arguments[0] == "evaluate":
            # METEOR once: each time Java reads its tables for many seconds.
            monkeypatch.setenv("PATH", str(place))
    assert (place / "captions" / "srt" / "new.mp4.srt").is_file()


def test_python_block(place: Path):
    (code,) = blocks("python")
    (place / "example.py").write_text(code)
    run = subprocess.run([sys.executable, "example.py"], cwd=place, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    n_rows, n_failed = map(int, run.stdout.split())
    assert n_rows == 12 * 6
    assert n_failed == 0


def test_every_file_that_the_documentation_names_is_there():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_function_that_the_theory_names_is_in_its_file():
    found = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", (ROOT / "docs" / "theory.md").read_text(encoding="utf-8"))
    assert len(found) > 15
    for name, path in found:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        known = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert set(name.split(".")) <= known, f"{path} has no {name}"
