"""Folders that transformers saved, imported: the same logits, gradients and tokens, and the same bits when exported again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers import BartTokenizerFast, BertTokenizerFast  # type: ignore[attr-defined]

from vbcli.errors import VbcliError
from vbcli.models.bart import Bart
from vbcli.models.checkpoint import load_checkpoint, save_checkpoint
from vbcli.models.decoding import DecodingConfig, generate
from vbcli.models.exchange import export_transformers
from vbcli.models.published import captioner_from_bart, encoder_config_of_bart, find_published, import_published
from vbcli.storage import as_path, copy_folder
from vbcli.textvocab import BART_SPECIAL_TOKENS, SPECIAL_TOKENS, read_published_vocabulary
from vbcli.training.build import find_init, init_digest
from vbcli.training.options import FitOptions

SENTENCES = [
    "Now let me show you how to peel the Café's potatoes, quickly!",
    "a red ball falls; then it rises (twice).",
    "  two  spaces\tand a tab, 日本 and naïve façade...",
    "",
    "don't you're I'll 12,345.67",
]
WORDS = ["now", "let", "me", "show", "you", "how", "to", "peel", "the", "potatoes", "a", "red", "ball", "falls", "twice", "don", "re"]


def bert_vocabulary(folder: Path, is_cased: bool = False) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({c for s in SENTENCES for c in (s if is_cased else s.lower()) if not c.isspace()})
    extra = ["Now", "Caf", "é"] if is_cased else []
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *extra, *letters, *(f"##{c}" for c in letters)]
    tokens = list(dict.fromkeys(tokens))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not is_cased, "tokenizer_class": "BertTokenizer"}))
    return len(tokens)


def bart_vocabulary(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(SENTENCES * 3, vocab_size=330, min_frequency=1, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    learner.save_model(str(folder))
    return learner.get_vocab_size()


def disturb(model: Any) -> Any:
    """Zero biases and unit norms would hide a wrong name."""
    torch.manual_seed(7)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02 * torch.randn_like(value))
    return model.eval()


BERT_SHAPES = [
    {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40, "max_position_embeddings": 24},
    {"num_hidden_layers": 3, "hidden_size": 30, "num_attention_heads": 3, "intermediate_size": 17, "max_position_embeddings": 50},
    {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 64, "layer_norm_eps": 1e-6},
]
BART_SHAPES = [
    {"encoder_layers": 2, "decoder_layers": 2, "d_model": 24, "encoder_attention_heads": 4, "encoder_ffn_dim": 40},
    {"encoder_layers": 1, "decoder_layers": 3, "d_model": 30, "encoder_attention_heads": 3, "encoder_ffn_dim": 17},
]


def bert_folder(folder: Path, shape: dict, cls: Any = transformers.BertForPreTraining, **saving) -> Any:
    n_tokens = bert_vocabulary(folder)
    model = disturb(cls(transformers.BertConfig(vocab_size=n_tokens, **shape)))
    model.save_pretrained(folder, **saving)
    return model


def bart_folder(folder: Path, shape: dict, **saving) -> Any:
    n_tokens = bart_vocabulary(folder)
    halves = {"decoder_attention_heads": shape["encoder_attention_heads"], "decoder_ffn_dim": shape["encoder_ffn_dim"]}
    config = transformers.BartConfig(
        vocab_size=n_tokens, max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=None, **shape, **halves,
    )  # fmt: skip
    model = disturb(transformers.BartForConditionalGeneration(config))
    model.save_pretrained(folder, **saving)
    return model


def assert_same_bits(first: torch.nn.Module, second: torch.nn.Module) -> None:
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.dtype == two[name].dtype, name
        assert np.array_equal(value.numpy().view(np.uint8), two[name].numpy().view(np.uint8)), name


def reload(folder: Path, cls):
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def assert_close(result: torch.Tensor | None, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert result is not None
    assert (result - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


def test_a_bert_in_a_store_is_the_one_here(tmp_path: Path) -> None:
    bert_folder(tmp_path / "bert", BERT_SHAPES[2])
    there = as_path(f"memory://{tmp_path.name}/bert")
    copy_folder(tmp_path / "bert", there)
    here, copied = (import_published(find_published(str(path)), pytest.fail) for path in (tmp_path / "bert", there))
    assert_same_bits(here.encoder, copied.encoder)
    options = FitOptions(task="pretrain", init=str(there))
    init = find_init(options, pytest.fail)
    assert init is not None
    assert init_digest(init) == init_digest(tmp_path / "bert")
    there.parent.rmdir(recursive=True)  # type: ignore[call-arg]
    with pytest.raises(VbcliError, match=f"{there} does not exist"):
        find_init(options, pytest.fail)


@pytest.mark.parametrize("shape", BERT_SHAPES)
@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "4KB"}])
def test_a_bert_comes_in_and_goes_out_again(tmp_path: Path, shape: dict, saving: dict) -> None:
    theirs = bert_folder(tmp_path / "bert", shape, **saving)
    assert bool(saving) == (tmp_path / "bert" / "model.safetensors.index.json").exists()
    notes: list[str] = []
    save_checkpoint(import_published(tmp_path / "bert", notes.append), tmp_path / "ours")
    assert not notes
    ours = load_checkpoint(tmp_path / "ours")
    ids = torch.randint(6, theirs.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(0))
    types = (torch.arange(11) >= 5).long().expand(3, -1)
    real = torch.arange(11) < torch.tensor([[11], [7], [1]])
    expected = theirs(ids, token_type_ids=types, attention_mask=real)
    hidden = ours.encoder(ids, types, real)
    assert_close(ours.encoder.masked_logits(hidden[real]), expected.prediction_logits[real])
    assert_close(ours.encoder.alignment_logits(hidden), expected.seq_relationship_logits)
    ours.encoder.masked_logits(hidden[real]).square().mean().backward()
    expected.prediction_logits[real].square().mean().backward()
    gradient = theirs.bert.encoder.layer[0].attention.self.query.weight.grad
    assert_close(ours.encoder.get_parameter("blocks.0.self_attention.q.weight").grad, gradient, 1e-4)
    export_transformers(ours, tmp_path / "again")
    assert_same_bits(reload(tmp_path / "again", transformers.BertForPreTraining), theirs)


@pytest.mark.parametrize("shape", BART_SHAPES)
@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "10KB"}])
def test_a_bart_comes_in_and_goes_out_again(tmp_path: Path, shape: dict, saving: dict) -> None:
    theirs = bart_folder(tmp_path / "bart", shape, **saving)
    save_checkpoint(import_published(tmp_path / "bart", pytest.fail), tmp_path / "ours")
    ours = load_checkpoint(tmp_path / "ours")
    assert isinstance(ours.model, Bart)
    ids, real, written = text_batch(theirs.config.vocab_size)
    expected = theirs(input_ids=ids, attention_mask=real, decoder_input_ids=written).logits
    assert_close(ours.model(ids, real, decoder_input_ids=written), expected)
    export_transformers(ours, tmp_path / "again")
    assert_same_bits(reload(tmp_path / "again", transformers.BartForConditionalGeneration), theirs)


def text_batch(n_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids, written = (torch.randint(5, n_tokens, (3, n), generator=generator) for n in (11, 6))
    return ids, torch.arange(11) < torch.tensor([[11], [7], [2]]), written


def test_a_captioner_that_starts_as_a_bart_writes_what_the_bart_writes(tmp_path: Path) -> None:
    theirs = bart_folder(tmp_path / "bart", BART_SHAPES[0])
    imported = import_published(tmp_path / "bart", pytest.fail)
    assert isinstance(imported.model, Bart)
    shape = encoder_config_of_bart(imported.model)
    captioner = captioner_from_bart(imported.model, replace(shape, n_visual_tokens=9, visual_input="tokens")).eval()
    ids, real, written = text_batch(theirs.config.vocab_size)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=real, decoder_input_ids=written).logits
        assert_close(captioner(ids, torch.zeros_like(ids), real, decoder_input_ids=written), expected)
        memory, mask = captioner.encode(ids, torch.zeros_like(ids), real)
        found = [h[0].token_ids for h in generate(captioner.decoder, memory, mask, DecodingConfig(4, 12))]
        sequences = theirs.generate(
            input_ids=ids, attention_mask=real, num_beams=4, max_length=13, no_repeat_ngram_size=3, early_stopping=False, do_sample=False
        )
    assert [imported.text.decode(i) for i in found] == [imported.text.decode(row.tolist()) for row in sequences]
    with pytest.raises(VbcliError, match="fusion 'cross' has no equal"):
        captioner_from_bart(imported.model, replace(shape, n_visual_tokens=9, visual_input="tokens", fusion="cross"))


@pytest.mark.parametrize("is_cased", [False, True])
def test_a_vocabulary_of_one_word_piece_a_line(tmp_path: Path, is_cased: bool) -> None:
    bert_vocabulary(tmp_path, is_cased)
    theirs = BertTokenizerFast.from_pretrained(tmp_path)
    ours = read_published_vocabulary(tmp_path)
    assert ours.special_tokens == SPECIAL_TOKENS
    for sentence in SENTENCES:
        assert ours.encode(sentence) == theirs(sentence, add_special_tokens=False)["input_ids"]
    assert ours.encode("a [MASK] ball") == theirs("a [MASK] ball", add_special_tokens=False)["input_ids"]


def test_a_vocabulary_of_bytes_and_merges(tmp_path: Path) -> None:
    bart_vocabulary(tmp_path)
    theirs = BartTokenizerFast.from_pretrained(tmp_path)
    ours = read_published_vocabulary(tmp_path)
    assert ours.special_tokens == BART_SPECIAL_TOKENS
    for sentence in SENTENCES:
        expected = theirs(sentence, add_special_tokens=False)["input_ids"]
        assert ours.encode(sentence) == expected
        assert ours.decode(expected) == sentence
    # As in BART's own tokenizer, a mask takes the space before it along.
    assert ours.encode("a <mask> ball") == [*ours.encode("a"), ours.mask_id, *ours.encode(" ball")]


def test_heads_that_a_folder_lacks_are_named(tmp_path: Path) -> None:
    """A bare BertModel, saved by PyTorch before there was safetensors."""
    theirs = bert_folder(tmp_path / "bert", BERT_SHAPES[0], transformers.BertModel)
    torch.save(theirs.state_dict(), tmp_path / "bert" / "pytorch_model.bin")
    (tmp_path / "bert" / "model.safetensors").unlink()
    notes: list[str] = []
    first = import_published(tmp_path / "bert", notes.append)
    assert len(notes) == 1
    assert "lacks alignment, masked_bias, masked_dense, masked_norm" in notes[0]
    second = import_published(tmp_path / "bert", notes.append)
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(value, second.encoder.state_dict()[name]), f"{name} is drawn anew at each import"
    ids = torch.tensor([[3, 8, 9, 4]])
    real = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        hidden = first.encoder(ids, torch.zeros_like(ids), real)
        assert_close(hidden, theirs(ids).last_hidden_state)
        assert_close(first.encoder.pool(hidden), theirs(ids).pooler_output)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', and only 'gelu' can be read"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"type_vocab_size": 1}, "type_vocab_size is 1, and only 2"),
        ({"model_type": "gpt2"}, "holds a model of type 'gpt2'"),
        ({"model_type": None}, "holds a model of type 'None'"),
        ({"hidden_size": 32}, "has shape"),
        ({"vocab_size": 9}, "the tokenizer has"),
        ({"num_hidden_layers": 3}, "lacks"),
    ],
)
def test_what_ours_do_not_have_is_refused(tmp_path: Path, change: dict, sentence: str) -> None:
    bert_folder(tmp_path, BERT_SHAPES[0])
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(VbcliError, match=sentence):
        import_published(tmp_path, pytest.fail)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale_embedding": True}, "scale_embedding is True, and only False"),
        ({"decoder_ffn_dim": 8}, "encoder_ffn_dim and decoder_ffn_dim differ"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    ],
)
def test_a_bart_of_another_build_is_refused(tmp_path: Path, change: dict, sentence: str) -> None:
    bart_folder(tmp_path, BART_SHAPES[0])
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(VbcliError, match=sentence):
        import_published(tmp_path, pytest.fail)


def test_a_folder_without_a_vocabulary_or_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match="is not a model in Hugging Face's format"):
        import_published(tmp_path, pytest.fail)
    bert_folder(tmp_path, BERT_SHAPES[0])
    text = (tmp_path / "vocab.txt").read_text()
    (tmp_path / "vocab.txt").write_text(text.replace("[MASK]\n", ""))
    with pytest.raises(VbcliError, match=r"vocab\.txt has no token \[MASK\]"):
        import_published(tmp_path, pytest.fail)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(VbcliError, match="holds no text vocabulary"):
        import_published(tmp_path, pytest.fail)


def test_a_name_of_the_hub_that_was_downloaded_before_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that huggingface_hub keeps, laid out by hand."""
    theirs = bert_folder(tmp_path / "bert", BERT_SHAPES[0])
    home = tmp_path / "cache" / "models--someone--small-bert"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tmp_path / "bert", home / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = find_published("someone/small-bert")
    assert torch.equal(
        import_published(found, pytest.fail).encoder.position_embedding.weight, theirs.bert.embeddings.position_embeddings.weight
    )
    with pytest.raises(VbcliError, match="someone/other is no folder, and cannot be had from the hub"):
        find_published("someone/other")
