"""Text that enters as the features of a frozen BERT: against `transformers.BertModel` and an embedding worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from vbcli.errors import VbcliError
from vbcli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vbcli.models.exchange import export_transformers
from vbcli.models.published import import_published
from vbcli.models.videobert import VideoBert
from vbcli.tokens import pack
from vbcli.training.batches import Batch, SegmentRow, VideoTokens, collate
from vbcli.training.build import build_checkpoint, find_init
from vbcli.training.options import FitOptions
from vbcli.training.pretrain import PretrainTask
from vbcli.training.tasks import TRAINING
from vbcli.training.trainer import TrainConfig, Trainer
from vbcli.vocab.artifact import load_vocabulary, save_vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

WORDS = ["now", "let", "me", "show", "you", "how", "to", "peel", "the", "potatoes", "a", "red", "ball", "falls", "##s"]
SENTENCES = ["now let me show you how to peel the potatoes", "a red ball falls", "", "you show me a ball"]
W, P = 20, 4
Build = Callable[..., Checkpoint]


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of Hugging Face's, with random weights, whose special tokens are not the first."""
    folder = tmp_path_factory.mktemp("bert")
    tokens = ["[PAD]", "[unused0]", "[unused1]", *WORDS, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=len(tokens) + 3,
        hidden_size=W,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=30,
        max_position_embeddings=40,
    )
    model = transformers.BertForPreTraining(shape)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, bert_dir: Path) -> Build:
    """A function that makes what training with --text-input features starts from."""
    vocab_dir = tmp_path_factory.mktemp("vocab")
    features = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    config = VocabConfig(branching=3, levels=1, n_components=P, n_codebooks=1)
    save_vocabulary(fit_vocabulary(features, config, {"name": "none", "block_dims": [6]}), vocab_dir, [])

    def build(**options) -> Checkpoint:
        settings = FitOptions(**{"task": "pretrain", "init": str(bert_dir), "text_input": "features", **options})
        torch.manual_seed(settings.seed)
        return build_checkpoint(settings, find_init(settings, print), load_vocabulary(vocab_dir), vocab_dir, [], pytest.fail)

    return build


def masked_batch(made: Checkpoint) -> Batch:
    """Rows of different lengths, one without text and one without video, with words masked and replaced."""
    rng = np.random.default_rng(0)
    rows = []
    for i, sentence in enumerate(SENTENCES):
        ids = made.text.encode(sentence)
        if len(ids) > 2:
            ids[1], ids[2] = made.text.mask_id, made.text.encode("ball")[0]
        n_clips = (3, 0, 5, 2)[i]
        tokens, features = rng.integers(0, 3, n_clips), rng.normal(size=(n_clips, P))
        rows.append(pack(ids, tokens, features, made.text, made.encoder.config))
    return collate(rows, P, made.text.pad_id)


def their_features(bert_dir: Path, made: Checkpoint, batch: Batch) -> list[torch.Tensor]:
    """`BertModel` on each `[CLS] text [SEP]` by itself: float (T + 2, W)."""
    theirs = transformers.BertModel.from_pretrained(bert_dir).eval()
    found = []
    for row in batch.input_ids.tolist():
        text = row[: row.index(made.encoder.config.boundary_token_id)]
        with torch.no_grad():
            found.append(theirs(torch.tensor([[*text, made.text.sep_id]])).last_hidden_state[0])
    return found


@pytest.mark.parametrize("fusion", ["joint", "cross"])
def test_the_embedding_by_hand_with_the_features_of_transformers(build: Build, bert_dir: Path, fusion: str) -> None:
    made = build(fusion=fusion, model="videobert-tiny")
    model = made.encoder.eval()
    config = model.config
    assert (config.hidden_size, config.n_layers, config.max_positions, config.text_input) == (128, 2, 40, "features")
    batch = masked_batch(made)
    assert model.frozen_text is not None
    assert model.feature_projection is not None
    weight, bias = model.frozen_text.projection.weight, model.frozen_text.projection.bias
    features = their_features(bert_dir, made, batch)
    with torch.no_grad():
        embedded = model._embed(batch.input_ids, batch.token_type_ids, batch.attention_mask, batch.features, batch.feature_mask, None)
        for row, known in enumerate(features):
            ids = batch.input_ids[row, : int(batch.attention_mask[row].sum())].tolist()
            n_text = ids.index(config.boundary_token_id) - 1
            assert len(known) == n_text + 2
            for place, token in enumerate(ids):
                is_text = place <= n_text  # or [CLS]
                vector = weight @ known[place] + bias if is_text else model.token_embedding.weight[token]
                if n_text + 2 <= place < len(ids) - 1:
                    vector = vector + model.feature_projection(batch.features[row, place])
                kind = int(place >= n_text + 2)
                total = vector + model.position_embedding.weight[place] + model.type_embedding.weight[kind]
                centred = total - total.mean()
                normed = centred / (centred.square().mean() + config.layer_norm_eps).sqrt()
                expected = normed * model.embedding_norm.weight + model.embedding_norm.bias
                torch.testing.assert_close(embedded[row, place], expected, rtol=0, atol=2e-5)


