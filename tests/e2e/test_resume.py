"""Runs that are killed, interrupted and taken up again end with the bytes of a run that nothing happened to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.commands import contents, finish, stamps, vbcli
from vbcli import shards
from vbcli.encoders import load_encoder
from vbcli.errors import VbcliError
from vbcli.inference import ask_model
from vbcli.models.decoding import DecodingConfig
from vbcli.pipeline import RunOptions, encode_dataset, extract_videos, refresh_text, tokenize_dataset
from vbcli.runner import read_videos
from vbcli.stages.caption import Caption
from vbcli.stages.extract import Extract
from vbcli.training.batches import read_tokens

MakeVideo = Callable[..., Path]
ENCODER = "timm:test_convnext/random"
N_VIDEOS = 70
FEW_STEPS = ("--max-steps", "60")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: MakeVideo) -> Path:
    """Three shards of videos, one of which is none."""
    folder = tmp_path_factory.mktemp("many")
    drawn = [make_video(folder / f"{i}.mp4", duration_s=0.5, hue=90 * i) for i in range(4)]
    for i in range(4, N_VIDEOS):
        shutil.copy(drawn[i % 4], folder / f"{i}.mp4")
    (folder / "40.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def frames(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes without a break."""
    out = tmp_path_factory.mktemp("once") / "frames"
    extract_videos(videos, out, Extract(size_px=32), options=RunOptions("serial"))
    return out


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command in its own process group; the group is dead at the end of the block."""
    command = [sys.executable, "-m", "vbcli.cli.app", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_hear_interrupts
    )
    try:
        yield process
    finally:
        if living(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _hear_interrupts() -> None:
    """A shell starts what it runs in the background deaf to interrupts, and so these tests where they run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def living(group_id: int) -> list[int]:
    """Processes of a group that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == group_id and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_until(is_so: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def unfinished(folder: Path) -> set[str]:
    """Names of shards that are begun and not finished, or were when their process was killed."""
    return {p.name for p in folder.glob(".shard-*")}


def n_kept(folder: Path) -> int:
    """How many videos of unfinished shards were finished."""
    footers = [shards.read_footer(path) for path in shards.list_shards(folder / "_unfinished")]
    return sum(footer["n_items"] - len(footer["undone"]) for footer in footers)


# ---------------------------------------------------------------- killed


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_an_extraction_that_is_killed_again_and_again_ends_as_if_it_had_not_been(videos: Path, frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "frames"
    command = ("extract", videos, out, "--size", "32")

    with running(*command, "--executor", "serial") as process:
        wait_until(lambda: unfinished(out), process)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, messages = process.communicate(timeout=20)
        assert (process.returncode, messages.splitlines()[-1].split(":")[0]) == (130, "interrupted")
    assert (stamps(out), unfinished(out), shards.read_failures(out)) == ({}, set(), [])
    kept = n_kept(out)
    assert kept > 0

    with running(*command, "--workers", "2") as process:
        wait_until(lambda: unfinished(out), process)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        started = time.monotonic()
        _, messages = process.communicate(timeout=20)
        assert time.monotonic() - started < 10
        assert process.returncode == 130
        assert messages.splitlines() == [
            "extract: the videos in hand are finished first; another interrupt ends at once",
            "interrupted: what is finished stays; the same command goes on from there",
        ]
    assert (stamps(out), shards.read_failures(out)) == ({}, [])
    assert n_kept(out) > kept
    resumed = Path(shutil.copytree(out, tmp_path / "resumed"))
    extract_videos(videos, resumed, Extract(size_px=32), options=RunOptions("serial"))
    assert contents(resumed) == contents(frames)
    # With all of it to do there is time to kill what follows.
    shutil.rmtree(out / "_unfinished")

    left = unfinished(out)
    with running(*command, "--executor", "serial") as process:
        wait_until(lambda: unfinished(out) - left, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert stamps(out) == {}

    left = unfinished(out)
    with running(*command, "--workers", "2") as process:
        wait_until(lambda: unfinished(out) - left, process)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while living(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert living(process.pid) == []
    assert stamps(out) == {}

    with running(*command, "--workers", "2") as process:
        wait_until(lambda: stamps(out), process)
        os.killpg(process.pid, signal.SIGKILL)
    finished = stamps(out)
    assert 0 < len(finished) < 3

    with running(*command, "--workers", "2", "--json") as process:
        result, _ = process.communicate(timeout=60)
        assert process.returncode == 3
    assert {k: v for k, v in stamps(out).items() if k in finished} == finished
    assert (json.loads(result)["n_done"], json.loads(result)["n_skipped"]) == (3 - len(finished), len(finished))
    assert contents(out) == contents(frames)


def test_an_encoding_that_is_killed_ends_as_if_it_had_not_been(frames: Path, features: Path, tmp_path: Path) -> None:
    """Whoever made a shard, its bytes are the same: killed in processes, ended in one."""
    out = tmp_path / "features"
    command = ("encode", frames, out, "--encoder", ENCODER, "--pool", "mean", "--precision", "float32", "--executor", "processes")
    killed_within_a_shard(out, *command)
    finished = killed_between_shards(out, *command)
    spec = load_encoder(ENCODER, pool="mean", precision="float32").spec
    report = encode_dataset(frames, out, spec, options=RunOptions("serial"))
    assert (report.n_skipped, report.n_done) == (len(finished), 3 - len(finished))
    assert {k: v for k, v in stamps(out).items() if k in finished} == finished
    assert contents(out) == contents(features)


@pytest.fixture(scope="module")
def features(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("once") / "features"
    encode_dataset(frames, out, load_encoder(ENCODER, pool="mean", precision="float32").spec, options=RunOptions("serial"))
    return out


@pytest.fixture(scope="module")
def vocab(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("once") / "vocab"
    finish("build-vocab", features, out)
    return out


@pytest.fixture(scope="module")
def caption_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "captions.csv"
    colours = ("red", "green", "blue", "white")
    lines = [f"{i}.mp4,a {colours[i % 4]} picture number {i},{'val' if i % 8 == 0 else 'train'}" for i in range(N_VIDEOS)]
    path.write_text("\n".join(["video,caption,split", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def tokens(features: Path, vocab: Path, caption_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("once") / "tokens"
    tokenize_dataset(features, out, vocab, caption_files=[caption_file], options=RunOptions("serial"))
    return out


@pytest.fixture(scope="module")
def checkpoints(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` gives without a break: pretrain/ and caption/."""
    out = tmp_path_factory.mktemp("once") / "checkpoints"
    with running("train", tokens, out, *FEW_STEPS) as process:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages
    return out


