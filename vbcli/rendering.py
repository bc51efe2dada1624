"""Videos made of videos: captions burnt in, and cuts joined, by ffmpeg."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFont

from vbcli.config import config_hash
from vbcli.errors import MediaError, VbcliError
from vbcli.files import not_written, read_json, remove_temporary, temporary_path
from vbcli.media.containers import VideoInfo, absolute_path, media_url, open_path
from vbcli.media.formats import FORMATS, PROTOCOLS
from vbcli.media.limits import Limits
from vbcli.media.probe import DEFAULT_LIMITS, frame_times, probe_video
from vbcli.media.program import first_line
from vbcli.media.running import run_limited
from vbcli.text.transcripts import TranscriptSegment, format_srt

EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2"
"""H.264 halves the colours: sides must be even."""
ENCODERS = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-bf", "0", "-pix_fmt", "yuv420p")
"""Frames are coded in the order in which they are shown: else MP4 counts what is decoded ahead as a part of its length."""
AAC = ("-c:a", "aac", "-movflags", "+faststart")
GROUP = 24
"""Cuts that are decoded beside each other; more are rendered in groups, as each decoder takes memory."""
FONT_NAME = "Aileron"
"""Of Pillow's own font: a machine without fonts shows captions, too. Letters that it has not are taken from what is installed."""


AUDIO = "aresample=44100:async=1:first_pts=0,aformat=sample_fmts=fltp:channel_layouts=stereo"
MARGIN_S = 1.0
"""A cut's input is opened so much earlier: seeking lands on frames that need not be the right ones, and the filter drops them."""
SQUARE = "scale=w='trunc(iw*sar/2+0.5)*2':h=ih,setsar=1"
"""Pixels as wide as high."""
HELD_S = 0.25
"""A frame that is shown for longer, as in slide shows and recordings of screens, can be cut within."""
HELD_STEP_S = 0.04
MISSING_S = 0.1
"""So much shorter than it should be a rendered video may be: broken videos have frames that no decoder gives."""


