"""Decision lists of real videos, and what is written of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeVideo
from vbcli.editing import apply
from vbcli.editing.apply import Decision, check_targets, decide, render_decisions
from vbcli.editing.grammar import parse_instruction
from vbcli.errors import VbcliError
from vbcli.media.probe import frame_times
from vbcli.rendering import Cut
from vbcli.segments import Segmentation


def decided(instruction: str, videos: list[Path], place: Path) -> list[Decision]:
    return decide(videos, parse_instruction(instruction), place / "none", Segmentation("shots"), place / "place").decisions


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory, make_video: MakeVideo) -> list[Path]:
    folder = tmp_path_factory.mktemp("six")
    return [make_video(folder / f"{i}.mp4", duration_s=1.5, hue=50 * i) for i in range(6)]


@pytest.mark.parametrize(
    ("instruction", "ends_s"),
    [
        # Frames of a tenth: 0.1 to 1.2 s of each, so the sixth has half a second left.
        ("keep from 0.05 to 1.11, at most 6 seconds", [1.2] * 5 + [0.6]),
        # 1.1 / 2 s each: of the fourth 0.15 s are left, or three frames.
        ("keep from 0.05 to 1.11, speed up 2x, at most 1.8 seconds", [1.2] * 3 + [0.4]),
        # Frames last 0.2 s: of 2.9 s the first takes 2.2 s, and three frames fit into 0.7 s.
        ("keep from 0.05 to 1.11, slow down 2x, at most 2.9 seconds", [1.2, 0.4]),
        # Nothing is shorter than a frame.
        ("keep from 0.05 to 1.11, at most 2.25 seconds", [1.2, 1.2]),
        ("keep from 0.05 to 1.11, at most 2.2 seconds", [1.2, 1.2]),
        ("keep from 0.05 to 1.11, at most 20 seconds", [1.2] * 6),
    ],
)
def test_a_limit_is_kept_at_frames(tmp_path: Path, ffmpeg_exe: str, six: list[Path], instruction: str, ends_s: list[float]):
    limit_s = parse_instruction(instruction).limit_s or 0
    decisions = decided(instruction, six, tmp_path)
    assert [d.cut.start_s for d in decisions] == pytest.approx([0.1] * len(ends_s))
    assert [d.cut.end_s for d in decisions] == pytest.approx(ends_s)
    assert sum(d.cut.length_s for d in decisions) <= limit_s + 1e-6
    render_decisions(decisions, tmp_path / "out.mp4", ffmpeg_exe)
    times, end_s = frame_times(str(tmp_path / "out.mp4"))
    assert len(times) == sum(round(10 * (end_s - 0.1)) for end_s in ends_s)
    assert end_s <= limit_s + 1e-3


def test_a_limit_shorter_than_a_frame_is_refused(tmp_path: Path, six: list[Path]):
    with pytest.raises(VbcliError, match=r"the limit of 0\.05 seconds"):
        decided("at most 0.05 seconds", six, tmp_path)


def test_names_outside_utf8_are_written_as_text(tmp_path: Path, ffmpeg_exe: str, six: list[Path]):
    video = tmp_path / "b\udcff.mp4"
    video.write_bytes(six[0].read_bytes())
    (found,) = decided("keep the first second", [video], tmp_path)
    assert found.cut.path == str(tmp_path / "b%FF.mp4")
    render_decisions([found], tmp_path / "out" / "o\udcff.mp4", ffmpeg_exe)
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".edl", ".mp4", ".otio"]
    assert "b%FF" in (tmp_path / "out" / "o\udcff.otio").read_text()


@pytest.mark.parametrize("suffix", [".mp4", ".otio", ".edl"])
def test_a_folder_in_the_place_of_a_target_is_refused_and_nothing_is_written(tmp_path: Path, ffmpeg_exe: str, six: list[Path], suffix: str):
    out = tmp_path / "out.mp4"
    out.with_suffix(suffix).mkdir()
    with pytest.raises(VbcliError, match=rf"out\{suffix} is a folder"):
        render_decisions([Decision(Cut(str(six[0]), 0, 1), None)], out, ffmpeg_exe)
    assert [p.name for p in tmp_path.iterdir()] == [f"out{suffix}"]


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VbcliError, match=r"file is no folder"):
        check_targets(tmp_path / "file" / "more" / "out.mp4")
    check_targets(tmp_path / "new" / "more" / "out.mp4")


@pytest.mark.parametrize("failing", ["write_timeline", "write_edl", "render_cuts"])
def test_what_fails_on_the_way_leaves_what_was_there(
    tmp_path: Path, ffmpeg_exe: str, six: list[Path], monkeypatch: pytest.MonkeyPatch, failing: str
):
    def fail(*_: object) -> None:
        raise VbcliError("the disk is full")

    monkeypatch.setattr(apply, failing, fail)
    for suffix in (".mp4", ".otio", ".edl"):
        (tmp_path / f"out{suffix}").write_bytes(b"old")
    with pytest.raises(VbcliError, match="the disk is full"):
        render_decisions([Decision(Cut(str(six[0]), 0.1, 1.0), None)], tmp_path / "out.mp4", ffmpeg_exe)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {f"out{suffix}": b"old" for suffix in (".mp4", ".otio", ".edl")}
