"""The workspace: where each command finds its input and puts its output when no path is named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ResultKind = Literal["captions", "classes", "answers", "summaries"]


@dataclass(frozen=True)
class Workspace:
    """A folder with `frames/ features/ vocab/ tokens/ checkpoints/<task>/ fused/`, and `<folder>-<key8>/` in `captions/ classes/ answers/
    summaries/`."""

    root: Path

    @property
    def frames_dir(self) -> Path:
        return self.root / "frames"

    @property
    def features_dir(self) -> Path:
        return self.root / "features"

    @property
    def vocab_dir(self) -> Path:
        return self.root / "vocab"

    @property
    def tokens_dir(self) -> Path:
        return self.root / "tokens"

    @property
    def fused_dir(self) -> Path:
        return self.root / "fused"

    @property
    def checkpoints_dir(self) -> Path:
        return self.root / "checkpoints"

    def results_dir(self, kind: ResultKind, source: Path, identity: object) -> Path:
        """Where what a model says of `source` goes: its name and a key of what makes it."""
        from vbcli.config import config_hash

        name = re.sub(r"[^\w.-]+", "_", source.resolve().name) or "videos"
        return self.root / kind / f"{name}-{config_hash([str(source.resolve()), identity])[:8]}"

    def newest_captions(self) -> Path | None:
        """The captions dataset that was written last."""
        found = [p.parent for p in (self.root / "captions").glob("*/manifest.json")]
        return max(found, key=lambda p: max(s.stat().st_mtime_ns for s in p.iterdir()), default=None)
