"""Videos made of videos: captions burnt in, and cuts joined, by ffmpeg."""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ImageFont

from vbcli.errors import MediaError
from vbcli.files import not_written, temporary_path
from vbcli.media import FORMATS, PROTOCOLS, VideoInfo, first_line, frame_times, open_path, probe_video
from vbcli.transcripts import TranscriptSegment, format_srt

EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2,setsar=1"
"""H.264 halves the colours: sides must be even."""
ENCODERS = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart")
FONT_NAME = "Aileron"
"""Of Pillow's own font: a machine without fonts shows captions, too. Letters that it has not are taken from what is installed."""


AUDIO = "aresample=44100:async=1,aformat=sample_fmts=fltp:channel_layouts=stereo"
MARGIN_S = 1.0
"""A cut's input is opened so much earlier: seeking lands on frames that need not be the right ones, and the filter drops them."""


@dataclass(frozen=True)
class Cut:
    """A stretch of a video: its frames with start_s <= time < end_s, in seconds from the start of the video.

    Args:
        speed: how many times as fast it is played.
        is_mute: without its sound.
    """

    path: str
    start_s: float
    end_s: float
    speed: float = 1.0
    is_mute: bool = False

    @property
    def length_s(self) -> float:
        """How long it is played."""
        return (self.end_s - self.start_s) / self.speed


def snap_cut(cut: Cut) -> Cut | None:
    """The same frames, with times that are those of frames: from the first that is kept to the first that is not; None where none is kept.

    Raises:
        MediaError: the video cannot be read.
    """
    times, end_s = frame_times(cut.path)
    first, last = np.searchsorted(times, [cut.start_s - 1e-6, cut.end_s - 1e-6]).tolist()
    if first >= last:
        return None
    return replace(cut, start_s=float(times[first]), end_s=float(times[last]) if last < len(times) else end_s)


def render_cuts(cuts: Sequence[Cut], target: Path, executable: str) -> None:
    """Writes cuts one after the other as a video, H.264 and AAC in MP4, in the size of the first; silence where a video has no sound.

    Args:
        cuts: at least one, of `snap_cut`.

    Raises:
        MediaError: a video cannot be decoded.
        VbcliError: `target` cannot be written.
    """
    infos = {path: probe_video(path) for path in dict.fromkeys(cut.path for cut in cuts)}
    first = infos[cuts[0].path]
    width, height = first.width_px + first.width_px % 2, first.height_px + first.height_px % 2
    has_sound = any(infos[cut.path].has_audio and not cut.is_mute for cut in cuts)
    inputs: list[str | bytes] = []
    chains, labels = [], []
    for i, cut in enumerate(cuts):
        opened_s = max(0.0, cut.start_s - MARGIN_S)
        inputs += input_arguments(cut.path, "-ss", f"{opened_s:.6f}", "-t", f"{cut.end_s - opened_s + MARGIN_S:.6f}")
        span = f"start={cut.start_s - opened_s - 1e-4:.6f}:end={cut.end_s - opened_s - 1e-4:.6f}"
        fitted = f"scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1,setsar=1,format=yuv420p"
        chains.append(f"[{i}:{infos[cut.path].stream_index}]trim={span},setpts=(PTS-STARTPTS)/{cut.speed:.6f},{fitted}[v{i}]")
        labels.append(f"[v{i}]")
        if has_sound:
            chains.append(f"{_sound(i, infos[cut.path], span, cut)}[a{i}]")
            labels.append(f"[a{i}]")
    joined = f"{''.join(labels)}concat=n={len(cuts)}:v=1:a={int(has_sound)}[v]{'[a]' if has_sound else ''}"
    outputs = ["-map", "[v]", *(["-map", "[a]"] if has_sound else []), "-fps_mode", "passthrough", "-enc_time_base", "1:90000"]
    run_ffmpeg(executable, [*inputs, "-filter_complex", ";".join([*chains, joined]), *outputs, *ENCODERS], target)


def _sound(i: int, info: VideoInfo, span: str, cut: Cut) -> str:
    """Filters for the sound of input i, exactly as long as its pictures."""
    if not info.has_audio or cut.is_mute:
        return f"anullsrc=r=44100:cl=stereo,atrim=end={cut.length_s:.6f},{AUDIO}"
    # The filter changes the tempo by at most a factor of two at once.
    n = max(1, math.ceil(abs(math.log2(cut.speed))))
    tempo = "" if cut.speed == 1 else ",".join([f"atempo={cut.speed ** (1 / n):.6f}"] * n) + ","
    exact = f"apad=whole_dur={cut.length_s:.6f},atrim=end={cut.length_s:.6f}"
    return f"[{i}:a:0]atrim={span},asetpts=PTS-STARTPTS,{AUDIO},{tempo}{exact}"


def grab_jpeg(path: str, time_s: float, executable: str, *, width_px: int | None = None) -> bytes:
    """The frame that is shown at a time, as JPEG; after the end of the video its last frame.

    Args:
        width_px: scale it to this width.

    Raises:
        MediaError: it cannot be decoded.
    """
    stream = probe_video(path).stream_index
    times, _ = frame_times(path)
    shown_s = float(times[max(0, int(np.searchsorted(times, time_s + 1e-6, side="right")) - 1)])
    scaled = ["-vf", f"scale={width_px}:-2"] if width_px else []
    chosen = ["-map", f"0:{stream}", "-frames:v", "1", *scaled, "-q:v", "3", "-f", "mjpeg", "pipe:1"]
    command = [executable, "-nostdin", "-v", "error", *input_arguments(path, "-ss", f"{max(0.0, shown_s - 1e-4):.6f}"), *chosen]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, process_group=0)
    if run.returncode or not run.stdout:
        raise MediaError(f"{path} has no frame at {time_s:.2f} s that can be decoded")
    return run.stdout


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
