"""The text side of an open_clip encoder, which puts sentences where the image side puts what they say.

Source: Radford et al. 2021 (CLIP); a video's vector is the mean of its frames', as in Luo et al. 2022 (CLIP4Clip).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from vbcli.encoders import create_open_clip
from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import VbcliError
from vbcli.models.encoder_checkpoint import state_sha256

BATCH_SIZE = 64


def _check_tower(encoder: EncoderSpec) -> None:
    """Refuses features that sentences cannot be compared with.

    Raises:
        VbcliError: they are not the vectors of an open_clip encoder.
    """
    if not encoder.name.startswith("open_clip:"):
        raise VbcliError(
            f"encoder {encoder.name} reads no text", hint="name an open_clip encoder, or train a retriever: vbcli train --task retrieve"
        )
    if encoder.pool != "mean":
        raise VbcliError(
            f"features of {encoder.name} are pooled by '{encoder.pool}': sentences are compared with whole frames",
            hint="encode with --pool mean",
        )


class TextTower:
    """The text side of the encoder that features are of.

    Raises:
        VbcliError: it has none, or its weights are others now.
    """

    def __init__(self, encoder: EncoderSpec) -> None:
        import open_clip

        _check_tower(encoder)
        architecture, _, weights = encoder.name.partition(":")[2].partition("/")
        with torch.random.fork_rng(devices=[]):
            # As `load_encoder`: random weights are the same in every process.
            torch.manual_seed(0)
            model, name = create_open_clip(architecture, weights)
        if state_sha256(model.visual.eval()) != encoder.weights_sha256:
            raise VbcliError(
                f"the weights of encoder {encoder.name} are not those that the features were made with", hint="index the videos again"
            )
        self._model: Any = model.eval()
        try:
            self._tokenizer: Any = open_clip.get_tokenizer(name)
        except (OSError, ValueError) as error:
            raise VbcliError(
                f"the tokenizer of encoder {encoder.name} cannot be had: {str(error).splitlines()[0]}",
                hint="without a network, name a local folder that holds it",
            ) from error

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of sentences, float32 (N, P)."""
        found = [
            F.normalize(self._model.encode_text(self._tokenizer(list(texts[start : start + BATCH_SIZE]))).float(), dim=-1)
            for start in range(0, len(texts), BATCH_SIZE)
        ]
        return torch.cat(found).numpy()
