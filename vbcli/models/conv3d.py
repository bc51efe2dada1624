"""A small 3-D convolution network: what moves, and how, from the frames of a clip.

A 3-D convolution is taken apart into one over height and width and one along time, with a non-linearity between them: fewer weights, and
easier to train. Norms are over groups of channels of one clip, so that a clip's features never depend on what it is batched with.

Notation: B batch, F frames, S side of a frame in pixels, C channels, (f, h, w) a stage's frames, rows and columns, K classes.

Source: Tran et al. 2018, "A closer look at spatiotemporal convolutions" (R(2+1)D); Hara et al. 2018, "Can spatiotemporal 3D CNNs retrace
the history of 2D CNNs and ImageNet?" (residual networks in 3-D); Wu and He 2018 (group norm).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vbcli.config import Conv3dConfig
from vbcli.models.dropout import RowDropout

N_POOLED_STAGES = 3
"""Of the last ones: colour and place live in earlier stages, motion in the last."""


class SplitConv(nn.Sequential):
    """A 3-D convolution in two: over height and width, then along time, each with its norm.

    Source: Tran et al. 2018, section 3.5.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, time_stride: int, n_groups: int) -> None:
        super().__init__(
            nn.Conv3d(n_in, n_out, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.GroupNorm(n_groups, n_out),
            nn.ReLU(inplace=True),
            nn.Conv3d(n_out, n_out, (3, 1, 1), (time_stride, 1, 1), (1, 0, 0), bias=False),
            nn.GroupNorm(n_groups, n_out),
        )


class ResidualStage(nn.Module):
    """Two split convolutions and a shortcut around them: (B, C, f, h, w) to (B, C', f / time_stride, h / stride, w / stride)."""

    def __init__(self, n_in: int, n_out: int, stride: int, time_stride: int, n_groups: int) -> None:
        super().__init__()
        self.first = SplitConv(n_in, n_out, stride, time_stride, n_groups)
        self.second = SplitConv(n_out, n_out, 1, 1, n_groups)
        self.shortcut: nn.Module = nn.Identity()
        if (n_in, stride, time_stride) != (n_out, 1, 1):
            self.shortcut = nn.Sequential(
                nn.Conv3d(n_in, n_out, 1, (time_stride, stride, stride), bias=False), nn.GroupNorm(n_groups, n_out)
            )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, f, h, w)
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))  # (B, C', f', h', w')


class Conv3dEncoder(nn.Module):
    """Frames of a clip to feature maps."""

    def __init__(self, config: Conv3dConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv3d(3, first, (1, 5, 5), (1, 2, 2), (0, 2, 2), bias=False),
            nn.GroupNorm(config.n_groups, first),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 2, 2)),
        )
        shapes = zip(pairwise((first, *config.widths)), config.time_strides, strict=True)
        self.stages = nn.ModuleList(
            ResidualStage(n_in, n_out, 1 if i == 0 else 2, time_stride, config.n_groups)
            for i, ((n_in, n_out), time_stride) in enumerate(shapes)
        )

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Maps of every stage.

        Args:
            frames: float (B, 3, F, S, S), normalised.

        Returns:
            (B, C_i, f_i, h_i, w_i) of each stage.
        """
        x = self.stem(frames)  # (B, C_0, F, S / 4, S / 4)
        maps = []
        for stage in self.stages:
            x = stage(x)  # (B, C_i, f_i, h_i, w_i)
            maps.append(x)
        return maps

    def feature_maps(self, frames: Tensor) -> list[Tensor]:
        """Maps of the last stages, each the mean over time: (B, C_i, h_i, w_i)."""
        return [x.mean(2) for x in self(frames)[-N_POOLED_STAGES:]]


class Conv3dClassifier(nn.Module):
    """The encoder with a linear layer that says what is in a clip; what it is trained as."""

    def __init__(self, config: Conv3dConfig, n_classes: int) -> None:
        super().__init__()
        self.encoder = Conv3dEncoder(config)
        self.dropout = RowDropout(config.dropout)
        self.head = nn.Linear(config.widths[-1], n_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (B, K) of normalised frames, float (B, 3, F, S, S)."""
        pooled = torch.mean(self.encoder(frames)[-1], (2, 3, 4))  # (B, C)
        return self.head(self.dropout(pooled))  # (B, K)
