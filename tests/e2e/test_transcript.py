"""Models that are shown transcripts: trained, then run on tokens and straight from videos with subtitles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.e2e.commands import Ended
from tests.e2e.commands import vbcli as vbcli_in
from vbcli import shards

ENCODER = ("--encoder", "timm:test_convnext/random", "--pool", "mean", "--precision", "float32")
WORDS = ["anna", "bert", "cora", "dora"]


def vbcli(*arguments: str | Path, status: int = 0) -> Ended:
    return vbcli_in(*arguments, cwd=Path(), status=status)


def subtitle(word: str) -> str:
    return f"1\n00:00:00,200 --> 00:00:01,400\n{word} speaks of it\n"


def rows(captions_dir: Path) -> dict[str, tuple[str, float]]:
    tables = [shards.read_shard(path).to_pylist() for path in shards.list_shards(captions_dir)]
    return {row["video_id"]: (row["caption"], row["score"]) for table in tables for row in table}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_video: Any) -> Path:
    """Videos of which all but the last are spoken in, and tokens of them."""
    folder = tmp_path_factory.mktemp("spoken")
    lines = ["video,caption,split"]
    for i in range(9):
        made = make_video(folder / "videos" / f"{i}.mp4", hue=40 * i, duration_s=2)
        lines.append(f"{i}.mp4,{WORDS[i % 4]} is heard,{'val' if i in (4, 8) else 'train'}")
        if i < 8:
            made.with_suffix(".srt").write_text(subtitle(WORDS[i % 4]))
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    vbcli("encode", folder / "videos", folder / "features", "--captions", folder / "captions.csv", *ENCODER)
    vbcli("build-vocab", folder / "features", folder / "vocab", "--branching", "2", "--levels", "1", "--codebooks", "1")
    vbcli("tokenize", folder / "features", folder / "tokens", "--vocab", folder / "vocab")
    return folder


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> Path:
    out = place / "checkpoint"
    vbcli("train", place / "tokens", out, "--task", "caption", "--transcript", "--max-steps", "30")
    return out


def test_tokens_and_videos_are_captioned_alike(place: Path, checkpoint: Path, tmp_path: Path) -> None:
    values = json.loads((checkpoint / "config.json").read_text())
    assert values["window_text"] == 4
    assert values["trained_on"]["options"]["transcript"]
    videos = tmp_path / "videos"
    shutil.copytree(place / "videos", videos)
    named = ("--checkpoint", checkpoint, "--executor", "serial")
    vbcli("caption", place / "tokens", tmp_path / "of-tokens", *named)
    vbcli("caption", videos, tmp_path / "of-videos", *named)
    found = rows(tmp_path / "of-videos")
    assert len(found) == 9
    for video_id, (caption, score) in rows(tmp_path / "of-tokens").items():
        assert found[video_id] == (caption, pytest.approx(score, abs=1e-5))

    # Other subtitles are another input; the videos are the same.
    assert "were there already" in vbcli("caption", videos, tmp_path / "of-videos", *named).stderr
    (videos / "2.srt").write_text(subtitle("dora"))
    said = vbcli("caption", videos, tmp_path / "of-videos", *named).stderr
    assert "is made again: its input changed" in said
    changed = rows(tmp_path / "of-videos")
    assert {k for k in found if changed[k][1] != pytest.approx(found[k][1], abs=1e-4)} == {"2.mp4"}


def test_the_fused_representation_of_a_captioner_of_transcripts_has_text(place: Path, checkpoint: Path, tmp_path: Path) -> None:
    run = vbcli("encode", place / "tokens", tmp_path / "fused", "--checkpoint", checkpoint, "--executor", "serial")
    assert "shown no text" not in run.stderr
    tables = [shards.read_shard(path).to_pylist() for path in shards.list_shards(tmp_path / "fused")]
    spoken = [row["tokens"] for table in tables for row in table if row["tokens"]]
    assert spoken == [[WORDS[i % 4], "speaks", "of", "it"] for i in range(8)]


def test_the_flag_is_another_run_and_needs_transcripts(place: Path, checkpoint: Path, tmp_path: Path) -> None:
    train = ("train", place / "tokens", checkpoint, "--task", "caption", "--max-steps", "30")
    assert "trained with other options" in vbcli(*train, status=1).stderr
    assert "trained already" in vbcli(*train, "--transcript").stderr
    silent = tmp_path / "videos"
    silent.mkdir()
    for i in range(3):
        shutil.copy(place / "videos" / f"{i}.mp4", silent)
    vbcli("encode", silent, tmp_path / "features", "--captions", place / "captions.csv", *ENCODER)
    vbcli("tokenize", tmp_path / "features", tmp_path / "tokens", "--vocab", place / "vocab")
    for task in ((), ("--task", "caption")):
        run = vbcli("train", tmp_path / "tokens", tmp_path / "checkpoints", *task, "--transcript", status=1)
        assert "has no transcripts in the split 'train'" in run.stderr
        assert not (tmp_path / "checkpoints").exists()
    assert "--transcript is for --task caption" in vbcli("train", place / "tokens", "--task", "denoise", "--transcript", status=2).stderr


def test_text_as_features_of_a_frozen_bert_from_training_to_captions(place: Path, tmp_path: Path) -> None:
    """The folder of the BERT is gone when the checkpoints are used: they hold it."""
    bert, out = tmp_path / "bert", tmp_path / "checkpoints"
    bert.mkdir()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "speaks", "of", "it", "is", "heard"]
    (bert / "vocab.txt").write_text("\n".join(names) + "\n")
    shape = transformers.BertConfig(
        vocab_size=len(names), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32
    )
    transformers.BertForPreTraining(shape).save_pretrained(bert)
    train = ("train", place / "tokens", out, "--text-input", "features", "--init", bert, "--transcript", "--max-steps", "6")
    vbcli(*train)
    assert vbcli(*train).stderr.count("trained already") == 2
    shutil.rmtree(bert)
    for task in ("pretrain", "caption"):
        shape = json.loads((out / task / "config.json").read_text())["encoder"]
        assert (shape["hidden_size"], shape["max_positions"], shape["text_bert"]["hidden_size"]) == (128, 32, 24)
    vbcli("caption", place / "tokens", tmp_path / "captions", "--checkpoint", out / "caption", "--executor", "serial")
    assert len(rows(tmp_path / "captions")) == 9
    vbcli("encode", place / "tokens", tmp_path / "fused", "--checkpoint", out / "pretrain", "--executor", "serial")
    text = ("--text", "[MASK] speaks of it", "--split", "val", "--json")
    guesses = json.loads(vbcli("predict", place / "tokens", "--checkpoint", out / "pretrain", *text).stdout)
    assert len(guesses["videos"]) == 2
    refused = vbcli("export", out / "caption", tmp_path / "bart", "--to", "transformers", status=1)
    assert "text input 'features' has no equal in transformers" in refused.stderr


def test_spans_follow_subtitles_that_the_model_is_not_shown(place: Path, tmp_path: Path, make_video: Any) -> None:
    """Clips last 1.5 s, and those that are spoken over together are one segment."""
    subtitles = make_video(tmp_path / "videos" / "a.mp4", hue=40, duration_s=6).with_suffix(".srt")
    for task in ("caption", "retrieve"):
        vbcli("train", place / "tokens", tmp_path / task, "--task", task, "--max-steps", "2")
    cut = ("--segments", "transcript", "--checkpoint", tmp_path / "caption", "--executor", "serial")
    commands = {
        "captions": ("caption", tmp_path / "videos", tmp_path / "captions", *cut),
        "summaries": ("summarize", tmp_path / "videos", tmp_path / "summaries", "--length", "100%", "--no-render", *cut),
        "index/vectors": ("index", tmp_path / "videos", tmp_path / "index", "--checkpoint", tmp_path / "retrieve", "--executor", "serial"),
    }
    for border, seconds in (("00:00:03,000", 3.0), ("00:00:01,500", 1.5)):
        subtitles.write_text(f"1\n00:00:00,000 --> {border}\nanna speaks\n\n2\n{border} --> 00:00:06,000\nbert speaks\n")
        for name, command in commands.items():
            vbcli(*command)
            made = shards.read_rows(tmp_path / name, ["start_s", "end_s"])
            assert [(row["start_s"], row["end_s"]) for row in made if row["end_s"] - row["start_s"] < 6] == [(0, seconds), (seconds, 6)]
            assert "were there already" in vbcli(*command).stderr
    # Segments of equal length are the same, whatever is said.
    equal = ("caption", tmp_path / "videos", tmp_path / "equal", "--segments", "fixed", "--segment-seconds", "3", *cut[2:])
    vbcli(*equal)
    subtitles.unlink()
    assert "were there already" in vbcli(*equal).stderr
