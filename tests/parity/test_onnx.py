"""Encoders as ONNX files, run by onnxruntime, against the models that they were made from."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import transformers
from hypothesis import strategies as st
from tokenizers import Tokenizer

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models import onnx_export
from vbcli.models.bart import Bart, BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint, save_checkpoint
from vbcli.models.onnx_export import export_onnx
from vbcli.models.videobert import VideoBert, to_bert_state
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import pack
from vbcli.training.batches import collate

for package in ("onnx", "onnxscript"):
    pytest.importorskip(package, reason=f"{package} is not installed (extra onnx)")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")

TEXT = train_text_vocabulary(["a red ball falls and a green cube rises", "two white rings circle around the black star"])
N_VISUAL, F_DIM, N_POSITIONS = 7, 5, 24
FILES = ["config.json", "model.onnx", "tokenizer.json"]


def encoder(**changes: Any) -> VideoBert:
    config = VideoBertConfig(
        2, 24, 4, 40, n_text_tokens=TEXT.n_tokens, n_visual_tokens=N_VISUAL, feature_dim=F_DIM, max_positions=N_POSITIONS,
        pad_token_id=TEXT.pad_id,
    )  # fmt: skip
    torch.manual_seed(0)
    return disturbed(VideoBert(replace(config, **changes)))


def disturbed(model: Any) -> Any:
    """Zero biases and unit norms would hide a wrong place."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model.eval()


TEXT_ALONE = {"n_visual_tokens": 0, "n_special_tokens": 0, "visual_input": "tokens", "feature_dim": 0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "joint-both": ("pretrain", {"visual_input": "both"}),
    "joint-tokens": ("pretrain", {"visual_input": "tokens", "feature_dim": 0}),
    "cross-both": ("pretrain", {"visual_input": "both", "fusion": "cross"}),
    "joint-codebooks": ("pretrain", {"visual_input": "both", "n_residual_tokens": (3, 4)}),
    "cross-codebooks": ("pretrain", {"visual_input": "tokens", "fusion": "cross", "feature_dim": 0, "n_residual_tokens": (3,)}),
    "captioner-features": ("caption", {"visual_input": "features", "layer_norm_eps": 1e-5}),
    "text-alone": ("import", TEXT_ALONE),
}


def checkpoint(case: str, **changes: Any) -> Checkpoint:
    task, shape = CASES[case]
    model = encoder(**{**shape, **changes})
    if task == "caption":
        decoder = BartDecoder(BartConfig(0, 1, 24, 4, 40, TEXT.n_tokens, max_positions=16, pad_token_id=TEXT.pad_id))
        return Checkpoint(task, Captioner(model, decoder).eval(), TEXT, None, Path())
    return Checkpoint(task, model, TEXT, None, Path())


