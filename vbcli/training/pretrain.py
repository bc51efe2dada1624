"""Pre-training VideoBERT: masked modelling of text and visual tokens, and alignment of the two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vbcli.models.videobert import VideoBert
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, pack
from vbcli.training.batches import Batch, VideoTokens, collate
from vbcli.training.masking import MASK_RATE, mask_tokens
from vbcli.training.tasks import IGNORED, DrawnRows, TokensTask, feature_noise, row_rng

MAX_JOINED = 8
"""Most neighbouring segments that are shown as one; half of the rows are a single segment, a quarter two, and so on."""
MAX_STRIDE = 5
"""Of the video tokens of a stretch every second, third ... is shown, up to this one,"""
MIN_STRIDED = 8
"""as long as so many are left."""


class PretrainTask(TokensTask[VideoBert, int]):
    """Masked modelling of text and visual tokens, and alignment of the two.

    A row is a segment, joined with a random number of its neighbours, because what is said is often not said while it can be seen; of its
    video tokens every k-th is shown, for a random k, because things happen at different speeds. By its draw it is shown as text and video
    (in half of these with the text of another stretch: alignment), as text only or as video only. Where the text is another's, its
    masked tokens are not asked for: they would teach to ignore the video. All tokens of a clip are hidden and asked for at once; its loss
    is the mean over codebooks.

    Args:
        train: videos to learn from; `SegmentRow.text` is their text.
        regime_weights: of video-text, text-only and video-only.
        mask_rate: share of the tokens of either kind that must be guessed.
        feature_noise: length of the random vector added to each feature; features have a mean squared length of 1.

    Source: Sun et al. 2019 (VideoBERT), sections 3.2 and 4.3.
    """

    name = "pretrain"
    loss_names = ("text", "visual", "alignment")

    def __init__(
        self,
        model: VideoBert,
        text: TextVocabulary,
        train: Sequence[VideoTokens],
        validation: Sequence[VideoTokens],
        *,
        seed: int = 0,
        regime_weights: tuple[float, float, float] = (0.6, 0.2, 0.2),
        mask_rate: float = MASK_RATE,
        feature_noise: float = 0.5,
    ) -> None:
        parts = [[(v, i) for v in part for i in range(len(v.segments))] for part in (train, validation)]
        super().__init__(model, text, parts, seed)
        self.feature_noise = feature_noise
        self.mask_rate = mask_rate
        self.regimes = np.array(regime_weights) / sum(regime_weights)
        self.text_ids = {id(s): text.encode(s.text) for v in (*train, *validation) for s in v.segments}
        budget = model.config.max_positions - N_FRAMING_TOKENS
        segments = [s for v in train for s in v.segments]
        n_cut = sum(len(self.text_ids[id(s)]) + len(s.visual_tokens) > budget for s in segments)
        if n_cut:
            self.notes.append(f"{n_cut} of {self.n_train} segments are longer than {budget} positions: a random window of each is used")

    def draw(self, part: int, rows: Sequence[int], epoch: int, *, is_disturbed: bool) -> DrawnRows[Batch]:
        drawn = [self._draw(self.parts[part], row, epoch, is_disturbed) for row in rows]
        batch = collate([d[0] for d in drawn], self.model.config.feature_dim, self.text.pad_id)
        targets = torch.full((*batch.input_ids.shape, self.model.config.n_codebooks), IGNORED)
        for i, (packed, wanted, _) in enumerate(drawn):
            targets[i, : len(packed.input_ids)] = torch.from_numpy(wanted)
        aligned = torch.tensor([d[2] for d in drawn])
        is_asked, is_visual = targets[..., 0] != IGNORED, batch.token_type_ids == 1
        counts = {"text": is_asked & ~is_visual, "visual": is_asked & is_visual, "alignment": aligned != IGNORED}
        return DrawnRows(
            batch,
            {"tokens": targets, "alignment": aligned},
            {name: int(asked.sum()) for name, asked in counts.items()},
            int(batch.attention_mask.sum()),
            self.row_keys(rows, epoch),
        )

    def losses(self, drawn: DrawnRows[Batch]) -> dict[str, Tensor]:
        hidden = self.model(**drawn.batch.arguments())  # (B, S, D)
        targets, aligned = drawn.wanted["tokens"], drawn.wanted["alignment"]  # (B, S, M), (B,)
        asked, known = targets[..., 0] != IGNORED, aligned != IGNORED
        # Only the rows that must be predicted go through the wide output layer.
        rows, wanted = hidden[asked], targets[asked]  # (N, D), (N, M)
        each = F.cross_entropy(self.model.masked_logits(rows), wanted[:, 0], reduction="none")  # (N,)
        is_visual = drawn.batch.token_type_ids[asked] == 1
        others = zip(self.model.residual_logits(rows[is_visual]), wanted[is_visual, 1:].T, strict=True)
        residual = [F.cross_entropy(logits, tokens, reduction="sum") for logits, tokens in others]
        visual = torch.stack([each[is_visual].sum(), *residual]).mean()
        alignment = F.cross_entropy(self.model.alignment_logits(hidden[known]), aligned[known], reduction="sum")
        return {"text": each[~is_visual].sum(), "visual": visual, "alignment": alignment}

    def _draw(
        self, part: list[tuple[VideoTokens, int]], row: int, epoch: int, is_disturbed: bool
    ) -> tuple[PackedSequence, np.ndarray, int]:
        """One row as the model sees it, what it must say of it, and its alignment class.

        What it must say, int64 (S, M): ids of the first column, tokens of their codebook of the others.
        """
        rng = row_rng(self.seed, epoch, row)
        n_joined = min(MAX_JOINED, int(rng.geometric(0.5)))
        text_ids, visual, features = self._stretch(part[row], n_joined, rng)
        aligned, config = IGNORED, self.model.config
        has_text, has_video = len(text_ids) > 0, len(visual) > 0
        if has_text and has_video:
            regime = rng.choice(3, p=self.regimes)
            if regime == 0:
                aligned = int(rng.random() < 0.5 and len(part) > 1)
                if aligned:
                    other = part[(row + int(rng.integers(1, len(part)))) % len(part)]
                    other_ids = self._stretch(other, n_joined, rng)[0]
                    if not other_ids or other_ids == text_ids:
                        aligned = 0
                    else:
                        text_ids = other_ids
            has_text, has_video = regime != 2, regime != 1
        if not has_text:
            text_ids = []
        if not has_video:
            visual, features = visual[:0], features[:0]
        text_ids, visual, features = self._window(text_ids, visual, features, rng)
        if is_disturbed:
            features = features + feature_noise(features.shape, self.feature_noise, rng)
        packed, targets = self._mask(pack(text_ids, visual, features[:, : config.feature_dim], self.text, config), rng)
        if aligned == 1:
            targets[packed.token_type_ids == 0] = IGNORED
        return packed, targets, aligned

    def _stretch(self, place: tuple[VideoTokens, int], n_joined: int, rng: np.random.Generator) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Text ids, visual tokens and features of up to `n_joined` neighbouring segments, the given one among them."""
        video, index = place
        first = max(0, index - int(rng.integers(n_joined)))
        segments = video.segments[first : first + n_joined]
        text_ids = [i for s in segments for i in self.text_ids[id(s)]]
        visual = np.concatenate([s.visual_tokens for s in segments])
        features = np.concatenate([s.features for s in segments])
        stride = min(int(rng.integers(1, MAX_STRIDE + 1)), max(1, len(visual) // MIN_STRIDED))
        return text_ids, visual[::stride], features[::stride]

    def _window(
        self, text_ids: list[int], visual: np.ndarray, features: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[int], np.ndarray, np.ndarray]:
        budget = self.model.config.max_positions - N_FRAMING_TOKENS
        text_ids = text_ids[: budget // 2] if len(visual) else text_ids[:budget]
        room = budget - len(text_ids)
        start = int(rng.integers(0, max(1, len(visual) - room + 1)))
        return text_ids, visual[start : start + room], features[start : start + room]

    def _mask(self, packed: PackedSequence, rng: np.random.Generator) -> tuple[PackedSequence, np.ndarray]:
        config = self.model.config
        ids = packed.input_ids
        is_text = (packed.token_type_ids == 0) & ~np.isin(ids, [*self.text.special_ids, config.boundary_token_id])
        text_range, visual_range = (len(self.text.special_ids), config.n_text_tokens), (config.first_visual_id, config.first_residual_id)
        text = mask_tokens(ids, is_text, text_range, self.text.mask_id, rng, self.mask_rate)
        visual = mask_tokens(ids, packed.feature_mask, visual_range, self.text.mask_id, rng, self.mask_rate)
        hidden_ids = np.where(packed.feature_mask, visual.input_ids, text.input_ids)
        residual_ids = np.where(visual.is_hidden[:, None], self.text.pad_id, packed.residual_ids)
        is_random = visual.is_hidden & (visual.input_ids != self.text.mask_id)
        first, last = np.array(config.codebook_bounds[1:-1], np.int64), config.codebook_bounds[2:]
        residual_ids[is_random] = rng.integers(first, last, (int(is_random.sum()), config.n_codebooks - 1))
        targets = np.full((len(ids), config.n_codebooks), IGNORED)
        targets[:, 0] = np.where(text.is_target | visual.is_target, ids, IGNORED)
        targets[visual.is_target, 1:] = packed.residual_ids[visual.is_target] - first
        masked = PackedSequence(hidden_ids, packed.token_type_ids, packed.feature_mask & ~visual.is_hidden, packed.features, residual_ids)
        return masked, targets
