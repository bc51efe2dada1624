"""Feature encoding: clips against brute force, and features that depend on their clip alone."""

from __future__ import annotations

import io
import math
import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import run_ffmpeg
from vbcli import shards
from vbcli.clips import EDGE_S, gather_clips
from vbcli.encoders import load_encoder
from vbcli.encoderspecs import EncoderSpec, Preprocessing
from vbcli.errors import ItemFailure, VbcliError
from vbcli.media.decode import MediaOptions
from vbcli.media.filters import Geometry
from vbcli.media.limits import Limits
from vbcli.pipeline import RunOptions, encode_dataset, extract_videos
from vbcli.schemas import FRAMES
from vbcli.stage import Process
from vbcli.stages.encode import Encode, check_sampling, check_shots, fit_picture
from vbcli.stages.extract import Extract

MakeVideo = Callable[..., Path]
SERIAL = RunOptions("serial")
ENCODER = "timm:test_convnext/random"


def spec_of(fps: float, n_frames: int) -> EncoderSpec:
    return EncoderSpec("none", "", Preprocessing(Geometry(2, 2), (0.5,) * 3, (0.5,) * 3), fps, n_frames, "mean", 1, (1,), "float32")


@pytest.fixture(scope="module")
def spec() -> EncoderSpec:
    """Ten clips a second of one frame each."""
    return load_encoder(ENCODER, pool="grid2", precision="float32", clip_s=0.1).spec


# ---------------------------------------------------------------- clips


@given(
    st.sampled_from([(2, 1), (1, 1), (15, 16), (20, 30), (Fraction(15, 2), 16), (Fraction(10, 7), 1), (4, 2), (24, 6)]),
    st.sampled_from([1000, 60, 90, Fraction(30000, 1001)]),
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.integers(0, 3),
)
@example((24, 6), 60, [20, 1], 0)  # exactly half filled, and less by the last bit of its time
def test_clips_are_those_of_a_brute_force(rate: tuple[Fraction, int], base: Fraction, steps: list[int], delay: int) -> None:
    fps, n_frames = Fraction(rate[0]), rate[1]
    clip_s = n_frames / fps
    times = [Fraction(delay + sum(steps[:i])) / base for i in range(len(steps))]
    pixels = [np.full((2, 2, 3), i % 251, np.uint8) for i in range(len(times))]
    clips = list(gather_clips(zip(map(float, times), pixels, strict=True), spec_of(float(fps), n_frames), "fixed"))

    edge = Fraction(EDGE_S)
    expected: list[tuple[int, list[int], int]] = []
    for index in range(int(times[-1] / clip_s) + 2):
        start = index * clip_s
        members = [i for i, t in enumerate(times) if start <= t + edge < start + clip_s]
        if members:
            slots = [next((i for i in members if times[i] + edge >= start + k / fps), members[-1]) for k in range(n_frames)]
            # How many slots lie at or before the last frame.
            n_filled = sum(start + k / fps <= times[members[-1]] + edge for k in range(n_frames))
            expected.append((index, slots, n_filled))
        elif expected and times[-1] + edge >= start:
            # What was shown last is shown still.
            shown = max(i for i, t in enumerate(times) if t + edge < start)
            expected.append((index, [shown] * n_frames, n_frames))
    if len(expected) > 1 and 2 * expected[-1][2] < n_frames:
        expected.pop()

    assert [(c.index, c.pixels[:, 0, 0, 0].tolist()) for c in clips] == [(i, [s % 251 for s in slots]) for i, slots, _ in expected]
    assert [c.n_frames for c in clips] == [len(set(slots)) for _, slots, _ in expected]
    assert [c.start_s for c in clips] == pytest.approx([float(i * clip_s) for i, _, _ in expected])
    assert [c.end_s - c.start_s for c in clips] == pytest.approx([float(clip_s)] * len(clips))


def test_a_frame_is_shown_until_the_next_but_not_for_hours() -> None:
    times = [0.0, 0.5, 2.1, 2.5, 2000.0]
    clips = list(gather_clips(((t, np.full((2, 2, 3), i, np.uint8)) for i, t in enumerate(times)), spec_of(2, 1), "fixed"))
    assert [(c.start_s, int(c.pixels[0, 0, 0, 0])) for c in clips] == [(0, 0), (0.5, 1), (1, 1), (1.5, 1), (2, 2), (2.5, 3), (2000, 4)]


