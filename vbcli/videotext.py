"""The text that belongs to videos: what caption files, tar files and subtitles say of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vbcli.errors import VbcliError
from vbcli.files import write_atomic
from vbcli.listing import ScannedVideo, file_of, tar_video
from vbcli.media.containers import leads_out
from vbcli.storage import split_member
from vbcli.tars import describe, described_transcript
from vbcli.text import captionfiles, transcripts
from vbcli.text.captionfiles import VideoText
from vbcli.text.speech import Repairs

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
    """

    def __init__(self, follows_links: bool) -> None:
        self.follows_links = follows_links
        self.names_in: dict[Path, list[str]] = {}
        self.notes: list[str] = []
        self.in_tars: list[str] = []
        self.repaired: list[Path] = []
        self.repairs = Repairs()

    def read(self, video: ScannedVideo) -> list[dict[str, Any]]:
        """The transcript of a video, as a column of the videos dataset."""
        is_member = split_member(video.path) is not None
        try:
            if not is_member:
                sidecar = self._beside(video)
            elif not self.follows_links and leads_out(video.path, video.video_id):
                return []  # told when the folder was listed
            else:
                in_tar = tar_video(video)
                sidecar = None if in_tar is None else in_tar.sidecar()
                if in_tar is not None and sidecar is None:
                    return [asdict(segment) for segment in described_transcript(in_tar)]
            transcript = None if sidecar is None else transcripts.read_transcript(sidecar)
        except VbcliError as error:
            # Subtitles that cannot be read cost the video its transcript, not its frames.
            (self.in_tars if is_member else self.notes).append(error.message)
            return []
        if sidecar is None or transcript is None:
            return []
        if transcript.repairs:
            self.repaired.append(sidecar)
            self.repairs += transcript.repairs
        return [asdict(segment) for segment in transcript.segments]

    def _beside(self, video: ScannedVideo) -> Path | None:
        path = file_of(video)
        folder = path.parent
        if folder not in self.names_in:
            self.names_in[folder] = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        sidecar = transcripts.find_sidecar(path, self.names_in[folder])
        if sidecar is not None and not self.follows_links and leads_out(str(sidecar), video.video_id):
            self.notes.append(f"{sidecar} is a link that leads out of its folder, and is not read; --follow-links reads it")
            return None
        return sidecar

    def all_notes(self) -> list[str]:
        """Sentences on what was mended or could not be read."""
        unread = [f"{len(self.in_tars)} transcripts in tar files cannot be read, first {self.in_tars[0]}"] if self.in_tars else []
        mended = [f"{len(self.repaired)} transcripts were mended, first {self.repaired[0]}: {self.repairs}"] if self.repaired else []
        return [*self.notes, *unread, *mended]
