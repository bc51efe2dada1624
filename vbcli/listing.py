"""Which videos are in a folder, on this machine or in a store: files by their names, and those in tar files."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from vbcli.errors import VbcliError
from vbcli.files import escape_name
from vbcli.media.containers import leads_out, open_path
from vbcli.media.formats import VIDEO_SUFFIXES
from vbcli.storage import as_path, is_remote, list_files, member_path, split_member
from vbcli.tars import TarVideo, find_in_tar, read_tar
from vbcli.walk import Passed, is_tar_name, is_text_name, is_video_name, walk


@dataclass(frozen=True)
class ScannedVideo:
    """A video file found in a folder."""

    video_id: str
    path: str
    bytes: int
    mtime_ns: int


class Listing(NamedTuple):
    """Videos in the order of their ids, and sentences on tar files that could not be read whole and on what is passed over."""

    videos: list[ScannedVideo]
    notes: list[str]


def list_videos(root: Path, *, follows_links: bool = False) -> Listing:
    """Finds the videos below a folder by suffix, sorted by `video_id`; hidden files and folders are passed over.

    Args:
        root: a folder, or one video or tar file.
        follows_links: look into linked folders, too, into each once, and read tar files that are links out of the folder.

    Raises:
        VbcliError: the folder does not exist, cannot be read or holds no video, or two names would be one `video_id`.
    """
    if not root.exists():
        raise VbcliError(f"{root} does not exist", hint="name a folder of videos, or one video")
    hint = f"files with these suffixes are videos: {' '.join(sorted(VIDEO_SUFFIXES))}"
    notes: list[str] = []
    passed = Passed()
    if is_remote(root):
        found = _scan_remote(root, notes, passed)
    elif root.is_file():
        name = os.fsencode(root.name)
        if not is_tar_name(name) and not is_video_name(name):
            raise VbcliError(f"{root} is no video by its name", hint=hint)
        # What is named itself is followed, wherever it leads.
        one = _scanned(*os.path.split(os.path.realpath(os.fsencode(root))))
        named = replace(one, video_id=escape_name(name))
        found = _in_tar(named, notes) if is_tar_name(name) else [named]
    else:
        base = os.fsencode(root.resolve())
        found = []
        for path in walk(base, follows_links, passed):
            if is_video_name(os.path.basename(path)) or is_tar_name(os.path.basename(path)):
                found += _videos_of(_scanned(base, os.path.relpath(path, base)), follows_links, notes)
            elif not is_text_name(path):
                passed.files.append(escape_name(os.path.relpath(path, base)))
    if not found:
        raise VbcliError(notes[0], hint="copy it again, or unpack it") if notes else VbcliError(f"{root} holds no videos", hint=hint)
    found.sort(key=lambda v: v.video_id)
    for one, other in itertools.pairwise(found):
        if one.video_id == other.video_id:
            is_in_tar = split_member(one.path) or split_member(other.path)
            hint = "a tar file is a folder of its videos: move one of both away" if is_in_tar else "rename the one whose name is not UTF-8"
            raise VbcliError(f"two files in {root} would both be called {one.video_id}", hint=hint)
    return Listing(found, [*notes, *passed.notes()])


def file_of(video: ScannedVideo) -> Path:
    """The file that a video is, or is in."""
    path, *_ = split_member(video.path) or (video.path,)
    return as_path(path) if is_remote(path) else Path(os.fsdecode(open_path(path)))


def tar_video(video: ScannedVideo) -> TarVideo | None:
    """What the tar file that a video is in has of it; None of a file of its own, and where it is in the tar file no more."""
    member = split_member(video.path)
    return None if member is None else find_in_tar(file_of(video), member[1])


def _scan_remote(root: Path, notes: list[str], passed: Passed) -> list[ScannedVideo]:
    """The videos below an address of a store, or the one that is there."""
    paths = [root] if root.is_file() else list_files(root)
    base = root.parent if root.is_file() else root
    found = []
    for path in paths:
        relative = str(path).removeprefix(str(base)).lstrip("/")
        if any(part.startswith(".") for part in relative.split("/")):
            continue
        name = os.fsencode(path.name)
        is_tar = is_tar_name(name)
        if is_tar or is_video_name(name):
            status = path.stat()
            video = ScannedVideo(relative, str(path), status.st_size, round(status.st_mtime * 1e9))
            found += _in_tar(video, notes) if is_tar else [video]
        elif not is_text_name(name):
            passed.files.append(relative)
    return found


def _scanned(base: bytes, relative: bytes) -> ScannedVideo:
    path = os.path.join(base, relative)
    # A link to nothing stays a video, one that will fail: what it leads to may only not be fetched yet.
    status = os.stat(path) if os.path.exists(path) else os.lstat(path)
    return ScannedVideo(escape_name(relative), escape_name(path), status.st_size, status.st_mtime_ns)


def _videos_of(file: ScannedVideo, follows_links: bool, notes: list[str]) -> list[ScannedVideo]:
    """The video that a file of a folder is, or those of a tar file."""
    if not is_tar_name(os.fsencode(os.path.basename(file.video_id))):
        return [file]
    # Before it is opened: what it says of its videos would be read out.
    if not follows_links and leads_out(file.path, file.video_id):
        notes.append(f"{file.path} is a link that leads out of its folder, and is not read; --follow-links reads it")
        return []
    return _in_tar(file, notes)


def _in_tar(tar: ScannedVideo, notes: list[str]) -> list[ScannedVideo]:
    """The videos of a tar file, whose name is their folder."""
    contents = read_tar(file_of(tar))
    notes += contents.notes
    folder = os.path.splitext(tar.video_id)[0]
    return [
        ScannedVideo(f"{folder}/{video.name}", member_path(tar.path, video.offset, video.size), video.size, tar.mtime_ns)
        for video in contents.videos
    ]
