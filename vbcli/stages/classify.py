"""Classification: tokens of a video, and its transcript where the classifier learned with it, to probabilities of classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from vbcli.schemas import CLASSES
from vbcli.stages.model import ModelStage, run_windows, video_windows
from vbcli.training.batches import VideoTokens

if TYPE_CHECKING:
    from vbcli.models.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Classify(ModelStage):
    """The classes of each video, with the probability of every class."""

    name: ClassVar[str] = "classify"
    version: ClassVar[int] = 2
    output_kind: ClassVar[str] = "classes"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)

    def output_schema(self) -> pa.Schema:
        return CLASSES

    def answer(self, checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> list[list[dict[str, Any]]]:
        classifier = checkpoint.classifier
        return [[class_row(row, classifier.classes, classifier.head.is_multi_label)] for row in class_probabilities(checkpoint, videos)]


def class_row(probabilities: np.ndarray, classes: Sequence[str], is_multi_label: bool) -> dict[str, Any]:
    """The row of a video: its `labels`, and the `scores` of all classes, the likeliest first.

    Args:
        probabilities: float (C,).
    """
    from vbcli.models.classifier import chosen_classes

    order: list[int] = np.argsort(-probabilities, kind="stable").tolist()
    found = {classes[i]: float(probabilities[i]) for i in order}
    scores = [{"label": name, "probability": probability} for name, probability in found.items()]
    return {"labels": chosen_classes(found, is_multi_label=is_multi_label), "scores": scores}


def class_probabilities(checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> np.ndarray:
    """Probabilities of the classes of each video, float64 (V, C).

    Those of a video that is read in several windows are the mean over them.

    Args:
        videos: at least one.
    """
    import torch

    classifier = checkpoint.classifier
    windows = [video_windows(video, checkpoint) for video in videos]
    with torch.inference_mode():
        logits = torch.stack([*run_windows(checkpoint, [window for of_video in windows for window in of_video], classifier)])  # (W, C)
        found = classifier.head.probabilities(logits.double()).cpu().numpy()  # (W, C)
    edges = np.cumsum([0, *map(len, windows)])
    return np.stack([found[a:b].mean(0) for a, b in itertools.pairwise(edges)])
