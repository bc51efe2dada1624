"""The text that belongs to videos: what caption files, tar files and subtitles say of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vbcli.errors import VbcliError
from vbcli.files import write_atomic
from vbcli.listing import ScannedVideo, file_of, tar_video
from vbcli.media.containers import leads_out
from vbcli.storage import split_member
from vbcli.tars import TextMember, describe, described_transcript
from vbcli.text import captionfiles, transcripts
from vbcli.text.captionfiles import VideoText
from vbcli.text.speech import Repairs, TranscriptSegment
from vbcli.text.subtitles import REPLACEMENT
from vbcli.text.transcripts import Sidecar

Columns = Mapping[str, Any]
"""Values of the text columns of a videos dataset."""


@dataclass(frozen=True)
class GatheredText:
    """What is said of videos, by `video_id`.

    Args:
        given: by caption files.
        described: by the tar files that the videos are in.
        notes: sentences on what could not be used.
    """

    given: Mapping[str, Columns]
    described: Mapping[str, Columns]
    notes: list[str]

    def of(self, video_id: str) -> Columns:
        """The text of a video: each column from caption files, and where they say nothing, from its tar file."""
        nothing = VideoText().as_columns()
        given, described = self.given.get(video_id, nothing), self.described.get(video_id, nothing)
        return {name: given[name] or described[name] for name in nothing}


def gather_text(root: Path, found: Sequence[ScannedVideo], dataset_dir: Path, caption_files: Sequence[Path]) -> GatheredText:
    """Reads captions, labels, questions and splits.

    Args:
        root: where the videos are, for messages.
        dataset_dir: where `keep_given` keeps what caption files said before: with none it stays, with others it is replaced.

    Raises:
        VbcliError: a caption file is wrong, or names none of the videos.
    """
    described, notes = _describe_all(root, found)
    before = _read_given(dataset_dir)
    if not caption_files:
        return GatheredText(before, described, notes)
    rows = [row for path in caption_files for row in captionfiles.read_caption_file(path)]
    sources = ", ".join(str(p) for p in caption_files)
    # Not with the planned videos that are gone: a video that was moved is called by the same name as what it was.
    ids = [v.video_id for v in found]
    texts, unmatched = captionfiles.match_rows(rows, ids, sources)
    if not texts:
        message = f"{sources} names none of the {len(found)} videos in {root}"
        raise VbcliError(message, hint=f"a video here is called '{found[0].video_id}'")
    if unmatched:
        notes.append(f"{sources} names {len(unmatched)} videos that are not in {root}, first '{unmatched[0]}'")
    damaged = [row.video for row in rows if row.caption and REPLACEMENT in row.caption]
    if damaged:
        notes.append(f"{sources} holds {len(damaged)} captions with damaged characters, first of '{damaged[0]}'")
    gone = {video_id: before[video_id] for video_id in before.keys() - set(ids)}
    return GatheredText({**gone, **{video_id: text.as_columns() for video_id, text in texts.items()}}, described, notes)


def _describe_all(root: Path, found: Sequence[ScannedVideo]) -> tuple[dict[str, Columns], list[str]]:
    rows: list[captionfiles.CaptionRow] = []
    problems: list[str] = []
    for video in found:
        in_tar = tar_video(video)
        if in_tar is not None:
            of_one, wrong = describe(in_tar, video.video_id)
            rows += of_one
            problems += wrong
    texts = captionfiles.match_rows(rows, [v.video_id for v in found], str(root)).texts
    notes = [f"{len(problems)} texts in tar files are not used as they are, first {problems[0]}"] if problems else []
    return {video_id: text.as_columns() for video_id, text in texts.items()}, notes


# ---------------------------------------------------------------- what was given before


def _given_path(dataset_dir: Path) -> Path:
    return dataset_dir / "_plan" / "given.jsonl"


def keep_given(dataset_dir: Path, text: GatheredText) -> None:
    """Keeps what caption files say, for runs without them.

    Beside the plan, and not in the videos dataset alone: there it cannot be told from what tar files said when they were read.
    """
    lines = (json.dumps({"video_id": video_id, **columns}) + "\n" for video_id, columns in text.given.items())
    write_atomic(_given_path(dataset_dir), "".join(lines).encode())


def _read_given(dataset_dir: Path) -> dict[str, Columns]:
    path = _given_path(dataset_dir)
    if not path.exists():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row.pop("video_id"): {name: row[name] for name in VideoText().as_columns()} for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VbcliError(f"{path} cannot be read: {error}", hint="remove it, and give the caption files again with --captions") from error


# ---------------------------------------------------------------- transcripts


class Sidecars:
    """Reads the transcripts beside videos, and remembers what had to be mended.

    Args:
        follows_links: also read subtitles that are links out of the folder.
        language: of the subtitles, such as `en`; None takes the first.
    """

    def __init__(self, follows_links: bool, language: str | None = None) -> None:
        self.follows_links = follows_links
        self.language = language
        self.names_in: dict[Path, list[str]] = {}
        self.notes: list[str] = []
        self.in_tars: list[str] = []
        self.of_several: list[Path] = []
        self.of_others: list[Path] = []
        self.repaired: list[Path] = []
        self.repairs = Repairs()

    def read(self, video: ScannedVideo) -> list[dict[str, Any]]:
        """The transcript of a video, as a column of the videos dataset."""
        if split_member(video.path) is None:
            found = self._read_first(video, partial(self._beside, file_of(video)), self.notes)
        elif not self.follows_links and leads_out(video.path, video.video_id):
            return []  # told when the folder was listed
        else:
            in_tar = tar_video(video)
            if in_tar is None:
                return []
            try:
                found = self._read_first(video, in_tar.sidecars, self.in_tars) or described_transcript(in_tar)
            except VbcliError as error:
                self.in_tars.append(error.message)
                found = []
        return [asdict(segment) for segment in found]

    def _beside(self, path: Path, language: str | None) -> list[Sidecar]:
        folder = path.parent
        if folder not in self.names_in:
            self.names_in[folder] = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        return transcripts.find_sidecars(path, self.names_in[folder], language)

    def _read_first(
        self, video: ScannedVideo, find: Callable[[str | None], list[Sidecar]], problems: list[str]
    ) -> Sequence[TranscriptSegment]:
        """The first of the subtitles that can be read; subtitles that cannot cost the video its transcript, not its frames."""
        sidecars = find(self.language)
        if not sidecars and self.language:
            self.of_others += [other.path for other in find(None)[:1]]
        unread: list[str] = []
        for sidecar, language in sidecars:
            is_file = not isinstance(sidecar, TextMember)
            if is_file and not self.follows_links and leads_out(str(sidecar), video.video_id):
                unread.append(f"{sidecar} is a link that leads out of its folder, and is not read; --follow-links reads it")
                continue
            try:
                transcript = transcripts.read_transcript(sidecar)
            except VbcliError as error:
                unread.append(error.message)
                continue
            if transcript is None:
                continue
            problems += [f"{message}; {sidecar.name} is read instead" for message in unread]
            if language and not self.language and any(other.language not in ("", language) for other in sidecars):
                self.of_several.append(sidecar)
            if transcript.repairs:
                self.repaired.append(sidecar)
                self.repairs += transcript.repairs
            return transcript.segments
        problems += unread
        return []

    def all_notes(self) -> list[str]:
        """Sentences on what was mended, chosen or could not be read."""
        notes = [*self.notes]
        if self.in_tars:
            notes.append(f"{len(self.in_tars)} transcripts in tar files cannot be read, first {self.in_tars[0]}")
        if self.of_several:
            chosen = f"first {self.of_several[0]} was read: --language of extract and encode chooses"
            notes.append(f"{len(self.of_several)} videos have subtitles in several languages, {chosen}")
        if self.of_others:
            other = f"other languages than {self.language} alone, first {self.of_others[0]}"
            notes.append(f"{len(self.of_others)} videos have subtitles in {other}")
        if self.repaired:
            notes.append(f"{len(self.repaired)} transcripts were mended, first {self.repaired[0]}: {self.repairs}")
        return notes
