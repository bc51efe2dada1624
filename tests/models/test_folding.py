"""Folded networks answer as they did, and only what may be folded is."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torchvision.models import video

from vbcli.models.folding import fold_batch_norms


def with_statistics(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics and factors as a trained network might have them."""
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d) and child.running_mean is not None:
            for values, low, high in (
                (child.running_mean, -0.5, 0.5),
                (child.running_var, 0.5, 2),
                (child.weight, 0.5, 1.5),
                (child.bias, -1, 1),
            ):
                assert values is not None
                values.data.uniform_(low, high, generator=generator)
    return module.eval().double()


NETWORKS = {
    "tf_efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), (2, 3, 64, 64), 0),
    "resnet18": (lambda: timm.create_model("resnet18"), (2, 3, 64, 64), 0),
    "mobilenetv3_small_050": (lambda: timm.create_model("mobilenetv3_small_050"), (2, 3, 64, 64), 0),
    "densenet121": (lambda: timm.create_model("densenet121"), (2, 3, 64, 64), 62),  # normalises before it convolves
    "r3d_18": (video.r3d_18, (1, 3, 4, 32, 32), 0),
    "s3d": (video.s3d, (1, 3, 16, 224, 224), 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_as_before(name: str) -> None:
    make, shape, n_kept = NETWORKS[name]
    torch.manual_seed(0)
    module = with_statistics(make())
    clips = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        expected = module(clips)
        n_norms = sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in module.modules())
        assert fold_batch_norms(module, lambda: module(clips)) == n_norms - n_kept
        assert sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in module.modules()) == n_kept
        torch.testing.assert_close(module(clips), expected, rtol=1e-9, atol=1e-9)


class Shares(nn.Module):
    """What the convolution says goes to the normalisation and elsewhere, or is made twice."""

    def __init__(self, is_called_twice: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.is_called_twice = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), is_called_twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.conv(x)) if self.is_called_twice else self.conv(x)
        return self.norm(y) + (0 if self.is_called_twice else y)


@pytest.mark.parametrize("is_called_twice", [False, True])
def test_what_is_used_twice_is_kept(is_called_twice: bool) -> None:
    module = with_statistics(Shares(is_called_twice))
    before, clips = copy.deepcopy(module), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        assert fold_batch_norms(module, lambda: module(clips)) == 0
        assert torch.equal(module(clips), before(clips))
