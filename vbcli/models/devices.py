"""Where networks run: a GPU where there is one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vbcli.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Device = Literal["auto", "cuda", "mps", "cpu"]
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")
"""What Linux has where a driver of NVIDIA (of cards, of Jetson), of AMD or of Windows below it is loaded."""


def resolve_device(device: Device) -> Device:
    """What `auto` means here: CUDA, else Apple's Metal, else the CPU.

    Raises:
        UsageError: the device that is asked for is not there.
    """
    # Torch takes a second and hundreds of megabytes to say that there is nothing.
    if device == "cpu" or (device == "auto" and sys.platform == "linux" and not any(Path(name).exists() for name in _GPU_FILES)):
        return "cpu"
    import torch

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
