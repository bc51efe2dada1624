"""A captioner that learns from text, as a user trains and asks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.commands import rows, vbcli

N_VIDEOS = 16
ENCODER = ("--encoder", "timm:test_convnext/random")
SERIAL = ("--executor", "serial")
"""Workers take seconds to start; other tests have them."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("from-text")
    vbcli("demo-data", "world", "--n-videos", str(N_VIDEOS), cwd=folder)
    (folder / "sentences.txt").write_text(
        "".join(f"a {c} {s} {v}\n" for c in ("red", "blue") for s in ("ball", "star") for v in ("falls", "rises"))
    )
    vbcli("encode", "world/videos", "features", "--captions", "world/captions.csv", *ENCODER, *SERIAL, cwd=folder)
    vbcli("build-vocab", "features", "vocab", cwd=folder)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", *SERIAL, cwd=folder)
    vbcli("train", "tokens", "model", "--task", "caption", "--text", "sentences.txt", "--max-steps", "30", cwd=folder)
    return folder


def captions(folder: Path) -> list[tuple[str, str]]:
    return rows(f"select video_id, caption from '{folder}/shard-*.parquet' order by video_id")


def test_a_folder_and_its_tokens_get_the_same_captions(place: Path):
    vbcli("caption", "tokens", "from-tokens", "--checkpoint", "model", *SERIAL, cwd=place)
    vbcli("caption", "world/videos", "from-videos", "--checkpoint", "model", *SERIAL, cwd=place)
    found = captions(place / "from-tokens")
    assert len(found) == N_VIDEOS
    assert captions(place / "from-videos") == found


def test_training_goes_on_with_another_vocabulary(place: Path):
    """What it learned of language does not hang on how videos were tokenised."""
    vbcli("build-vocab", "features", "vocab-8", "--whiten", "8", cwd=place)
    vbcli("tokenize", "features", "tokens-8", "--vocab", "vocab-8", *SERIAL, cwd=place)
    common = ("--task", "caption", "--text", "sentences.txt", "--max-steps", "80")
    said = vbcli("train", "tokens-8", "model-8", "--init", "model", *common, cwd=place).stderr
    assert "learning to write from 8 sentences" in " ".join(said.split())
    vbcli("caption", "tokens-8", "captions-8", "--checkpoint", "model-8", *SERIAL, cwd=place)
    assert len(captions(place / "captions-8")) == N_VIDEOS


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("train", "tokens", "out", "--task", "caption", "--init", "model"), 1, "model learned to write from text"),
        (
            ("train", "tokens", "out", "--task", "caption", "--text", "sentences.txt", "--n-clips", "1"),
            2,
            "with --text a captioner is shown",
        ),
        (("train", "tokens", "out", "--task", "classify", "--text", "sentences.txt"), 2, "--text is not for --task classify"),
        (("encode", "tokens", "out", "--checkpoint", "model"), 1, "has no representation of clips"),
        (("export", "model", "out", "--to", "transformers"), 1, "learned from text"),
        (("encode", "world/videos", "out", "--pool", "names", "--encoder", "torchvision:r3d_18/random"), 1, "tells no classes"),
    ],
)
def test_what_cannot_be_is_refused(place: Path, arguments: tuple[str, ...], status: int, message: str):
    assert message in " ".join(vbcli(*arguments, cwd=place, status=status).stderr.split())
    assert not (place / "out").exists()
