"""export: checkpoints for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vbcli.cli import console


class ExportFormat(StrEnum):
    """What the other program reads."""

    transformers = "transformers"


def export(
    checkpoint_dir: Annotated[Path, typer.Argument(help="A checkpoint that vbcli train made.")],
    out_dir: Annotated[Path, typer.Argument(help="Output, a new folder.")],
    to: Annotated[ExportFormat, typer.Option(help="transformers: BertForPreTraining or BartForConditionalGeneration.")],
) -> None:
    """Write a checkpoint as another library's."""
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.models.exchange import export_transformers

    assert to is ExportFormat.transformers
    checkpoint = load_checkpoint(checkpoint_dir)
    name = export_transformers(checkpoint, out_dir)
    console.note(f"{out_dir}: transformers.{name}.from_pretrained reads it")
    if checkpoint.encoder.feature_projection is not None:
        console.note(f"{out_dir / 'video_inputs.py'}: builds its inputs from tokens and features")
