"""Summaries as files: key frames, a video of the kept segments, a page that needs nothing else, and a timeline for editors."""

from __future__ import annotations

import base64
import html
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vbcli import shards
from vbcli.errors import MediaError
from vbcli.files import not_written, write_atomic, write_json
from vbcli.media.limits import Limits
from vbcli.media.probe import DEFAULT_LIMITS
from vbcli.rendering import Cut, grab_jpeg, is_made_from, made_from, render_cuts, snap_cut
from vbcli.timelines import TimelineClip, write_timeline

PICTURE_WIDTH_PX = 480
RECORD = "made-from.json"
_STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1080px; padding: 0 1em; color: #222; background: #fff }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 1.5em; padding: 0; list-style: none }
img { width: 100%; border-radius: 4px; display: block }
small { color: #666; font-size: 0.85em }
p { margin: 0.3em 0 0 }
"""


@dataclass(frozen=True)
class Kept:
    """A row of a summaries dataset: a stretch of a video, its most telling moment and its caption."""

    video_id: str
    path: str
    start_s: float
    end_s: float
    keyframe_s: float
    caption: str


def read_summaries(summaries_dir: Path) -> dict[str, list[Kept]]:
    """What is kept of each video, in the order of time."""
    found: dict[str, list[Kept]] = {}
    for row in shards.read_rows(summaries_dir, ["video_id", "path", "start_s", "end_s", "keyframe_s", "caption"]):
        found.setdefault(row["video_id"], []).append(Kept(**row))
    return found


def render_summary(kept: Sequence[Kept], folder: Path, executable: str, limits: Limits = DEFAULT_LIMITS, *, is_video: bool) -> None:
    """Writes the files of one video's summary; `made-from.json` comes last, and says that all are there.

    Args:
        kept: at least one.
        is_video: also join the segments, and write the timeline.

    Raises:
        MediaError: the video cannot be decoded, or a limit is broken.
        VbcliError: nothing can be written to `folder`.
    """
    path, origin = kept[0].path, made_from(kept[0].path, kept)
    pictures = [grab_jpeg(path, one.keyframe_s, executable, limits, width_px=PICTURE_WIDTH_PX) for one in kept]
    try:
        (folder / RECORD).unlink(missing_ok=True)
    except OSError as error:
        raise not_written(folder, error) from error
    # What is kept now may be less than before.
    shutil.rmtree(folder / "keyframes", ignore_errors=True)
    for i, picture in enumerate(pictures):
        write_atomic(folder / "keyframes" / f"{i + 1:03d}.jpg", picture)
    if is_video:
        snapped = [(snap_cut(Cut(path, one.start_s, one.end_s)), one.caption) for one in kept]
        cuts = [(cut, caption) for cut, caption in snapped if cut is not None]
        if not cuts:
            raise MediaError(f"{path} has no frame in what is kept of it")
        render_cuts(_merged([cut for cut, _ in cuts]), folder / "summary.mp4", executable, limits)
        name = PurePosixPath(kept[0].video_id).name
        write_timeline(folder / "summary.otio", name, [TimelineClip(cut, caption) for cut, caption in cuts])
    entries = [
        Picture(picture, one.caption, f"{_clock(one.start_s)} to {_clock(one.end_s)}") for one, picture in zip(kept, pictures, strict=True)
    ]
    write_atomic(folder / "storyboard.html", picture_page(kept[0].video_id, [("", entries)]).encode())
    write_json(folder / RECORD, origin)


def is_rendered(kept: Sequence[Kept], folder: Path) -> bool:
    """Whether the files of a summary are there, made from these rows and from the video as it is; one that is gone is taken as it was."""
    return is_made_from(folder / RECORD, made_from(kept[0].path, kept))


def _merged(cuts: Sequence[Cut]) -> list[Cut]:
    """Cuts in order of time, those that follow each other without a gap as one."""
    merged: list[Cut] = []
    for cut in cuts:
        if merged and merged[-1].end_s == cut.start_s:
            merged[-1] = Cut(cut.path, merged[-1].start_s, cut.end_s)
        else:
            merged.append(cut)
    return merged


@dataclass(frozen=True)
class Picture:
    """A picture of a page, with what it shows.

    Args:
        jpeg: None where there is no picture to show.
    """

    jpeg: bytes | None
    caption: str
    detail: str


def picture_page(title: str, sections: Sequence[tuple[str, Sequence[Picture]]]) -> str:
    """An HTML page that needs no other file.

    Args:
        sections: heading and pictures of each.
    """
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style></head>'
    parts = [f"{head}\n<body><h1>{html.escape(title)}</h1>"]
    for heading, pictures in sections:
        parts += [*([f"<h2>{html.escape(heading)}</h2>"] if heading else []), "<ol>", *map(_entry, pictures), "</ol>"]
    return "\n".join([*parts, "</body></html>", ""])


def thumbnail(path: str, time_s: float, executable: str, limits: Limits = DEFAULT_LIMITS, *, width_px: int) -> bytes | None:
    """The frame of a video at a time, as JPEG; None where the file is gone or cannot be decoded: the page tells the rest in words."""
    try:
        return grab_jpeg(path, time_s, executable, limits, width_px=width_px)
    except MediaError:
        return None


def _entry(picture: Picture) -> str:
    source = "" if picture.jpeg is None else base64.b64encode(picture.jpeg).decode()
    shown = f'<img alt="{html.escape(picture.caption)}" src="data:image/jpeg;base64,{source}">' if source else ""
    return f"<li>{shown}<p>{html.escape(picture.caption)}</p><small>{html.escape(picture.detail)}</small></li>"


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    return f"{int(minutes)}:{seconds:04.1f}"
