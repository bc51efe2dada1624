"""Fixtures that several test files share: tiny videos, the folder of real data, one thread for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import hypothesis
import imageio_ffmpeg
import numpy as np
import pytest

# Two tests run at a time, and what they start: threads would only wait for each other. Set before torch is loaded, and for child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long one example takes says more of the machine than of the code.
hypothesis.settings.register_profile("vbcli", deadline=None)
hypothesis.settings.load_profile("vbcli")

MakeVideo = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: whole chains would otherwise be what everything waits for at the end. What needs a GPU is skipped without one."""
    items.sort(key=lambda item: ("test_readme" not in item.path.name, "e2e" not in item.path.parts))
    accelerated = [item for item in items if item.get_closest_marker("gpu")]
    if accelerated:
        import torch

        if not torch.cuda.is_available():
            for item in accelerated:
                item.add_marker(pytest.mark.skip(reason="there is no GPU here"))


def write_frames(path: Path, codec: str, frames: Sequence[tuple[int, np.ndarray]]) -> Path:
    """A video of pictures, (height, width, 3) and all of one size, each at its own time in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        assert isinstance(stream, av.VideoStream)
        (stream.height, stream.width), stream.pix_fmt, stream.time_base = frames[0][1].shape[:2], "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms, picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads only wait for each other on tensors as small as those of the tests."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data` beside the repository; tests that need it are skipped without it."""
    path = (Path(__file__).parents[1] / "../shared/data").resolve()
    if not path.is_dir():
        pytest.skip(f"{path} is not there: real videos are not part of the repository")
    return path


@pytest.fixture(scope="session")
def ffmpeg_exe() -> str:
    """The bundled ffmpeg."""
    return imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="session")
def make_video(ffmpeg_exe: str) -> MakeVideo:
    """A function that renders a tiny video of ffmpeg's test picture and returns its path."""

    def make(
        path: Path,
        *,
        size: tuple[int, int] = (64, 48),
        duration_s: float = 1.0,
        fps: str | float = 10,
        hue: int = 0,
        audio: bool = False,
        variable: bool = False,
        rotation: int = 0,
        arguments: Sequence[str] = (),
    ) -> Path:
        """Renders.

        Args:
            size: (width, height) in pixels.
            hue: turn of the colours in degrees, to tell videos apart.
            audio: add a tone.
            variable: frames come at uneven times.
            rotation: degrees that a player has to turn the picture.
            arguments: more output options of ffmpeg.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = f"testsrc=size={size[0]}x{size[1]}:rate={fps}:duration={duration_s},hue=h={hue}"
        if variable:
            picture += ",setpts=(N+0.45*mod(N*3\\,4)+5*floor(N/7))/FRAME_RATE/TB"
        inputs = ["-f", "lavfi", "-i", picture]
        if audio:
            inputs += ["-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=8000:duration={duration_s}"]
        video = ["-pix_fmt", "yuv420p", "-fps_mode", "passthrough", "-threads", "1", *arguments]
        target = path.with_name(f"unturned-{path.name}") if rotation else path
        run_ffmpeg(ffmpeg_exe, *inputs, *video, f"file:{target}")
        if rotation:
            run_ffmpeg(ffmpeg_exe, "-display_rotation:v:0", str(rotation), "-i", f"file:{target}", "-c", "copy", f"file:{path}")
            target.unlink()
        return path

    return make


def run_ffmpeg(executable: str, *arguments: str) -> None:
    run = subprocess.run([executable, "-nostdin", "-v", "error", "-y", *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory, make_video: MakeVideo) -> Path:
    """Four videos, one in a subfolder, with captions.csv and subtitles of one. To be copied before it is changed."""
    folder = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(["a.mp4", "b.mkv", "c.mp4", "more/d.mp4"]):
        make_video(folder / name, duration_s=1 + i / 2, hue=80 * i)
    (folder / "captions.csv").write_text(
        "video,caption,split\na.mp4,A picture of bars.,train\nb.mkv,Bars again.,val\nd,Bars in a folder.,train\n"
    )
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,800\nThe bars move.\n")
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Nine text files; `loud` ones fail in `Shout`."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(9):
        lines = [f"line {i} {j}" for j in range(i + 1)] + (["LOUD"] if i in (3, 8) else [])
        (folder / f"{i}.txt").write_text("\n".join(lines))
    return folder
