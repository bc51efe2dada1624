"""Where networks run."""

from __future__ import annotations

import pytest
import torch

from vbcli.errors import UsageError
from vbcli.models.devices import resolve_device, to_device


def test_what_is_not_there_is_refused_and_auto_takes_what_is() -> None:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    for device, is_there in there.items():
        if is_there:
            assert resolve_device(device) == device  # type: ignore[arg-type]
        else:
            with pytest.raises(UsageError, match=f"--device is {device}"):
                resolve_device(device)  # type: ignore[arg-type]
    assert there[resolve_device("auto")]
    assert (resolve_device("auto") == "cpu") == (not there["cuda"] and not there["mps"])


@pytest.mark.gpu
def test_what_is_copied_is_equal() -> None:
    values = torch.arange(10_000_000)
    assert torch.equal(to_device(values, torch.device("cuda")).cpu(), values)
