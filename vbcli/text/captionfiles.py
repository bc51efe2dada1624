"""Caption files (tables, JSON lines, the JSON of benchmarks) to rows, and rows to the text of each video."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vbcli.errors import VbcliError
from vbcli.media.formats import VIDEO_SUFFIXES
from vbcli.storage import opened
from vbcli.text.annotations import iter_annotations
from vbcli.text.subtitles import without_surrogates

COLUMNS = ("video", "caption", "start_s", "end_s", "split", "label", "category", "question", "answer", "candidates")

_WORDS = {
    ".csv": ("line", "column"),
    ".tsv": ("line", "column"),
    ".jsonl": ("line", "field"),
    ".ndjson": ("line", "field"),
    ".parquet": ("row", "column"),
    ".json": ("entry", "field"),
}
_N_SHOWN = 5
_AS_ROWS = "write one object a line with the fields video and caption"


@dataclass(slots=True)  # not frozen: that makes a file of a million rows a third slower to read
class CaptionRow:
    """One row of a caption file; what the file leaves empty is None.

    Args:
        video: the video's name as the file gives it.
        caption: a sentence about the video or about its part from `start_s` to `end_s`.
        start_s: seconds, 0 or more; given together with `end_s` or not at all.
        end_s: seconds, `start_s` or later.
        split: such as train, val or test.
        label: the class of the video.
        question: a question about the video.
        answer: its answer.
        candidates: the closed set that the answer is chosen from.
        line: where the row begins: line of a text file, row of a Parquet file, entry of a JSON list; from 1.
        file: which it is in, for messages.
    """

    video: str
    caption: str | None
    start_s: float | None
    end_s: float | None
    split: str | None
    label: str | None
    question: str | None
    answer: str | None
    candidates: tuple[str, ...] | None
    line: int
    file: str = field(default="", compare=False)


@dataclass
class VideoText:
    """All that caption files say about one video, in their order.

    Args:
        captions: (text, start_s, end_s); no times mean the whole video.
        labels: without repetitions.
        questions: (question, answers, candidates); each question once, candidates without repetitions.
        split: the part of the dataset the video belongs to.
    """

    captions: list[tuple[str, float | None, float | None]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    questions: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    split: str | None = None

    def as_columns(self) -> dict[str, Any]:
        """Values of the text columns of a videos dataset."""
        return {
            "captions": [{"text": t, "start_s": a, "end_s": b} for t, a, b in self.captions],
            "labels": self.labels,
            "questions": [{"question": q, "answers": a, "candidates": c} for q, a, c in self.questions],
            "split": self.split,
        }


class MatchedText(NamedTuple):
    """The text of each video that rows name, and the names that fit no video, each once, in the file's order."""

    texts: dict[str, VideoText]
    unmatched: list[str]


