"""What training starts from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.errors import VbcliError
from vbcli.models.checkpoint import save_checkpoint
from vbcli.training.batches import SegmentRow, VideoTokens
from vbcli.training.build import build_checkpoint, find_init, init_digest, minilm_dir
from vbcli.training.options import FitOptions
from vbcli.vocab.artifact import Vocabulary, load_vocabulary, save_vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

PRETRAIN, CAPTION = FitOptions("pretrain"), FitOptions("caption")


@pytest.fixture(scope="module")
def vocab_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vocab")
    features = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    save_vocabulary(
        fit_vocabulary(features, VocabConfig(branching=3, levels=1, n_components=4), {"name": "none", "block_dims": [6]}), out, []
    )
    return out


@pytest.fixture(scope="module")
def visual(vocab_dir: Path) -> Vocabulary:
    return load_vocabulary(vocab_dir)


def videos() -> list[VideoTokens]:
    segment = SegmentRow("v.mp4", 0, 1, np.zeros(2, np.int32), np.zeros((2, 4), np.float32), "a red ball falls")
    return [VideoTokens("v.mp4", [segment], ["a ball"], "train")]


def build(options: FitOptions, visual: Vocabulary, vocab_dir: Path):
    torch.manual_seed(options.seed)
    return build_checkpoint(options, find_init(options, print), visual, vocab_dir, videos(), print)


@pytest.fixture(scope="module")
def pretrained(visual: Vocabulary, vocab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint")
    made = build(PRETRAIN, visual, vocab_dir)
    torch.manual_seed(5)
    with torch.no_grad():
        for value in made.encoder.parameters():
            value.add_(torch.randn_like(value))
    save_checkpoint(made, out)
    return out


def test_a_captioner_starts_from_a_share_of_the_blocks_and_from_all_text_rows(pretrained: Path, visual: Vocabulary, vocab_dir: Path):
    source = build(replace(PRETRAIN, init=str(pretrained)), visual, vocab_dir).encoder
    whole = build(replace(CAPTION, init=str(pretrained), keep_init=1.0), visual, vocab_dir).captioner
    for name, value in source.state_dict().items():
        assert torch.equal(whole.encoder.state_dict()[name], value), name
    part = build(replace(CAPTION, init=str(pretrained), keep_init=0.25), visual, vocab_dir).captioner
    n_text = source.config.n_text_tokens
    assert torch.equal(part.decoder.token_embedding.weight, source.token_embedding.weight[:n_text])
    assert torch.equal(part.encoder.position_embedding.weight, source.position_embedding.weight)
    for name in ("blocks.1.feed_forward.up.weight", "feature_projection.weight"):
        noise = part.encoder.state_dict()[name] - 0.25 * source.state_dict()[name]
        assert float(noise.std()) == pytest.approx(0.01, rel=0.2)


def test_a_checkpoint_is_loaded_with_the_weights_that_were_saved_and_without_a_compiler(
    visual: Vocabulary, vocab_dir: Path, tmp_path: Path
):
    made = build(CAPTION, visual, vocab_dir)
    save_checkpoint(made, tmp_path / "model")
    torch.save(made.model.state_dict(), tmp_path / "saved.pt")
    code = (
        "import sys; from pathlib import Path; import torch\n"
        "from vbcli.models.checkpoint import load_checkpoint\n"
        "place = Path(sys.argv[1])\n"
        "model = load_checkpoint(place / 'model').model\n"
        "saved = torch.load(place / 'saved.pt')\n"
        "assert {name: value.equal(saved[name]) for name, value in model.state_dict().items()} == dict.fromkeys(saved, True)\n"
        "assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])\n"
        "assert all(p.requires_grad for p in model.parameters())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("task", ["caption", "denoise"])
def test_a_captioner_and_what_denoising_learned_go_on_as_they_are(visual: Vocabulary, vocab_dir: Path, tmp_path: Path, task):
    made = build(replace(CAPTION, task=task), visual, vocab_dir)
    assert made.task == task
    save_checkpoint(made, tmp_path)
    again = build(replace(CAPTION, init=str(tmp_path), seed=3), visual, vocab_dir)
    assert again.task == "caption"
    for name, value in made.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_shape_that_the_checkpoint_has_not_is_refused(pretrained: Path, visual: Vocabulary, vocab_dir: Path):
    with pytest.raises(VbcliError, match="has fusion 'joint', not 'cross'"):
        build(replace(CAPTION, init=str(pretrained), fusion="cross"), visual, vocab_dir)
    with pytest.raises(VbcliError, match="has visual_input 'both', not 'tokens'"):
        build(replace(CAPTION, init=str(pretrained), visual_input="tokens"), visual, vocab_dir)
    with pytest.raises(VbcliError, match="another visual vocabulary"):
        build(replace(CAPTION, init=str(pretrained)), replace(visual, sha256="other"), vocab_dir)
    with pytest.raises(VbcliError, match="has n_layers 2, and --model videobert-base 12"):
        build(replace(CAPTION, init=str(pretrained), model="videobert-base"), visual, vocab_dir)


def test_the_shape_that_was_trained_is_gone_on_with(visual: Vocabulary, vocab_dir: Path, tmp_path: Path):
    save_checkpoint(build(replace(PRETRAIN, fusion="cross", visual_input="features"), visual, vocab_dir), tmp_path)
    config = build(replace(CAPTION, init=str(tmp_path)), visual, vocab_dir).encoder.config
    assert (config.fusion, config.visual_input) == ("cross", "features")


def test_what_a_bert_lacks_is_drawn_by_the_seed(visual: Vocabulary, vocab_dir: Path):
    one, other = (build(replace(PRETRAIN, init="minilm", seed=seed), visual, vocab_dir).encoder for seed in (0, 1))
    assert torch.equal(one.token_embedding.weight[:100], other.token_embedding.weight[:100])
    name = "feature_projection.weight"
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))


def test_a_decoder_has_the_width_of_the_encoder_it_is_given(visual: Vocabulary, vocab_dir: Path, tmp_path: Path):
    save_checkpoint(build(replace(PRETRAIN, init="minilm"), visual, vocab_dir), tmp_path)
    captioner = build(replace(CAPTION, init=str(tmp_path)), visual, vocab_dir).captioner
    assert (captioner.decoder.config.hidden_size, len(captioner.decoder.blocks)) == (384, 6)


def test_what_is_no_checkpoint_and_no_bert_is_said(visual: Vocabulary, vocab_dir: Path, tmp_path: Path):
    with pytest.raises(VbcliError, match="none does not exist"):
        build(replace(PRETRAIN, init=str(tmp_path / "none")), visual, vocab_dir)
    with pytest.raises(VbcliError, match="is neither a checkpoint nor a BERT or BART"):
        build(replace(PRETRAIN, init=str(tmp_path)), visual, vocab_dir)
    with pytest.raises(VbcliError, match="'bart-tiny' is not a preset of an encoder"):
        build(replace(CAPTION, model="bart-tiny"), visual, vocab_dir)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rate": -1.0}, "--learning-rate is -1.0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"label_smoothing": 2.0}, "--label-smoothing is 2.0"),
        ({"label_smoothing": -1.0}, "--label-smoothing is -1.0"),
        ({"keep_init": 1.5}, "--keep-init is 1.5"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(changes, sentence):
    with pytest.raises(VbcliError, match=sentence):
        FitOptions("caption", **changes)


def test_what_is_started_from_is_known_by_what_it_holds(tmp_path: Path):
    """A BERT that was moved is the same; one with another weight is not; `videobert-mini` starts from MiniLM by itself."""
    berts = [tmp_path / name for name in ("one", "moved", "other")]
    for bert, weights in zip(berts, (b"1", b"1", b"2"), strict=True):
        bert.mkdir()
        (bert / "model.safetensors").write_bytes(weights)
        (bert / "tokenizer.json").write_text("{}")
    one, moved, other = (init_digest(bert) for bert in berts)
    assert one == moved != other
    assert find_init(replace(PRETRAIN, model="videobert-mini"), print) == minilm_dir()
    assert find_init(PRETRAIN, print) is None


@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        # Two of three are a, one is b: 3 / (2 * n).
        ([["a"], ["a"], ["b"], []], [0.75, 1.5]),
        # Of four with a label three have a, one has b: those without by those with.
        ([["a"], ["a", "b"], ["a"], ["c"], []], [1 / 3, 3, 3]),
    ],
)
def test_balanced_classes_of_one_or_several_labels(visual: Vocabulary, vocab_dir: Path, labels: list[list[str]], weights: list[float]):
    train = [replace(videos()[0], video_id=f"{i}.mp4", labels=of_video) for i, of_video in enumerate(labels)]
    for is_balanced in (True, False):
        options = FitOptions("classify", balance=is_balanced)
        found = build_checkpoint(options, None, visual, vocab_dir, train, print).classifier.head.class_weights
        assert (None if found is None else found.tolist()) == (pytest.approx(weights) if is_balanced else None)