@dataclass(frozen=True)
class Cut:
    """A stretch of a video: what it shows with start_s <= time < end_s, in seconds from the start of the video.

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


def cut_times(path: str) -> tuple[np.ndarray, float]:
    """When a video can be cut, float64 (F,) in order, and its end: at each frame, and every `HELD_STEP_S` within one that is held.

    Raises:
        MediaError: the video cannot be read.
    """
    times, end_s = frame_times(path)
    ends = np.append(times[1:], end_s)
    held = np.flatnonzero(ends - times > HELD_S)
    within = [np.arange(times[i], ends[i] - HELD_STEP_S / 2, HELD_STEP_S)[1:] for i in held]
    return np.sort(np.concatenate([times, *within])), end_s


def snap_cut(cut: Cut) -> Cut | None:
    """The same frames, with times of `cut_times`: from the first that is kept to the first that is not; None where none is kept.

    Raises:
        MediaError: the video cannot be read.
    """
    times, end_s = cut_times(cut.path)
    first, last = np.searchsorted(times, [cut.start_s - 1e-6, cut.end_s - 1e-6]).tolist()
    if first >= last:
        return None
    return replace(cut, start_s=float(times[first]), end_s=float(times[last]) if last < len(times) else end_s)


def render_cuts(cuts: Sequence[Cut], target: Path, executable: str, limits: Limits = DEFAULT_LIMITS) -> None:
    """Writes cuts one after the other as a video, H.264 and AAC in MP4, in the size of the first; silence where a video has no sound.

    Args:
        cuts: at least one, of `snap_cut`.
        limits: of each video; ffmpeg may take as much as all of its cuts, and as much again for coding.

    Raises:
        MediaError: a video cannot be decoded, or a limit is broken.
        VbcliError: `target` cannot be written.
    """
    infos = {path: probe_video(path, limits) for path in dict.fromkeys(cut.path for cut in cuts)}
    size = _shown_size(cuts[0].path, executable, limits)
    has_sound = any(infos[cut.path].has_audio and not cut.is_mute for cut in cuts)
    last_s = _last_shown_s(cuts)
    coded = (*_last_frame(last_s, sum(cut.length_s for cut in cuts)), *AAC)
    if len(cuts) <= GROUP:
        arguments = [*_graph(cuts, infos, size, limits, has_sound=has_sound), *ENCODERS, *coded]
        run_ffmpeg(executable, arguments, target, _for(limits, len(cuts)), last_s=last_s)
        return
    with tempfile.TemporaryDirectory() as place:
        groups = [cuts[start : start + GROUP] for start in range(0, len(cuts), GROUP)]
        listed = ["ffconcat version 1.0"]
        for i, group in enumerate(groups):
            # Sound as it is: coded in pieces, each would begin with a little silence.
            arguments = [*_graph(group, infos, size, limits, has_sound=has_sound), *ENCODERS, "-c:a", "pcm_s16le"]
            run_ffmpeg(executable, arguments, Path(place) / f"{i:06d}.mov", _for(limits, len(group)), kind="mov")
            listed += [f"file {i:06d}.mov", f"duration {sum(cut.length_s for cut in group):.6f}"]
        (Path(place) / "groups.ffconcat").write_text("\n".join(listed) + "\n")
        joined = ("-f", "concat", "-i", "groups.ffconcat", "-c:v", "copy", *coded)
        run_ffmpeg(executable, joined, target, _for(limits, len(groups)), cwd=place, last_s=last_s)


def _for(limits: Limits, n_cuts: int) -> Limits:
    """Limits of an ffmpeg that decodes several cuts and codes them again."""
    return replace(limits, timeout_s=limits.timeout_s * n_cuts, memory_mb=limits.memory_mb * (n_cuts + 1))


def _graph(
    cuts: Sequence[Cut], infos: Mapping[str, VideoInfo], size: tuple[int, int], limits: Limits, *, has_sound: bool
) -> list[str | bytes]:
    """ffmpeg's arguments that decode cuts and join them: inputs, filters and how their output is timed."""
    width, height = size
    inputs: list[str | bytes] = []
    chains, labels = [], []
    for i, cut in enumerate(cuts):
        info = infos[cut.path]
        first_s = _shown_at(cut.path, cut.start_s)
        opened_s, before = _opened(info, first_s, reads_sound=has_sound and info.has_audio and not cut.is_mute)
        inputs += input_arguments(cut.path, limits, *before, "-t", f"{cut.end_s - opened_s + info.delay_s + MARGIN_S:.6f}")
        until = f"end={cut.end_s - opened_s - 1e-4:.6f}"
        # From the cut's start, not from the first frame or sample that there is: pictures and sound stay together.
        start_s = f"{cut.start_s - opened_s:.6f}"
        played = f"settb=1/90000,setpts='max(0,round((PTS-{start_s}/TB)/{cut.speed:.6f}))'"
        fitted = f"{SQUARE},scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1,setsar=1,format=yuv420p"
        chains.append(f"[{i}:{info.stream_index}]trim=start={first_s - opened_s - 1e-4:.6f}:{until},{played},{fitted}[v{i}]")
        chains.append(f"{_sound(i, info, f'start={cut.start_s - opened_s - 1e-4:.6f}:{until}', start_s, cut)}[a{i}]")
        labels += [f"[v{i}]", f"[a{i}]"]
    # With sound, or silence, to the end of each cut: after pictures alone the next cut would begin where the last frame does.
    joined = f"{''.join(labels)}concat=n={len(cuts)}:v=1:a=1[v][a]{'' if has_sound else ';[a]anullsink'}"
    outputs = ["-map", "[v]", *(["-map", "[a]"] if has_sound else []), "-fps_mode", "passthrough", "-enc_time_base", "1:90000"]
    return [*inputs, "-filter_complex", ";".join([*chains, joined]), *outputs]


def _last_frame(last_s: float, length_s: float) -> tuple[str, ...]:
    """ffmpeg's arguments that show the last frame until the end: at another speed it would stay for as long as in its video."""
    shown = f"if(gte(PTS*TB,{last_s - 1e-4:.6f}),{length_s - last_s:.6f}/TB,DURATION)"
    return ("-bsf:v", f"setts=pts=PTS:dts=DTS:duration='{shown}'")


