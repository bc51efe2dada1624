"""Videos in tar files, as WebDataset and img2dataset's family keep them: `KEY.mp4`, with `KEY.json`, `KEY.txt` or subtitles beside it.

The videos are read where they are: a member of a tar file is a part of it, from an offset on.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from vbcli.errors import VbcliError
from vbcli.files import escape_name
from vbcli.media.formats import VIDEO_SUFFIXES
from vbcli.storage import as_path
from vbcli.text.captionfiles import CaptionRow, build_row, cell_error
from vbcli.text.speech import TranscriptSegment
from vbcli.text.subtitles import SUBTITLE_SUFFIXES, read_cues
from vbcli.text.transcripts import Sidecar, find_sidecars

TEXT_SUFFIXES = (*SUBTITLE_SUFFIXES, ".txt")
MAX_TEXT_BYTES = 16 << 20
"""A text is no longer than this."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_HINT = "mend it in the tar file, or say it in a caption file"


@dataclass(frozen=True)
class TextMember:
    """A text in a tar file, as an object that behaves like the path of a file beside a video.

    Args:
        tar: the tar file.
        place: within it, as if it were a folder.
        texts: of the tar file, by place.
    """

    tar: Path
    place: PurePosixPath
    texts: Mapping[str, bytes] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.tar}/{self.place}"

    def __truediv__(self, name: str) -> TextMember:
        return TextMember(self.tar, self.place / name, self.texts)

    @property
    def parent(self) -> TextMember:
        return TextMember(self.tar, self.place.parent, self.texts)

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def stem(self) -> str:
        return self.place.stem

    @property
    def suffix(self) -> str:
        return self.place.suffix

    def is_file(self) -> bool:
        return str(self.place) in self.texts

    def read_bytes(self) -> bytes:
        return self.texts[str(self.place)]


@dataclass(frozen=True)
class TarVideo:
    """A video in a tar file.

    Args:
        name: of the member, without what would lead out of a folder; bytes outside UTF-8 are percent-escaped.
        offset: of its first byte.
        size: in bytes.
        tar: the tar file.
        texts: of the tar file, by name; suffixes are in small letters.
        names: of the texts, in order, by folder.
    """

    name: str
    offset: int
    size: int
    tar: Path
    texts: Mapping[str, bytes] = field(repr=False, compare=False)
    names: Mapping[str, list[str]] = field(repr=False, compare=False)

    def sidecars(self, language: str | None = None) -> list[Sidecar]:
        """The subtitles beside it, found by the rules for those of files; to be read while the tar file is as it was."""
        names = self.names.get(posixpath.dirname(self.name), [])
        return [found for path in self._paths() for found in find_sidecars(path, names, language)]

    def text(self, suffix: str) -> Path | None:
        """What stands beside it under its name and a suffix such as `.txt`."""
        return next((path for path in (path.parent / f"{path.stem}{suffix}" for path in self._paths()) if path.is_file()), None)

    def _paths(self) -> Iterator[Path]:
        place = PurePosixPath(self.name)
        # To WebDataset all before the first dot is the key; a file of the video's whole name is nearer to it.
        for stem in dict.fromkeys((place.stem, place.name.partition(".")[0])):
            yield cast(Path, TextMember(self.tar, place.with_name(stem + place.suffix), self.texts))


class TarContents(NamedTuple):
    """The videos of a tar file in their order, and sentences on what in it cannot be used."""

    videos: list[TarVideo]
    notes: list[str]


def read_tar(path: Path) -> TarContents:
    """The videos of a tar file, on this machine or in a store; of a damaged one those before the damage."""
    videos, notes = _videos_in(path)
    return TarContents(list(videos.values()), list(notes))


def find_in_tar(path: Path, offset: int) -> TarVideo | None:
    """The video of a tar file that begins at an offset."""
    return _videos_in(path)[0].get(offset)


def _videos_in(path: Path) -> tuple[Mapping[int, TarVideo], tuple[str, ...]]:
    try:
        status = path.stat()
    except OSError as error:
        return {}, (f"{path} cannot be read: {error.strerror or error}",)
    return _read_tar(str(path), status.st_size, status.st_mtime)


@lru_cache(maxsize=64)
def _read_tar(address: str, size: int, mtime_s: float) -> tuple[Mapping[int, TarVideo], tuple[str, ...]]:
    """The videos by the offset at which they begin, and notes."""
    del size, mtime_s
    path = as_path(address)
    videos: dict[str, tuple[int, int]] = {}
    texts: dict[str, bytes] = {}
    names: dict[str, list[str]] = {}
    twice: list[str] = []
    long: list[str] = []
    notes: list[str] = []
    try:
        for name, member, tar in _members(path):
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES:
                twice += [name] * (name in videos)
                videos[name] = member.offset_data, member.size
            elif suffix.lower() in TEXT_SUFFIXES and member.size > MAX_TEXT_BYTES:
                long.append(name)
            elif suffix.lower() in TEXT_SUFFIXES:
                file = tar.extractfile(member)
                assert file is not None
                texts[stem + suffix.lower()] = file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        cause = f"it is damaged or compressed ({error})"
        what = f"is read in part: {len(videos)} videos stand before the place where " if videos else "cannot be read as a tar file: "
        notes.append(f"{path} {what}{cause}")
    for name in sorted(texts):
        names.setdefault(posixpath.dirname(name), []).append(posixpath.basename(name))
    if twice:
        notes.append(f"{path} holds {len(twice)} videos again under the same name, first {twice[0]}: the last is taken, as by unpacking")
    if long:
        notes.append(f"{path} holds {len(long)} texts of more than {MAX_TEXT_BYTES >> 20} MB, first {long[0]}, which are not read")
    found = (TarVideo(name, offset, n_bytes, path, texts, names) for name, (offset, n_bytes) in videos.items())
    return {video.offset: video for video in found}, tuple(notes)


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """The files in a tar file that are not hidden, by name."""
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            if member.size < 0:
                raise tarfile.ReadError("a size is negative")
            # Links and devices lead elsewhere: they are none of ours.
            if member.isreg() and not member.issparse():
                name = _plain_name(member.name)
                if not any(part.startswith(".") for part in name.split("/")):
                    yield name, member, tar
        # Python takes what is no header for the end.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"there is no header at byte {tar.offset}")


