"""Folders of trained encoders, which datasets and vocabularies carry along: what they are read with must not depend on another place."""

from __future__ import annotations

from pathlib import Path

from vbcli.files import read_json, write_atomic

CARRIED_NAME = "encoder"
"""The folder, in a dataset or vocabulary, of the encoder that it was made with."""
ENCODER_FILES = ("model.safetensors", "config.json")
"""The configuration last: it makes a folder whole."""


def is_encoder(path: Path) -> bool:
    """Whether a path is the folder of a trained encoder."""
    config = path / "config.json"
    values = read_json(config) if config.is_file() else None
    return isinstance(values, dict) and values.get("kind") == "encoder"


def carried_encoder(folder: Path) -> Path | None:
    """The trained encoder that a dataset or vocabulary carries along; None where its encoder comes from a library."""
    carried = folder / CARRIED_NAME
    return carried if is_encoder(carried) else None


def carry_encoder(encoder_dir: Path | None, folder: Path) -> Path | None:
    """Copies a trained encoder, if there is one, into a dataset or vocabulary.

    Returns:
        The copy.
    """
    if encoder_dir is None:
        return None
    copy = folder / CARRIED_NAME
    for name in ENCODER_FILES:
        data, target = (encoder_dir / name).read_bytes(), copy / name
        if not target.is_file() or target.read_bytes() != data:
            write_atomic(target, data)
    return copy
