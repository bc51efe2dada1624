"""What trained models are asked about: which videos a folder holds."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from vbcli.inference import videos_of


def test_videos_of_tars_behind_links_are_there_where_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "own.mp4").touch()
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("0.mp4"), io.BytesIO())
    (tmp_path / "videos" / "s.tar").symlink_to(tmp_path / "s.tar")
    assert videos_of(tmp_path / "videos") == {"own.mp4"}
    assert videos_of(tmp_path / "videos", follows_links=True) == {"own.mp4", "s/0.mp4"}