def _shown_at(path: str, time_s: float) -> float:
    """When the frame begins that is shown at a time; before the first frame, that one."""
    times, _ = frame_times(path)
    return float(times[max(0, int(np.searchsorted(times, time_s + 1e-4, side="right")) - 1)])


def _shown_size(path: str, executable: str, limits: Limits) -> tuple[int, int]:
    """Width and height of a video as it is shown, both even: turned as it says, its pixels square."""
    shape = f"{SQUARE},pad=ceil(iw/2)*2:ceil(ih/2)*2"
    with Image.open(io.BytesIO(_grab(path, 0.0, executable, shape, limits))) as picture:
        return picture.size


def _opened(info: VideoInfo, time_s: float, *, reads_sound: bool = False) -> tuple[float, list[str]]:
    """Where an input is opened to get the frames from `time_s` on, in seconds, and ffmpeg's arguments for it.

    Args:
        reads_sound: whether the sound is read, too.
    """
    delay = [] if reads_sound or not info.delay_s else ["-itsoffset", f"{info.delay_s:.6f}"]
    opened_s = max(0.0, time_s - MARGIN_S) if info.is_seekable else 0.0
    if not opened_s:
        return 0.0, delay
    return opened_s, ["-ss", f"{opened_s:.6f}", *delay]


def _sound(i: int, info: VideoInfo, span: str, start_s: str, cut: Cut) -> str:
    """Filters for the sound of input i, exactly as long as its pictures."""
    if not info.has_audio or cut.is_mute:
        return f"anullsrc=r=44100:cl=stereo,atrim=end={cut.length_s:.6f},{AUDIO}"
    # The filter changes the tempo by at most a factor of two at once.
    n = max(1, math.ceil(abs(math.log2(cut.speed))))
    tempo = "" if cut.speed == 1 else ",".join([f"atempo={cut.speed ** (1 / n):.6f}"] * n) + ","
    exact = f"apad=whole_dur={cut.length_s:.6f},atrim=end={cut.length_s:.6f}"
    return f"[{i}:a:0]atrim={span},asetpts='max(0,round(PTS-{start_s}/TB))',{AUDIO},{tempo}{exact}"


def grab_jpeg(path: str, time_s: float, executable: str, limits: Limits = DEFAULT_LIMITS, *, width_px: int | None = None) -> bytes:
    """The frame that is shown at a time, as JPEG; after the end of the video its last frame.

    Args:
        width_px: scale it to this width.

    Raises:
        MediaError: it cannot be decoded, or a limit is broken.
    """
    return _grab(path, _shown_at(path, time_s), executable, f"{SQUARE},scale={width_px}:-2" if width_px else SQUARE, limits)


def _grab(path: str, time_s: float, executable: str, shape: str, limits: Limits) -> bytes:
    """The first frame at or after a time, as JPEG.

    Args:
        shape: filters that give it its size.
    """
    info = probe_video(path, limits)
    opened_s, before = _opened(info, time_s)
    filters = f"select='gte(t,{time_s - opened_s - 1e-4:.6f})',{shape}"
    coded = ("-pix_fmt", "yuvj420p", "-q:v", "3", "-f", "mjpeg", "pipe:1")
    chosen = ["-map", f"0:{info.stream_index}", "-frames:v", "1", "-vf", filters, *coded]
    command = [executable, "-nostdin", "-v", "error", *input_arguments(path, limits, *before), *chosen]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        try:
            status = run_limited(command, limits, output, messages)
        except TimeoutError:
            raise MediaError(f"{path} was not decoded within {limits.timeout_s:g} seconds") from None
        output.seek(0)
        picture = output.read()
    if status or not picture:
        raise MediaError(f"{path} has no frame at {time_s:.2f} s that can be decoded")
    return picture


def input_arguments(path: str, limits: Limits, *before: str) -> list[str | bytes]:
    """ffmpeg's arguments that open a local file, whatever its name and content."""
    return [
        *before,
        "-max_pixels",
        str(limits.max_pixels),
        "-protocol_whitelist",
        PROTOCOLS,
        "-format_whitelist",
        FORMATS,
        "-i",
        media_url(path),
    ]