def test_the_bert_is_the_same_in_training_and_takes_no_gradient(build: Build, bert_dir: Path) -> None:
    made = build()
    model, batch = made.encoder, masked_batch(made)
    assert model.frozen_text is not None
    model.train()
    seen: list[torch.Tensor] = []
    model.frozen_text.bert.register_forward_hook(lambda *call: seen.append(call[2]))  # type: ignore[arg-type]
    hidden = model(**batch.arguments())
    model.masked_logits(hidden[batch.attention_mask]).square().mean().backward()
    for row, known in enumerate(their_features(bert_dir, made, batch)):
        assert float((seen[0][row, : len(known) - 1] - known[:-1]).abs().max()) <= 1e-5 * max(1, float(known.abs().max()))
    assert all(p.grad is None for p in model.frozen_text.bert.parameters())
    for name in ("frozen_text.projection.weight", "token_embedding.weight", "blocks.0.self_attention.q.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0


def test_rows_do_not_depend_on_their_batch(build: Build) -> None:
    made = build()
    model, batch = made.encoder.eval(), masked_batch(made)
    with torch.no_grad():
        together = model(**batch.arguments())
        for row in range(len(SENTENCES)):
            n = int(batch.attention_mask[row].sum())
            alone = model(**{name: value[row : row + 1, :n] for name, value in batch.arguments().items()})
            torch.testing.assert_close(alone[0], together[row, :n], rtol=0, atol=1e-5)


# ---------------------------------------------------------------- training


def videos() -> list[VideoTokens]:
    rng = np.random.default_rng(1)
    made = []
    for i in range(12):
        features = rng.normal(size=(4, P)).astype(np.float32)
        segment = SegmentRow(f"{i}.mp4", 0, 2, rng.integers(0, 3, 4).astype(np.int32), features, SENTENCES[i % 4])
        made.append(VideoTokens(f"{i}.mp4", [segment], ["a red ball"], "train"))
    return made


def train(made: Checkpoint, folder: Path, stop_at: int | None = None) -> Trainer:
    class Stop(Exception):
        pass

    def on_progress(now) -> None:
        if now.step == stop_at:
            raise Stop

    task = PretrainTask(made.encoder, made.text, videos(), videos()[:4])
    settings = TrainConfig(max_steps=6, batch_size=4, eval_every=2, warmup_steps=1, weight_decay=0.5, ema_decay=0.5, learning_rate=1e-2)
    trainer = Trainer(task, settings, folder, {}, on_progress)
    try:
        trainer.run()
    except Stop:
        assert stop_at is not None
    return trainer


def frozen_state(model: VideoBert) -> dict[str, torch.Tensor]:
    assert model.frozen_text is not None
    return {name: value.clone() for name, value in model.frozen_text.bert.state_dict().items()}


def test_training_changes_everything_but_the_bert(build: Build, bert_dir: Path, tmp_path: Path) -> None:
    made = build()
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    trainer = train(made, tmp_path / "run", stop_at=5)
    state = torch.load(tmp_path / "run" / "_training" / "state.pt", weights_only=True)
    kept = [*state["model"], *state["mean_state"], *state["best_state"]]
    assert kept
    assert not [name for name in kept if ".bert." in name]
    frozen = {id(p) for name, p in made.encoder.named_parameters() if ".bert." in name}
    assert not frozen & {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    resumed, whole = build(), build()
    train(resumed, tmp_path / "run")
    train(whole, tmp_path / "whole")
    published = import_published(bert_dir, pytest.fail).encoder.state_dict()
    for name, value in whole.encoder.state_dict().items():
        assert torch.equal(value, resumed.encoder.state_dict()[name]), name
        if ".bert." in name:
            assert torch.equal(value, published[name.removeprefix("frozen_text.bert.")]), name
        elif name != "position_embedding.weight":
            assert not torch.equal(value, before[name]), name


def test_masked_words_are_masked_for_the_bert_too(build: Build) -> None:
    """What it reads in pre-training are the masked ids of the row, and nothing else of it."""
    made = build()
    task = PretrainTask(made.encoder, made.text, videos(), videos(), regime_weights=(0, 1, 0))
    assert made.encoder.frozen_text is not None
    seen: list[torch.Tensor] = []
    made.encoder.frozen_text.bert.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    drawn = task.draw(TRAINING, [0, 1, 3], 0, is_disturbed=True)
    task.losses(drawn)
    assert (drawn.batch.input_ids == made.text.mask_id).any()
    for read, given in zip(seen[0].tolist(), drawn.batch.input_ids.tolist(), strict=True):
        text = given[: given.index(made.encoder.config.boundary_token_id)]
        assert read[: len(text) + 1] == [*text, made.text.sep_id]
        assert set(read[len(text) + 1 :]) <= {made.text.pad_id}


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_holds_the_bert_once_and_a_captioner_starts_from_it(build: Build, tmp_path: Path) -> None:
    made = build()
    before = frozen_state(made.encoder)
    save_checkpoint(made, tmp_path / "pretrain")
    loaded = load_checkpoint(tmp_path / "pretrain", "pretrain")
    batch = masked_batch(made)
    with torch.no_grad():
        assert torch.equal(loaded.encoder(**batch.arguments()), made.encoder.eval()(**batch.arguments()))
    assert loaded.encoder.config == made.encoder.config
    caption = build(task="caption", init=str(tmp_path / "pretrain"), keep_init=0.25)
    save_checkpoint(caption, tmp_path / "caption")
    again = load_checkpoint(tmp_path / "caption", "caption")
    names = [name for name in again.model.state_dict() if name.endswith("bert.blocks.0.self_attention.q.weight")]
    assert names == ["encoder.frozen_text.bert.blocks.0.self_attention.q.weight"]
    for name, value in before.items():
        assert torch.equal(frozen_state(again.encoder)[name], value), name
    # The map to the model's width is kept whole, as text rows are.
    assert again.encoder.frozen_text is not None
    assert made.encoder.frozen_text is not None
    assert torch.equal(again.encoder.frozen_text.projection.weight, made.encoder.frozen_text.projection.weight)
    block = "blocks.0.feed_forward.up.weight"
    assert not torch.equal(again.encoder.get_parameter(block), made.encoder.get_parameter(block))
    assert not any(p.requires_grad for p in again.encoder.frozen_text.bert.parameters())


def test_what_starts_fresh_is_drawn_by_the_seed(build: Build) -> None:
    one, other = build().encoder.state_dict(), build(seed=1).encoder.state_dict()
    same = {name for name, value in one.items() if torch.equal(value, other[name])}
    assert {name for name in one if ".bert." in name} <= same
    assert not {"frozen_text.projection.weight", "blocks.0.self_attention.q.weight", "token_embedding.weight"} & same


def test_an_imported_checkpoint_is_as_good_as_the_folder(build: Build, bert_dir: Path, tmp_path: Path) -> None:
    save_checkpoint(import_published(bert_dir, pytest.fail), tmp_path / "bert")
    one, other = build(), build(init=str(tmp_path / "bert"))
    assert one.encoder.config == other.encoder.config
    for name, value in frozen_state(one.encoder).items():
        assert torch.equal(value, frozen_state(other.encoder)[name]), name


def test_minilm_in_front_of_a_tiny_model(build: Build) -> None:
    made = build(init="minilm")
    config = made.encoder.config
    assert config.text_bert is not None
    assert (config.hidden_size, config.text_bert.hidden_size, config.text_bert.n_layers) == (128, 384, 6)
    assert made.encoder.frozen_text is not None
    assert made.encoder.frozen_text.projection.weight.shape == (128, 384)


def test_what_has_no_bert_or_no_equal_is_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match="--text-input features needs --init"):
        build(init=None)
    with pytest.raises(VbcliError, match="--text-input features needs --init"):
        build(init=None, model="videobert-mini")
    save_checkpoint(build(text_input="tokens"), tmp_path / "tokens")
    with pytest.raises(VbcliError, match="has text_input 'tokens', not 'features'"):
        build(init=str(tmp_path / "tokens"))
    shape = transformers.BartConfig(
        vocab_size=60,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
    )
    bart = transformers.BartForConditionalGeneration(shape)
    bart.save_pretrained(tmp_path / "bart")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a"]
    (tmp_path / "bart" / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (tmp_path / "bart" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(VbcliError, match="is a BART, and --text-input features wants a BERT"):
        build(init=str(tmp_path / "bart"))
    for task in ("pretrain", "caption"):
        with pytest.raises(VbcliError, match="text input 'features' has no equal in transformers"):
            export_transformers(build(task=task), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_as_tokens_has_no_bert(build: Build) -> None:
    made = build(text_input="tokens", model=None)
    assert made.encoder.frozen_text is None
    assert replace(made.encoder.config, text_bert=made.encoder.config).text_input == "features"