def test_no_frames_give_no_clips() -> None:
    assert list(gather_clips([], spec_of(2, 1), "fixed")) == []


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (33, 47), (20, 20)])
@pytest.mark.parametrize("geometry", [Geometry(32, 32), Geometry(40, 24), Geometry((30, 50), 20)])
def test_a_stored_picture_is_fitted_like_a_decoded_one(size: tuple[int, int], geometry: Geometry) -> None:
    """A ramp from left to right and from top to bottom stays one, with the same middle."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    picture = Image.fromarray(np.stack([x, y, np.full_like(x, 7)], -1).round().astype(np.uint8))
    fitted = fit_picture(picture, geometry).astype(float)
    assert geometry.crop_px is not None
    assert fitted.shape == (geometry.crop_px, geometry.crop_px, 3)
    assert fitted[..., 0].mean() == pytest.approx(127.5, abs=4)
    assert fitted[..., 1].mean() == pytest.approx(127.5, abs=4)
    if isinstance(geometry.resize_px, tuple):
        height, width = geometry.resize_px
    else:
        width, height = (side * geometry.resize_px / min(size) for side in size)
    assert np.diff(fitted[..., 0], axis=1).mean() == pytest.approx(255 / width, rel=0.1)
    assert np.diff(fitted[..., 1], axis=0).mean() == pytest.approx(255 / height, rel=0.1)


def test_frames_that_are_too_far_apart_are_refused(video_folder: Path, tmp_path: Path, spec: EncoderSpec) -> None:
    extract_videos(video_folder / "a.mp4", tmp_path / "frames", Extract(fps=9), options=SERIAL)
    with pytest.raises(VbcliError, match=f"{tmp_path}/frames holds 9 frames a second, but {ENCODER} needs 10") as caught:
        encode_dataset(tmp_path / "frames", tmp_path / "features", spec, options=SERIAL)
    assert "encode from the videos" in str(caught.value.hint)
    assert not (tmp_path / "features").exists()
    check_sampling(10, spec, "frames")
    check_sampling(25, spec, "frames")


def test_each_shot_has_a_clip_that_begins_with_it(tmp_path: Path, ffmpeg_exe: str, spec: EncoderSpec) -> None:
    """Also one without a multiple of the clip's length in it: frames are taken from where each shot begins."""
    scenes = [("testsrc", 2), ("mandelbrot", 1.8), ("smptebars", 2)]
    inputs = [part for name, length_s in scenes for part in ("-f", "lavfi", "-t", str(length_s), "-i", f"{name}=size=96x64:rate=10")]
    joined = "".join(f"[{i}:v]setsar=1,format=yuv420p[v{i}];" for i in range(3)) + "[v0][v1][v2]concat=n=3[v]"
    run_ffmpeg(ffmpeg_exe, *inputs, "-filter_complex", joined, "-map", "[v]", str(tmp_path / "a.mp4"))
    long = load_encoder(ENCODER, pool="grid2", precision="float32", clip_s=4).spec
    stage = Encode(long, "videos", clips="respect-shots", detect_shots="content")
    (table,) = stage.open()(iter([video_table(tmp_path / "a.mp4")]))
    assert not isinstance(table, ItemFailure)
    assert table.column("shot_index").to_pylist() == [0, 1, 2]
    assert table.column("start_s").to_pylist() == pytest.approx([0, 2, 3.8], abs=1e-3)


def test_shots_that_nothing_has_looked_for_are_no_shots(video_folder: Path, tmp_path: Path) -> None:
    for name, stage in (("plain", Extract(size_px=32)), ("cut", Extract(size_px=32, detect_shots="content"))):
        extract_videos(video_folder / "a.mp4", tmp_path / name, stage, options=SERIAL)
    plain, cut = (shards.read_manifest(tmp_path / name, "frames").config for name in ("plain", "cut"))
    for clips in ("respect-shots", "shots"):
        with pytest.raises(VbcliError, match=f"plain was made without --detect-shots: .* which --{clips} needs") as caught:
            check_shots(clips, plain, tmp_path / "plain")
        assert "--detect-shots content" in str(caught.value.hint)
        check_shots(clips, cut, tmp_path / "cut")
    check_shots("fixed", plain, tmp_path / "plain")


