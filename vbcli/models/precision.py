"""Which kind of floating point numbers a model computes with."""

from __future__ import annotations

import torch

from vbcli.config import Precision


def resolve_precision(precision: Precision, device: str) -> torch.dtype:
    """What `auto` means on a device: bfloat16 where the hardware multiplies matrices of it faster, else float32."""
    if precision == "auto":
        is_fast = torch.cuda.is_bf16_supported() if device.startswith("cuda") else device == "cpu" and torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if is_fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
