"""Linear maps by oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vbcli.models import linear as module
from vbcli.models.linear import Linear, PackedLinear, linear, pack_linears

needs_onednn = pytest.mark.skipif(not module.HAS_ONEDNN, reason="oneDNN is not used here")


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients_equal_those_in_float64(shape: tuple[int, ...], has_bias: bool) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(shape), torch.randn(5, 7), torch.randn(5) if has_bias else None]
    weights = torch.randn(*shape[:-1], 5)
    ours = [None if t is None else t.clone().requires_grad_() for t in tensors]
    exact = [None if t is None else t.double().requires_grad_() for t in tensors]
    result, expected = linear(*ours), F.linear(*exact)  # type: ignore[arg-type]
    torch.testing.assert_close(result, expected.float(), rtol=1e-5, atol=1e-5)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, exact, strict=True):
        if mine is not None and other is not None:
            assert mine.grad is not None
            assert other.grad is not None
            torch.testing.assert_close(mine.grad, other.grad.float(), rtol=1e-5, atol=1e-5)


def test_strided_rows_and_gradients_are_read_right() -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(7, 4).t().requires_grad_(), torch.randn(9, 7)[::2].requires_grad_()
    result = linear(x, weight)
    torch.testing.assert_close(result, F.linear(x, weight), rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(result.sum(), x)
    torch.testing.assert_close(found, weight.sum(0).expand(4, 7), rtol=1e-5, atol=1e-5)


def test_autocast_computes_in_bfloat16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(4, 3)(torch.randn(2, 4)).dtype == torch.bfloat16


@needs_onednn
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_packed_model_computes_the_same(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(Linear(6, 40), nn.GELU(), nn.Sequential(Linear(40, 3, bias=False)), nn.Linear(3, 2)).to(dtype).eval()
    rows = [torch.randn(n, 6, dtype=dtype) for n in (1, 5, 300)]
    with torch.inference_mode():
        expected = [model(x) for x in rows]
        pack_linears(model)
        for x, wanted in zip(rows, expected, strict=True):
            torch.testing.assert_close(model(x), wanted, rtol=tolerance, atol=tolerance)
    assert [type(m) for m in model.modules() if not list(m.children())] == [PackedLinear, nn.GELU, PackedLinear, nn.Linear]


@needs_onednn
def test_what_cannot_be_packed_stays() -> None:
    model = nn.Sequential(Linear(2, 2)).double()
    pack_linears(model)
    assert isinstance(model[0], Linear)
