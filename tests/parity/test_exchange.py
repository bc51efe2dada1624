"""Exported checkpoints, loaded and run by transformers itself."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint
from vbcli.models.decoding import DecodingConfig, generate
from vbcli.models.exchange import export_transformers
from vbcli.models.videobert import VideoBert
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import pack
from vbcli.training.batches import Batch, collate
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

TEXT = train_text_vocabulary(["a red ball falls and a green cube rises", "two white rings circle around the black star"])
N_VISUAL, P = 7, 5
LENGTHS = [(3, 6), (0, 4), (5, 0), (1, 9)]


def encoder_config(visual_input: str, **changes) -> VideoBertConfig:
    config = VideoBertConfig(
        3, 24, 4, 40, n_text_tokens=TEXT.n_tokens, n_visual_tokens=N_VISUAL, feature_dim=0 if visual_input == "tokens" else P,
        visual_input="both", max_positions=24, pad_token_id=TEXT.pad_id, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return replace(config, visual_input=visual_input, **changes)


def disturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Zero biases and unit norms would hide a wrong name."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def checkpoint(task: str, visual_input: str, **changes) -> Checkpoint:
    torch.manual_seed(0)
    encoder = VideoBert(encoder_config(visual_input, **changes))
    visual = fit_vocabulary(
        np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32),
        VocabConfig(branching=7, levels=1),
        {"name": "none", "block_dims": [6]},
    )
    if task == "pretrain":
        return Checkpoint(task, disturbed(encoder), TEXT, visual, Path())
    encoder = VideoBert(replace(encoder.config, layer_norm_eps=1e-5))
    decoder = BartDecoder(
        BartConfig(
            0, 2, 24, 4, 40, TEXT.n_tokens, max_positions=32, dropout=0.0, attention_dropout=0.0, pad_token_id=TEXT.pad_id,
            bos_token_id=TEXT.cls_id, eos_token_id=TEXT.sep_id, decoder_start_token_id=TEXT.cls_id,
        )
    )  # fmt: skip
    return Checkpoint(task, disturbed(Captioner(encoder, decoder)), TEXT, visual, Path())


def batch(config: VideoBertConfig, hide_some: bool = False) -> Batch:
    rng = np.random.default_rng(3)
    packed = []
    for n_text, n_visual in LENGTHS:
        sequence = pack(
            rng.integers(5, TEXT.n_tokens, n_text).tolist(),
            rng.integers(0, (N_VISUAL, *config.n_residual_tokens), (n_visual, config.n_codebooks)),
            rng.normal(size=(n_visual, config.feature_dim)).astype(np.float32),
            TEXT,
            config,
        )
        if hide_some:
            sequence = replace(sequence, feature_mask=sequence.feature_mask & (rng.random(len(sequence.feature_mask)) < 0.6))
        packed.append(sequence)
    return collate(packed, config.feature_dim, TEXT.pad_id)


def load(cls, folder: Path):
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def video_inputs(folder: Path):
    """The module that the exported folder brings along."""
    spec = importlib.util.spec_from_file_location("video_inputs", folder / "video_inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs_of(theirs: torch.nn.Module, folder: Path, visual_input: str, inputs: Batch) -> dict[str, torch.Tensor]:
    if visual_input == "tokens" and not inputs.residual_ids.shape[2]:
        return {"input_ids": inputs.input_ids}
    build = video_inputs(folder).inputs_embeds
    features = (None, None) if visual_input == "tokens" else (inputs.features, inputs.feature_mask)
    residual_ids = inputs.residual_ids if inputs.residual_ids.shape[2] else None
    return {"inputs_embeds": build(theirs, inputs.input_ids, *features, residual_ids)}


def assert_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert (result - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("visual_input", ["tokens", "features", "both"])
def test_a_videobert_is_a_bert(tmp_path: Path, visual_input: str) -> None:
    made = checkpoint("pretrain", visual_input)
    export_transformers(made, tmp_path / "out")
    theirs = load(transformers.BertForPreTraining, tmp_path / "out")
    inputs = batch(made.encoder.config, hide_some=True)
    given = inputs_of(theirs, tmp_path / "out", visual_input, inputs)
    with torch.no_grad():
        expected = theirs(**given, token_type_ids=inputs.token_type_ids, attention_mask=inputs.attention_mask)
        hidden = made.encoder(**inputs.arguments())
        real = inputs.attention_mask
        assert_close(made.encoder.masked_logits(hidden[real]), expected.prediction_logits[real])
        assert_close(made.encoder.alignment_logits(hidden), expected.seq_relationship_logits)


@pytest.mark.parametrize("more_codebooks", [(), (4, 2)])
@pytest.mark.parametrize("visual_input", ["tokens", "features", "both"])
def test_a_captioner_is_a_bart_and_generates_the_same(tmp_path: Path, visual_input: str, more_codebooks: tuple[int, ...]) -> None:
    made = checkpoint("caption", visual_input, n_residual_tokens=more_codebooks)
    export_transformers(made, tmp_path / "out")
    theirs = load(transformers.BartForConditionalGeneration, tmp_path / "out")
    inputs = batch(made.encoder.config, hide_some=visual_input == "both")
    given = inputs_of(theirs, tmp_path / "out", visual_input, inputs)
    captions = torch.randint(5, TEXT.n_tokens, (len(LENGTHS), 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(**given, attention_mask=inputs.attention_mask, decoder_input_ids=captions).logits
        result = made.captioner(**inputs.arguments(), decoder_input_ids=captions)
        assert_close(result, expected[..., : TEXT.n_tokens])
        assert torch.isneginf(expected[..., TEXT.n_tokens :]).all()
        memory, mask = made.captioner.encode(**inputs.arguments())
        for n_beams, length_penalty, minimum in ((4, 1.0, 0), (5, 0.6, 5), (1, 1.0, 0), (4, 2.0, 3)):
            decoding = DecodingConfig(n_beams, 12, minimum, length_penalty, 3)
            found = [h[0].token_ids for h in generate(made.captioner.decoder, memory, mask, decoding)]
            written = theirs.generate(
                **given, attention_mask=inputs.attention_mask, num_beams=n_beams, length_penalty=length_penalty, early_stopping=False,
                max_length=13, max_new_tokens=None, min_length=minimum + 1 if minimum else 0, no_repeat_ngram_size=3, do_sample=False,
            )  # fmt: skip
            assert [TEXT.decode(ids) for ids in found] == [TEXT.decode(row.tolist()) for row in written]


def test_what_has_no_equal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match="fusion 'cross' has no equal"):
        export_transformers(checkpoint("pretrain", "both", fusion="cross"), tmp_path / "out")
    with pytest.raises(VbcliError, match="visual tokens of 3 codebooks has no equal") as refused:
        export_transformers(checkpoint("pretrain", "tokens", n_residual_tokens=(4, 2)), tmp_path / "out")
    assert refused.value.hint is not None
    assert "--codebooks 1" in refused.value.hint
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(VbcliError, match="not an empty folder"):
        export_transformers(checkpoint("pretrain", "tokens"), tmp_path / "full")


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    export_transformers(checkpoint("pretrain", "tokens"), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    sentence = "a red ball falls and a white star rises"
    assert theirs(sentence, add_special_tokens=False)["input_ids"] == TEXT.encode(sentence)
    assert (theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id) == (
        TEXT.pad_id, TEXT.cls_id, TEXT.sep_id, TEXT.mask_id,
    )  # fmt: skip