@dataclass
class Exported:
    """A checkpoint, the folder that it was written to, and onnxruntime's reading of it."""

    case: str
    checkpoint: Checkpoint
    folder: Path
    difference: float
    session: Any

    @property
    def config(self) -> VideoBertConfig:
        return self.checkpoint.encoder.config


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    made, folder = checkpoint(request.param), tmp_path_factory.mktemp("onnx") / "out"
    difference = export_onnx(made, folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return Exported(request.param, made, folder, difference, session)


def batch(config: VideoBertConfig, lengths: list[tuple[int, int]], seed: int) -> dict[str, torch.Tensor]:
    """Sequences of so many text and video tokens; a third of the features is hidden, and what is not to be read is no number."""
    rng = np.random.default_rng(seed)
    if not config.n_special_tokens:
        n = max(t for t, _ in lengths) + 2
        real = torch.arange(n) < torch.tensor([[t + 2] for t, _ in lengths])
        ids = torch.from_numpy(rng.integers(5, config.n_tokens, (len(lengths), n)))
        return {"input_ids": ids, "token_type_ids": torch.from_numpy(rng.integers(0, 2, ids.shape)), "attention_mask": real}
    packed = [
        pack(
            rng.integers(5, TEXT.n_tokens, n_text).tolist(),
            rng.integers(0, (N_VISUAL, *config.n_residual_tokens), (n_visual, config.n_codebooks)),
            rng.normal(size=(n_visual, config.feature_dim)).astype(np.float32),
            TEXT,
            config,
        )
        for n_text, n_visual in lengths
    ]
    shown = [replace(p, feature_mask=p.feature_mask & (rng.random(len(p.feature_mask)) < 0.7)) for p in packed]
    made = collate(shown, config.feature_dim, TEXT.pad_id)
    features = made.features.masked_fill(~made.feature_mask[..., None], torch.nan)
    names = ("input_ids", "token_type_ids", "attention_mask", *(["residual_ids"] if config.n_codebooks > 1 else []))
    inputs = {name: getattr(made, name) for name in names}
    return inputs if config.visual_input == "tokens" else {**inputs, "features": features, "feature_mask": made.feature_mask}


def run(session: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def assert_same(made: Exported, lengths: list[tuple[int, int]], seed: int) -> None:
    inputs = batch(made.config, lengths, seed)
    found, model = run(made.session, inputs), made.checkpoint.encoder
    with torch.no_grad():
        hidden = model(**inputs)
        real = inputs["attention_mask"]
        assert_close(found["hidden"][real], hidden[real])
        assert_close(found["pooled"], model.pool(hidden))
        assert ("alignment_logits" in found) == (made.checkpoint.task == "pretrain")
        if "alignment_logits" in found:
            assert_close(found["alignment_logits"], model.alignment_logits(hidden))


ROOM = N_POSITIONS - 3
BATCHES = [
    [(4, 6), (0, 6), (5, 0), (0, 0)],
    [(0, 0)],
    [(0, 3), (0, 1)],
    [(3, 0), (7, 0), (1, 0)],
    [(ROOM, 0), (0, ROOM), (9, ROOM - 9)],
    [(2, 2)] * 9,
]


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_onnxruntime_computes_what_torch_does(exported: Exported, lengths: list[tuple[int, int]]) -> None:
    """Padding on either modality, no text, no video, neither, one row, and all positions."""
    assert_same(exported, lengths, 1)


pairs = st.tuples(st.integers(0, ROOM), st.integers(0, ROOM)).map(lambda p: (p[0], min(p[1], ROOM - p[0])))


@hypothesis.given(st.lists(pairs, min_size=1, max_size=5), st.integers(0, 1000))
@hypothesis.settings(max_examples=25)
def test_any_batch(exported: Exported, lengths: list[tuple[int, int]], seed: int) -> None:
    assert_same(exported, lengths, seed)


def test_padding_changes_nothing(exported: Exported) -> None:
    """Rows together are rows alone, within onnxruntime."""
    lengths = [(4, 6), (0, 9), (5, 0)]
    inputs = batch(exported.config, lengths, 2)
    together = run(exported.session, inputs)
    for row in range(3):
        n = int(inputs["attention_mask"][row].sum())
        alone = run(exported.session, {name: value[row : row + 1, :n] for name, value in inputs.items()})
        assert_close(alone["hidden"][0], together["hidden"][row, :n])
        assert_close(alone["pooled"][0], together["pooled"][row])


def test_axes_have_names_and_the_folder_holds_what_a_caller_needs(exported: Exported) -> None:
    assert sorted(p.name for p in exported.folder.iterdir()) == FILES
    assert exported.difference <= 1e-5
    given = {i.name: (i.type, i.shape) for i in exported.session.get_inputs()}
    axes = ["batch", "sequence"]
    expected = {
        "input_ids": ("tensor(int64)", axes), "token_type_ids": ("tensor(int64)", axes), "attention_mask": ("tensor(bool)", axes)
    }  # fmt: skip
    if exported.config.visual_input != "tokens":
        expected |= {"features": ("tensor(float)", [*axes, F_DIM]), "feature_mask": ("tensor(bool)", axes)}
    if exported.config.n_residual_tokens:
        expected |= {"residual_ids": ("tensor(int64)", [*axes, len(exported.config.n_residual_tokens)])}
    assert given == expected
    shapes = {o.name: o.shape for o in exported.session.get_outputs()}
    assert shapes["hidden"] == [*axes, 24]
    assert shapes["pooled"] == ["batch", 24]
    facts = json.loads((exported.folder / "config.json").read_text())
    assert facts["outputs"] == list(shapes)
    assert facts["max_positions"] == N_POSITIONS
    has_video = exported.config.n_special_tokens == 1
    assert facts["boundary_token_id"] == (TEXT.n_tokens if has_video else None)
    assert facts["first_visual_id"] == (TEXT.n_tokens + 1 if has_video else None)
    tokenizer = Tokenizer.from_file(str(exported.folder / "tokenizer.json"))
    for name, token in (("pad", "[PAD]"), ("cls", "[CLS]"), ("sep", "[SEP]"), ("mask", "[MASK]"), ("unk", "[UNK]")):
        assert facts[f"{name}_token_id"] == tokenizer.token_to_id(token)
    # No path of the machine that wrote it, whose traces the exporter leaves in the graph.
    data = (exported.folder / "model.onnx").read_bytes()
    assert str(Path(onnx_export.__file__).parent).encode() not in data
    assert b"site-packages" not in data


@pytest.mark.parametrize("exported", ["joint-tokens", "text-alone"], indirect=True)
def test_where_the_model_is_a_bert_transformers_computes_the_same(exported: Exported) -> None:
    config = exported.config
    theirs = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=config.n_tokens, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
            max_position_embeddings=N_POSITIONS,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict(to_bert_state(exported.checkpoint.encoder))
    inputs = batch(config, [(4, 6), (0, 9), (5, 0), (0, 0)], 3)
    with torch.no_grad():
        expected = theirs.bert(**inputs)
        found, real = run(exported.session, inputs), inputs["attention_mask"]
        assert_close(found["hidden"][real], expected.last_hidden_state[real])
        assert_close(found["pooled"], expected.pooler_output)
        if "alignment_logits" in found:
            assert_close(found["alignment_logits"], theirs(**inputs).seq_relationship_logits)


def test_other_weights_do_not_pass_the_comparison(exported: Exported) -> None:
    """One weight moved by 1 % is found, in either of the outputs."""
    data, changed = (exported.folder / "model.onnx").read_bytes(), checkpoint(exported.case)
    has_alignment = changed.task == "pretrain"
    model = onnx_export._Outputs(changed.encoder, has_alignment)
    assert onnx_export._compare(model, data) < 1e-5
    for name in ("blocks.1", "pooler.weight", *(["alignment.weight"] if has_alignment else [])):
        weight = next(p for n, p in changed.encoder.named_parameters() if n.startswith(name) and p.ndim == 2)
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.01)
            assert onnx_export._compare(model, data) > onnx_export.TOLERANCE, name
            weight.copy_(before)


def test_what_differs_is_not_written(tmp_path: Path) -> None:
    made = checkpoint("joint-tokens")
    with torch.no_grad():
        made.encoder.pooler.weight[0, 0] = torch.nan
    with pytest.raises(VbcliError, match=r"other outputs than torch.*out/model.onnx is not written"):
        export_onnx(made, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(VbcliError, match="not an empty folder"):
        export_onnx(checkpoint("joint-both"), tmp_path / "full")
    bart = Bart(BartConfig(1, 1, 24, 4, 40, TEXT.n_tokens))
    with pytest.raises(VbcliError, match="encoder of a BART") as refused:
        export_onnx(Checkpoint("import", bart, TEXT, None, Path()), tmp_path / "out")
    assert "--to transformers" in (refused.value.hint or "")
    with torch.device("meta"):
        large = VideoBert(VideoBertConfig(1, 1024, 4, 40, n_text_tokens=600_000))
    with pytest.raises(VbcliError, match=r"has 2\.3 GiB of weights, and an ONNX file holds 2"):
        export_onnx(Checkpoint("pretrain", large, TEXT, None, Path()), tmp_path / "out")
    # What the import system keeps of a package that is not there.
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VbcliError, match=r"not installed: onnxruntime$") as missing:
        export_onnx(checkpoint("joint-both"), tmp_path / "out")
    assert missing.value.hint == "pip install 'vbcli[onnx]'"
    assert not (tmp_path / "out").exists()


def test_the_command_is_quiet_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_checkpoint(checkpoint("text-alone", n_layers=1), tmp_path / "model")
    command = [sys.executable, "-m", "vbcli.cli.app", "export", "model", "out", "--to", "onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    first, last = done.stderr.splitlines()
    assert first.startswith("export: writing the encoder")
    assert last.startswith("out/model.onnx: onnxruntime reads it; its outputs differ from torch's by at most ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