def test_a_frame_that_is_held_for_long_does_not_make_clips_without_end(spec: EncoderSpec) -> None:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(data, "JPEG")
    row = {"video_id": "slides", "shot_index": 0, "image": {"bytes": data.getvalue(), "path": None}, "width_px": 32, "height_px": 32}
    table = pa.Table.from_pylist([{**row, "frame_index": i, "pts_s": 5.0 * i} for i in range(3)], schema=FRAMES)
    media = MediaOptions(limits=Limits(max_frames=100))
    (whole,) = Encode(spec, "frames", media=MediaOptions(limits=Limits(max_frames=101))).open()(iter([table]))
    assert not isinstance(whole, ItemFailure)
    assert whole.num_rows == 101
    (failure,) = Encode(spec, "frames", media=media).open()(iter([table]))
    assert isinstance(failure, ItemFailure)
    assert failure.message == "slides gives more clips than the limit of 100 (--max-frames)"


# ---------------------------------------------------------------- features


def video_table(path: Path) -> pa.Table:
    return pa.table({"video_id": [path.name], "path": [str(path)]})


def features_of(process: Process, tables: Sequence[pa.Table]) -> dict[str, np.ndarray | str]:
    """Features of each video, or why it failed, in the order they came."""
    found: dict[str, np.ndarray | str] = {}
    for out in process(iter(tables)):
        if isinstance(out, ItemFailure):
            found[out.video_id] = out.message
        else:
            (video_id,) = set(out.column("video_id").to_pylist())
            found[video_id] = np.stack(out.column("feature").to_numpy())
    return found


def test_features_are_the_same_bits_alone_and_among_others(
    video_folder: Path, make_video: MakeVideo, tmp_path: Path, spec: EncoderSpec
) -> None:
    """Seventy clips make batches that begin and end in the middle of videos; a video that fails changes none of them."""
    process = Encode(spec, "videos").open()
    paths = sorted(video_folder.rglob("*.m*"))
    alone = {p.name: features_of(process, [video_table(p)])[p.name] for p in paths}
    assert [len(x) for x in alone.values()] == [10, 15, 20, 25]
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    together = features_of(process, [video_table(p) for p in [paths[0], broken, *paths[1:], tmp_path / "missing.mp4"]])
    assert list(together) == [paths[0].name, "broken.mp4", *(p.name for p in paths[1:]), "missing.mp4"]
    for name, features in alone.items():
        assert np.array_equal(together[name], features)
        assert not isinstance(features, str)
        assert features.dtype == np.float16
        assert len(np.unique(features, axis=0)) > 1
    assert str(broken) in together["broken.mp4"]
    assert str(tmp_path / "missing.mp4") in together["missing.mp4"]
    again = features_of(process, [video_table(p) for p in reversed(paths)])
    assert all(np.array_equal(again[name], features) for name, features in alone.items())


def test_a_video_that_fails_on_the_way_leaves_the_others_right(video_folder: Path, tmp_path: Path, spec: EncoderSpec) -> None:
    """It has filled a batch, and half of another, when its fortieth frame turns out to be no picture."""
    extract_videos(video_folder, tmp_path / "frames", Extract(fps=10, size_px=32), options=SERIAL)
    a, b, c, d = shards.split_by_video(shards.read_shard(tmp_path / "frames" / "shard-00000.parquet"))
    rows = [{**row, "video_id": "long", "pts_s": i / 10} for i, row in enumerate([*c.to_pylist(), *d.to_pylist()])]
    whole = pa.Table.from_pylist(rows, schema=FRAMES)
    rows[39]["image"]["bytes"] = b"no picture"
    broken = pa.Table.from_pylist(rows, schema=FRAMES)
    process = Encode(spec, "frames").open()
    expected = features_of(process, [a, whole, b, d])
    assert len(expected["long"]) == 45
    found = features_of(process, [a, broken, b, d])
    assert list(found) == ["a.mp4", "long", "b.mkv", "more/d.mp4"]
    assert "cannot identify image" in found.pop("long")
    assert all(np.array_equal(features, expected[name]) for name, features in found.items())
    failure = ItemFailure("x", "extract", "MediaError", "no video")
    assert next(iter(process(iter([failure])))) == failure


