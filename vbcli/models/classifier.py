"""A VideoBERT whose [CLS] position is read by a classification head, on top of a linear map of the mean feature.

The map is what a linear probe learns, and training starts from it: of a few videos the encoder learns little beside it, of many much.

Notation, with shapes at line ends:

    B  batch        S  sequence length
    C  classes      D  width
    P  dimensions of a feature

Source: Devlin et al. 2019 (BERT), section 4.1; Sun et al. 2019 (VideoBERT), section 3.2, for the joint sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vbcli.models.heads import ClassificationHead
from vbcli.models.videobert import VideoBert

THRESHOLD = 0.5
"""Of a class of which a video may have any number: it has those that are likelier than not."""


def chosen_classes(probabilities: Mapping[str, float], *, is_multi_label: bool) -> list[str]:
    """The classes that a video is said to have, the likeliest first: all that are likelier than not, or the likeliest one."""
    order = sorted(probabilities, key=lambda name: -probabilities[name])
    return [name for name in order if probabilities[name] > THRESHOLD] if is_multi_label else order[:1]


class VideoClassifier(nn.Module):
    """Classes of a sequence of text and video.

    Args:
        encoder: VideoBERT of width D.
        classes: names of the C classes.
        is_multi_label: whether a sequence may have any number of classes.
        class_weights: float (C,), as `ClassificationHead` takes them.
    """

    def __init__(
        self, encoder: VideoBert, classes: tuple[str, ...], *, is_multi_label: bool = False, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = classes
        config = encoder.config
        self.head = ClassificationHead(
            config.hidden_size,
            len(classes),
            is_multi_label=is_multi_label,
            class_weights=class_weights,
            dropout=config.dropout,
            initializer_range=config.initializer_range,
        )
        self.probe = nn.Linear(config.feature_dim, len(classes)) if encoder.feature_projection is not None else None
        if self.probe is not None:
            nn.init.zeros_(self.probe.weight)
            nn.init.zeros_(self.probe.bias)

    def targets(self, labels: Sequence[str]) -> list[int]:
        """Of the labels of a sequence: 0 or 1 for each class, or the number of the one; labels that are no class are left out."""
        numbers = [self.classes.index(label) for label in labels if label in self.classes]
        return [int(i in numbers) for i in range(len(self.classes))] if self.head.is_multi_label else numbers[:1]

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        features: Tensor | None = None,
        feature_mask: Tensor | None = None,
        residual_ids: Tensor | None = None,
    ) -> Tensor:
        """Scores the classes of sequences; arguments as `VideoBert.forward`.

        Returns:
            float (B, C) logits.
        """
        hidden = self.encoder(input_ids, token_type_ids, attention_mask, features, feature_mask, residual_ids)  # (B, S, D)
        logits = self.head(self.encoder.pool(hidden))  # (B, C)
        if self.probe is None or features is None or feature_mask is None:
            return logits
        is_clip = feature_mask[..., None].to(features.dtype)  # (B, S, 1)
        mean = (features * is_clip).sum(1) / is_clip.sum(1).clamp_min(1)  # (B, P)
        return logits + self.probe(mean)  # (B, C)
