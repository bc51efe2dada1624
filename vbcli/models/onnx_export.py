"""A VideoBERT as an ONNX file, for programs without torch: alone, or the encoder of a captioner.

model.onnx      input_ids, token_type_ids, attention_mask and, where the model takes them, features and feature_mask, and residual_ids, as
                `VideoBert.forward` has them, of any batch and any length up to max_positions; to hidden, pooled and, of a pre-trained
                model, alignment_logits
tokenizer.json  text vocabulary
config.json     ids and lengths that a caller needs

Torch has two exporters. Ours is that of torch.export: the older one, of TorchScript, is seconds faster, but it is deprecated, and makes a
constant of what it does not see to be none. Either is only trusted as far as onnxruntime computes what the model does.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.files import check_free, write_atomic, write_json
from vbcli.models.bart import Bart
from vbcli.models.checkpoint import Checkpoint, refuse_bridge
from vbcli.models.transformer import key_mask
from vbcli.models.videobert import VideoBert, stream_masks

MODEL_NAME = "model.onnx"
TOLERANCE = 1e-4
"""Largest difference to torch's outputs, as a share of the largest of them or of 1."""
MAX_BYTES = 2**31 - 2**20
"""Of weights: an ONNX file is one protobuf message, less than 2 GiB."""


def export_onnx(checkpoint: Checkpoint, out_dir: Path) -> float:
    """Writes the encoder of a checkpoint, after onnxruntime has computed the same with it.

    Args:
        out_dir: a new or empty folder.

    Returns:
        The largest difference that was found, as `TOLERANCE` is meant.

    Raises:
        VbcliError: the extra `onnx` is not installed; the encoder is a BART's or too large; the outputs differ; the folder is not empty.
    """
    check_free(out_dir)
    refuse_bridge(checkpoint)
    _check_installed()
    if isinstance(checkpoint.model, Bart):
        raise VbcliError("the encoder of a BART is not written as ONNX", hint="vbcli export --to transformers writes the whole BART")
    encoder = checkpoint.encoder
    n_bytes = sum(value.nbytes for value in encoder.parameters())
    if n_bytes > MAX_BYTES:
        raise VbcliError(f"the encoder has {n_bytes / 2**30:.1f} GiB of weights, and an ONNX file holds 2", hint="choose a smaller preset")
    has_alignment = checkpoint.task == "pretrain"
    model = _Outputs(encoder, has_alignment)
    data = _trace(_Outputs(_streams_in_place(encoder), has_alignment), encoder.config)
    difference = _compare(model, data)
    if not difference <= TOLERANCE:
        raise VbcliError(
            f"onnxruntime computes other outputs than torch: they differ by {difference:.1e}, and {out_dir / MODEL_NAME} is not written",
            hint="try other versions of torch, onnxscript and onnxruntime",
        )
    write_atomic(out_dir / MODEL_NAME, data)
    write_atomic(out_dir / "tokenizer.json", checkpoint.text.to_json().encode())
    # Last: a folder with it is whole.
    write_json(out_dir / "config.json", _facts(checkpoint, model.names))
    return difference


def _check_installed() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise VbcliError(f"writing ONNX needs packages that are not installed: {', '.join(missing)}", hint="pip install 'vbcli[onnx]'")


def _facts(checkpoint: Checkpoint, outputs: list[str]) -> dict[str, Any]:
    text, config = checkpoint.text, checkpoint.encoder.config
    return {
        "kind": "onnx",
        "version": 1,
        "model": MODEL_NAME,
        "outputs": outputs,
        "task": checkpoint.task,
        "model_sha256": checkpoint.sha256,
        "hidden_size": config.hidden_size,
        "max_positions": config.max_positions,
        "fusion": config.fusion,
        "visual_input": config.visual_input,
        "feature_dim": config.feature_dim,
        "n_text_tokens": config.n_text_tokens,
        "n_visual_tokens": config.n_visual_tokens,
        "n_residual_tokens": config.n_residual_tokens,
        "pad_token_id": text.pad_id,
        "unk_token_id": text.unk_id,
        "cls_token_id": text.cls_id,
        "sep_token_id": text.sep_id,
        "mask_token_id": text.mask_id,
        "boundary_token_id": config.boundary_token_id if config.n_special_tokens else None,
        "first_visual_id": config.first_visual_id if config.n_visual_tokens else None,
    }


# ---------------------------------------------------------------- the graph