def killed_between_shards(out: Path, *command: str | Path) -> dict[str, tuple[int, int]]:
    """Kills a command when some of its shards are done and some are not, and gives the done ones.

    Shards that take milliseconds may all be done before the kill arrives: then it starts again from nothing.
    """
    for _ in range(20):
        with running(*command) as process:
            wait_until(lambda: stamps(out), process)
            os.killpg(process.pid, signal.SIGKILL)
        if len(stamps(out)) < 3:
            return stamps(out)
        shutil.rmtree(out)
    raise AssertionError("never killed in time")


def killed_within_a_shard(out: Path, *command: str | Path) -> None:
    """Kills a command when it has begun to write a shard."""
    with running(*command) as process:
        wait_until(lambda: unfinished(out), process)
        os.killpg(process.pid, signal.SIGKILL)


def test_a_tokenisation_that_is_killed_ends_as_if_it_had_not_been(
    features: Path, vocab: Path, tokens: Path, caption_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tokens"
    command = ("tokenize", features, out, "--vocab", vocab, "--captions", caption_file, "--executor")
    killed_within_a_shard(out, *command, "serial")
    finished = killed_between_shards(out, *command, "serial")
    report = finish(*command, "processes")
    assert (report["n_done"], report["n_skipped"]) == (3 - len(finished), len(finished))
    assert {k: v for k, v in stamps(out).items() if k in finished} == finished
    assert contents(out) == contents(tokens)


@pytest.mark.parametrize(("source", "first", "then"), [("tokens", "processes", "serial"), ("videos", "serial", "processes")])
def test_captioning_that_is_killed_ends_as_if_it_had_not_been(
    videos: Path, tokens: Path, checkpoints: Path, tmp_path: Path, source: str, first: str, then: str
) -> None:
    """From tokens, and streaming from videos to sentences."""
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "40.mp4").unlink()
    out = tmp_path / "captions"
    named = (tokens if source == "tokens" else folder, out, "--checkpoint", checkpoints / "caption")
    killed_within_a_shard(out, "caption", *named, "--executor", first)
    finished = killed_between_shards(out, "caption", *named, "--executor", first)
    report = finish("caption", *named, "--executor", then)
    assert (report["n_done"], report["n_skipped"]) == (3 - len(finished), len(finished))
    assert {k: v for k, v in stamps(out).items() if k in finished} == finished
    finish("caption", named[0], tmp_path / "once", *named[2:], "--executor", "serial")
    assert contents(out) == contents(tmp_path / "once")


