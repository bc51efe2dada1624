"""Teaching a classifier: the labels of videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vbcli.errors import VbcliError
from vbcli.models.classifier import VideoClassifier
from vbcli.textvocab import TextVocabulary
from vbcli.training.batches import Batch, VideoTokens, collate
from vbcli.training.showing import Showing, ShownVideos
from vbcli.training.tasks import DrawnRows, TokensTask, row_rng


@dataclass(frozen=True)
class ClassSet:
    """The classes of training videos.

    Args:
        names: in alphabetical order.
        counts: training videos of each.
        is_multi_label: whether a training video has several.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    is_multi_label: bool

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
        return cls(names, tuple(counts[name] for name in names), any(len(set(v.labels)) > 1 for v in train))


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
