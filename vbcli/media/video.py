"""Frames of a video, chosen and resized within ffmpeg: by one process, or a few beside each other that give what one would.

Frames leave ffmpeg through a NUT stream on its standard output, which carries each frame's presentation time in the
video's own time base; PyAV takes the stream apart. `pts_s` is relative to the container's start.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import ffmpeg
import numpy as np

from vbcli.ahead import mapped_ahead
from vbcli.errors import MediaError
from vbcli.media.containers import VideoInfo, media_url
from vbcli.media.filters import Geometry, fitted_frames, is_hdr, whole_frames
from vbcli.media.formats import FORMATS, PROTOCOLS
from vbcli.media.limits import Budget, Limits
from vbcli.media.passes import ComplaintError, Frame, UntrueTimesError, are_near, expected_frames, frames_of, nearest, without_packets
from vbcli.media.probe import Packets, probe_video, read_contents, usual_step
from vbcli.media.program import can_leave_out, filter_names, time_base_option
from vbcli.media.running import running
from vbcli.media.sampling import PARTS_AT_ONCE, AtRate, AtTimes, EveryFrame, KeyFrames, Sampling, Uniform, at_positions
from vbcli.media.stretches import Stretch, cut_stretches, seek_options

_RUNS_BACK = "gte(prev_selected_pts,pts)"
_ALARM = "0*if(lt(pts,prev_pts),print(1,16))"
"""An encoder refuses frames whose times run backwards: they are left out, and it is told."""
_SAY_TIME = "0*print(2*round(t*1000000000)+key,16)"
"""Nanoseconds, and in the last bit whether it is a key frame: one number a frame, among ffmpeg's messages."""

_GAP = b"Failed to compensate for timestamp delta"
"""What ffmpeg says of a silence that it has no memory for; it leaves it out, and all that follows would come too early."""


