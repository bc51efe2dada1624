"""What the speed benchmarks share: rows that are measured beside their peers, the machine that they ran on, and the table.

A row has sides: ours, peers and limits. Each is run once, which warms up and gives the results that are compared; then all are run
alternately, in the other order every second time. A goal is the ratio of a quantity (seconds, bytes, error) of ours and of another side.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import imageio_ffmpeg
import numpy as np
import psutil

N_CORES = len(os.sched_getaffinity(0))
OURS = "ours"
SECONDS, BYTES, ERROR = "s", "bytes", "error"
PACKAGES = (
    "torch",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "transformers",
    "timm",
    "open_clip_torch",
    "opencv-python-headless",
    "av",
    "pyarrow",
)
SAMPLED_EVERY_S = 0.1


@dataclass(frozen=True)
class Run:
    """What one run of a side gave.

    Args:
        quantities: by name; of all, less is better.
        result: what it computed.
    """

    quantities: dict[str, float]
    result: Any = None


Side = Callable[[], Run]


@dataclass(frozen=True)
class Goal:
    """How a quantity of ours must stand against that of another side.

    Args:
        against: name of the side.
        bound: None where the ratio is told and not judged.
        is_speedup: the ratio is theirs / ours, and must be at least `bound`; else it is ours / theirs, and must be at most that.
    """

    against: str
    bound: float | None
    is_speedup: bool
    quantity: str = SECONDS

    def __str__(self) -> str:
        return "-" if self.bound is None else f"{'>=' if self.is_speedup else '<='} {self.bound:g}"


def at_least(bound: float | None, against: str) -> Goal:
    """So many times faster than another side."""
    return Goal(against, bound, True)


def at_most(bound: float | None, against: str, quantity: str = SECONDS) -> Goal:
    """At most so many times the quantity of another side."""
    return Goal(against, bound, False, quantity)


@dataclass(frozen=True)
class Ratio:
    """Of the medians, and the range of those of the pairs."""

    of_medians: float
    lowest: float
    highest: float

    def meets(self, goal: Goal) -> bool:
        """Whether a goal is reached; one without a bound is."""
        if goal.bound is None:
            return True
        return self.of_medians >= goal.bound if goal.is_speedup else self.of_medians <= goal.bound


def compare(goal: Goal, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio that a goal is about.

    Args:
        ours: the quantity in each run.
        theirs: that of the other side, in the same order.
    """
    above, below = (theirs, ours) if goal.is_speedup else (ours, theirs)
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(median(above) / median(below), min(pairs), max(pairs))


def fit_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The power of its size that a cost grows with: least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


