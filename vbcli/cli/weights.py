"""import and export: models of other programs, and checkpoints for them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vbcli.cli import console


class ExportFormat(StrEnum):
    """What the other program reads."""

    transformers = "transformers"
    onnx = "onnx"
    webdataset = "webdataset"
    jsonl = "jsonl"
    csv = "csv"


def import_model(
    source: Annotated[str, typer.Argument(help="A folder with a BERT or BART in Hugging Face's format, or a model's name on the hub.")],
    checkpoint_dir: Annotated[Path, typer.Argument(help="Output, a new folder.")],
) -> None:
    """Read a published BERT or BART, to train from it with --init, or to export it again."""
    from vbcli.files import check_free
    from vbcli.models.checkpoint import save_checkpoint
    from vbcli.models.published import find_published, import_published

    check_free(checkpoint_dir)
    checkpoint = import_published(find_published(source), lambda text: console.note(f"import: {text}"))
    save_checkpoint(checkpoint, checkpoint_dir)
    n_weights = sum(value.numel() for value in checkpoint.model.parameters())
    console.note(f"{checkpoint_dir}: {n_weights:,} weights, {checkpoint.text.n_tokens:,} text tokens")


def export(
    source: Annotated[Path, typer.Argument(help="A checkpoint that vbcli train or vbcli import made, or a dataset.")],
    out_dir: Annotated[Path, typer.Argument(help="Output, a new folder.")],
    to: Annotated[
        ExportFormat,
        typer.Option(
            help="Of a checkpoint, transformers (BertForPreTraining or BartForConditionalGeneration) or onnx (the encoder); of a dataset, "
            "webdataset, jsonl or csv."
        ),
    ],
) -> None:
    """Write a checkpoint or a dataset for other programs."""
    if to in (ExportFormat.transformers, ExportFormat.onnx):
        _export_checkpoint(source, out_dir, to)
        return
    from vbcli.curation.exports import export_dataset
    from vbcli.storage import local_output

    with local_output(out_dir) as local:
        notes = export_dataset(source, local, to.value)
    for sentence in notes:
        console.warn(sentence)
    console.note(f"{out_dir}: {to.value}, a file for each shard")


def _export_checkpoint(checkpoint_dir: Path, out_dir: Path, to: ExportFormat) -> None:
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.models.exchange import export_transformers
    from vbcli.models.onnx_export import MODEL_NAME, export_onnx
    from vbcli.storage import local_output

    checkpoint = load_checkpoint(checkpoint_dir)
    if to is ExportFormat.onnx:
        console.note("export: writing the encoder and comparing what onnxruntime computes; a large one takes minutes")
        with local_output(out_dir) as local:
            difference = export_onnx(checkpoint, local)
        console.note(f"{out_dir / MODEL_NAME}: onnxruntime reads it; its outputs differ from torch's by at most {difference:.0e}")
        return
    with local_output(out_dir) as local:
        name = export_transformers(checkpoint, local)
    console.note(f"{out_dir}: transformers.{name}.from_pretrained reads it")
    if (out_dir / "video_inputs.py").exists():
        console.note(f"{out_dir / 'video_inputs.py'}: builds its inputs from tokens and features")
