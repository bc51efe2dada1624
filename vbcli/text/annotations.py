"""The JSON in which benchmarks publish their captions: MSR-VTT, COCO, YouCook2, ActivityNet and VATEX, told by their content.

MSR-VTT      {"videos": [{"video_id", "split", "category"}], "sentences": [{"video_id", "caption"}]}
COCO         {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}, in evaluation kits without "file_name"
YouCook2     {"database": {VIDEO: {"subset", "recipe_type", "annotations": [{"segment": [START_S, END_S], "sentence"}]}}}
ActivityNet  the same with "label" for "sentence"; its captions {VIDEO: {"timestamps": [[START_S, END_S]], "sentences": [TEXT]}}
VATEX        [{"videoID", "enCap": [TEXT], "chCap": [TEXT]}]; the English captions are read
rows         [{"video", "caption", ...}], as a caption file has them
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vbcli.errors import VbcliError, with_article

Cells = dict[str, Any]
"""Values by the columns of a caption file."""

SPLITS = {"training": "train", "validation": "val", "validate": "val", "testing": "test"}
"""What benchmarks call the parts that are train, val and test elsewhere."""

_N_SHOWN = 5
_HINT = "compare it with the file as it was published, or write the captions as .jsonl: one object a line with the fields video and caption"


def iter_annotations(data: object, path: Path) -> Iterator[tuple[int, Cells]]:
    """The rows of a JSON file, with the number of the entry that each comes from, from 1.

    Args:
        data: the file's content.
        path: the file, for messages.

    Raises:
        VbcliError: it is none of these forms, or a value in it is wrong; the message names file, entry and field.
    """
    if isinstance(data, list) and data and isinstance(data[0], dict) and "videoID" in data[0]:
        yield from _iter_vatex(data, path)
    elif isinstance(data, list):
        yield from _iter_rows(data, path)
    elif isinstance(data, dict) and "videos" in data and "sentences" in data:
        yield from _iter_msrvtt(data, path)
    elif isinstance(data, dict) and "images" in data and "annotations" in data:
        yield from _iter_coco(data, path)
    elif isinstance(data, dict) and isinstance(data.get("database"), dict):
        yield from _iter_database(data["database"], path)
    elif isinstance(data, dict) and any(isinstance(v, dict) and {"timestamps", "sentences"} <= set(v) for v in data.values()):
        yield from _iter_activitynet(data, path)
    else:
        keys = list(data) if isinstance(data, dict) else []
        found = f"an object with the fields {', '.join(keys[:_N_SHOWN])}" if keys else with_article(type(data).__name__)
        raise VbcliError(
            f"{path} is {found}, none of MSR-VTT (videos, sentences), COCO (images, annotations), YouCook2 (database), ActivityNet "
            "captions (timestamps, sentences), VATEX (videoID, enCap) and a list of rows",
            hint="write other annotations as .jsonl: one object a line with the fields video and caption",
        )


def _iter_rows(data: list[Any], path: Path) -> Iterator[tuple[int, Cells]]:
    for i, cells in enumerate(data, start=1):
        if not isinstance(cells, dict) or "video" not in cells:
            raise VbcliError(f"{path}, entry {i}: not an object with the field 'video'", hint=_HINT)
        yield i, cells


def _iter_vatex(data: list[Any], path: Path) -> Iterator[tuple[int, Cells]]:
    """One row a sentence, and one for each video without any, as in the test part."""
    for i, entry in enumerate(data, start=1):
        place = f"{path}, entry {i}"
        if not isinstance(entry, dict):
            raise VbcliError(f"{place}: not an object", hint=_HINT)
        name, sentences = _text(entry, "videoID", place), entry.get("enCap", [])
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise VbcliError(f"{place}: field 'enCap' is not a list of texts", hint=_HINT)
        for sentence in sentences or [None]:
            yield i, {"video": name, "caption": sentence}


def _iter_msrvtt(data: Mapping[str, Any], path: Path) -> Iterator[tuple[int, Cells]]:
    """One row a sentence, with split and category of its video; then one for each video without sentences."""
    videos: dict[str, tuple[int, Cells]] = {}
    for i, place, entry in _entries(data, "videos", path):
        said = {"split": _split(entry, "split", place), "category": _word(entry, "category", place)}
        videos[_text(entry, "video_id", place)] = i, said
    described: set[str] = set()
    for i, place, entry in _entries(data, "sentences", path):
        name = _text(entry, "video_id", place)
        described.add(name)
        yield i, {"video": name, "caption": _text(entry, "caption", place), **videos.get(name, (0, {}))[1]}
    for name, (i, said) in videos.items():
        if name not in described:
            yield i, {"video": name, **said}


def _iter_coco(data: Mapping[str, Any], path: Path) -> Iterator[tuple[int, Cells]]:
    names: dict[str, str] = {}
    for _, place, entry in _entries(data, "images", path):
        image_id = _text(entry, "id", place)
        names[image_id] = image_id if entry.get("file_name") is None else _text(entry, "file_name", place)
    for i, place, entry in _entries(data, "annotations", path):
        image_id = _text(entry, "image_id", place)
        if image_id not in names:
            raise VbcliError(
                f"{place}: image_id {image_id} is not among the images", hint="each annotation names an image of the same file"
            )
        yield i, {"video": names[image_id], "caption": _text(entry, "caption", place)}


def _iter_database(database: Mapping[str, Any], path: Path) -> Iterator[tuple[int, Cells]]:
    """One row a segment, and one for each video without any."""
    for number, (name, video) in enumerate(database.items(), start=1):
        place = f"{path}, 'database', video '{name}'"
        if not isinstance(video, dict):
            raise VbcliError(f"{place}: not an object", hint=_HINT)
        whole = {"video": name, "split": _split(video, "subset", place), "category": _word(video, "recipe_type", place)}
        if not video.get("annotations"):
            yield number, whole
            continue
        for _, where, entry in _entries(video, "annotations", place):
            start_s, end_s = _span(entry.get("segment"), "segment", where)
            said = {"caption": _text(entry, "sentence", where)} if "sentence" in entry else {"label": _text(entry, "label", where)}
            yield number, {**whole, **said, **({"start_s": start_s, "end_s": end_s} if "caption" in said else {})}


def _iter_activitynet(data: Mapping[str, Any], path: Path) -> Iterator[tuple[int, Cells]]:
    for number, (name, video) in enumerate(data.items(), start=1):
        place = f"{path}, video '{name}'"
        if not isinstance(video, dict):
            raise VbcliError(f"{place}: not an object", hint=_HINT)
        spans, sentences = video.get("timestamps"), video.get("sentences")
        if not isinstance(spans, list) or not isinstance(sentences, list) or len(spans) != len(sentences):
            raise VbcliError(f"{place}: 'timestamps' and 'sentences' are not lists of one length", hint=_HINT)
        for i, (span, sentence) in enumerate(zip(spans, sentences, strict=True), start=1):
            start_s, end_s = _span(span, f"timestamps, entry {i}", place)
            if not isinstance(sentence, str):
                raise VbcliError(f"{place}: field 'sentences', entry {i} is not text", hint=_HINT)
            yield number, {"video": name, "caption": sentence, "start_s": start_s, "end_s": end_s}


def _entries(data: Mapping[str, Any], key: str, path: Path | str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects of a list, each with its number and its place for messages."""
    if not isinstance(data[key], list):
        raise VbcliError(f"{path}: '{key}' is not a list", hint=_HINT)
    for i, entry in enumerate(data[key], start=1):
        place = f"{path}, entry {i} of '{key}'"
        if not isinstance(entry, dict):
            raise VbcliError(f"{place}: not an object", hint=_HINT)
        yield i, place, entry


def _text(entry: Mapping[str, Any], name: str, place: str) -> str:
    value = _word(entry, name, place)
    if value is None:
        raise VbcliError(f"{place}: field '{name}' is missing", hint=_HINT)
    return str(value)


def _word(entry: Mapping[str, Any], name: str, place: str) -> str | int | None:
    """A text or a number, such as a class has; None where there is none."""
    value = entry.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise VbcliError(f"{place}: field '{name}' is not text", hint=_HINT)
    return value


def _span(value: object, name: str, place: str) -> tuple[float, float]:
    """Start and end, as they stand or, as a few of ActivityNet's do, the wrong way round."""
    if (
        not isinstance(value, list)
        or len(value) != 2
        or any(isinstance(t, bool) or not isinstance(t, int | float) or not 0 <= t < math.inf for t in value)
    ):
        raise VbcliError(f"{place}: field '{name}' is not a pair of seconds from 0 on", hint=_HINT)
    return min(value), max(value)


def _split(entry: Mapping[str, Any], name: str, place: str) -> str | None:
    value = _word(entry, name, place)
    return None if value is None else SPLITS.get(str(value), str(value))
