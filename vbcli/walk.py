"""The files of a folder, and what their names say that they are."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from vbcli.errors import VbcliError
from vbcli.files import escape_name
from vbcli.media.formats import TEXT_SUFFIXES, VIDEO_SUFFIXES


@dataclass
class Passed:
    """What a scan passes over: files that are neither videos nor text by their names, and linked folders."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        files = f"{len(self.files)} files are no videos by their names and are passed over, first {min(self.files, default='')}"
        folders = f"{len(self.folders)} linked folders are passed over, first {min(self.folders, default='')}; --follow-links takes them"
        return [*([files] if self.files else []), *([folders] if self.folders else [])]


def walk(base: bytes, follows_links: bool, passed: Passed) -> Iterator[bytes]:
    """The files below a folder that are not hidden; those of linked folders come last, and no folder comes twice."""

    def refuse(error: OSError) -> None:
        raise VbcliError(
            f"{os.fsdecode(error.filename)} cannot be read: {error.strerror}", hint="its videos would be left out: mend its permissions"
        )

    walked: set[bytes] = set()
    waiting = deque([base])
    while waiting:
        for folder, folders, names in os.walk(waiting.popleft(), onerror=refuse):
            real = os.path.realpath(folder) if follows_links else folder
            # Where it was before: links may lead to one folder, and above themselves.
            folders[:] = [] if real in walked else sorted(f for f in folders if not f.startswith(b"."))
            if real in walked:
                continue
            walked.add(real)
            links = [path for name in folders if os.path.islink(path := os.path.join(folder, name))]
            if follows_links:
                waiting += links
            else:
                passed.folders += [escape_name(os.path.relpath(path, base)) for path in links]
            for name in names:
                path = os.path.join(folder, name)
                is_file = os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))
                if is_file and not name.startswith(b"."):
                    yield path


def is_video_name(name: bytes) -> bool:
    return not name.startswith(b".") and _suffix(name) in VIDEO_SUFFIXES


def is_text_name(name: bytes) -> bool:
    return _suffix(name) in TEXT_SUFFIXES


def _suffix(name: bytes) -> str:
    return os.path.splitext(name)[1].decode("latin-1").lower()


def is_tar_name(name: bytes) -> bool:
    return not name.startswith(b".") and name.lower().endswith(b".tar")