class _Outputs(nn.Module):
    """The encoder with all that the file computes."""

    def __init__(self, encoder: VideoBert, has_alignment: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.names = ["hidden", "pooled", *(["alignment_logits"] if has_alignment else [])]

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        features: Tensor | None = None,
        feature_mask: Tensor | None = None,
        residual_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Arguments as `VideoBert.forward`; float (B, S, D), (B, D) and, if wanted, (B, 2)."""
        hidden = self.encoder(input_ids, token_type_ids, attention_mask, features, feature_mask, residual_ids)  # (B, S, D)
        outputs = (hidden, self.encoder.pool(hidden), self.encoder.alignment_logits(hidden))  # (B, S, D), (B, D), (B, 2)
        return outputs[: len(self.names)]


class _StreamsInPlace(VideoBert):
    """A VideoBERT that leaves every position in its place.

    Taking real tokens out, or the streams of fusion `cross` apart, makes tensors whose length depends on values. Here padding is computed,
    too, and both streams have all positions, each masked where the other is: more work, the same result.
    """

    def _join(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        mask = key_mask(attention_mask)  # (B, 1, 1, S)
        for block in self.blocks:
            hidden = block(hidden, mask)  # (B, S, D)
        return hidden

    def _fuse(self, hidden: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        is_visual, is_text = stream_masks(token_type_ids, attention_mask)  # (B, S), (B, S)
        visual = text = hidden  # (B, S, D)
        for layer in self.blocks:
            visual, text = layer(visual, text, is_visual, is_text)  # (B, S, D), (B, S, D)
        return torch.where(is_visual[..., None], visual, text)  # (B, S, D)


def _streams_in_place(encoder: VideoBert) -> VideoBert:
    """The same model, with the same weights in memory."""
    with torch.device("meta"):
        made = _StreamsInPlace(encoder.config)
    made.load_state_dict(encoder.state_dict(), assign=True)
    return made.eval()


@torch.no_grad()
def _trace(model: _Outputs, config: VideoBertConfig) -> bytes:
    inputs = _random_inputs(config, [(2, 2), (1, 1)])
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=config.max_positions)}
    with warnings.catch_warnings():
        # That both axes have one name in all inputs, which is meant.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=model.names,
            dynamic_shapes=dict.fromkeys(inputs, axes),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _forget_traces(proto)
    return proto.SerializeToString()


def _forget_traces(message: Any) -> None:
    """Removes the stack's traces, which are paths of this machine, from a protobuf and all that it holds."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                _forget_traces(part)


# ---------------------------------------------------------------- the comparison


def _random_inputs(config: VideoBertConfig, rows: list[tuple[int, int]], n_padding: int = 0) -> dict[str, Tensor]:
    """Sequences of random ids, also where they must not be read.

    Args:
        rows: of each sequence the positions of type 0, [CLS] among them, and of type 1.
        n_padding: positions beyond the longest.
    """
    length = max(n_text + n_visual for n_text, n_visual in rows) + n_padding
    generator = torch.Generator().manual_seed(length)
    place = torch.arange(length)  # (S,)
    first, end = (torch.tensor(ends)[:, None] for ends in zip(*[(t, t + v) for t, v in rows], strict=True))  # (B, 1) each
    inputs = {
        "input_ids": torch.randint(config.n_tokens, (len(rows), length), generator=generator),
        "token_type_ids": (place >= first).long(),
        "attention_mask": place < end,
    }
    if config.n_codebooks > 1:
        shape = (len(rows), length, config.n_codebooks - 1)
        chosen = torch.randint(config.first_residual_id, config.n_tokens, shape, generator=generator)
        has_none = torch.rand(shape, generator=generator) < 0.3
        inputs["residual_ids"] = chosen.masked_fill(has_none, config.pad_token_id)
    if config.visual_input != "tokens" and config.feature_dim > 0:
        inputs["features"] = torch.randn(len(rows), length, config.feature_dim, generator=generator)
        inputs["feature_mask"] = (place >= first) & (torch.rand(len(rows), length, generator=generator) < 0.7)
    return inputs


def _batches(config: VideoBertConfig) -> list[dict[str, Tensor]]:
    """Batches of other shapes than the traced one: the smallest, mixed ones with padding and without text or video, and the longest."""
    n = config.max_positions
    few = max(1, n // 4)
    mixed = [(1, 0), (few, 0), (1, few), (few, few), (2, 1)]
    longest = [(n, 0), (1, n - 1), (n - n // 2, n // 2)]
    return [_random_inputs(config, [(1, 0)]), _random_inputs(config, mixed, n_padding=n - 2 * few), _random_inputs(config, longest)]


@torch.no_grad()
def _compare(model: _Outputs, data: bytes) -> float:
    """The largest difference of what onnxruntime and torch compute, on real positions, as a share of the largest output or of 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    differences = []
    for inputs in _batches(model.encoder.config):
        is_real = inputs["attention_mask"]
        found = session.run(model.names, {name: value.numpy() for name, value in inputs.items()})
        for name, expected, array in zip(model.names, model(**inputs), found, strict=True):
            result = torch.from_numpy(array)
            if name == "hidden":
                expected, result = expected[is_real], result[is_real]
            differences.append((result - expected).abs().max() / expected.abs().max().clamp_min(1))
    return float(torch.stack(differences).max())