def test_fusion_that_is_killed_ends_as_if_it_had_not_been(tokens: Path, checkpoints: Path, tmp_path: Path) -> None:
    out = tmp_path / "fused"
    named = (tokens, out, "--checkpoint", checkpoints / "pretrain")
    killed_within_a_shard(out, "encode", *named, "--executor", "processes")
    finished = killed_between_shards(out, "encode", *named, "--executor", "processes")
    report = finish("encode", *named, "--executor", "serial")
    assert (report["n_done"], report["n_skipped"]) == (3 - len(finished), len(finished))
    assert {k: v for k, v in stamps(out).items() if k in finished} == finished
    finish("encode", tokens, tmp_path / "once", *named[2:], "--executor", "serial")
    assert contents(out) == contents(tmp_path / "once")
    n_segments = sum(len(v.segments) for v in read_tokens(tokens))
    assert report["n_rows"] == n_segments > 60


def test_a_fused_dataset_of_another_checkpoint_is_refused(tokens: Path, checkpoints: Path, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "fused"
    (work / "checkpoints").mkdir(parents=True)
    shutil.copytree(checkpoints / "pretrain", work / "checkpoints" / "pretrain")
    # Without --checkpoint a tokens dataset is encoded by the workspace's VideoBERT.
    command = ("encode", tokens, out, "--workspace", work, "--executor", "serial")
    vbcli(*command, cwd=tmp_path)
    manifest = shards.read_manifest(out, "fused")
    assert [p["stage"] for p in manifest.parents] == ["tokenize", "encode", "extract", "probe"]
    ended = vbcli(*command, "--checkpoint", checkpoints / "caption", cwd=tmp_path, status=1)
    assert f"{out} was made with" in ended.stderr


def test_a_vocabulary_whose_building_is_killed_ends_as_if_it_had_not_been(features: Path, vocab: Path, tmp_path: Path) -> None:
    out = tmp_path / "vocab"
    with running("build-vocab", features, out) as process:
        wait_until(lambda: list(tmp_path.rglob("*")), process)
        os.killpg(process.pid, signal.SIGKILL)
    finish("build-vocab", features, out)
    assert contents(out) == contents(vocab)


def test_training_that_is_killed_ends_with_the_weights_of_one_that_was_not(tokens: Path, checkpoints: Path, tmp_path: Path) -> None:
    """Killed in pre-training and again in the captioner's training, each time after a state was saved."""
    out = tmp_path / "checkpoints"
    for task in ("pretrain", "caption"):
        with running("train", tokens, out, *FEW_STEPS) as process:
            wait_until((out / task / "_training" / "state.pt").exists, process)
            os.killpg(process.pid, signal.SIGKILL)
        assert not (out / task / "config.json").exists()
    with running("train", tokens, out, *FEW_STEPS) as process:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages
    for task in ("pretrain", "caption"):
        for name in ("model.safetensors", "metrics.jsonl"):
            assert (out / task / name).read_bytes() == (checkpoints / task / name).read_bytes(), (task, name)


# ---------------------------------------------------------------- other data, other text


def test_other_videos_in_the_same_folder_are_refused(features: Path, vocab: Path, video_folder: Path, tmp_path: Path) -> None:
    """Not mixed: the first dataset's shards would stay beside the second's."""
    spec = load_encoder(ENCODER, pool="mean", precision="float32").spec
    other, out = tmp_path / "other", tmp_path / "tokens"
    encode_dataset(video_folder, other, spec, options=RunOptions("serial"))
    tokenize_dataset(features, out, vocab, options=RunOptions("serial"))
    before = contents(out)
    with pytest.raises(VbcliError, match=r"tokens holds other videos than .*other"):
        tokenize_dataset(other, out, vocab, options=RunOptions("serial"))
    assert contents(out) == before


def test_captions_that_come_late_stay(features: Path, vocab: Path, tokens: Path, caption_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    tokenize_dataset(features, out, vocab, options=RunOptions("serial"))
    assert not any(v.captions for v in read_tokens(out))
    tokenize_dataset(features, out, vocab, caption_files=[caption_file], options=RunOptions("serial"))
    assert contents(out) == contents(tokens)
    tokenize_dataset(features, out, vocab, options=RunOptions("serial"))
    assert contents(out) == contents(tokens)


def test_new_captions_leave_everything_alone_where_they_are_refused(
    features: Path, vocab: Path, tokens: Path, caption_file: Path, tmp_path: Path
) -> None:
    """The user's own folder called videos, captions that cannot be read, and the folder that is read from."""
    own, copied, bad = tmp_path / "project", tmp_path / "tokens", tmp_path / "bad.csv"
    (own / "videos").mkdir(parents=True)
    (own / "videos" / "mine.mp4").write_text("a video of the user's own")
    shutil.copytree(tokens, copied)
    bad.write_text("video,caption\nnobody.mp4,nothing\n")
    for out, caption, sentence in (
        (own, caption_file, "exists and is not an empty folder"),
        (copied, bad, "names none of the videos"),
        (copied, tmp_path / "none.csv", "does not exist"),
        (features, caption_file, "was made by encode"),
    ):
        before = contents(out)
        with pytest.raises(VbcliError, match=sentence):
            tokenize_dataset(features, out, vocab, caption_files=[caption], options=RunOptions("serial"))
        assert contents(out) == before


def test_a_caption_command_that_cannot_work_binds_no_folder(checkpoints: Path, tokens: Path, tmp_path: Path) -> None:
    captioner, broken = checkpoints / "caption", tmp_path / "broken"
    shutil.copytree(captioner, broken)
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-7] ^= 1
    (broken / "model.safetensors").write_bytes(weights)
    for source, checkpoint, decoding, sentence in (
        (tokens, captioner, DecodingConfig(max_length=100_000), "--max-length is 100000"),
        (tokens, broken, DecodingConfig(), "is not the file that"),
        (tmp_path / "nowhere", captioner, DecodingConfig(), "nowhere does not exist"),
    ):
        with pytest.raises(VbcliError, match=sentence):
            ask_model(source, tmp_path / "captions", Caption(checkpoint_dir=str(checkpoint), decoding=decoding), RunOptions("serial"))
        assert not (tmp_path / "captions").exists()


def test_captions_given_to_a_later_extraction_reach_the_features(videos: Path, caption_file: Path, features: Path, tmp_path: Path) -> None:
    frames, copied = tmp_path / "frames", tmp_path / "features"
    extract_videos(videos, frames, Extract(size_px=32), options=RunOptions("serial"))
    shutil.copytree(features, copied)
    extract_videos(videos, frames, Extract(size_px=32), [caption_file], RunOptions("serial"))
    refresh_text(frames, copied)
    captions = [row["captions"] for row in read_videos(copied).to_pylist()]
    assert [c[0]["text"] for c in captions if c] == [c["captions"][0]["text"] for c in read_videos(frames).to_pylist() if c["captions"]]
    assert sum(map(bool, captions)) == N_VIDEOS


def test_a_split_that_no_video_is_in_is_refused(tokens: Path, checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=r"no video of .* is in the split 'bogus'") as caught:
        ask_model(tokens, tmp_path / "out", Caption(checkpoint_dir=str(checkpoints / "caption"), decoding=DecodingConfig(), split="bogus"))
    assert caught.value.hint == "there is: train, val"
    assert not (tmp_path / "out").exists()
