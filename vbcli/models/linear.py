"""Linear maps that are computed by oneDNN on processors with AVX-512, in training and, with their weights laid out for it once, after it.

Torch gives float32 matrix products of processors to MKL, which does not use all of AVX-512 on some of them: oneDNN takes half the time
there, backwards, too. What it computes differs in the last bits only.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HAS_ONEDNN = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Maps float (..., I) by a weight float (O, I), and a bias float (O,), to float (..., O)."""
    is_float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (HAS_ONEDNN and is_float32 and x.is_cpu and weight.is_cpu and x.numel()) or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)  # (..., O)
    if not torch.is_grad_enabled():
        return _multiply(x, weight, bias)  # (..., O)
    return cast(Tensor, _OneDnnLinear.apply(x, weight, bias))  # (..., O)


class Linear(nn.Linear):
    """torch's, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps float (..., I) to float (..., O)."""
        return linear(input, self.weight, self.bias)


class PackedLinear(nn.Module):
    """A linear map of a trained model, its weight kept only as oneDNN wants it: it cannot be trained, saved or moved.

    Few rows gain most, as a weight that is laid out anew at every call costs more than the product.

    Args:
        weight: float32 or bfloat16 (O, I), on the processor.
        bias: of its kind (O,).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Not a buffer: whoever walks over a model's tensors could make nothing of its layout.
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Maps float (..., I) to float (..., O)."""
        return _multiply(x, self.weight, self.bias)  # (..., O)


def can_pack(weight: Tensor) -> bool:
    """Whether a `PackedLinear` computes with such a weight here."""
    return HAS_ONEDNN and weight.is_cpu and weight.dtype in (torch.float32, torch.bfloat16)


def pack_linears(model: nn.Module) -> None:
    """Replaces every `Linear` of a trained model by a `PackedLinear` where it can, in place."""
    for name, child in model.named_children():
        if not isinstance(child, Linear):
            pack_linears(child)
        elif can_pack(child.weight):
            setattr(model, name, PackedLinear(child.weight, child.bias))


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)  # (..., O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        has_x, has_weight, has_bias = ctx.needs_input_grad
        rows = grad_outputs[0].reshape(-1, len(weight))  # (R, O)
        of_x = _multiply(rows, weight.t(), None).view_as(x) if has_x else None  # (..., I)
        of_weight = _multiply(rows.t(), x.reshape(-1, x.shape[-1]).t(), None) if has_weight else None  # (O, I)
        return of_x, of_weight, rows.sum(0) if has_bias else None


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # (..., O)
