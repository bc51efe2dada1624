"""The exceptions that users can cause, and the record of a failed item."""

from __future__ import annotations

from dataclasses import asdict, dataclass


def with_article(noun: str) -> str:
    """A noun for a message: a tokens dataset, an answers dataset."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


class VbcliError(Exception):
    """An error that the user can mend.

    Args:
        message: one sentence without a full stop; it names the file it is about.
        hint: what to do or to type next.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(VbcliError):
    """Options that contradict each other; the exit status is 2."""


class MediaError(VbcliError):
    """A video that cannot be probed or decoded. In a dataset run it becomes an `ItemFailure`."""

    def __init__(self, message: str, hint: str = "leave this video out, or save it anew with a program that plays it") -> None:
        super().__init__(message, hint)


@dataclass(frozen=True)
class ItemFailure:
    """One item (a video) that a stage could not process; a row of `_errors/*.jsonl`."""

    video_id: str
    stage: str
    error: str
    message: str

    def as_row(self) -> dict[str, str]:
        return asdict(self)