def made_from(path: str, rows: Sequence[Any]) -> dict[str, Any]:
    """What files are rendered from, for their record: a hash of rows, and size and time of change of the video (None where it is gone).

    Args:
        rows: dataclasses.
    """
    try:
        status = os.stat(open_path(path))
    except OSError:
        status = None
    return {"rows": config_hash([asdict(row) for row in rows]), "video": status and [status.st_size, status.st_mtime_ns]}


def is_made_from(record: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a record says that files were rendered from this; a video that is gone is taken as it was."""
    try:
        before = read_json(record)
    except VbcliError:
        # None, or one that was damaged: all is made again.
        return False
    return before == origin or (origin["video"] is None and before["rows"] == origin["rows"])


def burn_subtitles(
    path: str, sentences: Sequence[TranscriptSegment], target: Path, executable: str, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Writes a copy of a video, H.264 and AAC in MP4, that shows sentences at their times.

    Args:
        executable: from `find_ffmpeg`.

    Raises:
        MediaError: the video cannot be decoded, or a limit is broken.
        VbcliError: `target` cannot be written.
    """
    stream = probe_video(path, limits).stream_index
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "captions.srt").write_text(format_srt(sentences), encoding="utf-8")
        font = ImageFont.load_default(size=16)
        assert isinstance(font, ImageFont.FreeTypeFont)
        (Path(place) / "caption.ttf").write_bytes(font.font_bytes)
        shown = f"{EVEN},subtitles=captions.srt:fontsdir=.:force_style='FontName={FONT_NAME}'"
        chosen = ("-map", f"0:{stream}", "-map", "0:a:0?", "-vf", shown, *ENCODERS, *AAC)
        # The names of files within a filter would have to be escaped thrice: ffmpeg runs where they lie.
        run_ffmpeg(executable, [*input_arguments(absolute_path(path), limits), *chosen], target, _for(limits, 1), cwd=place)


def run_ffmpeg(
    executable: str,
    arguments: Sequence[str | bytes],
    target: Path,
    limits: Limits,
    *,
    kind: str = "mp4",
    cwd: str | None = None,
    last_s: float | None = None,
) -> None:
    """Runs ffmpeg; what it writes is in its place complete or not at all.

    Args:
        arguments: inputs and options; the output is added.
        limits: of this ffmpeg.
        kind: container that is written.
        last_s: when its last frame must be shown; None where that is not known.

    Raises:
        MediaError: it failed, took too long, or wrote a shorter or longer video.
        VbcliError: the folder of `target` cannot be made or written.
    """
    temporary = temporary_path(target.absolute())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # What cannot be written is said by name, not by ffmpeg.
        temporary.touch()
        command = [executable, "-nostdin", "-v", "error", "-y", *arguments, "-f", kind, b"file:" + os.fsencode(temporary)]
        with tempfile.TemporaryFile() as messages:
            try:
                status = run_limited(command, limits, messages, messages, cwd=cwd)
            except TimeoutError:
                late = f"{target} was not rendered within {limits.timeout_s:g} seconds"
                raise MediaError(late, hint="allow more with --timeout-s") from None
            if status:
                raise MediaError(f"{target} cannot be rendered: {first_line(messages) or f'ffmpeg ended with {status}'}")
        if last_s is not None:
            _check_whole(temporary, target, last_s)
        os.replace(temporary, target)
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        remove_temporary(temporary)


def _last_shown_s(cuts: Sequence[Cut]) -> float:
    """When the last frame of cuts is shown, one after the other."""
    last = cuts[-1]
    last_s = max(last.start_s, _shown_at(last.path, last.end_s - 2e-4))
    return sum(cut.length_s for cut in cuts) - (last.end_s - last_s) / last.speed


def _check_whole(written: Path, target: Path, last_s: float) -> None:
    """Refuses a video whose last frame does not come at its time: some frames could not be decoded."""
    times, _ = frame_times(str(written))
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    if abs(float(times[-1]) - last_s) > MISSING_S + 2 * usual:
        raise MediaError(f"{target} cannot be rendered: its last frame is at {times[-1]:.2f} s, not at {last_s:.2f} s")
