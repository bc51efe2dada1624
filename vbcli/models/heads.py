"""Heads that the applications train on a VideoBERT: classes, answers to choose from, and one space of text and video.

Notation, with shapes at line ends:

    B  batch                D  width of what a head reads
    C  classes              P  width of the space that text and video share
    A  candidates

A head reads one vector of a sequence, as `VideoBert.pool` makes it: of a video (classes), of a video and a question together
(answers), of a text alone and of a video alone (retrieval).

A loss is a sum over predictions, to be divided by their number in the whole step (`vbcli.training.tasks`), so that it does not
matter which rows are computed together. `ContrastiveHead.loss` is the exception: rows are told apart from each other, so what they
are batched with is part of the question, and the sum over a step is not that of its pieces. A task that uses it must keep each step
in one piece, in one process, and refuse `--accumulation` above 1; its losses can be compared at one batch size only (chance is ln B).

Source: Devlin et al. 2019, "BERT", section 4.1; Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach";
van den Oord et al. 2018, "Representation learning with contrastive predictive coding", section 2.3; Radford et al. 2021, "Learning
transferable visual models from natural language supervision" (CLIP), section 2.3 and figure 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbcli.models.dropout import RowDropout
from vbcli.models.transformer import init_weights

IGNORED = -100
"""The label of what is not known: no prediction, as in `vbcli.training.tasks`."""
FIRST_TEMPERATURE = 0.07
MAX_SCALE = 100.0


class ClassificationHead(nn.Module):
    """Classes of a sequence: exactly one (softmax), or any number of them (a sigmoid each).

    Args:
        width: D.
        n_classes: C.
        is_multi_label: whether a row may have any number of classes.
        class_weights: float (C,), what a row of each class counts in the loss; None is 1 each. Of any number of classes a row, what each
            class counts where the row has it, against 1 where it has not. They belong to training: a checkpoint does not hold them.
        dropout: probability on the vector that is read.

    Source: Devlin et al. 2019 (BERT), section 4.1.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        width: int,
        n_classes: int,
        *,
        is_multi_label: bool = False,
        class_weights: Tensor | None = None,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
    ) -> None:
        super().__init__()
        self.is_multi_label = is_multi_label
        self.dropout = RowDropout(dropout)
        self.output = nn.Linear(width, n_classes)
        self.register_buffer("class_weights", class_weights, persistent=False)
        init_weights(self, initializer_range)

    def forward(self, pooled: Tensor) -> Tensor:
        """Scores the classes: float (B, D) to logits float (B, C)."""
        return self.output(self.dropout(pooled))  # (B, C)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities float (B, C) of logits float (B, C): of sum 1 over the classes, or each by itself."""
        return logits.sigmoid() if self.is_multi_label else logits.softmax(-1)  # (B, C)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropy over what is known.

        Args:
            logits: float (B, C).
            labels: int64 (B,) in [0, C); multi-label: int64 (B, C), 0 or 1. `IGNORED` where unknown.

        Returns:
            float (), of `n_predictions(labels)` predictions.
        """
        if not self.is_multi_label:
            return F.cross_entropy(logits, labels, self.class_weights, ignore_index=IGNORED, reduction="sum")
        is_known = labels != IGNORED  # (B, C)
        weights = None if self.class_weights is None else self.class_weights.expand_as(logits)[is_known]
        return F.binary_cross_entropy_with_logits(logits[is_known], labels[is_known].to(logits.dtype), pos_weight=weights, reduction="sum")

    @staticmethod
    def n_predictions(labels: Tensor) -> int:
        """How many labels are known."""
        return int((labels != IGNORED).sum())


def balanced_class_weights(n_rows: Tensor) -> Tensor:
    """Weights by which every class counts as much as another: float (C,), of mean 1 over the rows, so that the loss keeps its scale.

    Args:
        n_rows: int (C,), training rows of each class; one without rows gets 1.

    Source: King and Zeng 2001, "Logistic regression in rare events data"; scikit-learn calls it `balanced`.
    """
    n_present = (n_rows > 0).sum()
    return torch.where(n_rows > 0, n_rows.sum() / (n_present * n_rows.clamp_min(1)), 1.0)  # (C,)


def balanced_positive_weights(n_rows: Tensor, n_all: int) -> Tensor:
    """Weights by which the rows that have a class count as much together as those that have it not: float (C,).

    Args:
        n_rows: int (C,), training rows of each class; one that all rows have, or none has, gets 1.
        n_all: training rows.

    Source: PyTorch, `BCEWithLogitsLoss`, on `pos_weight`.
    """
    n_others = n_all - n_rows
    return torch.where((n_rows > 0) & (n_others > 0), n_others / n_rows.clamp_min(1), 1.0)  # (C,)


class AnswerHead(nn.Module):
    """Ranks candidate answers by (W h + b) . (U a + c) / sqrt(D), h of video and question, a of a candidate.

    Each candidate is scored by itself; the part b . U a is how likely an answer is whatever is asked.

    Args:
        width: D.
        dropout: probability on h.
    """

    def __init__(self, width: int, *, dropout: float = 0.1, initializer_range: float = 0.02) -> None:
        super().__init__()
        self.dropout = RowDropout(dropout)
        self.question = nn.Linear(width, width)
        self.candidate = nn.Linear(width, width)
        init_weights(self, initializer_range)

    def forward(self, pooled: Tensor, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
        """Scores candidates.

        Args:
            pooled: float (B, D), of video and question together.
            candidates: float (B, A, D), or (1, A, D) where all rows choose from the same.
            candidate_mask: bool (B, A) or (1, A), True on real candidates.

        Returns:
            float (B, A) logits, minus infinity on padding.
        """
        asked = self.question(self.dropout(pooled)) * pooled.shape[-1] ** -0.5  # (B, D)
        scores = torch.einsum("bd,bad->ba", asked, self.candidate(candidates))  # (B, A)
        return scores.masked_fill(~candidate_mask, float("-inf"))  # (B, A)

    def loss(self, scores: Tensor, is_right: Tensor) -> Tensor:
        """Sum of -log P(a right candidate is chosen), with P a softmax over a row's candidates.

        Args:
            scores: float (B, A) of `forward`.
            is_right: bool (B, A), True on real candidates only. A row may have several; one without any is no prediction.

        Returns:
            float (), of `n_predictions(is_right)` predictions.

        Source: Cao et al. 2007, the listwise softmax; Miech et al. 2020 (MIL-NCE) for the sum over several right ones.
        """
        # A row that is not asked may have no candidate at all, and a softmax over none is 0/0.
        is_asked = is_right.any(1)  # (B,)
        scores, is_right = scores[is_asked], is_right[is_asked]  # (B', A) each
        right = scores.masked_fill(~is_right, float("-inf"))  # (B', A)
        return (scores.logsumexp(1) - right.logsumexp(1)).sum()

    @staticmethod
    def n_predictions(is_right: Tensor) -> int:
        """How many rows have a right candidate."""
        return int(is_right.any(1).sum())


class ContrastiveHead(nn.Module):
    """Maps text and video into one space of unit vectors, in which those that belong together are near.

    Args:
        text_width: D of the text's vector, which may come from another model.
        video_width: D of the video's vector.
        width: P.

    Source: Radford et al. 2021 (CLIP), section 2.3 and figure 3.
    """

    def __init__(self, text_width: int, video_width: int, width: int) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, width, bias=False)
        self.video = nn.Linear(video_width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(FIRST_TEMPERATURE)))
        for linear in (self.text, self.video):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def project_text(self, pooled: Tensor) -> Tensor:
        """Unit vectors float (B, P) of text, float (B, D)."""
        return F.normalize(self.text(pooled), dim=-1)  # (B, P)

    def project_video(self, pooled: Tensor) -> Tensor:
        """Unit vectors float (B, P) of video, float (B, D)."""
        return F.normalize(self.video(pooled), dim=-1)  # (B, P)

    def scale(self) -> Tensor:
        """What a cosine is multiplied by, the inverse of the learned temperature: float (), at most `MAX_SCALE`.

        As in CLIP the weight itself is cut to its bound: cut on the way to the loss, it would have no gradient and never come back.
        """
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(MAX_SCALE))
        return self.log_scale.exp()

    def loss(self, text: Tensor, video: Tensor, video_ids: Tensor) -> Tensor:
        """Sum over rows of InfoNCE, the mean of both directions: which video a text belongs to, and which text a video.

        Rows of one video (it has several captions) are neither right nor wrong for each other: they are left out. What a row loses depends
        on the rows beside it; the head of this file says what follows.

        Args:
            text: unit vectors float (B, P), of which row i belongs to row i of `video`.
            video: unit vectors float (B, P).
            video_ids: int64 (B,), equal where rows are of one video.

        Returns:
            float (), of B predictions; zero where all rows are of one video.

        Source: van den Oord et al. 2018, equation 4; Radford et al. 2021 (CLIP), figure 3.
        """
        rows = torch.arange(len(text), device=text.device)  # (B,)
        is_left_out = (video_ids[:, None] == video_ids) & (rows[:, None] != rows)  # (B, B)
        logits = (self.scale() * text @ video.T).masked_fill(is_left_out, float("-inf"))  # (B, B)
        return (F.cross_entropy(logits, rows, reduction="sum") + F.cross_entropy(logits.T, rows, reduction="sum")) / 2

    def rerank(self, similarities: Tensor, alignment_logits: Tensor, alignment_weight: float = 0.5) -> Tensor:
        """Scores the candidates of a query by two judges: their vectors, and `VideoBert.alignment_logits` of text and video read together.

        Both estimate log p(text, video) / (p(text) p(video)): the scaled cosine but for a constant of the query, and the alignment head,
        which has learned from as many right pairs as wrong ones, by its log-odds. So their weighted mean is an estimate, too.

        Args:
            similarities: float (B, A), cosines of queries and candidates.
            alignment_logits: float (B, A, 2), of the same pairs; index 0 is aligned.
            alignment_weight: in [0, 1]; 0 keeps the order of the cosines.

        Returns:
            float (B, A), to be compared within a query.

        Source: van den Oord et al. 2018, section 2.3, on what the optimum estimates.
        """
        log_odds = alignment_logits[..., 0] - alignment_logits[..., 1]  # (B, A)
        return torch.lerp(self.scale() * similarities, log_odds, alignment_weight)  # (B, A)
