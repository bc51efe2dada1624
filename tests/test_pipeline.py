"""The map commands as functions: what they tell of the videos they were given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeVideo
from vbcli.encoders import load_encoder
from vbcli.errors import VbcliError
from vbcli.media.decode import MediaOptions
from vbcli.media.limits import Limits
from vbcli.media.video import Video
from vbcli.pipeline import RunOptions, encode_dataset, extract_videos
from vbcli.runner import read_videos
from vbcli.shards import read_shard
from vbcli.stages.extract import Extract


def test_videos_that_were_cut_off_are_named_and_used(make_video, tmp_path: Path):
    videos = tmp_path / "videos"
    make_video(videos / "whole.mp4", duration_s=8)
    made = make_video(tmp_path / "made.mp4", duration_s=8, arguments=("-movflags", "+faststart"))
    (videos / "cut.mp4").write_bytes(made.read_bytes()[: made.stat().st_size // 2])
    notes: list[str] = []
    options = RunOptions("serial", on_note=notes.append)
    report = extract_videos(videos, tmp_path / "frames", Extract(size_px=32), options=options)
    assert report.n_failed == 0
    assert 16 < report.n_rows < 32
    (note,) = notes
    assert note.startswith("1 videos end long before their containers say, first cut.mp4 (")
    assert "of 8.0 s)" in note

    notes.clear()
    encode_dataset(videos, tmp_path / "features", load_encoder("timm:tf_efficientnet_lite0", clip_s=0.5).spec, options=options)
    assert [n for n in notes if "cut.mp4" in n] == notes
    assert len(notes) == 1
    # Told once, by the run that made it.
    extract_videos(videos, tmp_path / "frames", Extract(size_px=32), options=options)
    assert len(notes) == 1


def test_the_language_of_subtitles_is_chosen(make_video, tmp_path: Path):
    videos = tmp_path / "videos"
    make_video(videos / "a.mp4")
    for code, text in (("de", "Hallo."), ("en", "Hello.")):
        (videos / f"a.{code}.srt").write_text(f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n")
    for language in ("en", "de"):
        options = RunOptions("serial", language=language)
        extract_videos(videos, tmp_path / "frames", Extract(size_px=32), options=options)
        (row,) = read_videos(tmp_path / "frames").to_pylist()
        assert row["transcript"] == [{"start_s": 0.0, "end_s": 1.0, "text": {"en": "Hello.", "de": "Hallo."}[language]}]
    spec = load_encoder("timm:tf_efficientnet_lite0", clip_s=0.5).spec
    with pytest.raises(VbcliError, match="--language goes with videos, not with a frames dataset"):
        encode_dataset(tmp_path / "frames", tmp_path / "out", spec, encoder_dir=videos, options=options)
    # Before anything was carried there.
    assert not (tmp_path / "out").exists()


def test_a_retry_probes_what_could_not_be_probed_before(video_folder: Path, tmp_path: Path):
    def run(folder: Path, limits: Limits, *, is_retry: bool = False):
        media = MediaOptions(limits=limits)
        options = RunOptions("serial", is_retry=is_retry, media=media)
        return extract_videos(video_folder, folder, Extract(size_px=32, media=media), options=options)

    videos = tmp_path / "frames" / "videos" / "shard-00000.parquet"
    assert run(tmp_path / "frames", Limits(max_pixels=100)).n_failed == 4
    assert read_shard(videos).column("codec").to_pylist() == [None] * 4
    assert run(tmp_path / "frames", Limits(), is_retry=True).n_failed == 0
    assert read_shard(videos).column("codec").to_pylist() == ["h264"] * 4
    run(tmp_path / "once", Limits())
    assert videos.read_bytes() == (tmp_path / "once" / "videos" / "shard-00000.parquet").read_bytes()


@pytest.mark.parametrize("n_videos", [1, 3])
def test_few_videos_are_decoded_on_all_cores_to_the_same_bytes(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_videos: int
) -> None:
    for i in range(n_videos):
        make_video(tmp_path / f"videos/{i}.mp4", duration_s=6, fps=24, hue=50 * i, arguments=["-g", "24"])
    spec, cut = load_encoder("timm:test_convnext/random", pool="grid2", precision="float32").spec, list[str]()
    decode = Video._of_stretch
    monkeypatch.setattr(Video, "_of_stretch", lambda video, *arguments: (cut.append(video.path), decode(video, *arguments))[1])
    made = []
    for n_cores in (1, 4):
        monkeypatch.setattr("vbcli.pipeline.count_cores", lambda n_cores=n_cores: n_cores)
        place = tmp_path / f"{n_cores}"
        extract_videos(tmp_path / "videos", place / "frames", Extract(fps=4, size_px=32), options=RunOptions("serial"))
        encode_dataset(tmp_path / "videos", place / "features", spec, options=RunOptions("serial"))
        made.append([(place / kind / "shard-00000.parquet").read_bytes() for kind in ("frames", "features")])
        # Of three videos on four cores each has one.
        assert len(set(cut)) == (n_cores == 4 and n_videos == 1)
    assert made[0] == made[1]
