"""What an image classifier sees, in the space of sentences: the vectors of the names of its likeliest classes.

Source: Norouzi et al. 2014 (ConSE), with vectors of whole descriptions instead of words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vbcli.errors import VbcliError
from vbcli.models.sentences import load_sentence_encoder, minilm_dir

N_IMAGENET = 1000
N_LIKELIEST = 10
"""Classes whose names are averaged."""


class ClassNames(nn.Module):
    """What a network pools of pictures, and the mean of the vectors of the classes that it finds there.

    Args:
        classifier: its last layer, float (B, D) to logits (B, C).
        vectors: float (C, E), of length 1, of the names of the classes.
    """

    vectors: Tensor

    def __init__(self, classifier: nn.Linear, vectors: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("vectors", vectors)

    def forward(self, pooled: Tensor) -> Tensor:
        """Float (B, D) to float (B, D + E): both halves have length 1."""
        pooled = pooled.float()
        likeliest = self.classifier(pooled).softmax(-1).topk(min(N_LIKELIEST, len(self.vectors)))  # (B, k) each
        named = (likeliest.values[..., None] * self.vectors[likeliest.indices]).sum(1)  # (B, E)
        return torch.cat([F.normalize(pooled, dim=-1), F.normalize(named, dim=-1)], 1)  # (B, D + E)


def imagenet_names(classifier: nn.Linear, encoder: str) -> ClassNames:
    """The names of the classes of ImageNet behind a network's classifier.

    Args:
        encoder: its name, for messages.

    Raises:
        VbcliError: it has other classes, or MiniLM, which reads the names, is not installed.
    """
    from timm.data.imagenet_info import ImageNetInfo

    if classifier.out_features != N_IMAGENET:
        raise VbcliError(
            f"encoder {encoder} tells {classifier.out_features} classes, not the {N_IMAGENET} of ImageNet, whose names are known",
            hint="give another --pool",
        )
    info = ImageNetInfo()
    names = [info.index_to_description(i, detailed=True) for i in range(N_IMAGENET)]
    return ClassNames(classifier, torch.from_numpy(load_sentence_encoder(minilm_dir()).encode(names)))
