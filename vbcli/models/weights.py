"""Weights from files: safetensors, whole or in pieces, and PyTorch's own, read without running code."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vbcli.errors import VbcliError
from vbcli.files import read_json

# All that `torch.load` has been seen to raise on files of other kinds and damaged ones.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error
)  # fmt: skip
# Names of weights in a folder of Hugging Face's, in the order that they are looked for.
WEIGHT_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a .safetensors file, or of a PyTorch file read without running code (`weights_only`).

    Raises:
        VbcliError: the file is missing or holds something else.
    """
    if not path.is_file():
        raise VbcliError(f"weights file {path} does not exist", hint="look at the name, or copy the file again")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise VbcliError(f"{path} is not a safetensors file: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise VbcliError(f"{path} cannot be read as weights", hint="it must be a state dict; pickled objects are not loaded") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise VbcliError(f"{path} does not hold a state dict of tensors")
    return state


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder in Hugging Face's format: one, or the pieces that its index names.

    Raises:
        VbcliError: there are none, a piece is missing, or the index names a file elsewhere.
    """
    found = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if found is None:
        raise VbcliError(f"{folder} holds no weights", hint=f"it needs {' or '.join(WEIGHT_NAMES)}")
    if found.suffix != ".json":
        return [found]
    index = read_json(found)
    names = sorted(set(index.get("weight_map", {}).values())) if isinstance(index, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise VbcliError(f"{found} is not an index of weight files")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise VbcliError(f"{folder / missing[0]} does not exist", hint=f"{found.name} names {len(names)} files: download them all")
    return [folder / name for name in names]


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder in Hugging Face's format.

    Raises:
        VbcliError: as `weight_files` and `read_weights`.
    """
    return {name: tensor for path in weight_files(folder) for name, tensor in read_weights(path).items()}
