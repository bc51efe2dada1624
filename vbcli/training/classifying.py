"""Teaching a classifier: the labels of videos."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vbcli.errors import VbcliError
from vbcli.models.classifier import VideoClassifier
from vbcli.textvocab import TextVocabulary
from vbcli.training.batches import Batch, VideoTokens, collate
from vbcli.training.showing import Showing, ShownVideos
from vbcli.training.tasks import DrawnRows, TokensTask, row_rng

MAX_PROBED = 5000
"""Videos that the linear probe learns from, evenly spaced, where there are more."""
PROBE_FIT, MAX_ITERATIONS = 0.1, 500
"""Inverse of the penalty of squared weights, where the mean square of a feature is 1; and steps of the solver."""
CERTAIN = 4.0
"""Log-odds of a class that all videos have, or none."""


@dataclass(frozen=True)
class ClassSet:
    """The classes of training videos.

    Args:
        names: in alphabetical order.
        counts: training videos of each.
        is_multi_label: whether a training video has several.
        n_videos: training videos with a class.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    is_multi_label: bool
    n_videos: int

    @classmethod
    def of(cls, train: Sequence[VideoTokens]) -> ClassSet:
        """The classes of the videos to learn from.

        Raises:
            VbcliError: there are fewer than two.
        """
        counts = Counter(label for v in train for label in dict.fromkeys(v.labels))
        if len(counts) < 2:
            found = f"the one label '{next(iter(counts))}'" if counts else "no labels"
            raise VbcliError(
                f"the training videos have {found}: a classifier needs two",
                hint="give a column `label` with: vbcli tokenize --captions FILE, or vbcli extract VIDEOS_DIR --captions FILE",
            )
        names = tuple(sorted(counts))
        labelled = [v for v in train if v.labels]
        return cls(names, tuple(counts[name] for name in names), any(len(set(v.labels)) > 1 for v in labelled), len(labelled))


def fit_probe(model: VideoClassifier, train: Sequence[VideoTokens]) -> None:
    """Gives a classifier the weights that a logistic regression of mean features learns from the videos with a label."""
    if model.probe is None:
        return
    known = set(model.classes)
    means = {v.video_id: v.features[:, : model.probe.in_features].mean(0, dtype=np.float64) for v in train if known.intersection(v.labels)}
    # What is no number is told with its shard when training meets it.
    labelled = [v for v in train if v.video_id in means and np.isfinite(means[v.video_id]).all()]
    chosen = [labelled[i] for i in np.linspace(0, len(labelled) - 1, min(len(labelled), MAX_PROBED)).astype(int)]
    rows = np.stack([means[v.video_id] for v in chosen])  # (V, P)
    middle, spread = rows.mean(0), max(float(rows.std()), 1e-9)
    weights, bias = _regress(model, (rows - middle) / spread, [model.targets(v.labels) for v in chosen])
    weights = weights / spread
    with torch.no_grad():
        model.probe.weight.copy_(torch.from_numpy(weights))
        model.probe.bias.copy_(torch.from_numpy(bias - weights @ middle))


def _regress(model: VideoClassifier, rows: np.ndarray, targets: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Weights float (C, P) and bias float (C,) of logistic regressions: one of all classes, or one a class where videos have several.

    Args:
        rows: float (V, P).
        targets: of `VideoClassifier.targets`.
    """
    # Other tasks need no scikit-learn, which takes more than a second to load.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    n_classes = len(model.classes)
    weights, bias = np.zeros((n_classes, rows.shape[1])), np.full(n_classes, -CERTAIN)
    regression = LogisticRegression(
        C=PROBE_FIT, max_iter=MAX_ITERATIONS, class_weight=None if model.head.class_weights is None else "balanced"
    )
    is_multi_label = model.head.is_multi_label
    for number, answers in enumerate(np.array(targets).T):
        found = np.unique(answers)
        if len(found) < 2:
            # All have it, or none has.
            bias[number if is_multi_label else found[0]] = CERTAIN if not is_multi_label or found[0] else -CERTAIN
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(rows, answers)
        learned, start = np.asarray(regression.coef_), np.asarray(regression.intercept_)
        if is_multi_label:
            weights[number], bias[number] = learned[0], start[0]
        elif len(found) == 2:
            # Of two classes the log-odds of the second are told: half of them for it, half against the first.
            weights[found] = np.concatenate([-learned, learned]) / 2
            bias[found] = np.concatenate([-start, start]) / 2
        else:
            weights[found], bias[found] = learned, start
    return weights, bias


class ClassifyTask(TokensTask[VideoClassifier, list[int]]):
    """Cross-entropy of the labels of videos: every video with a label is a row.

    Labels that no training video has are not validated with.

    Args:
        showing: how videos are shown.
    """

    name = "classify"
    loss_names = ("classify",)

    def __init__(
        self,
        model: VideoClassifier,
        text: TextVocabulary,
        train: Sequence[VideoTokens],
        validation: Sequence[VideoTokens],
        *,
        seed: int = 0,
        showing: Showing | None = None,
    ) -> None:
        known = set(model.classes)
        parts = [[(v, model.targets(v.labels)) for v in part if known.intersection(v.labels)] for part in (train, validation)]
        super().__init__(model, text, parts, seed)
        n_unlabelled = len(train) - self.n_train
        if n_unlabelled:
            self.notes.append(f"{n_unlabelled} of {len(train)} training videos have no label and are left out")
        self._need_validation("no validation video has a label: the training videos validate")
        learned, validating = ([v for v, _ in part] for part in self.parts)
        self.shown = ShownVideos(learned, validating, text, model.encoder.config, showing or Showing())
        self.notes += self.shown.notes

    def draw(self, part: int, rows: Sequence[int], epoch: int, *, is_disturbed: bool) -> DrawnRows[Batch]:
        chosen = [self.parts[part][row] for row in rows]
        rngs = [row_rng(self.seed, epoch, row) for row in rows]
        packed = [self.shown.pack(video, rng, is_disturbed=is_disturbed) for (video, _), rng in zip(chosen, rngs, strict=True)]
        batch = collate(packed, self.model.encoder.config.feature_dim, self.text.pad_id)
        labels = torch.tensor([targets for _, targets in chosen])  # (B, C) or (B, 1)
        if not self.model.head.is_multi_label:
            labels = labels[:, 0]  # (B,)
        counts = {self.name: self.model.head.n_predictions(labels)}
        return DrawnRows(batch, {"labels": labels}, counts, int(batch.attention_mask.sum()), self.row_keys(rows, epoch))

    def losses(self, drawn: DrawnRows[Batch]) -> dict[str, Tensor]:
        return {self.name: self.model.head.loss(self.model(**drawn.batch.arguments()), drawn.wanted["labels"])}
