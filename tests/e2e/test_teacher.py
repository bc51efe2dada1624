"""Published captioners, saved by transformers with random weights: what comes out means nothing, how it comes out does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import MakeVideo
from tests.e2e.commands import rows, vbcli
from vbcli.models.decoding import DecodingConfig
from vbcli.models.teachers import Teacher, find_teacher

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(40))]
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VISION: dict[str, Any] = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def git() -> Any:
    model = transformers.GitForCausalLM(transformers.GitConfig(vision_config=VISION, num_image_with_embedding=3, **TEXT))
    # Words, not [PAD] and the like.
    torch.nn.init.constant_(model.output.bias[:5], -10.0)
    return model


def blip() -> Any:
    text: dict[str, Any] = {**TEXT, "encoder_hidden_size": 32, "sep_token_id": 3}
    return transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config=VISION, projection_dim=32, image_text_hidden_size=32)
    )


def vision_encoder_decoder() -> Any:
    words = transformers.BertConfig(is_decoder=True, add_cross_attention=True, **TEXT)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(transformers.ViTConfig(**VISION), words)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    model = transformers.VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3)
    return model


KINDS: dict[str, Callable[[], Any]] = {"git": git, "blip": blip, "vit-bert": vision_encoder_decoder}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_video: MakeVideo) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    size = {"height": 32, "width": 32}
    for name, build in KINDS.items():
        torch.manual_seed(3)
        build().save_pretrained(folder / name)
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder / name)
        processor = (
            transformers.ViTImageProcessor(size=size) if name == "vit-bert" else transformers.CLIPImageProcessor(size=size, crop_size=size)
        )
        processor.save_pretrained(folder / name)
    for i in range(5):
        make_video(folder / "videos" / f"{i}.mp4", duration_s=1 + i / 2, hue=70 * i)
    (folder / "videos" / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("n_beams", [1, 3])
def test_captions_are_those_of_transformers(place: Path, name: str, n_beams: int):
    spec = find_teacher(str(place / name))
    assert spec.n_frames == (3 if name == "git" else 1)
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)) for _ in range(spec.n_frames)]
    caption, score = Teacher(spec).caption(frames, DecodingConfig(n_beams=n_beams, max_length=7))
    model = KINDS[name]().from_pretrained(place / name).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(place / name)(images=frames, return_tensors="pt").pixel_values
    pixels = pixels[None] if spec.n_frames > 1 else pixels
    expected = model.generate(pixel_values=pixels, num_beams=n_beams, max_new_tokens=7, no_repeat_ngram_size=3, do_sample=False)
    words = transformers.AutoTokenizer.from_pretrained(place / name)
    assert caption == words.decode(expected[0], skip_special_tokens=True).strip()
    assert caption.startswith("word")
    assert (score is None) == (n_beams == 1)


def test_a_folder_without_captions_gets_some_and_a_model_can_learn_them(place: Path):
    said = vbcli(
        "caption",
        "videos",
        "captions",
        "--checkpoint",
        "hf:git",
        "--max-length",
        "6",
        "--min-length",
        "3",
        "--format",
        "jsonl",
        cwd=place,
        status=3,
    )
    assert "broken.mp4" in said.stderr
    found = rows(f"select video_id, caption, checkpoint, start_s, end_s from '{place}/captions/shard-*.parquet' order by 1")
    assert [row[0] for row in found] == [f"{i}.mp4" for i in range(5)]
    assert {row[2] for row in found} == {f"hf:git@{find_teacher(str(place / 'git')).sha256[:16]}"}
    for video_id, caption, _, start_s, end_s in found:
        with av.open(str(place / "videos" / video_id)) as video:
            assert (start_s, end_s) == (0, pytest.approx((video.duration or 0) / av.time_base, abs=0.1))
        assert caption
    again = vbcli("caption", "videos", "captions", "--checkpoint", "hf:git", "--max-length", "6", "--min-length", "3", cwd=place, status=3)
    assert "were there already" in again.stderr
    small = ("--encoder", "timm:test_convnext/random")
    vbcli("encode", "videos", "features", "--captions", "captions/captions.jsonl", *small, cwd=place, status=3)
    learned = rows(f"select video_id, captions from '{place}/features/videos/shard-*.parquet' order by 1")
    assert {v: c[0]["text"] for v, c in learned if c} == {row[0]: row[1] for row in found}


def test_a_video_that_is_gone_does_not_keep_others_from_their_burnt_in_captions(place: Path, tmp_path: Path):
    shutil.copytree(place / "videos", tmp_path / "videos", ignore=shutil.ignore_patterns("broken.mp4", "[234].mp4"))
    command = ("caption", "videos", "captions", "--checkpoint", f"hf:{place / 'git'}", "--max-length", "6")
    vbcli(*command, cwd=tmp_path)
    (tmp_path / "videos" / "0.mp4").unlink()
    said = vbcli(*command, "--burn-in", "shown", "--json", cwd=tmp_path, status=3)
    assert [path.name for path in (tmp_path / "shown").glob("*.mp4")] == ["1.mp4.mp4"]
    assert "warning: " in said.stderr
    assert "0.mp4" in said.stderr
    counts = json.loads(said.stdout)
    assert [(f["video_id"], f["stage"]) for f in counts["failures"]] == [("0.mp4", "render")]
    assert counts["n_failed"] == 1


def copied(place: Path, target: Path, name: str) -> Path:
    shutil.copytree(place / name, target / name)
    return target / name


def cut(path: Path, n_bytes: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights cut off": lambda folder: cut(folder / "model.safetensors", 5000),
    "weights empty": lambda folder: cut(folder / "model.safetensors", 0),
    "no preprocessor": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "preprocessor cut off": lambda folder: cut(folder / "preprocessor_config.json"),
    "no tokenizer": without_tokenizer,
    "tokenizer of another form": lambda folder: (folder / "tokenizer.json").write_text("[]"),
    "generation cut off": lambda folder: cut(folder / "generation_config.json"),
    "generation of another form": lambda folder: (folder / "generation_config.json").write_text("[]"),
    "a width that is text": lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"hidden_size": 32', '"hidden_size": "x"')
    ),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_captioner_is_refused_before_a_folder_is_made(place: Path, tmp_path: Path, damage: str):
    DAMAGES[damage](copied(place, tmp_path, "git"))
    said = vbcli("caption", place / "videos", "none", "--checkpoint", "hf:git", cwd=tmp_path, status=1)
    assert said.stderr.startswith("error: git")
    assert not (tmp_path / "none").exists()


def test_a_model_that_lacks_weights_is_refused_by_name(place: Path, tmp_path: Path):
    folder = copied(place, tmp_path, "blip")
    transformers.BlipForImageTextRetrieval(transformers.BlipConfig.from_pretrained(folder)).save_pretrained(folder)
    said = vbcli("caption", place / "videos", "none", "--checkpoint", "hf:blip", cwd=tmp_path, status=1)
    message = " ".join(said.stderr.split())
    assert "blip lacks" in message
    assert "first text_decoder.bert" in message
    assert not (tmp_path / "none").exists()


def test_a_pooler_that_is_not_used_may_be_missing(place: Path, tmp_path: Path):
    folder = copied(place, tmp_path, "vit-bert")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".pooler." not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    frames = [Image.new("RGB", (64, 48), "red")]
    said = [Teacher(find_teacher(str(path))).caption(frames, DecodingConfig(max_length=7)) for path in (folder, place / "vit-bert")]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("preprocessor_config.json", "image_mean", [0.9, 0.1, 0.2]),
        ("generation_config.json", "repetition_penalty", 3.0),
        ("tokenizer_config.json", "clean_up_tokenization_spaces", True),
    ],
)
def test_what_is_around_the_weights_is_part_of_the_identity(place: Path, tmp_path: Path, file: str, name: str, value: Any):
    folder = copied(place, tmp_path, "git")
    before = find_teacher(str(folder)).sha256
    assert before == find_teacher(str(place / "git")).sha256
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert find_teacher(str(folder)).sha256 != before


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("videos", "none", "--checkpoint", "hf:videos"), 1, "videos is no captioner that can be asked"),
        (("videos", "none", "--checkpoint", "hf:git", "--segments", "shots"), 2, "captions whole videos"),
        (("videos", "none", "--checkpoint", "hf:git", "--sample"), 2, "--sample is for captioners of vbcli train"),
        (("videos", "none", "--checkpoint", "hf:blip", "--max-length", "512"), 2, "--max-length is 512, and blip has 512 positions"),
        (("videos", "none", "--checkpoint", "hf:"), 1, "names no captioner"),
        (("nowhere", "none", "--checkpoint", "hf:git"), 1, "nowhere does not exist"),
        (("captions", "none", "--checkpoint", "hf:git"), 1, "is a captions dataset"),
    ],
)
def test_what_cannot_be_asked_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    assert message in " ".join(vbcli("caption", *arguments, cwd=place, status=status).stderr.split())
    assert not (place / "none").exists()


def test_a_name_of_the_hub_without_a_network_fails_at_once(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = vbcli("caption", "videos", "none", "--checkpoint", "hf:microsoft/git-base-vatex", cwd=place, status=1)
    assert "microsoft/git-base-vatex is no folder, and cannot be had from the hub" in " ".join(said.stderr.split())
    assert "name a folder" in said.stderr
    assert not (place / "none").exists()
