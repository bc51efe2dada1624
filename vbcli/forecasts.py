"""Guessed clips as pictures: a visual token is shown by the frame that is most like its centroid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vbcli.cloze import Guess
from vbcli.files import read_json
from vbcli.media.limits import Limits
from vbcli.media.probe import DEFAULT_LIMITS
from vbcli.runner import read_videos
from vbcli.storyboards import Picture, picture_page, thumbnail
from vbcli.training.batches import VideoTokens

PICTURE_WIDTH_PX = 240
Exemplars = dict[str, tuple[str, float]]
"""Visual token of the first codebook to the video and the time at which it looks most like itself."""


def read_exemplars(checkpoint_dir: Path) -> Exemplars:
    """Of the vocabulary of a checkpoint."""
    rows = read_json(checkpoint_dir / "vocab" / "exemplars.json")
    # Those of vocabularies that were made before there were several codebooks do not name it.
    return {str(row["token"]): (row["video_id"], float(row["start_s"])) for row in rows if row.get("codebook", 0) == 0}


def guess_page(
    videos: Sequence[VideoTokens],
    guesses: Sequence[Sequence[Sequence[Guess]]],
    exemplars: Exemplars,
    tokens_dir: Path,
    executable: str,
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """A page with the last frame of each video, and the guesses of each clip with the frame that stands for them.

    Args:
        guesses: of each video, of each clip, the likeliest first.
        tokens_dir: whose videos hold the frames; what is not there has words alone.
        executable: ffmpeg.
    """
    paths = {row["video_id"]: row["path"] for row in read_videos(tokens_dir).select(["video_id", "path"]).to_pylist()}
    sections = []
    for video, masks in zip(videos, guesses, strict=True):
        last_s = video.segments[-1].end_s - 0.5
        pictures = [
            Picture(_frame(paths, video.video_id, max(last_s, 0.0), executable, limits), "what is seen last", f"{max(last_s, 0.0):.1f} s")
        ]
        for i, mask in enumerate(masks):
            for guess in mask:
                name, time_s = exemplars.get(guess.answer, ("", 0.0))
                told = f"guess of clip {i + 1}: token {guess.answer}" + (f", as {name} at {time_s:.1f} s" if name else "")
                odds = f"probability {guess.probability:.3f}, without the video {guess.prior:.3f}"
                pictures.append(Picture(_frame(paths, name, time_s, executable, limits), told, odds))
        sections.append((video.video_id, pictures))
    return picture_page("Guesses", sections)


def _frame(paths: Mapping[str, str], video_id: str, time_s: float, executable: str, limits: Limits) -> bytes | None:
    return thumbnail(paths[video_id], time_s, executable, limits, width_px=PICTURE_WIDTH_PX) if video_id in paths else None
