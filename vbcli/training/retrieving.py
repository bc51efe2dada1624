"""Teaching a retriever: captions and videos that belong together lie near each other, and are told from others when read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vbcli.errors import VbcliError
from vbcli.models.retriever import VideoRetriever
from vbcli.textvocab import TextVocabulary
from vbcli.tokens import PackedSequence, beside, pack
from vbcli.training.batches import Batch, VideoTokens, caption_targets, collate
from vbcli.training.showing import Showing, ShownVideos
from vbcli.training.tasks import DrawnRows, Task, row_rng

MAX_TEXT_TOKENS = 62


@dataclass
class Pairs:
    """Captions and videos, each by itself, and as many pairs of them that are read together.

    Args:
        text: sequences without video.
        video: sequences without text.
        together: sequences of both.
    """

    text: Batch
    video: Batch
    together: Batch

    def to(self, device: torch.device) -> Pairs:
        return Pairs(self.text.to(device), self.video.to(device), self.together.to(device))


class RetrieveTask(Task[VideoRetriever, VideoTokens, list[int], Pairs]):
    """InfoNCE between the captions and videos of a batch, and alignment of pairs: every (video, caption) pair is a row.

    Half of the rows are read together with the caption of another video. What a row loses by InfoNCE depends on the rows beside it, so a
    step is never cut into pieces.

    Args:
        showing: how videos are shown.
    """

    name = "retrieve"
    loss_names = ("contrastive", "alignment")

    def __init__(
        self,
        model: VideoRetriever,
        text: TextVocabulary,
        train: Sequence[VideoTokens],
        validation: Sequence[VideoTokens],
        *,
        seed: int = 0,
        showing: Showing | None = None,
    ) -> None:
        parts = [[(v, text.encode(c)[:MAX_TEXT_TOKENS]) for v in part for v, c in caption_targets(v)] for part in (train, validation)]
        if len({v.video_id for v, _ in parts[0]}) < 2:
            raise VbcliError(
                "fewer than two training videos have captions", hint="give them with: vbcli extract VIDEOS_DIR --captions FILE"
            )
        super().__init__(model, parts, seed)
        self.text = text
        if not parts[1]:
            self.notes.append("no validation video has a caption: the training captions validate")
            self.parts[1] = self.parts[0]
        numbers = {video_id: i for i, video_id in enumerate(dict.fromkeys(v.video_id for part in self.parts for v, _ in part))}
        self.numbers = numbers
        learned, validating = ([v for v, _ in part] for part in self.parts)
        self.shown = ShownVideos(learned, validating, text, model.encoder.config, showing or Showing())
        self.notes += self.shown.notes

    def draw(self, part: int, rows: Sequence[int], epoch: int, *, is_disturbed: bool) -> DrawnRows[Pairs]:
        drawn = [self._draw(part, row, row_rng(self.seed, epoch, row), is_disturbed) for row in rows]
        config = self.model.encoder.config
        batches = [
            collate(list(sequences), config.feature_dim, self.text.pad_id) for sequences in zip(*(d[:3] for d in drawn), strict=True)
        ]
        pairs = Pairs(*batches)
        aligned = torch.tensor([d[3] for d in drawn])
        videos = torch.tensor([self.numbers[self.parts[part][row][0].video_id] for row in rows])
        n_tokens = sum(int(batch.attention_mask.sum()) for batch in batches)
        return DrawnRows(
            pairs, {"alignment": aligned, "videos": videos}, dict.fromkeys(self.loss_names, len(rows)), n_tokens, self.row_keys(rows, epoch)
        )

    def _draw(
        self, part: int, row: int, rng: np.random.Generator, is_disturbed: bool
    ) -> tuple[PackedSequence, PackedSequence, PackedSequence, int]:
        """A caption, its video, the video with a caption, and whether that is another's (1)."""
        rows, config = self.parts[part], self.model.encoder.config
        video, ids = rows[row]
        shown = self.shown.pack(video, rng, is_disturbed=is_disturbed)
        nothing = np.zeros((0, config.n_codebooks), np.int32), np.zeros((0, config.feature_dim), np.float32)
        other, other_ids = rows[(row + int(rng.integers(1, max(2, len(rows))))) % len(rows)]
        is_other = int(rng.random() < 0.5 and other.video_id != video.video_id)
        read = other_ids if is_other else ids
        return (
            pack(ids, *nothing, self.text, config),
            shown,
            beside(read, shown, self.text, self.model.encoder.config.max_positions),
            is_other,
        )

    def losses(self, drawn: DrawnRows[Pairs]) -> dict[str, Tensor]:
        pairs, wanted = drawn.batch, drawn.wanted
        text = self.model.text_vectors(**pairs.text.arguments())  # (B, P)
        video = self.model.video_vectors(**pairs.video.arguments())  # (B, P)
        together = self.model.alignment_logits(**pairs.together.arguments())  # (B, 2)
        return {
            "contrastive": self.model.head.loss(text, video, wanted["videos"]),
            "alignment": F.cross_entropy(together, wanted["alignment"], reduction="sum"),
        }