class Video:
    """One video: what is asked of it shares a time limit."""

    def __init__(self, executable: str, limits: Limits, path: str, threads: int = 1) -> None:
        self.executable = executable
        self.threads = threads
        self.limits = limits
        self.path = path
        self.budget = Budget(limits.timeout_s)

    @cached_property
    def info(self) -> VideoInfo:
        """What its container says.

        Raises:
            MediaError: it cannot be opened, holds no video, or breaks a limit.
        """
        return self._contents[0] if "_contents" in vars(self) else probe_video(self.path, self.limits, self.budget)

    @property
    def end_s(self) -> float:
        """When the last frame ends, in seconds from the container's start.

        Raises:
            MediaError: nothing can be decoded, or a limit is broken.
        """
        if self._packets.is_plain:
            return self._packets.end_s
        times, _ = self._all_frames
        shown = times[~np.isnan(times)]
        if not len(shown):
            raise self._nothing_decoded()
        return float(shown.max()) + usual_step(shown)

    def jpegs(self, sampling: Sampling, geometry: Geometry, quality: int = 3) -> Iterator[tuple[float, bytes]]:
        """Samples the video and encodes the frames as JPEG, all inside ffmpeg.

        Args:
            quality: ffmpeg's `-q:v`, 2 (best) to 31.

        Yields:
            (pts_s, JPEG bytes), in order of presentation.

        Raises:
            MediaError: nothing can be decoded, frames that were asked for by their times do not come, or a limit is broken.
        """
        output: dict[str, str | int] = {"vcodec": "mjpeg", "q:v": quality, "pix_fmt": "yuvj420p", "threads": 1}
        for frame in self._counted(self._sampled(sampling, geometry, output)):
            yield frame.pts_s, frame.data

    def images(self, sampling: Sampling, geometry: Geometry, *, is_taken: bool = True) -> Iterator[tuple[float, np.ndarray]]:
        """Samples the video as raw pixels.

        Args:
            is_taken: the frames count against the limit; those that are only looked at do not.

        Yields:
            (pts_s, uint8 (height_px, width_px, 3) RGB).

        Raises:
            MediaError: nothing can be decoded, frames that were asked for by their times do not come, or a limit is broken.
        """
        output: dict[str, str | int] = {"vcodec": "rawvideo", "pix_fmt": "rgb24"}
        frames = self._sampled(sampling, geometry, output)
        for frame in self._counted(frames) if is_taken else frames:
            if len(frame.data) != frame.height_px * frame.width_px * 3:
                raise MediaError(f"{self.path} cannot be decoded: ffmpeg ended in the middle of a frame")
            yield frame.pts_s, np.frombuffer(frame.data, np.uint8).reshape(frame.height_px, frame.width_px, 3)

    def sound(self, rate: int) -> np.ndarray:
        """The first sound of the video, mixed to one channel.

        Args:
            rate: samples a second.

        Returns:
            float32 (N,), -1 to 1; from the container's start, silent until the sound begins.

        Raises:
            MediaError: it has none, nothing can be decoded, or a limit is broken: it may take as much memory as ffmpeg.
        """
        if not self.info.has_audio:
            raise MediaError(f"{self.path} has no sound")
        opened = ["-protocol_whitelist", PROTOCOLS, "-format_whitelist", FORMATS, "-i", media_url(self.path)]
        mixed = ["-map", "0:a:0", "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", str(rate), "-f", "f32le", "pipe:1"]
        command = [self.executable, "-nostdin", "-v", "error", "-max_error_rate", "1", *opened, *mixed]
        data, most = bytearray(), self.limits.memory_mb << 20
        too_much = MediaError(f"{self.path} has more sound than fits into the limit of {self.limits.memory_mb} MB")
        with running(command, self.path, self.limits, self.budget) as run:
            for part in run.budget.timed(iter(lambda: run.stdout.read(1 << 20), b"")):
                data += part
                if len(data) > most:
                    raise too_much
        if _GAP in run.said:
            raise too_much
        return np.frombuffer(data, np.float32, len(data) // 4)

    # ---------------------------------------------------------------- which frames

    @cached_property
    def _contents(self) -> tuple[VideoInfo, Packets]:
        return read_contents(self.path, self.limits, self.budget)

    @cached_property
    def _packets(self) -> Packets:
        return self._contents[1]

    def _nothing_decoded(self) -> MediaError:
        return MediaError(f"{self.path} has no frame that can be decoded")

    def _counted(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for n, frame in enumerate(frames):
            if n == self.limits.max_frames:
                raise MediaError(f"{self.path} gives more frames than the limit of {n}")
            yield frame

    def _sampled(self, sampling: Sampling, geometry: Geometry, output: dict[str, str | int]) -> Iterator[Frame]:
        # Before the header: its container is opened once for both.
        is_plain = self._packets.is_plain
        if is_hdr(self.info) and not {"zscale", "tonemap"} <= filter_names(self.executable):
            hint = "leave --ffmpeg out to use the bundled one"
            raise MediaError(f"{self.path} has a high dynamic range, for which this ffmpeg lacks the filter zscale", hint)
        n, is_done = 0, False
        if is_plain:
            try:
                for frame in self._chosen_on_the_way(sampling, geometry, output):
                    n += 1
                    yield frame
                is_done = True
            except UntrueTimesError as error:
                if n:
                    raise MediaError(f"{self.path} cannot be decoded: {error}") from None
        if not is_done:
            for frame in self._chosen_from_all(sampling, geometry, output):
                n += 1
                yield frame
        if not n:
            raise self._nothing_decoded()
        if isinstance(sampling, AtTimes) and n < len(sampling.times_s):
            raise MediaError(f"{self.path} gives {n} of {len(sampling.times_s)} frames that were asked for")

    def _chosen_on_the_way(self, sampling: Sampling, geometry: Geometry, output: dict[str, str | int]) -> Iterator[Frame]:
        shown_s = self._packets.shown_s
        # Where some are missing, or others come, none has gone out yet: these are few.
        if isinstance(sampling, Uniform):
            wanted = sampling.among(shown_s)
            yield from self._complete(list(self._passes(wanted, geometry, output, is_whole=True)), len(wanted.times_s))
        elif isinstance(sampling, KeyFrames):
            found, keys = list(self._passes(sampling, geometry, output)), np.unique(shown_s[self._packets.is_key])
            if not are_near(np.array([frame.pts_s for frame in found]), keys).all():
                raise UntrueTimesError("other frames than it says are coded without any other")
            yield from self._complete(found, len(keys))
        else:
            yield from self._in_haste(sampling, geometry, output)

    def _in_haste(self, sampling: AtRate | EveryFrame | AtTimes, geometry: Geometry, output: dict[str, str | int]) -> Iterator[Frame]:
        """Frames that ffmpeg chooses, without decoding those that nobody needs, and on several cores where it may.

        At the first complaint of ffmpeg, and where another frame comes than the one that is next, all are decoded, and it goes on there.
        """
        n = 0
        hurried = self._hurried(sampling, geometry, output) if self._is_simple(sampling) else None
        if hurried is not None:
            try:
                for frame in hurried:
                    n += 1
                    yield frame
            except ComplaintError:
                pass
            else:
                return
        yield from itertools.islice(self._passes(sampling, geometry, output), n, None)

    def _is_simple(self, sampling: AtRate | EveryFrame | AtTimes) -> bool:
        """Whether it is known which frames come, and one pass is enough."""
        if isinstance(sampling, AtRate | AtTimes) and len(sampling.expressions(0.0)) > 1:
            return False
        # Which of two frames of one time comes first only their decoder knows. Of an interlaced frame the missing lines are worked out from
        # those beside it.
        shown_s = self._packets.shown_s
        return not self.info.is_interlaced and len(np.unique(shown_s)) == len(shown_s)

    def _hurried(self, sampling: AtRate | EveryFrame | AtTimes, geometry: Geometry, output: dict[str, str | int]) -> Iterator[Frame] | None:
        """The chosen frames, as long as they come as they should (`_as_expected`); None where there is nothing to hurry by."""
        packets, start_s = self._packets, self.info.start_s
        chosen = sampling.choose(packets.shown_s, packets.is_key)
        is_left_out, can_drop = packets.disposable_but(chosen), can_leave_out(self.executable)
        # How bright a film's brightest part is may be told once, at its start.
        if self.threads > 1 and can_drop and self.info.is_seekable and not is_hdr(self.info):
            stretches = cut_stretches(packets, chosen, self.threads)
            if stretches:
                return self._in_stretches(stretches, is_left_out, geometry, output)
        dropped = self._dropped(is_left_out) if can_drop else {}
        if not dropped and self.threads == 1:
            return None
        command = self._command(sampling.expression(start_s), self._shifted[0], geometry, output, {"threads": self.threads, **dropped})
        return self._as_expected(command, packets.shown_s[chosen].tolist(), self.budget)

    def _in_stretches(
        self, stretches: Sequence[Stretch], is_left_out: np.ndarray, geometry: Geometry, output: dict[str, str | int]
    ) -> Iterator[Frame]:
        """The frames of all stretches, in order.

        Args:
            is_left_out: bool (P,), of the packets, those that nobody needs.

        Raises:
            ComplaintError: those of one do not come as they should, or take too much memory.
        """
        # Of each process its own: they wait at the same time.
        budgets = list[Budget]()

        def decode(stretch: Stretch) -> list[Frame]:
            budget = Budget(self.budget.left_s)
            budgets.append(budget)
            try:
                return self._of_stretch(stretch, is_left_out[stretch.first : stretch.last], geometry, output, budget)
            except ComplaintError:
                end_all()
                raise

        def end_all() -> None:
            for budget in budgets:
                budget.limit_s = 0.0

        found, sizes = mapped_ahead(decode, stretches, self.threads), set[tuple[int, int]]()
        try:
            for frame in itertools.chain.from_iterable(self.budget.timed(found)):
                sizes.add((frame.width_px, frame.height_px))
                # One process gives all frames the size of its first.
                if len(sizes) > 1:
                    raise ComplaintError
                yield frame
        finally:
            # Nobody waits for more.
            end_all()

    def _of_stretch(
        self, stretch: Stretch, is_left_out: np.ndarray, geometry: Geometry, output: dict[str, str | int], budget: Budget
    ) -> list[Frame]:
        packets, start_s = self._packets, self.info.start_s
        wanted_s = packets.shown_s[stretch.chosen].tolist()
        begins_s = float(packets.shown_s[stretch.first]) + start_s
        dropped = self._dropped(is_left_out, begins_s)
        select = AtTimes(tuple(wanted_s)).expression(start_s)
        command = self._command(select, self._shifted[0], geometry, output, {**seek_options(packets, stretch), **dropped})
        frames, n_bytes, most = list[Frame](), 0, (self.limits.memory_mb << 20) // self.threads
        for frame in self._as_expected(command, wanted_s, budget):
            frames.append(frame)
            n_bytes += len(frame.data)
            if n_bytes > most:
                raise ComplaintError
        return frames

    def _dropped(self, is_left_out: np.ndarray, begins_s: float | None = None) -> dict[str, str]:
        text = without_packets(is_left_out, begins_s) if is_left_out.any() else None
        return {} if text is None else {f"bsf:{self.info.stream_index}": text}

    def _as_expected(self, command: list[bytes | str], wanted_s: list[float], budget: Budget) -> Iterator[Frame]:
        shift_s, start_s = self._shifted[1], self.info.start_s
        return expected_frames(command, wanted_s, lambda frame: frame.pts_s - shift_s - start_s, self.path, self.limits, budget)

    @cached_property
    def _shifted(self) -> tuple[list[tuple[str, dict[str, str]]], float]:
        """The filter that makes times fit into NUT, which has none below zero, and how much later they are then."""
        shift_s = max(0.0, -(float(self._packets.shown_s.min()) + self.info.start_s))
        return [("setpts", {"expr": f"PTS+round({shift_s!r}/TB)"})] if shift_s else [], shift_s

    def _complete(self, frames: list[Frame], n_wanted: int) -> list[Frame]:
        if len(frames) < n_wanted:
            raise UntrueTimesError(f"{n_wanted - len(frames)} frames that it should have do not come")
        return frames

    def _passes(
        self,
        sampling: AtRate | EveryFrame | KeyFrames | AtTimes,
        geometry: Geometry,
        output: dict[str, str | int],
        *,
        is_whole: bool = False,
    ) -> Iterator[Frame]:
        """Frames that ffmpeg chooses.

        Args:
            is_whole: the video must give all of the frames that it says it has.

        Raises:
            UntrueTimesError: their times are others than those of the packets, or run backwards, or frames are lost.
        """
        start_s = self.info.start_s
        expressions = sampling.expressions(start_s) if isinstance(sampling, AtRate | AtTimes) else [sampling.expression(start_s)]
        options: dict[str, str | int] = {"skip_frame": "nokey"} if isinstance(sampling, KeyFrames) else {}
        known = np.sort(self._packets.shown_s)
        stamps, shift_s = self._shifted
        last: tuple[float, ...] = (-math.inf,)
        for expression in expressions:
            select = f"{expression}*not({_RUNS_BACK})+{_SAY_TIME if is_whole else _ALARM}"
            n_printed = len(known) if is_whole else 0
            for frame in self._pass(self._command(select, stamps, geometry, output, options), n_printed):
                pts_s = frame.pts_s - shift_s - start_s
                step = sampling.step(pts_s) if isinstance(sampling, AtRate) else (pts_s,)
                # Where the picture's size changes, ffmpeg builds its filters anew and takes the next frame for the first.
                if step <= last:
                    continue
                if not are_near(np.array([pts_s]), known).all():
                    raise UntrueTimesError(f"ffmpeg shows a frame at {pts_s:g} s at which there is none")
                last = step
                yield frame._replace(pts_s=pts_s)

    # ---------------------------------------------------------------- from all frames

    @cached_property
    def _all_frames(self) -> tuple[np.ndarray, np.ndarray]:
        """When each frame is shown, float64 (F,), in the order in which they are decoded, and whether it is a key frame."""
        said = ["-v", "repeat+error", "-max_error_rate", "1", "-copyts"]
        chosen = ["-map", f"0:{self.info.stream_index}", "-vf", f"select='{_SAY_TIME}'", "-f", "null", "-"]
        opened: list[str | bytes] = [part for name, value in self._input_options().items() for part in (f"-{name}", str(value))]
        command = [self.executable, "-nostdin", *said, *opened, "-i", media_url(self.path), *chosen]
        with running(command, self.path, self.limits, self.budget) as run:
            for _ in run.budget.timed(iter(lambda: run.stdout.read(1 << 16), b"")):
                pass
        printed = np.array(run.printed)
        times = np.floor(printed / 2) / 1e9 - self.info.start_s
        return self._as_told(times), printed % 2 == 1

    def _as_told(self, times: np.ndarray) -> np.ndarray:
        """Where the container does not tell each time, ffmpeg and PyAV work them out in their own ways: PyAV's are those we give."""
        shown = np.sort(self._packets.shown_s)
        if not len(shown):
            return times
        if len(shown) == len(times) and (np.diff(times) > 0).all():
            return shown
        known, counts = np.unique(shown, return_counts=True)
        place, is_near = nearest(times, known), are_near(times, known)
        told = np.where(is_near, known[place], times)
        left = np.repeat(known, (counts - np.bincount(place[is_near], minlength=len(known))).clip(0))
        far = np.flatnonzero(~is_near & ~np.isnan(times))
        told[far] = left if len(left) == len(far) else known[place[far]]
        return told

    def _chosen_from_all(self, sampling: Sampling, geometry: Geometry, output: dict[str, str | int]) -> Iterator[Frame]:
        times, is_key = self._all_frames
        if isinstance(sampling, KeyFrames) and not is_key.any():
            # Decoders of some simple codecs say it of no frame.
            is_key = are_near(times, np.sort(self._packets.shown_s[self._packets.is_key]))
        chosen = sampling.choose(times, is_key).tolist()
        positions = sorted(chosen)
        is_told = len(positions) <= PARTS_AT_ONCE
        select = at_positions(positions) if is_told and positions else "1"
        # Filters that were built anew would count anew. Two ticks a frame: `bwdif` halves them.
        command = self._command(select, [("setpts", {"expr": "2*N"})], geometry, output, {"reinit_filter": 0})
        frames = self._pass(command, 0) if positions else iter(())
        wanted = zip(positions if is_told else range(len(times)), frames, strict=False)
        yield from self._in_order(wanted, chosen, times)

    def _in_order(self, found: Iterator[tuple[int, Frame]], chosen: Sequence[int], times: np.ndarray) -> Iterator[Frame]:
        """Chosen frames in their order; those that come too early wait."""
        waiting: dict[int, Frame] = {}
        n, n_bytes, most, is_chosen = 0, 0, self.limits.memory_mb << 20, set(chosen)
        for position, frame in found:
            if position not in is_chosen:
                continue
            waiting[position] = frame
            n_bytes += len(frame.data)
            if n_bytes > most:
                raise MediaError(f"{self.path} has its frames so far out of order that they take more than the limit of {most >> 20} MB")
            while n < len(chosen) and chosen[n] in waiting:
                ready = waiting.pop(chosen[n])
                n_bytes -= len(ready.data)
                yield ready._replace(pts_s=float(times[chosen[n]]))
                n += 1
        if n < len(chosen):
            raise MediaError(f"{self.path} gives {n} of {len(chosen)} frames that it gave before")

    # ---------------------------------------------------------------- ffmpeg

    def _input_options(self) -> dict[str, str | int]:
        return {"threads": 1, "protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS, "max_pixels": self.limits.max_pixels}

    def _command(
        self,
        select: str,
        stamps: Sequence[tuple[str, dict[str, str]]],
        geometry: Geometry,
        output: dict[str, str | int],
        options: Mapping[str, str | int | float | None],
    ) -> list[bytes | str]:
        # ffmpeg-python wants text: the name takes its place afterwards, so that any bytes in it reach ffmpeg unchanged.
        marker = "input-name"
        frames = ffmpeg.input(marker, **{**self._input_options(), **options})[str(self.info.stream_index)]
        whole = whole_frames(self.info, is_of_one_size="reinit_filter" in options)
        chosen = [*whole, ("select", {"expr": select}), *stamps]
        for name, arguments in [*chosen, *fitted_frames(self.info, geometry)]:
            frames = frames.filter(name, **arguments)
        timed = {"format": "nut", "fps_mode": "passthrough", "enc_time_base": time_base_option(self.executable)}
        target = ffmpeg.output(frames, "pipe:1", **timed, **output)
        # Messages that are alike are written only once otherwise.
        general = ("-nostdin", "-v", "repeat+error", "-filter_threads", "1", "-copyts", "-max_error_rate", "1")
        arguments = target.global_args(*general).compile(cmd=self.executable)
        return [media_url(self.path) if a == marker else a for a in arguments]

    def _pass(self, command: list[bytes | str], n_printed: int) -> Iterator[Frame]:
        """The frames of one run of ffmpeg, with its times.

        Raises:
            UntrueTimesError: when all have come, something else was printed than so many frames.
        """
        with running(command, self.path, self.limits, self.budget) as run:
            yield from frames_of(run, self.path, self.limits.max_pixels)
        if len(run.printed) != n_printed:
            raise UntrueTimesError("frames are lost" if n_printed else "the times of its frames run backwards")
