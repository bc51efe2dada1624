"""Pictures of scores."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vbcli.errors import UsageError
from vbcli.evaluation.classes import ClassEvaluation
from vbcli.files import write_atomic
from vbcli.metrics.classes import AGAINST_REST, ReliabilityBin

FORMATS: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""With the metadata that is left out, so that the same scores give the same bytes."""
MAX_NUMBERED = 20
"""Of more classes the matrix has no numbers in its cells."""


def picture_format(path: Path) -> str:
    """The format that a picture's name asks for.

    Raises:
        UsageError: it is none of `FORMATS`.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise UsageError(f"{path} is no name of a picture", hint=f"let it end in .{', .'.join(FORMATS)}")
    return suffix


def draw_classes(evaluation: ClassEvaluation, path: Path) -> None:
    """Draws an evaluation of classes: the confusion matrix (of several classes a video, each class against the rest), and the reliability
    diagram.

    Raises:
        UsageError: the name of `path` is of no picture.
    """
    file_format = picture_format(path)
    size = max(4.0, 0.42 * len(evaluation.classes))
    figure = Figure(figsize=(size + 6.0, size + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(size, 4.0))
    if evaluation.confusions:
        counts = np.array(evaluation.confusions)
        _draw_counts(left, counts, counts.sum(1, keepdims=True), evaluation.classes, evaluation.classes)
        left.set(xlabel="first guess", ylabel="true class")
    else:
        counts = np.array([of_class.as_row() for of_class in evaluation.counts])
        totals = counts.reshape(-1, 2, 2).sum(2).repeat(2, axis=1)  # of the videos that have a class, and of those that have not
        _draw_counts(left, counts, totals, evaluation.classes, AGAINST_REST)
    _draw_reliability(right, evaluation.reliability, evaluation.guess)
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vbcli"}):  # no random names
        figure.savefig(data, format=file_format, dpi=150, metadata=FORMATS[file_format])
    write_atomic(path, data.getvalue())


def _draw_counts(axes: Axes, counts: np.ndarray, totals: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Counts of videos, the darker the larger a part of their totals."""
    shares = counts / totals.clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title("Videos")
    if len(rows) <= MAX_NUMBERED:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)


def _draw_reliability(axes: Axes, bins: list[ReliabilityBin], guess: str) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="as right as said")
    axes.bar([b.low for b in bins], [b.accuracy for b in bins], [b.high - b.low for b in bins], align="edge", alpha=0.5, edgecolor="black")
    axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], "o", color="black", markersize=4, label="guesses of a tenth")
    for b in bins:
        axes.annotate(str(b.n_guesses), (b.confidence, b.accuracy), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel=f"probability of the {guess}", ylabel="share that is right", title="Calibration")
    axes.legend(loc="upper left", fontsize=8)
