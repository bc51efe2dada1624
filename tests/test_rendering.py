"""Rendered videos, decoded again by PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import MakeVideo
from vbcli.errors import MediaError
from vbcli.rendering import burn_subtitles
from vbcli.transcripts import TranscriptSegment


def frames(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time or 0.0, frame.to_ndarray(format="gray").astype(int)) for frame in container.decode(video=0)]


@pytest.mark.parametrize("has_fonts", [True, False])
def test_captions_show_at_their_times_and_only_there(
    tmp_path: Path, make_video: MakeVideo, ffmpeg_exe: str, monkeypatch: pytest.MonkeyPatch, has_fonts: bool
) -> None:
    if not has_fonts:
        (tmp_path / "fonts.conf").write_text(f"<fontconfig><dir>{tmp_path / 'none'}</dir></fontconfig>")
        monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))
    video = make_video(tmp_path / "odd name, 'quoted'.mp4", size=(322, 240), duration_s=2, audio=True)
    burn_subtitles(str(video), [TranscriptSegment(0.5, 1.5, "a ball: it's [falling]")], tmp_path / "out" / "shown.mp4", ffmpeg_exe)
    before, after = frames(video), frames(tmp_path / "out" / "shown.mp4")
    assert [t for t, _ in after] == pytest.approx([t for t, _ in before], abs=0.001)
    for (time_s, old), (_, new) in zip(before, after, strict=True):
        changed = np.abs(old - new) > 120  # coding again changes less
        assert not changed[:160].any()
        assert changed[160:].any() == (0.5 <= time_s < 1.5)
    with av.open(str(tmp_path / "out" / "shown.mp4")) as container:
        assert container.streams.audio
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["shown.mp4"]


def test_what_cannot_be_decoded_leaves_nothing(tmp_path: Path, ffmpeg_exe: str) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"no\.mp4"):
        burn_subtitles(str(tmp_path / "no.mp4"), [TranscriptSegment(0, 1, "a")], tmp_path / "out" / "shown.mp4", ffmpeg_exe)
    assert not (tmp_path / "out").exists()
