"""Where networks run: a GPU where there is one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vbcli.errors import UsageError

Device = Literal["auto", "cuda", "mps", "cpu"]


def resolve_device(device: Device) -> Device:
    """What `auto` means here: CUDA, else Apple's Metal, else the CPU.

    Raises:
        UsageError: the device that is asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if not there[device]:
        raise UsageError(f"--device is {device}, which torch does not find here", hint="leave it out for what there is")
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU, copied while the device goes on with what it was told before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
