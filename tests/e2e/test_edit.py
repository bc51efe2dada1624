"""Edits as a user asks for them; what a description means is tested where a retriever has learned something (tests/training)."""

from __future__ import annotations

import json
from pathlib import Path

import opentimelineio as otio
import pytest

from tests.e2e.commands import vbcli
from tests.test_rendering import counter_video, shown


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ffmpeg_exe: str) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    counter_video(ffmpeg_exe, folder / "one.mp4")
    (folder / "more").mkdir()
    counter_video(ffmpeg_exe, folder / "more" / "one.mp4", seconds=2)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "taken.otio").mkdir()
    return folder


def test_the_decision_list_is_what_is_written(place: Path):
    asked = (
        "edit",
        "one.mp4",
        "more/one.mp4",
        "--instruction",
        "drop the first 1.55 seconds, speed up the last half a second 2x, at most 3 s",
    )
    said = json.loads(vbcli(*asked, "--dry-run", "--json", cwd=place).stdout)
    assert said["out"] is None
    assert not (place / "edited.mp4").exists()
    rows = [(Path(d["path"]).parent.name == "more", d["start_s"], d["end_s"], d["speed"], d["score"]) for d in said["decisions"]]
    # By hand: 1.6 to 3.5 s, then half a second in a quarter, then what is left of three seconds from the other.
    assert rows[0] == (False, pytest.approx(1.6), pytest.approx(3.5), 1, None)
    assert rows[1] == (False, pytest.approx(3.5), pytest.approx(4), 2, None)
    assert rows[2][0]
    assert "coded again" in " ".join(vbcli(*asked, "--out", "out/cut.mp4", cwd=place).stderr.split())
    frames = shown(place / "out" / "cut.mp4")
    wanted = [n for d in said["decisions"] for n in range(round(d["start_s"] * 10), round(d["end_s"] * 10))]
    assert frames == wanted
    (track,) = otio.adapters.read_from_file(str(place / "out" / "cut.otio")).tracks
    assert [c.source_range.start_time.to_seconds() for c in track] == pytest.approx([d["start_s"] for d in said["decisions"]])
    assert len([line for line in (place / "out" / "cut.edl").read_text().splitlines() if line[:3].isdigit()]) == len(rows)
    assert sorted(p.name for p in (place / "out").iterdir()) == ["cut.edl", "cut.mp4", "cut.otio"]


def test_what_can_be_copied_is_copied(place: Path):
    assert "without coding" in " ".join(vbcli("edit", "one.mp4", "--instruction", "join", "--out", "same.mp4", cwd=place).stderr.split())
    assert shown(place / "same.mp4") == list(range(40))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("one.mp4", "--instruction", "make it nice"), 2, "'make it nice' is no editing instruction"),
        (("one.mp4", "--instruction", "keep a dog, drop a dog"), 2, "contradicts"),
        (("one.mp4", "--instruction", ""), 2, "the instruction is empty"),
        (("one.mp4", "--instruction", "keep a dog"), 1, "checkpoints/retrieve"),
        (("one.mp4", "--instruction", "drop the first 9 seconds"), 1, "nothing is left after 'drop the first 9 seconds'"),
        (("nowhere.mp4", "--instruction", "join"), 1, "nowhere.mp4 does not exist"),
        (("broken.mp4", "--instruction", "join"), 1, "leave this video out, or save it anew"),
        (("one.mp4", "--instruction", "speed up 4x, speed up the first second 4x"), 1, "would play at 16 times the speed"),
        (("one.mp4", "--instruction", "join", "--out", "one.mp4"), 2, "is one of the videos"),
        (("one.mp4", "--instruction", "join", "--out", "one.avi"), 2, "written as .mp4"),
        (("one.mp4", "--instruction", "join", "--out", "taken.mp4"), 1, "taken.otio is a folder"),
        (("one.mp4", "--instruction", "join", "--out", "one.mp4/out.mp4"), 1, "one.mp4 is no folder"),
        (("one.mp4", "--instruction", "keep the first half"), 2, "the times of 'keep the first half' cannot be read"),
        (("one.mp4", "--instruction", "drop from 0:20 to 0:30"), 1, "'drop from 0:20 to 0:30' is about no part of the videos"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(place: Path, arguments: tuple[str, ...], status: int, message: str):
    before = sorted(p.name for p in place.rglob("*"))
    assert message in " ".join(vbcli("edit", *arguments, cwd=place, status=status).stderr.split())
    assert sorted(p.name for p in place.rglob("*")) == before
