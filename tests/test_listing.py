"""Which videos are in a folder: by name, in tar files, behind links."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbcli.errors import VbcliError
from vbcli.files import escape_name
from vbcli.listing import list_videos
from vbcli.media.containers import leads_out, open_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files that pass for videos as long as nobody opens them."""
    root = tmp_path / "videos"
    for name in ("b.mp4", "a/z.MKV", "a/y.avi", "a.mp4", "c d.webm", "B.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_videos_are_found_by_suffix_below_the_folder(folder: Path) -> None:
    for name in ("notes.txt", ".hidden.mp4", ".hidden/x.mp4", "a/mp4", "x.mp4.part"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    (folder / "folder.mp4").mkdir()
    found = list_videos(folder).videos
    assert [v.video_id for v in found] == ["B.mp4", "a.mp4", "a/y.avi", "a/z.MKV", "b.mp4", "c d.webm"]
    for video in found:
        status = (folder / video.video_id).stat()
        assert (video.path, video.bytes, video.mtime_ns) == (str(folder / video.video_id), len(video.video_id), status.st_mtime_ns)
    (one,) = list_videos(folder / "a" / "y.avi").videos
    assert (one.video_id, one.path) == ("y.avi", str(folder / "a" / "y.avi"))


def test_a_link_to_nothing_stays_and_what_is_no_file_does_not(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gone.mp4").symlink_to(tmp_path / "not fetched yet.mp4")
    (tmp_path / "elsewhere").write_text("elsewhere")
    (folder / "linked.mp4").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe.mp4")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
    found = {v.video_id: v for v in list_videos(folder).videos}
    assert {"gone.mp4", "linked.mp4"} < set(found)
    assert not {"pipe.mp4", "socket.mp4"} & set(found)
    assert found["linked.mp4"].bytes == len("elsewhere")


def test_a_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=f"{tmp_path}/none does not exist"):
        list_videos(tmp_path / "none")
    with pytest.raises(VbcliError, match=f"{tmp_path} holds no videos") as caught:
        list_videos(tmp_path)
    assert ".mp4" in str(caught.value.hint)


@given(st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, ord("/")}))
def test_names_are_text_and_lead_back_to_their_file(name: bytes) -> None:
    escaped = escape_name(name)
    assert escaped.encode()  # no lone surrogate
    try:
        assert escaped == name.decode()
    except UnicodeDecodeError:
        assert "%" in escaped
        assert open_path("/nowhere/" + escaped) == b"/nowhere/" + name


# ---------------------------------------------------------------- tar files


def write_tar(path: Path, names: Sequence[str], size: int = 600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    return path


def test_a_damaged_tar_costs_itself_alone(folder: Path) -> None:
    (folder / "broken.tar").write_bytes(b"no tar" * 200)
    cut = write_tar(folder / "cut.tar", ["0.mp4", "1.mp4"])
    # A header is 512 bytes, a member a multiple of them: this ends within the second video's header.
    cut.write_bytes(cut.read_bytes()[:1600])
    videos, notes = list_videos(folder)
    assert [v.video_id for v in videos] == ["B.mp4", "a.mp4", "a/y.avi", "a/z.MKV", "b.mp4", "c d.webm", "cut/0.mp4"]
    assert [note.partition(" it is damaged")[0] for note in sorted(notes)] == [
        f"{folder}/broken.tar cannot be read as a tar file:",
        f"{folder}/cut.tar is read in part: 1 videos stand before the place where",
    ]


def test_where_nothing_can_be_read_the_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "x.tar").write_bytes(b"no tar" * 200)
    for root in (tmp_path / "videos", tmp_path / "videos" / "x.tar"):
        with pytest.raises(VbcliError, match=f"{tmp_path}/videos/x.tar cannot be read as a tar file"):
            list_videos(root)


def test_a_tar_is_a_folder_of_its_videos(folder: Path) -> None:
    write_tar(folder / "a.tar", ["y.avi"])
    with pytest.raises(VbcliError, match=r"would both be called a/y\.avi") as caught:
        list_videos(folder)
    assert caught.value.hint == "a tar file is a folder of its videos: move one of both away"


@pytest.mark.parametrize("name", ["s.tar", "sub/s.tar", "s/s.tar"])
@pytest.mark.parametrize("member", ["0.mp4", "a/b/c/0.mp4", "s/0.mp4"])
def test_a_tar_that_is_a_link_out_of_the_folder_is_not_opened(tmp_path: Path, name: str, member: str) -> None:
    secret = write_tar(tmp_path / "secret" / "s.tar", [member])
    root = tmp_path / "deep" / "er" / "videos"
    write_tar(root / "own.tar", ["0.mp4"])
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).symlink_to(secret)
    videos, notes = list_videos(root)
    assert [v.video_id for v in videos] == ["own/0.mp4"]
    assert notes == [f"{root / name} is a link that leads out of its folder, and is not read; --follow-links reads it"]
    video_id = f"{name.removesuffix('.tar')}/{member}"
    found, notes = list_videos(root, follows_links=True)
    assert (sorted([video_id, "own/0.mp4"]), notes) == ([v.video_id for v in found], [])
    # Those that were planned while links were followed are refused, too.
    assert {v.video_id: leads_out(v.path, v.video_id) for v in found} == {video_id: True, "own/0.mp4": False}
    # What is named itself is meant.
    (one,) = list_videos(root / name).videos
    assert one.video_id == f"s/{member}"
    assert not leads_out(one.path, one.video_id)


def test_a_tar_that_is_a_link_within_the_folder_is_read(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    write_tar(root / "sub" / "s.tar", ["a/0.mp4"])
    (root / "linked.tar").symlink_to(root / "sub" / "s.tar")
    videos, notes = list_videos(root)
    assert ([v.video_id for v in videos], notes) == (["linked/a/0.mp4", "sub/s/a/0.mp4"], [])
    assert not any(leads_out(v.path, v.video_id) for v in videos)
