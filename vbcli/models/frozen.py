"""Text as the features of a BERT that is never trained.

Notation as in `videobert.py`; L is the longest `[CLS] text [>]` of a batch, and W the width of the BERT.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn


class FrozenText(nn.Module):
    """Puts the features of a frozen BERT, mapped to the width D, in the place of the token embeddings of `[CLS]` and of text.

    The BERT reads `[CLS] text [SEP]`, as it did when it was trained: what is masked in the sequence is masked for it, too. It has no part
    in training: it takes no gradient and drops nothing.

    Args:
        bert: called with ids, token types and mask, (B, L) each, it gives float (B, L, W).
        bert_width: W.
        width: D.
        boundary_id: of `[>]`, which ends the text.
        pad_id: of padding.

    Source: Devlin et al. 2019 (BERT), section 5.3, the feature-based approach.
    """

    def __init__(self, bert: nn.Module, bert_width: int, width: int, *, boundary_id: int, pad_id: int) -> None:
        super().__init__()
        self.bert = bert.requires_grad_(False)
        self.projection = nn.Linear(bert_width, width)
        self.boundary_id = boundary_id
        self.pad_id = pad_id

    def train(self, mode: bool = True) -> Self:
        """Of the map alone: the BERT stays as it is run."""
        super().train(mode)
        self.bert.eval()
        return self

    def forward(self, tokens: Tensor, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Replaces the embeddings of text.

        Args:
            tokens: float (B, S, D), embeddings of all tokens; those of `[>]`, video and `[SEP]` stay.
            input_ids: int64 (B, S), rows `[CLS] text [>] video [SEP]`, padded at the end.
            token_type_ids: int64 (B, S), 0 up to and including `[>]`.
            attention_mask: bool (B, S), True on real tokens.

        Returns:
            float (B, S, D).
        """
        is_read = (token_type_ids == 0) & attention_mask  # (B, S), [CLS] text [>]
        length = int(is_read.sum(1).max())
        is_read, ids = is_read[:, :length], input_ids[:, :length]  # (B, L), (B, L)
        separator = input_ids.gather(1, attention_mask.sum(1, keepdim=True) - 1)  # (B, 1), [SEP] is the last real token
        is_end = ids == self.boundary_id  # (B, L)
        ids = torch.where(is_end, separator, ids).masked_fill(~is_read, self.pad_id)  # (B, L)
        with torch.no_grad():
            features = self.bert(ids, torch.zeros_like(ids), is_read)  # (B, L, W)
        is_text = (is_read & ~is_end)[..., None]  # (B, L, 1)
        text = torch.where(is_text, self.projection(features), tokens[:, :length])  # (B, L, D)
        return torch.cat([text, tokens[:, length:]], 1)  # (B, S, D)