def test_a_long_video_is_never_in_memory(spec: EncoderSpec) -> None:
    """Of two hundred and fifty pictures only those of a batch are held at a time."""
    side = spec.preprocessing.geometry.crop_px
    assert side is not None
    data = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(data, "JPEG")
    row = {"video_id": "long", "shot_index": 0, "image": {"bytes": data.getvalue(), "path": None}, "width_px": side, "height_px": side}
    table = pa.Table.from_pylist([{**row, "frame_index": i, "pts_s": i / 10} for i in range(250)], schema=FRAMES)
    process = Encode(spec, "frames").open()
    tracemalloc.start()
    try:
        (features,) = process(iter([table]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not isinstance(features, ItemFailure)
    assert features.num_rows == 250
    picture = side * side * 3
    assert 32 * picture < peak < 150 * picture


def test_features_from_frames_and_from_videos_are_near(video_folder: Path, tmp_path: Path) -> None:
    spec = load_encoder(ENCODER, pool="grid3", precision="float32").spec
    videos = tmp_path / "videos"
    shutil.copytree(video_folder, videos)
    (videos / "c.mp4").write_text("no video")
    extract_videos(videos, tmp_path / "frames", Extract(size_px=168, quality=2), options=SERIAL)
    notes: list[str] = []
    report = encode_dataset(tmp_path / "frames", tmp_path / "a", spec, options=replace(SERIAL, on_note=notes.append))
    assert (report.n_failed, report.exit_status) == (0, 0)
    assert notes == [f"1 videos failed before {tmp_path / 'frames'} and are left out"]
    direct = encode_dataset(videos, tmp_path / "b", spec, caption_files=[videos / "captions.csv"], options=SERIAL)
    assert (direct.n_failed, direct.exit_status, direct.n_rows) == (1, 3, report.n_rows)
    tables = [shards.read_shard(tmp_path / name / "shard-00000.parquet") for name in "ab"]
    assert tables[0].drop_columns(["feature"]).equals(tables[1].drop_columns(["feature"]))
    columns = ("video_id", "clip_index", "start_s", "end_s", "n_frames")
    first = [tuple(row[k] for k in columns) for row in tables[0].to_pylist() if row["video_id"] == "b.mkv"]
    assert first == [("b.mkv", i, i / 2, i / 2 + 0.5, 1) for i in range(3)]
    x, y = (np.stack(t.column("feature").to_numpy()).astype(float) for t in tables)
    assert x.shape == (2 + 3 + 5, spec.width)
    assert (np.linalg.norm(x - y, axis=1) < 0.1 * np.linalg.norm(x, axis=1)).all()
    manifest = shards.read_manifest(tmp_path / "a", "features")
    assert EncoderSpec.from_dict(manifest.facts["encoder"]) == spec
    assert [p["stage"] for p in manifest.parents] == ["extract", "probe"]
    carried = shards.read_shard(tmp_path / "a" / "videos" / "shard-00000.parquet")
    assert carried.equals(shards.read_shard(tmp_path / "frames" / "videos" / "shard-00000.parquet"))


def test_what_does_not_fit_is_refused(video_folder: Path, tmp_path: Path, spec: EncoderSpec) -> None:
    with pytest.raises(VbcliError, match="are not those that the dataset was begun with"):
        Encode(replace(spec, weights_sha256="0" * 64), "videos").open()
    encode_dataset(video_folder / "a.mp4", tmp_path / "features", spec, options=SERIAL)
    with pytest.raises(VbcliError, match="is a features dataset: encode takes frames or videos"):
        encode_dataset(tmp_path / "features", tmp_path / "out", spec, options=SERIAL)
    with pytest.raises(VbcliError, match=r"was made with encoder\.fps = 10\.0, not 5"):
        encode_dataset(video_folder / "a.mp4", tmp_path / "features", replace(spec, fps=5), options=SERIAL)
    for clip_s in (0, -1, math.nan, math.inf):
        with pytest.raises(VbcliError, match="--clip-s"):
            load_encoder(ENCODER, clip_s=clip_s)
