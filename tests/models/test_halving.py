"""Networks in bfloat16 say nearly what they say in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from vbcli.models.halving import to_bfloat16


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1).unflatten(1, (-1, 32))
        return self.norm(rows + self.attention(rows, rows, rows, need_weights=False)[0]).flatten(1)


@pytest.mark.parametrize("build", [lambda: timm.create_model("test_convnext", num_classes=0), Attending])
def test_features_keep_their_direction(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = build().eval().requires_grad_(False), torch.randn(4, 3, 64, 64)
    expected = module(x)
    rounded = copy.deepcopy(module)
    dtype = to_bfloat16(rounded)
    with torch.autocast("cpu", torch.bfloat16):
        found = rounded(x.to(dtype)).float()
    assert not torch.equal(found, expected)
    assert torch.cosine_similarity(found, expected).min() > 0.999
    assert any(p.dtype == torch.bfloat16 for p in rounded.parameters())


def test_the_first_layers_compute_in_float32() -> None:
    module = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(16))).eval()
    assert to_bfloat16(module) == torch.float32
    dtypes: list[torch.dtype] = []
    for child in module:
        child.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.zeros(1, 3, 2, 2))
    assert dtypes == [torch.float32] * 2 + [torch.bfloat16] * 14