def _plain_name(name: str) -> str:
    """The name of a member as a path below the tar file: `./a.mp4`, `/a.mp4` and `../a.mp4` are `a.mp4`."""
    escaped = escape_name(name.encode("utf-8", errors="surrogateescape"))
    return posixpath.normpath(f"/{escaped}").lstrip("/")


# ---------------------------------------------------------------- what is said of a video


class Described(NamedTuple):
    """What a tar file says of a video as rows of a caption file, and sentences on what in it cannot be used."""

    rows: list[CaptionRow]
    problems: list[str]


def describe(video: TarVideo, video_id: str) -> Described:
    """Reads `KEY.json` and, where that has no caption, `KEY.txt`.

    A value of another kind than its field has costs that field alone; the sentence on it names tar file, video and field.
    """
    rows: list[CaptionRow] = []
    problems: list[str] = []

    def read(cells: Iterable[dict[str, Any]], path: Path) -> None:
        try:
            rows.extend([build_row({"video": video_id, **values}, path, 1) for values in cells])
        except VbcliError as error:
            problems.append(error.message)

    described = video.text(".json")
    if described is not None:
        try:
            said = _read_description(described, problems)
        except VbcliError as error:
            said = {}
            problems.append(error.message)
        for cells in (_split, _captions, _labels, _questions):
            read(cells(said, described), described)
    plain = video.text(".txt")
    if plain is not None and not any(row.caption for row in rows):
        read(_plain_caption(plain), plain)
    return Described(rows, problems)


def described_transcript(video: TarVideo) -> list[TranscriptSegment]:
    """The field `transcript` of `KEY.json`, as `vbcli export` writes it; empty where there is none.

    Raises:
        VbcliError: it is something else; the message names tar file and video.
    """
    path = video.text(".json")
    try:
        cues = None if path is None else _read_description(path, []).get("transcript")
    except VbcliError:
        return []  # `describe` tells
    if path is None or cues is None:
        return []
    try:
        return [TranscriptSegment(float(c["start_s"]), float(c["end_s"]), " ".join(c["text"].split())) for c in cues]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise cell_error(path, 1, "transcript", "is no list of start_s, end_s and text") from error


def _read_description(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        said = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise VbcliError(f"{path} is not valid JSON: {error}", hint=_HINT) from error
    if said is None or _is_transcript(path):
        return {}
    if not isinstance(said, dict):
        raise VbcliError(f"{path} is no JSON object but {type(said).__name__}", hint=_HINT)
    text = json.dumps(said, ensure_ascii=False)
    if _LONE_SURROGATE.search(text) is None:
        return said
    # What was cut in the middle of an emoji has half of it, which can be written to no file.
    problems.append(f"{path} has halves of characters, which become U+FFFD")
    return json.loads(_LONE_SURROGATE.sub("\ufffd", text))


def _is_transcript(path: Path) -> bool:
    try:
        return read_cues(path) is not None
    except VbcliError:
        return False  # told where a transcript is looked for


def _split(said: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    del path
    if said.get("split") is not None:
        yield {"split": said["split"]}


def _captions(said: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    name = next((name for name in ("captions", "caption", "text") if _as_list(said.get(name))), "captions")
    for entry in _as_list(said.get(name)):
        if isinstance(entry, dict):
            if "text" not in entry:
                raise cell_error(path, 1, name, "has an object without a text")
            yield {"caption": _text(entry["text"], path, name), "start_s": entry.get("start_s"), "end_s": entry.get("end_s")}
        else:
            yield {"caption": _text(entry, path, name)}


def _labels(said: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    for name in ("labels",) if _as_list(said.get("labels")) else ("label", "category"):
        yield from ({"label": _text(entry, path, name)} for entry in _as_list(said.get(name)))


def _questions(said: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    for asked in _as_list(said.get("questions")):
        if not isinstance(asked, dict):
            raise cell_error(path, 1, "questions", f"has {type(asked).__name__} where an object with a question and its answers belongs")
        cells = {"question": _text(asked.get("question"), path, "questions"), "candidates": asked.get("candidates") or None}
        yield from ({**cells, "answer": answer} for answer in _as_list(asked.get("answers")) or [None])


def _plain_caption(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield {"caption": path.read_bytes().decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        raise VbcliError(f"{path} is not UTF-8, and no caption", hint=_HINT) from error


def _as_list(value: Any) -> list[Any]:
    """What people write as one value or as a list of them."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _text(value: Any, path: Path, name: str) -> str | float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise cell_error(path, 1, name, f"is not text but {type(value).__name__}")
