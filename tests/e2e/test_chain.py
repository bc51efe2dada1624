"""The whole chain, run as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import av
import duckdb
import opentimelineio as otio
import pytest

from tests.e2e.commands import vbcli

N_CLIPS = 14
FAST = ["--max-steps", "40"]


def query(statement: str) -> list[tuple]:
    with duckdb.connect() as connection:
        return connection.execute(statement).fetchall()


@pytest.fixture(scope="module")
def clips(tmp_path_factory, shared_data: Path) -> Path:
    """A folder with some real clips and their captions."""
    folder = tmp_path_factory.mktemp("clips")
    with (shared_data / "clips" / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_size = sorted(rows, key=lambda r: (shared_data / "clips" / r["video"]).stat().st_size)
    chosen = [r for r in by_size if r["split"] == "train"][: N_CLIPS - 4] + [r for r in by_size if r["split"] == "val"][:4]
    for row in chosen:
        shutil.copy(shared_data / "clips" / row["video"], folder / row["video"])
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(chosen[0]))
        writer.writeheader()
        writer.writerows(chosen)
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory, clips: Path) -> Path:
    """A workspace where the four commands have run."""
    place = tmp_path_factory.mktemp("work")
    vbcli("extract", str(clips), "--captions", str(clips / "captions.csv"), cwd=place)
    vbcli("build-vocab", cwd=place)
    notes = vbcli("train", *FAST, cwd=place).stderr
    assert "VideoBERT learns with the training captions as text" in notes
    vbcli("caption", str(clips), cwd=place)
    return place


def test_four_commands_caption_every_clip(chain: Path):
    (captions,) = (chain / "vbcli-work" / "captions").iterdir()
    rows = query(f"select video_id, caption, score, decoding from '{captions}/shard-*.parquet'")
    assert len(rows) == N_CLIPS
    assert all(json.loads(row[3])["n_beams"] == 4 for row in rows)


def test_every_dataset_opens_in_duckdb(chain: Path):
    work = chain / "vbcli-work"
    counts = {
        name: query(f"select count(*), count(distinct video_id) from '{work / name}/shard-*.parquet'")[0]
        for name in ("frames", "features", "tokens")
    }
    assert all(count[1] == N_CLIPS for count in counts.values())
    assert counts["frames"] == counts["features"]
    split = query(f"select split, count(*) from '{work}/frames/videos/shard-*.parquet' group by 1 order by 1")
    assert split == [("train", N_CLIPS - 4), ("val", 4)]
    # Every visual token is in the vocabulary.
    n_tokens = json.loads((work / "vocab" / "report.json").read_text())["n_tokens"]
    widest = query(f"select max(t[1]), min(t[1]) from (select unnest(visual_tokens) as t from '{work}/tokens/shard-*.parquet')")[0]
    assert 0 <= widest[1] <= widest[0] < n_tokens


def test_frames_open_as_pictures_in_datasets(chain: Path):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    frames = datasets.load_dataset(
        "parquet", data_files=str(chain / "vbcli-work/frames/shard-*.parquet"), split="train", cache_dir=str(chain / "cache")
    )
    picture = frames[0]["image"]
    assert picture.size == (frames[0]["width_px"], frames[0]["height_px"])
    assert min(picture.size) == 224


def test_scores_stand_beside_baselines(chain: Path):
    table = json.loads(vbcli("evaluate", "--no-meteor", "--json", cwd=chain).stdout)
    assert set(table["scores"]) == {"captions", "nearest training video", "best constant", "shuffled videos"}
    for row in table["scores"].values():
        assert {"Bleu_4", "ROUGE_L", "CIDEr"} <= set(row)
    printed = vbcli("evaluate", "--split", "val", "--no-meteor", cwd=chain).stdout
    assert "nearest training video" in printed


def test_guesses_stand_beside_their_priors(chain: Path):
    (chain / "objects.txt").write_text("man\nwoman\ndog\n")
    said = json.loads(
        vbcli("predict", "--text", "a [MASK] is [MASK]", "--verbs", "objects.txt", "--split", "val", "--json", cwd=chain).stdout
    )
    assert len(said["videos"]) == 4
    for row in said["videos"]:
        first, second = row["masks"]
        assert {g["answer"] for g in first} == {"man", "woman", "dog"}
        assert sum(g["prior"] for g in first) == pytest.approx(1)
        assert len(second) == 5
    seen = json.loads(vbcli("predict", "--future", "2", "--n-best", "3", "--json", cwd=chain).stdout)
    n_tokens = json.loads((chain / "vbcli-work/vocab/report.json").read_text())["n_tokens"]
    for row in seen["videos"]:
        assert [len(guesses) for guesses in row["masks"]] == [3, 3]
        assert all(0 <= int(g["answer"]) < n_tokens for guesses in row["masks"] for g in guesses)
    assert " s " in vbcli("predict", "--mask-clips", "1", "--n-best", "1", "--page", "guesses.html", cwd=chain).stdout
    # The last frame of each video, and the frame that stands for the guess.
    page = (chain / "guesses.html").read_text()
    assert page.count("data:image/jpeg;base64,/9j/") == 2 * N_CLIPS
    exemplars = json.loads((chain / "vbcli-work/vocab/exemplars.json").read_text())
    assert any(f"as {row['video_id']} at {row['start_s']:.1f} s" in page for row in exemplars)
    assert "--page is for guesses of clips" in vbcli("predict", "--page", "x.html", cwd=chain, status=2).stderr


def test_segments_have_captions_of_their_own_and_videos_a_paragraph(chain: Path, clips: Path):
    options = ("--split", "val", "--segments", "fixed", "--segment-seconds", "3", "--format", "srt", "--burn-in", "shown")
    vbcli("caption", "vbcli-work/tokens", "dense", *options, cwd=chain)
    spans: dict[str, list[tuple[float, float]]] = {}
    for video_id, start_s, end_s in query(f"select video_id, start_s, end_s from '{chain}/dense/shard-*.parquet' order by 1, 2"):
        spans.setdefault(video_id, []).append((start_s, end_s))
    assert len(spans) == 4
    for video_id, parts in spans.items():
        assert parts[0][0] == 0
        assert [a for a, _ in parts[1:]] == pytest.approx([b for _, b in parts[:-1]])
        assert len(parts) == max(1, round(parts[-1][1] / 3))
        assert (chain / "dense" / "srt" / f"{video_id}.srt").read_text().count(" --> ") == len(parts)
        with av.open(str(chain / "shown" / f"{video_id}.mp4")) as copy, av.open(str(clips / video_id)) as own:
            assert copy.duration == pytest.approx(own.duration, abs=100_000)
    before = {p: p.stat().st_mtime_ns for p in (chain / "shown").rglob("*.mp4")}
    vbcli("caption", "vbcli-work/tokens", "dense", *options, cwd=chain)
    assert before == {p: p.stat().st_mtime_ns for p in (chain / "shown").rglob("*.mp4")}
    told = [json.loads(line) for line in (chain / "dense" / "paragraphs.jsonl").read_text().splitlines()]
    assert {row["video"] for row in told} == set(spans)
    assert "captions" in json.loads(vbcli("evaluate", "dense", "vbcli-work/tokens", "--no-meteor", "--json", cwd=chain).stdout)["scores"]


def test_results_are_on_stdout_all_of_them(chain: Path):
    commands = {
        "caption": ("--segments", "fixed", "--segment-seconds", "1", "--evidence"),
        "summarize": ("--length", "90%", "--segment-seconds", "1", "--no-render"),
    }
    columns = {
        "caption": ["video_id", "path", "start_s", "end_s", "caption", "score", "evidence_start_s", "evidence_end_s"],
        "summarize": ["video_id", "path", "start_s", "end_s", "keyframe_s", "rank", "gain", "caption"],
    }
    for command, options in commands.items():
        shown = vbcli(command, "vbcli-work/tokens", f"told-{command}", *options, cwd=chain).stdout
        said = vbcli(command, "vbcli-work/tokens", f"told-{command}", *options, "--json", cwd=chain).stdout
        wanted = query(f"select {', '.join(columns[command])} from '{chain}/told-{command}/shard-*.parquet' order by video_id, start_s")
        found = sorted(json.loads(said)["rows"], key=lambda row: (row["video_id"], row["start_s"]))
        assert [tuple(row) for row in found] == [tuple(columns[command])] * len(wanted)
        assert [tuple(row.values()) for row in found] == wanted
        # More than a terminal is shown.
        assert len(wanted) > 20
        assert sum(shown.count(video_id) for video_id in {row[0] for row in wanted}) == len(wanted)


def test_summaries_keep_what_they_were_asked_for(chain: Path, clips: Path):
    vbcli("summarize", "vbcli-work/tokens", "short", "--length", "40%", "--segment-seconds", "1", "--split", "val", cwd=chain)
    kept: dict[str, list[tuple[float, float]]] = {}
    for video_id, start_s, end_s in query(f"select video_id, start_s, end_s from '{chain}/short/shard-*.parquet' order by 1, 2"):
        kept.setdefault(video_id, []).append((start_s, end_s))
    assert len(kept) == 4
    for video_id, spans in kept.items():
        files = chain / "short" / "rendered" / video_id
        length_s = sum(b - a for a, b in spans)
        with av.open(str(clips / video_id)) as video, av.open(str(files / "summary.mp4")) as short:
            assert length_s <= 0.4 * (video.duration or 0) / av.time_base + 0.5
            frame_s = float(1 / (video.streams.video[0].average_rate or 1))
            # Times of segments are times of frames: nothing is lost or added at a cut. Only the last one of a video may end after it.
            lasts_s, shown_s = (
                float((part.streams.video[0].duration or 0) * (part.streams.video[0].time_base or 0)) for part in (short, video)
            )
            there_s = sum(min(b, shown_s) - a for a, b in spans)
            assert lasts_s == pytest.approx(there_s, abs=len(spans) * frame_s)
            assert bool(short.streams.audio) == bool(video.streams.audio)
        assert (
            (files / "storyboard.html").read_text().count("data:image/jpeg;base64,")
            == len(spans)
            == len(list((files / "keyframes").iterdir()))
        )
        (track,) = otio.adapters.read_from_file(str(files / "summary.otio")).tracks
        assert [clip.source_range.start_time.to_seconds() for clip in track] == pytest.approx([a for a, _ in spans], abs=frame_s)
        assert unquote(urlparse(track[0].media_reference.target_url).path).endswith(video_id)
    before = {p: p.stat().st_mtime_ns for p in (chain / "short").rglob("*.mp4")}
    vbcli("summarize", "vbcli-work/tokens", "short", "--length", "40%", "--segment-seconds", "1", "--split", "val", cwd=chain)
    assert before == {p: p.stat().st_mtime_ns for p in (chain / "short").rglob("*.mp4")}
    one = next(iter(kept))
    status = (clips / one).stat()
    os.utime(clips / one, (1, 1))
    vbcli("summarize", "vbcli-work/tokens", "short", "--length", "40%", "--segment-seconds", "1", "--split", "val", cwd=chain)
    os.utime(clips / one, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert {p.parent.name for p, time_ns in before.items() if p.is_file() and p.stat().st_mtime_ns != time_ns} == {one}
    vbcli("summarize", str(clips / one), "moments", "--n-keyframes", "3", cwd=chain)
    assert len(list((chain / "moments" / "rendered" / one / "keyframes").iterdir())) == 3
    for wrong in (["--length", "0%"], ["--length", "ten"], ["--length", "5s", "--n-keyframes", "2"], ["--segment-seconds", "0"]):
        assert "error: " in vbcli("summarize", "vbcli-work/tokens", "none", *wrong, cwd=chain, status=2).stderr
    assert not (chain / "none").exists()


def test_second_runs_do_nothing(chain: Path, clips: Path):
    before = {p: p.stat().st_mtime_ns for p in (chain / "vbcli-work").rglob("shard-*.parquet")}
    assert "were there already" in vbcli("extract", str(clips), "--captions", str(clips / "captions.csv"), cwd=chain).stderr
    vbcli("build-vocab", cwd=chain)
    assert "built with other options" in vbcli("build-vocab", "--branching", "3", cwd=chain, status=1).stderr
    assert "was made with fps = 2.0, not 4.0" in vbcli("extract", str(clips), "--fps", "4", cwd=chain, status=1).stderr
    assert "trained with other options" in vbcli("train", "--max-steps", "41", cwd=chain, status=1).stderr
    assert "trained already" in vbcli("train", *FAST, cwd=chain).stderr
    assert "were there already" in vbcli("caption", str(clips), cwd=chain).stderr
    assert before == {p: p.stat().st_mtime_ns for p in (chain / "vbcli-work").rglob("shard-*.parquet")}


def test_every_path_named_gives_the_same_captions(chain: Path, clips: Path, tmp_path: Path):
    """The long forms, straight from the same steps, with another executor."""
    vbcli("extract", str(clips), "frames", "--captions", str(clips / "captions.csv"), "--executor", "serial", cwd=tmp_path)
    vbcli("encode", "frames", "features", "--executor", "serial", cwd=tmp_path)
    vbcli("build-vocab", "features", "vocab", cwd=tmp_path)
    vbcli("tokenize", "features", "tokens", "--vocab", "vocab", cwd=tmp_path)
    vbcli("train", "tokens", "ckpt/pretrain", "--task", "pretrain", *FAST, cwd=tmp_path)
    vbcli("train", "tokens", "ckpt/caption", "--task", "caption", "--init", "ckpt/pretrain", *FAST, cwd=tmp_path)
    run = vbcli("caption", "tokens", "captions", "--checkpoint", "ckpt/caption", "--format", "srt", cwd=tmp_path)
    assert "srt" in run.stderr
    for stage in ("frames", "features", "tokens"):
        for shard in (tmp_path / stage).glob("shard-*.parquet"):
            assert shard.read_bytes() == (chain / "vbcli-work" / stage / shard.name).read_bytes(), shard
    assert (tmp_path / "ckpt/caption/model.safetensors").read_bytes() == (
        chain / "vbcli-work/checkpoints/caption/model.safetensors"
    ).read_bytes()
    subtitles = list((tmp_path / "captions/srt").glob("*.srt"))
    assert len(subtitles) == N_CLIPS
    assert " --> " in subtitles[0].read_text()
    scored = vbcli("evaluate", "captions", str(clips / "captions.csv"), "--baselines", "tokens", "--no-meteor", "--json", cwd=tmp_path)
    assert json.loads(scored.stdout)["scores"]["captions"]["CIDEr"] >= 0


def test_inspect_tells_the_chain_back_to_the_videos(chain: Path):
    (captions,) = (chain / "vbcli-work" / "captions").iterdir()
    tokens = json.loads(vbcli("inspect", "vbcli-work/tokens", "--json", cwd=chain).stdout)
    assert [link["stage"] for link in tokens["chain"]] == ["tokenize", "encode", "extract", "probe"]
    assert json.loads(vbcli("inspect", str(captions), "--json", cwd=chain).stdout)["videos"] == N_CLIPS
    assert "validation_loss" in vbcli("inspect", "vbcli-work/checkpoints/caption", cwd=chain).stdout


def test_results_tell_what_their_model_was_trained_on(chain: Path, clips: Path, tmp_path: Path):
    trained_on = json.loads((chain / "vbcli-work/checkpoints/caption/config.json").read_text())["trained_on"]
    assert trained_on["n_train_videos"] == N_CLIPS - 4
    for command, result in (("caption", "told"), ("summarize", "told-short"), ("encode", "told-fused")):
        model = ("--checkpoint", "vbcli-work/checkpoints/caption") if command == "encode" else ()
        run = (command, "vbcli-work/tokens", tmp_path / result, *model, *(("--no-render",) if command == "summarize" else ()))
        vbcli(*run, cwd=chain)
        told = json.loads(vbcli("inspect", tmp_path / result, "--json", cwd=chain).stdout)["chain"]
        assert told[0]["facts"]["trained_on"] == trained_on
        # Of the weights alone, wherever they were trained.
        assert "trained_on" not in vbcli("inspect", tmp_path / result / "shard-00000.parquet", "--json", cwd=chain).stdout
        # A folder that was made before manifests told it.
        manifest = tmp_path / result / "manifest.json"
        values = json.loads(manifest.read_text())
        del values["facts"]["trained_on"]
        manifest.write_text(json.dumps(values))
        assert "were there already" in vbcli(*run, cwd=chain).stderr
    straight = next((chain / "vbcli-work" / "captions").iterdir())
    assert json.loads((straight / "manifest.json").read_text())["facts"]["trained_on"] == trained_on
