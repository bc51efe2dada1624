"""Paths on other machines: `s3://`, `gs://`, `memory://` and whatever else fsspec knows, as objects that behave like `pathlib.Path`.

An object of a store appears whole when its last part has arrived: writing one is atomic without a name of its own in between. What works on
files of this machine alone (ffmpeg, safetensors) gets a copy, for as long as it is needed.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from vbcli.errors import MediaError, VbcliError

# A command line turns `s3://bucket` into a path, which has one slash left.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?!/)(.*)", re.DOTALL)
_LOCAL_URL = re.compile(r"(?:file|local):/{1,3}(?!/)(.*)", re.DOTALL)
_MEMBER = re.compile(r"(.*)#(\d+)\+(\d+)", re.DOTALL)
MAX_FETCHED = 32
"""Copies of videos that a process keeps: as many as one video is rendered from."""


def as_path(text: str | Path) -> Path:
    """A path of this machine, or of another one where it is an address.

    Raises:
        VbcliError: the package for that kind of address is not installed.
    """
    if os.path.lexists(str(text)):
        return Path(text)
    local = _LOCAL_URL.fullmatch(str(text))
    if local is not None:
        return Path("/", local[1])
    found = _URL.fullmatch(str(text))
    if found is None:
        return Path(text)
    from upath import UPath

    scheme, rest = found[1], found[2]
    try:
        path = UPath(f"{scheme}://{rest}")
        # It is asked for its package only here.
        _ = path.fs
        return path  # type: ignore[return-value]
    except (ImportError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        hint = "pip install 'vbcli[s3]' or 'vbcli[gs]', or another package of fsspec's"
        raise VbcliError(f"{scheme}:// is not known here: {cause}", hint=hint) from error


def store_errors() -> tuple[type[Exception], ...]:
    """What the packages that talk to stores raise beside `OSError`: no key, no network, a server that does not answer."""
    known = (("botocore.exceptions", "BotoCoreError"), ("google.auth.exceptions", "GoogleAuthError"), ("gcsfs.retry", "HttpError"))
    # Only those that were loaded can have raised something.
    return tuple(getattr(sys.modules[module], name) for module, name in known if module in sys.modules)


def is_remote(path: object) -> bool:
    """Whether a path is of another machine."""
    return not isinstance(path, str | os.PathLike) or (isinstance(path, str) and _URL.fullmatch(path) is not None and "://" in path)


def member_path(tar_path: str, offset: int, size: int) -> str:
    """The path of a video within a tar file: `x.tar#OFFSET+SIZE`, in bytes."""
    return f"{tar_path}#{offset}+{size}"


def split_member(path: str) -> tuple[str, int, int] | None:
    """The tar file, offset and size of a path of `member_path`; None of a file of its own."""
    found = _MEMBER.fullmatch(path)
    if found is None or os.path.lexists(os.fsencode(path)):
        return None
    return found[1], int(found[2]), int(found[3])


def write_remote(path: Path, data: bytes, *, is_exclusive: bool) -> bool:
    """Writes an object whole; see `files.write_atomic`."""
    try:
        with _appearing(path, "xb" if is_exclusive else "wb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def upload(source: Path, target: Path) -> None:
    """Writes a file of this machine to a store, in parts."""
    with source.open("rb") as read, _appearing(target) as write:
        shutil.copyfileobj(read, write, 8 << 20)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """What a reader of files takes: the path of a local one, else the object, open."""
    if not is_remote(path):
        yield path
        return
    with path.open("rb") as file:
        yield file


@contextmanager
def _appearing(path: Path, mode: str = "wb") -> Iterator[Any]:
    """An object of a store to write to, which is there when the block has ended well, and not before."""
    file: Any = path.open(mode)
    try:
        yield file
        file.close()
    except BaseException:
        # Whatever it was, an interrupt, too: to close it, or to have it collected, would publish what has arrived.
        _discard(file, path)
        raise


def _discard(file: Any, path: Path) -> None:
    from fsspec.spec import AbstractBufferedFile

    if isinstance(file, AbstractBufferedFile):
        # What cannot be taken back now is no object, and does not hide the error.
        with suppress(OSError):
            file.discard()
        file.closed = True
    else:
        file.close()
        path.unlink(missing_ok=True)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file on this machine: itself, or a copy that lasts as long as the block."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="vbcli-") as place:
        copy = Path(place) / path.name
        _download(path, copy)
        yield copy


@contextmanager
def local_output(path: Path) -> Iterator[Path]:
    """A folder on this machine to write to: itself, or one whose files are uploaded when the block ends well.

    What is there already comes first; what a run that was ended early left is kept on this machine, and the next one goes on with it.
    """
    if not is_remote(path):
        yield path
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vbcli"
    copy = cache / hashlib.sha256(str(path).encode()).hexdigest()[:16] / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    if not copy.exists() and path.exists():
        # Under another name until it is whole: of a part the next run would make the whole folder's end.
        part = copy.with_name(f"{path.name}.part")
        copy_folder(path, part)
        part.rename(copy)
    yield copy
    if copy.exists():
        copy_folder(copy, path)
        shutil.rmtree(copy.parent)


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """A file or folder on this machine to write: itself, or one that is uploaded when the block ends well, with what was written beside it.

    Unlike with `local_output` nothing is there at first, and nothing is kept of a block that ends early.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="vbcli-") as place:
        yield Path(place) / path.name
        copy_folder(Path(place), path.parent)


