"""What a decoder remembers of the videos that it writes sentences for.

Notation, with shapes at line ends:

    B  batch (videos)           H  heads
    N  beams of a video         E  width of a head
    P  decoded tokens that are remembered, of all beams of a video
    S  length of the memory
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from vbcli.models.transformer import LayerCache


@dataclasses.dataclass
class DecoderCache:
    """Keys and values of a batch of videos between two decoding steps.

    The memory's are computed once a video, and its beams share them. So are those of the decoded tokens: beams that go on from the same
    beam read the same tokens, and which token is in whose past is told by `is_past`, so that nothing is moved when beams change places.
    The tensors of tokens have room for more; P are filled.
    """

    keys: Tensor  # (layers, B, H, E, room)
    values: Tensor  # (layers, B, H, room, E)
    is_past: Tensor  # (B, N, P)
    memory_keys: Tensor  # (layers, B, H, E, S)
    memory_values: Tensor  # (layers, B, H, S, E)
    memory_bias: Tensor  # (B, 1, 1, S)
    length: int = 0

    def grow(self) -> list[LayerCache]:
        """Takes in a token of each beam: views of each layer's part, the new tokens' keys and values to be filled in."""
        n_videos, n_beams, n_old = self.is_past.shape
        n_tokens = n_old + n_beams
        own = torch.eye(n_beams, dtype=torch.bool, device=self.is_past.device).expand(n_videos, -1, -1)  # (B, N, N)
        self.is_past = torch.cat([self.is_past, own], dim=-1)  # (B, N, P)
        if n_tokens > self.keys.shape[4]:
            n_more = 2 * n_tokens - self.keys.shape[4]
            self.keys, self.values = F.pad(self.keys, (0, n_more)), F.pad(self.values, (0, 0, 0, n_more))
        self.length += 1
        bias = mask_bias(self.is_past)[:, None]  # (B, 1, N, P)
        keys, values = self.keys[..., :n_tokens], self.values[..., :n_tokens, :]  # (layers, B, H, E, P), (layers, B, H, P, E)
        layers = zip(keys, values, self.memory_keys, self.memory_values, strict=True)
        return [LayerCache(k, v, bias, memory_k, memory_v, self.memory_bias) for k, v, memory_k, memory_v in layers]

    def keep(self, videos: Tensor, beams: Tensor) -> None:
        """Keeps some videos, and puts in the place of each beam the past of another beam of the same video.

        Args:
            videos: int64 (B',), numbers of the videos that go on, in the order that they then have; those whose number does not change
                cost nothing.
            beams: int64 (B', N'), for each new beam the old beam of that video that it continues; there may be more or fewer than before.
        """
        self.is_past = self.is_past[videos[:, None], beams]  # (B', N', P)
        if len(videos) < len(self.memory_bias):
            to = (videos != torch.arange(len(videos), device=videos.device)).nonzero()[:, 0]  # (moved,)
            for tensor in (self.keys, self.values, self.memory_keys, self.memory_values):
                tensor[:, to] = tensor[:, videos[to]]
            self.keys, self.values = self.keys[:, : len(videos)], self.values[:, : len(videos)]
            self.memory_keys, self.memory_values = self.memory_keys[:, : len(videos)], self.memory_values[:, : len(videos)]
            self.memory_bias = self.memory_bias[videos]  # (B', 1, 1, S)
        self._forget()

    def _forget(self) -> None:
        """Drops tokens that are in no beam's past any more, when that halves their number."""
        is_read = self.is_past.any(1)  # (B, P)
        n_read = int(is_read.sum(1).max())
        if 2 * n_read > is_read.shape[1]:
            return
        places = is_read.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :n_read]  # (B, P')
        self.is_past = self.is_past.gather(2, places[:, None].expand(-1, self.is_past.shape[1], -1))  # (B, N, P')
        index = places[:, None, None]  # (B, 1, 1, P')
        n_layers, _, n_heads, width, _ = self.keys.shape
        self.keys[..., :n_read] = self.keys.gather(4, index.expand(n_layers, -1, n_heads, width, -1))
        index = index.transpose(2, 3)  # (B, 1, P', 1)
        self.values[..., :n_read, :] = self.values.gather(3, index.expand(n_layers, -1, n_heads, -1, width))


def mask_bias(mask: Tensor) -> Tensor:
    """What is added to scores so that only keys under the mask are read: float32 of its shape."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
