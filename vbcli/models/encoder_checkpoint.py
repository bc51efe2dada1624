"""Checkpoints of 3-D convolution encoders: a folder that holds all that encoding needs, wherever it lies.

config.json         shape, frames a second, pre-processing, what it learned from
model.safetensors   weights

Datasets and vocabularies made with such an encoder carry it along (`encoderfolders.py`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from vbcli.config import Conv3dConfig, from_dict, to_dict
from vbcli.encoderfolders import is_encoder
from vbcli.errors import VbcliError
from vbcli.files import read_json, write_atomic, write_json
from vbcli.models.conv3d import Conv3dEncoder
from vbcli.storage import local_copy

MAKE_HINT = "train one with: vbcli train FRAMES_DIR ENCODER_DIR --task encoder"


@dataclass
class EncoderCheckpoint:
    """A trained encoder.

    Args:
        fps: frames a second that it was trained on; a clip is `config.n_frames` of them.
        mean: of each colour, which (pixel / 255 - mean) / std turns into what the network is given.
        std: of each colour.
        trained_on: facts for the reader.
    """

    model: Conv3dEncoder
    fps: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    trained_on: dict[str, Any] = field(default_factory=dict)


def state_sha256(module: nn.Module) -> str:
    """SHA-256 (hex) of a module's tensors with their names."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def save_encoder(checkpoint: EncoderCheckpoint, encoder_dir: Path) -> None:
    """Writes an encoder; `config.json` comes last and makes it whole."""
    write_atomic(encoder_dir / "model.safetensors", save({k: v.contiguous() for k, v in checkpoint.model.state_dict().items()}))
    values = {
        "kind": "encoder",
        "version": 1,
        "model": to_dict(checkpoint.model.config),
        "fps": checkpoint.fps,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "weights_sha256": state_sha256(checkpoint.model),
        "trained_on": checkpoint.trained_on,
    }
    write_json(encoder_dir / "config.json", values)


def load_encoder_checkpoint(encoder_dir: Path) -> EncoderCheckpoint:
    """Loads an encoder; it is in evaluation mode.

    Raises:
        VbcliError: there is none, or it is damaged.
    """
    if not is_encoder(encoder_dir):
        raise VbcliError(f"there is no trained encoder in {encoder_dir}", hint=MAKE_HINT)
    path, weights = encoder_dir / "config.json", encoder_dir / "model.safetensors"
    values = read_json(path)
    try:
        model = Conv3dEncoder(from_dict(Conv3dConfig, values["model"], str(path)))
        with local_copy(weights) as local:
            model.load_state_dict(load_file(local))
        checkpoint = EncoderCheckpoint(model.eval(), values["fps"], tuple(values["mean"]), tuple(values["std"]), values["trained_on"])
    except KeyError as error:
        raise VbcliError(f"{path} does not say {error}", hint=MAKE_HINT) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise VbcliError(
            f"{weights} cannot be loaded: {str(error).splitlines()[0]}", hint="copy the encoder again, or train it again"
        ) from error
    if state_sha256(model) != values.get("weights_sha256"):
        raise VbcliError(f"{weights} does not hold the weights that {path} describes", hint=MAKE_HINT)
    return checkpoint
