"""What the folder of a checkpoint says of it, read without the libraries that run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vbcli.errors import VbcliError
from vbcli.files import read_json

VERSION = 2
"""Of what a checkpoint's folder holds."""
_KEYS = {"task", "n_clips", "window_clips", "visual_vocabulary_sha256", "model_sha256", "trained_on"}


def read_checkpoint_config(checkpoint_dir: Path, *tasks: str) -> dict[str, Any]:
    """Reads a checkpoint's `config.json`.

    Args:
        tasks: the tasks that will do; none accepts any.

    Raises:
        VbcliError: there is no checkpoint, or it is of another task.
    """
    path = checkpoint_dir / "config.json"
    if not path.is_file():
        command = f"vbcli train --task {tasks[0]}" if tasks else "vbcli train"
        raise VbcliError(f"there is no checkpoint in {checkpoint_dir}", hint=f"train one with: {command}; or name one with --checkpoint")
    values = read_json(path)
    if not isinstance(values, dict) or values.get("kind") != "checkpoint":
        raise VbcliError(f"{checkpoint_dir} is not a checkpoint", hint="name a folder that vbcli train made")
    if values.get("version") != VERSION:
        raise VbcliError(f"{checkpoint_dir} was written by another version of vbcli", hint="train it again, or use that version")
    missing = sorted(_KEYS - set(values)) or ([] if {"encoder", "bart"} & set(values) else ["encoder"])
    if missing:
        raise VbcliError(f"{path} has no '{missing[0]}'", hint="it is damaged: copy the checkpoint again, or train it again")
    if tasks and values["task"] not in tasks:
        raise VbcliError(
            f"the checkpoint {checkpoint_dir} was trained for the task '{values['task']}', not '{tasks[0]}'",
            hint=f"train one with: vbcli train --task {tasks[0]} --init {checkpoint_dir}",
        )
    return values