def copy_folder(source: Path, target: Path, *, without: tuple[str, ...] = ()) -> None:
    """Copies the files of a folder, wherever both are; those that are there are written over.

    Args:
        without: names of files and folders at the top that stay behind.
    """
    if not is_remote(source) and not is_remote(target):
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=lambda folder, _: without if Path(folder) == source else ())
        return
    for path in sorted(source.rglob("*")):
        relative = PurePosixPath(path.as_posix()).relative_to(PurePosixPath(source.as_posix()))
        if path.is_file() and relative.parts[0] not in without:
            copy = target.joinpath(*relative.parts)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as read, _appearing(copy) if is_remote(copy) else copy.open("wb") as write:
                shutil.copyfileobj(read, write, 8 << 20)


def fetch_folder(path: Path) -> Path:
    """A copy of a remote folder on this machine, for as long as this process runs.

    Raises:
        VbcliError: it is not there, or cannot be read.
    """
    hint = "look at the address, and at who may read it"
    if not path.is_dir():
        raise VbcliError(f"{path} does not exist", hint=hint)
    place = Path(tempfile.mkdtemp(prefix="vbcli-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    try:
        copy_folder(path, place / path.name)
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror or error}", hint=hint) from error
    return place / path.name


def _download(path: Path, target: Path, part: tuple[int, int] | None = None) -> None:
    """Copies an object to this machine, or from an offset on so many bytes of it.

    Raises:
        NoRoomError: there is none for it.
        VbcliError: it cannot be read.
    """
    try:
        with path.open("rb") as read, target.open("wb") as write:
            if part is None:
                shutil.copyfileobj(read, write, 8 << 20)
                return
            read.seek(part[0])
            left = part[1]
            while left and (data := read.read(min(left, 8 << 20))):
                left -= write.write(data)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some, or set TMPDIR to another folder"
            raise NoRoomError(f"{target.parent} has no room for a copy of {path}", hint=hint) from error
        raise VbcliError(f"{path} cannot be read: {error.strerror or error}", hint="look at the address, and at who may read it") from error


class NoRoomError(VbcliError):
    """A copy does not fit on this machine."""


class FetchedCopies:
    """Copies of videos, the last ones that were asked for."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="vbcli-")
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.copies: OrderedDict[str, str] = OrderedDict()
        self.n_fetched = 0

    def get(self, url: str) -> str:
        if url in self.copies:
            self.copies.move_to_end(url)
            return self.copies[url]
        self._keep(MAX_FETCHED - 1)
        # Never a name that was there before: who has it still reads what was asked for.
        self.n_fetched += 1
        target = os.path.join(self.folder, f"{self.n_fetched}-{PurePosixPath(url).name}")
        address, *part = split_member(url) or (url,)
        try:
            _download(as_path(address), Path(target), (part[0], part[1]) if part else None)
        except NoRoomError:
            Path(target).unlink(missing_ok=True)
            if not self.copies:
                raise
            # Mostly they are of videos that are done with.
            self._keep(0)
            return self.get(url)
        except VbcliError as error:
            Path(target).unlink(missing_ok=True)
            raise MediaError(error.message) from error
        self.copies[url] = target
        return target

    def _keep(self, n: int) -> None:
        """Removes all copies but the n last ones."""
        while len(self.copies) > n:
            _, old = self.copies.popitem(last=False)
            Path(old).unlink(missing_ok=True)


_fetched: dict[int, FetchedCopies] = {}


def fetch(url: str) -> str:
    """A copy of a remote video on this machine; those asked for last are kept for a while. Of one in a tar file it is alone.

    Raises:
        MediaError: it cannot be read.
        VbcliError: there is no room for a copy, also without the others.
    """
    # A forked child must not remove its parent's.
    if os.getpid() not in _fetched:
        _fetched[os.getpid()] = FetchedCopies()
    return _fetched[os.getpid()].get(url)


def remove_folder(path: Path) -> None:
    """Removes a folder with all that is in it, wherever it is."""
    if is_remote(path):
        path.rmdir(recursive=True)  # type: ignore[call-arg]
    else:
        shutil.rmtree(path)


def list_files(folder: Path) -> list[Any]:
    """All files below a remote folder, in order."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=str)