def read_caption_file(path: Path) -> list[CaptionRow]:
    """Reads a caption file; its kind is told by its suffix, and JSON by its content (`annotations`).

    Tables need a column `video`; `caption`, `start_s` and `end_s`, `split`, `label` or `category`, `question`, `answer` and
    `candidates` are optional, other columns are ignored. In CSV and TSV, `candidates` is a JSON list or texts separated by `|`.

    Args:
        path: `.csv`, `.tsv`, `.jsonl`, `.ndjson` (UTF-8, with or without a byte order mark), `.parquet` or `.json`.

    Returns:
        The rows in the file's order, at least one.

    Raises:
        VbcliError: the file cannot be read or a value in it is wrong; the message names file, line and column.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise VbcliError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}", hint="name a caption file")
    try:
        if suffix in (".csv", ".tsv"):
            rows = list(_iter_csv(path, "," if suffix == ".csv" else "\t"))
        elif suffix in (".jsonl", ".ndjson"):
            rows = list(_iter_jsonl(path))
        elif suffix == ".parquet":
            rows = list(_iter_parquet(path))
        elif suffix == ".json":
            rows = list(_iter_json(path))
        else:
            raise VbcliError(f"{path} is not a kind of caption file that can be read", hint=f"use one of: {', '.join(_WORDS)}")
    except OSError as error:
        raise VbcliError(f"{path} cannot be read: {error.strerror or error}", hint="look at its permissions") from None
    if not rows:
        raise VbcliError(f"{path} holds no rows", hint="write a line for each caption, below the names of the columns")
    return rows


def _iter_csv(path: Path, delimiter: str) -> Iterator[CaptionRow]:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(path, header)
        wanted = [(i, name) for i, name in enumerate(header) if name in COLUMNS]
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    message = f"{len(cells)} values where the first line names {len(header)} columns"
                    raise _error(path, line, message, "put quotes around texts with commas")
                yield build_row({name: cells[i] for i, name in wanted}, path, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise _error(path, line, str(error), 'put quotes around the text and write each quote inside it twice ("")') from None


def _iter_jsonl(path: Path) -> Iterator[CaptionRow]:
    for line, text in enumerate(_read_text(path).split("\n"), start=1):
        if text.strip():
            try:
                cells = json.loads(text)
            except (ValueError, RecursionError) as error:
                cause = f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)
                raise _error(path, line, f"not valid JSON: {cause}", _AS_ROWS) from None
            if not isinstance(cells, dict):
                raise _error(path, line, "not a JSON object", _AS_ROWS)
            if "video" not in cells:
                raise _error(path, line, f"no field 'video' (found: {', '.join(cells)})", _AS_ROWS)
            yield from _build_rows(cells, path, line)


def _iter_parquet(path: Path) -> Iterator[CaptionRow]:
    try:
        with opened(path) as source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            _check_columns(path, names)
            first = 1
            for batch in file.iter_batches(columns=[name for name in COLUMNS if name in names]):
                for line, cells in enumerate(_cells_of(batch, path, first), start=first):
                    yield from _build_rows(cells, path, line)
                first += batch.num_rows
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise VbcliError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _cells_of(batch: pa.RecordBatch, path: Path, first: int) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        line, name = next(
            (i, name) for i in range(batch.num_rows) for name in batch.schema.names if not _is_decodable(batch.column(name)[i])
        )
        raise cell_error(path, first + line, name, "holds a character that is not UTF-8") from None


def _is_decodable(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _iter_json(path: Path) -> Iterator[CaptionRow]:
    text = _read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from _iter_jsonl(path)
            return
        where = (
            f", line {error.lineno}: not valid JSON: {error.msg}" if isinstance(error, json.JSONDecodeError) else f" is not read: {error}"
        )
        raise VbcliError(f"{path}{where}", hint="it is damaged: copy it again, or write the captions as .csv") from None
    for entry, cells in iter_annotations(data, path):
        yield from _build_rows(cells, path, entry)


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise VbcliError(f"{path}, line {line}: a character is not UTF-8", hint="save the file as UTF-8") from None


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if "video" not in names:
        raise VbcliError(f"{path} has no column 'video' (found: {', '.join(names) or 'none'})", hint=f"columns are: {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise VbcliError(f"{path} has the column '{name}' twice")


def _error(path: Path | str, line: int, message: str, hint: str | None = None) -> VbcliError:
    return VbcliError(f"{path}, {_WORDS.get(Path(str(path)).suffix.lower(), ('line', ''))[0]} {line}: {message}", hint)


def cell_error(path: Path, line: int, name: str, message: str, hint: str | None = None) -> VbcliError:
    """An error about one value of a caption file, such as the column `candidates` of a row."""
    return _error(path, line, f"{_WORDS[path.suffix.lower()][1]} '{name}' {message}", hint)


def _build_rows(cells: Mapping[str, Any], path: Path, line: int) -> Iterator[CaptionRow]:
    """A row of values by column, or of a list of captions one each, the first with the question."""
    captions = cells.get("caption")
    if not isinstance(captions, list):
        yield build_row(cells, path, line)
        return
    for i, caption in enumerate(captions or [None]):
        said = cells if i == 0 else {name: value for name, value in cells.items() if name not in ("question", "answer", "candidates")}
        yield build_row({**said, "caption": caption}, path, line)


def build_row(cells: Mapping[str, Any], path: Path, line: int) -> CaptionRow:
    """A row of values by column.

    Raises:
        VbcliError: one of them is wrong; the message names file, line and column.
    """

    def text(name: str) -> str | None:
        value = cells.get(name)
        return (without_surrogates(value).strip() or None) if type(value) is str else _as_text(value, path, line, name)

    # Not stripped: spaces at the ends of a file name are part of it, and `match_rows` forgives them.
    video = cells["video"] if isinstance(cells["video"], str) else text("video")
    if not video or video.isspace():
        raise cell_error(path, line, "video", "is empty")
    start_s = _as_seconds(cells.get("start_s"), path, line, "start_s")
    end_s = _as_seconds(cells.get("end_s"), path, line, "end_s")
    if (start_s is None) != (end_s is None):
        given, absent = ("start_s", "end_s") if end_s is None else ("end_s", "start_s")
        raise cell_error(path, line, absent, f"is empty where '{given}' is given")
    if start_s is not None and end_s is not None and end_s < start_s:
        raise cell_error(path, line, "end_s", f"is {end_s:g}, before the start at {start_s:g}")
    question, answer = text("question"), text("answer")
    candidates = _as_candidates(cells.get("candidates"), path, line)
    if question is None and (answer is not None or candidates is not None):
        raise cell_error(path, line, "question", f"is empty where '{'candidates' if answer is None else 'answer'}' is given")
    label = text("label") or text("category")
    return CaptionRow(video, text("caption"), start_s, end_s, text("split"), label, question, answer, candidates, line, str(path))


def _as_text(value: object, path: Path, line: int, name: str) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return without_surrogates(value).strip() or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A table library turns the classes 3 and "none" into 3.0 and NaN.
        return str(value) if isinstance(value, int) else f"{value:.15g}"
    raise cell_error(path, line, name, f"is not text but {type(value).__name__}")


def _as_seconds(value: object, path: Path, line: int, name: str) -> float | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and value.isspace()):
        return None
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise cell_error(path, line, name, f"is {value!r}, not a number of seconds from 0 on")
    return seconds


def _as_candidates(value: object, path: Path, line: int) -> tuple[str, ...] | None:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
            cause = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise cell_error(path, line, "candidates", f"is not a valid JSON list: {cause}") from None
    elif isinstance(value, str):
        value = value.split("|")
    if value is None:
        return None
    if not isinstance(value, list):
        raise cell_error(path, line, "candidates", f"is not a list but {type(value).__name__}")
    texts = (_as_text(v, path, line, "candidates") for v in value)
    return tuple(t for t in texts if t is not None) or None


def match_rows(rows: Iterable[CaptionRow], video_ids: Sequence[str], source: str) -> MatchedText:
    """Gathers what rows say about each video.

    A row names a video by its id, else by the last part of it, else by that without suffix. Names need not agree in Unicode
    normal form, since some systems store the accents of file names apart.

    Args:
        rows: of caption files.
        video_ids: POSIX paths relative to the scanned folder, suffix included.
        source: for messages, where a row does not tell its file.

    Returns:
        The text of each video that some row names, and the names that fit no video.

    Raises:
        VbcliError: a name fits several videos, or a video is in two splits.
    """
    resolver = _NameIndex(video_ids, source)
    texts: dict[str, VideoText] = {}
    found: dict[str, str | None] = {}
    split_in: dict[str, str] = {}
    questions: dict[tuple[str, str], tuple[str, list[str], list[str]]] = {}
    for row in rows:
        video_id = found[row.video] if row.video in found else found.setdefault(row.video, resolver.find(row))
        if video_id is None:
            continue
        text = texts.get(video_id) or texts.setdefault(video_id, VideoText())
        if row.caption is not None:
            text.captions.append((row.caption, row.start_s, row.end_s))
        if row.label is not None and row.label not in text.labels:
            text.labels.append(row.label)
        if row.split is not None and row.split != text.split:
            if text.split is not None:
                where = "further up" if split_in[video_id] == row.file else f"in {split_in[video_id]}"
                message = f"video '{video_id}' is in split '{row.split}', but in '{text.split}' {where}"
                raise _error(row.file or source, row.line, message)
            text.split, split_in[video_id] = row.split, row.file
        if row.question is not None:
            entry = questions.get((video_id, row.question))
            if entry is None:
                entry = questions[video_id, row.question] = (row.question, [], [])
                text.questions.append(entry)
            if row.answer is not None:
                entry[1].append(row.answer)
            entry[2].extend(c for c in dict.fromkeys(row.candidates or ()) if c not in entry[2])
    return MatchedText(texts, [name for name, video_id in found.items() if video_id is None])


def resolve_names(rows: Iterable[CaptionRow], video_ids: Sequence[str], source: str) -> list[str]:
    """The video that each row names, found as `match_rows` finds it; a name that fits none stays as it is.

    Raises:
        VbcliError: a name fits several videos.
    """
    resolver = _NameIndex(video_ids, source)
    return [resolver.find(row) or row.video for row in rows]


class _NameIndex:
    """Finds videos by id, by the last part of the id and by that without suffix."""

    def __init__(self, video_ids: Sequence[str], source: str) -> None:
        self.source = source
        self.ids = set(video_ids)

    def find(self, row: CaptionRow) -> str | None:
        name = row.video
        if name in self.ids:
            return name
        key = _normal(name)
        stem, dot, suffix = key.rpartition(".")
        # Imported features are of videos without a suffix.
        bare = stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else key
        for level, wanted in (*((level, key) for level in self.levels), *((level, bare) for level in self.levels[:2])):
            if wanted in level:
                matches = level[wanted]
                if len(matches) > 1:
                    shown = ", ".join(matches[:_N_SHOWN]) + (", ..." if len(matches) > _N_SHOWN else "")
                    message = f"'{name}' names {len(matches)} videos: {shown}"
                    raise _error(row.file or self.source, row.line, message, "write the path relative to the folder of videos")
                return matches[0]
        return None

    @cached_property
    def levels(self) -> tuple[dict[str, list[str]], ...]:
        """Ids by each of the three kinds of name; not needed while names are ids."""
        levels: tuple[dict[str, list[str]], ...] = ({}, {}, {})
        for video_id in sorted(self.ids):
            name = _normal(video_id)
            base = name.rpartition("/")[2]
            for level, key in zip(levels, (name, base, base.rpartition(".")[0] or base), strict=True):
                level.setdefault(key, []).append(video_id)
        return levels


def _normal(name: str) -> str:
    """Undecodable bytes of a file name percent-escaped, as in ids; then Unicode NFC, and no space at the ends."""
    if name.isascii():
        return name.strip()
    escaped = re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m[0]) - 0xDC00:02X}", name)
    return unicodedata.normalize("NFC", escaped).strip()
