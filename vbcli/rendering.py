"""Videos made of videos: captions burnt in, and cuts joined, by ffmpeg."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageFont

from vbcli.errors import MediaError
from vbcli.files import not_written, temporary_path
from vbcli.media import FORMATS, PROTOCOLS, first_line, open_path, probe_video
from vbcli.transcripts import TranscriptSegment, format_srt

EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2,setsar=1"
"""H.264 halves the colours: sides must be even."""
ENCODERS = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart")
FONT_NAME = "Aileron"
"""Of Pillow's own font: a machine without fonts shows captions, too. Letters that it has not are taken from what is installed."""


def input_arguments(path: str, *before: str) -> list[str | bytes]:
    """ffmpeg's arguments that open a local file, whatever its name and content."""
    return [*before, "-protocol_whitelist", PROTOCOLS, "-format_whitelist", FORMATS, "-i", b"file:" + open_path(path)]


def burn_subtitles(path: str, sentences: Sequence[TranscriptSegment], target: Path, executable: str) -> None:
    """Writes a copy of a video, H.264 and AAC in MP4, that shows sentences at their times.

    Args:
        executable: from `find_ffmpeg`.

    Raises:
        MediaError: the video cannot be decoded.
        VbcliError: `target` cannot be written.
    """
    stream = probe_video(path).stream_index
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "captions.srt").write_text(format_srt(sentences), encoding="utf-8")
        font = ImageFont.load_default(size=16)
        assert isinstance(font, ImageFont.FreeTypeFont)
        (Path(place) / "caption.ttf").write_bytes(font.font_bytes)
        shown = f"{EVEN},subtitles=captions.srt:fontsdir=.:force_style='FontName={FONT_NAME}'"
        chosen = ("-map", f"0:{stream}", "-map", "0:a:0?", "-vf", shown, *ENCODERS)
        # The names of files within a filter would have to be escaped thrice: ffmpeg runs where they lie.
        run_ffmpeg(executable, [*input_arguments(str(Path(os.fsdecode(open_path(path))).absolute())), *chosen], target, cwd=place)


def run_ffmpeg(executable: str, arguments: Sequence[str | bytes], target: Path, *, cwd: str | None = None) -> None:
    """Runs ffmpeg; what it writes is in its place complete or not at all.

    Args:
        arguments: inputs and options; the output is added.

    Raises:
        MediaError: it failed.
        VbcliError: the folder of `target` cannot be made or written.
    """
    temporary = temporary_path(target.absolute())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [executable, "-nostdin", "-v", "error", "-y", *arguments, "-f", "mp4", b"file:" + os.fsencode(temporary)]
        with tempfile.TemporaryFile() as messages:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, cwd=cwd, process_group=0
            ).returncode
            if status:
                raise MediaError(f"{target} cannot be rendered: {first_line(messages) or f'ffmpeg ended with {status}'}")
        os.replace(temporary, target)
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
