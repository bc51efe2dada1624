"""A VideoBERT that puts text and videos into one space, and tells of a pair that it reads together whether they belong together.

Notation, with shapes at line ends:

    B  batch        D  width
    P  width of the shared space

Source: Radford et al. 2021 (CLIP), section 2.3, for the space; Reimers and Gurevych 2019 (Sentence-BERT), section 3, for the mean over
positions; Sun et al. 2019 (VideoBERT), section 3.2, for the alignment; Li et al. 2021 (ALBEF) for the two in one model.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vbcli.models.heads import ContrastiveHead
from vbcli.models.videobert import VideoBert


class VideoRetriever(nn.Module):
    """An encoder that reads text and videos each by themselves, or together.

    Args:
        encoder: VideoBERT of width D.
        width: P.
    """

    def __init__(self, encoder: VideoBert, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = width
        self.head = ContrastiveHead(encoder.config.hidden_size, encoder.config.hidden_size, width)

    def text_vectors(self, **sequences: Any) -> Tensor:
        """Unit vectors float (B, P) of sequences without video; arguments as `VideoBert.forward`."""
        return self.head.project_text(self._mean(**sequences))  # (B, P)

    def video_vectors(self, **sequences: Any) -> Tensor:
        """Unit vectors float (B, P) of sequences without text; arguments as `VideoBert.forward`."""
        return self.head.project_video(self._mean(**sequences))  # (B, P)

    def _mean(self, *, attention_mask: Tensor, **sequences: Any) -> Tensor:
        """Mean over the real positions, float (B, D): it trains in far fewer steps than [CLS], which starts out the same for all."""
        hidden = self.encoder(attention_mask=attention_mask, **sequences)  # (B, S, D)
        is_real = attention_mask[..., None].to(hidden.dtype)
        return (hidden * is_real).sum(1) / is_real.sum(1)  # (B, D)

    def alignment_logits(self, **sequences: Any) -> Tensor:
        """Logits float (B, 2) of text and video together, index 0 is aligned; arguments as `VideoBert.forward`."""
        return self.encoder.alignment_logits(self.encoder(**sequences))  # (B, 2)