@dataclass(frozen=True)
class Prepared:
    """A row that can be run.

    Args:
        sides: `OURS` and the others.
        check: given the results of all sides, what differs that must not; empty if nothing.
        n: units that a run works on.
        unit: their name.
    """

    sides: dict[str, Side]
    check: Callable[[dict[str, Any]], str]
    n: int
    unit: str


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        prepare: makes the inputs, where they are not there yet, and loads what is not to be timed.
        n_pairs: most pairs, of one that takes long; 0: its first run is what is told.
    """

    name: str
    goals: tuple[Goal, ...]
    prepare: Callable[[], Prepared]
    n_pairs: int | None = None


def measure(row: Row, n_pairs: int, *, is_quick: bool) -> dict[str, Any]:
    """Runs a row; JSON-ready.

    Args:
        n_pairs: runs of each side that are timed, after the first.
        is_quick: the first run is what is told, and the goals are not judged.
    """
    prepared = row.prepare()
    sides = prepared.sides
    first = {name: side() for name, side in sides.items()}
    difference = prepared.check({name: run.result for name, run in first.items()})
    runs = {name: [run.quantities] for name, run in first.items()}
    n_pairs = 0 if is_quick else n_pairs if row.n_pairs is None else min(n_pairs, row.n_pairs)
    if n_pairs:
        runs = {name: [] for name in sides}
        del first
        for number in range(n_pairs):
            for name in list(sides)[:: -1 if number % 2 else 1]:
                gc.collect()
                runs[name].append(sides[name]().quantities)
    goals = []
    for goal in row.goals:
        ours, theirs = ([quantities[goal.quantity] for quantities in runs[name]] for name in (OURS, goal.against))
        ratio = compare(goal, ours, theirs)
        verdict = "not judged" if is_quick or goal.bound is None else "met" if ratio.meets(goal) else "MISSED"
        measured = {"ours": median(ours), "theirs": median(theirs), **vars(ratio), "verdict": verdict}
        goals.append({"against": goal.against, "quantity": goal.quantity, "goal": str(goal), **measured})
    return {"row": row.name, "n": prepared.n, "unit": prepared.unit, "differs": difference, "goals": goals, "runs": runs}


def run_rows(rows: Iterable[Row], n_pairs: int, *, is_quick: bool) -> list[dict[str, Any]]:
    """Runs rows and prints each as it ends; one that fails says why, and the others go on."""
    sys.stdout.write("| row | against | ours | theirs | ratio (range) | goal | |\n|---|---|---|---|---|---|---|\n")
    measured = []
    for row in rows:
        try:
            found = measure(row, n_pairs, is_quick=is_quick)
        except Exception as error:  # noqa: BLE001 one row's failure is told in its place
            traceback.print_exc()
            found = {
                "row": row.name,
                "differs": f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                "goals": [],
            }
        measured.append(found)
        sys.stdout.writelines(lines_of(found))
        sys.stdout.flush()
        gc.collect()
    return measured


def lines_of(found: dict[str, Any]) -> list[str]:
    """The lines of a measured row in the table."""
    lines = [f"| {found['row']} | | | | | | {'differs: ' + found['differs']} |\n"] if found["differs"] else []
    for goal in found["goals"]:
        ours, theirs = (amount(goal[name], goal["quantity"], found["n"], found["unit"]) for name in ("ours", "theirs"))
        ratio = f"{goal['of_medians']:.2f} ({goal['lowest']:.2f} to {goal['highest']:.2f})"
        lines.append(f"| {found['row']} | {goal['against']} | {ours} | {theirs} | {ratio} | {goal['goal']} | {goal['verdict']} |\n")
    return lines


def amount(value: float, quantity: str, n: int, unit: str) -> str:
    """A quantity with its unit; of seconds, also the units a second."""
    if quantity == SECONDS:
        return f"{value:.3g} s, {n / value:,.3g} {unit}/s"
    return f"{value / 1e6:,.0f} MB" if quantity == BYTES else f"{value:.4g}"


def is_good(measured: Iterable[dict[str, Any]]) -> bool:
    """Whether no row failed, differs or misses a goal."""
    return all(not found["differs"] and all(goal["verdict"] != "MISSED" for goal in found["goals"]) for found in measured)


# ---------------------------------------------------------------- running things


def timed(function: Callable[[], Any]) -> Side:
    """A side that calls a function in this process."""

    def side() -> Run:
        started = time.perf_counter()
        result = function()
        return Run({SECONDS: time.perf_counter() - started}, result)

    return side


def vbcli_command(*arguments: str | Path) -> list[str]:
    """The command line of this interpreter's vbcli."""
    return [sys.executable, "-m", "vbcli.cli.app", *map(str, arguments)]


def peer_command(name: str, *arguments: str | Path) -> list[str]:
    """A peer, as its own process."""
    return [sys.executable, str(Path(__file__).with_name("peers.py")), name, *map(str, arguments)]


def run_process(command: Sequence[str], *, watches_memory: bool = False) -> Run:
    """Runs a command to its end; the result is what it wrote.

    Args:
        watches_memory: also find the peak of the memory of the process and its children.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        while process.poll() is None:
            try:
                process.wait(SAMPLED_EVERY_S if watches_memory else None)
            except subprocess.TimeoutExpired:
                peak = max(peak, tree_bytes(process.pid))
        seconds = time.perf_counter() - started
        for file in (output, errors):
            file.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.read()[-2000:]}")
        return Run({SECONDS: seconds, BYTES: float(peak)}, output.read())


def tree_bytes(pid: int) -> int:
    """Memory of a process and all below it: the sum of proportional set sizes, so that shared pages count once."""
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def run_beside(commands: Sequence[Sequence[str]]) -> Run:
    """Runs commands beside each other, as many at once as there are cores."""
    started = time.perf_counter()
    with ThreadPoolExecutor(N_CORES) as pool:
        list(pool.map(run_process, commands))
    return Run({SECONDS: time.perf_counter() - started})


# ---------------------------------------------------------------- the machine


def machine() -> dict[str, Any]:
    """What figures depend on."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = dict(line.split("\t: ", 1) for line in cpu if "\t: " in line)
    fields = {name.strip(): value for name, value in facts.items()}
    flags = set(fields.get("flags", "").split())
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cores": N_CORES,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "flags": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}),
        "threads": N_CORES,
        "python": platform.python_version(),
        "ffmpeg": imageio_ffmpeg.get_ffmpeg_version(),
        **versions,
    }


def write_results(path: Path, measured: list[dict[str, Any]]) -> None:
    """Writes all figures, and the machine, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "rows": measured}, indent=1) + "\n", encoding="utf-8")
