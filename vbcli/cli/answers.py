"""answer: questions about videos."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vbcli.cli import console
from vbcli.cli.options import (
    DEFAULT_WORKSPACE,
    LIMITS,
    AsJson,
    Device,
    DeviceName,
    Evidence,
    Executor,
    ExecutorName,
    Ffmpeg,
    FollowLinks,
    MaxFrames,
    MaxPixels,
    MemoryMb,
    ModelThreads,
    RetryFailed,
    Source,
    Split,
    TimeoutS,
    Workers,
    Workspace,
)
from vbcli.cli.runs import finish_run, run_options
from vbcli.errors import UsageError, VbcliError
from vbcli.media.limits import Limits
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.stages.answer import AskedQuestion
    from vbcli.text.captionfiles import CaptionRow
    from vbcli.textvocab import TextVocabulary

N_SHOWN = 20


def answer(
    source: Source,
    question: Annotated[str | None, typer.Argument(help="Asked of every video.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Table with the columns video and question, and candidates where an answer is chosen from some.")
    ] = None,
    choose: Annotated[list[str] | None, typer.Option(help="An answer that may be chosen; give two or more.")] = None,
    answers_dir: Annotated[Path | None, typer.Option("--out", help="Output; the workspace's answers/<folder>-<key> if left out.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Of train --task answer; the workspace's checkpoints/answer if left out.")] = None,
    split: Split = None,
    evidence: Evidence = False,
    beams: Annotated[int, typer.Option(help="Beams of the search; 1 is greedy.")] = 4,
    max_length: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 32,
    executor: Executor = ExecutorName.processes,
    workers: Workers = 0,
    threads: ModelThreads = 0,
    device: Device = DeviceName.auto,
    retry_failed: RetryFailed = False,
    ffmpeg: Ffmpeg = "bundled",
    follow_links: FollowLinks = False,
    timeout_s: TimeoutS = LIMITS.timeout_s,
    memory_mb: MemoryMb = LIMITS.memory_mb,
    max_pixels: MaxPixels = LIMITS.max_pixels,
    max_frames: MaxFrames = LIMITS.max_frames,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Answer questions about videos: one of all, those of a table, or those that a tokens dataset has."""
    places = Places(workspace)
    limits = Limits(timeout_s, memory_mb, max_pixels, max_frames)
    model_dir = checkpoint or places.checkpoints_dir / "answer"
    asked, video_ids = _asked(source, question, questions, tuple(choose or ()), model_dir, follow_links)
    from vbcli.cli.apply import ask
    from vbcli.config import DecodingConfig
    from vbcli.models.devices import resolve_device
    from vbcli.stages.answer import Answer

    decoding = DecodingConfig(beams, max_length, no_repeat_ngram_size=0)
    stage = Answer(
        checkpoint_dir=str(model_dir),
        split=split,
        threads=threads,
        device=resolve_device(device.value),
        questions=asked,
        video_ids=video_ids,
        decoding=decoding,
        is_grounded=evidence,
    )
    target = answers_dir or places.results_dir("answers", source, stage.identity())
    with run_options("answer", executor, workers, retry_failed, ffmpeg, follows_links=follow_links, limits=limits) as options:
        report = ask(source, target, stage, options)
    rows = _rows(target)
    if not as_json:
        _show(rows, target)
    finish_run(report, "answers", as_json, rows=rows)


def _asked(
    source: Path, question: str | None, questions: Path | None, choose: tuple[str, ...], model_dir: Path, follows_links: bool
) -> tuple[tuple[AskedQuestion, ...], tuple[tuple[str, str], ...]]:
    """What is asked, and the videos that names in it are of."""
    from vbcli.pipeline import dataset_kind
    from vbcli.stages.answer import AskedQuestion

    if question is not None and questions is not None:
        raise UsageError("give one question, or --questions FILE")
    if choose and (question is None or len(choose) < 2):
        raise UsageError("--choose goes with one question, and is given twice or more")
    if len({text.strip() for text in choose} - {""}) < len(choose):
        raise UsageError("--choose names an answer twice, or an empty one", hint="name each answer once")
    if question is not None:
        if not question.strip():
            raise UsageError("the question is empty", hint="ask something, such as: what color is the ball?")
        if not re.search(r"\w", question):
            raise UsageError(f"there is no question in '{question}'", hint="say what it is about, such as: what color is the ball?")
        if choose:
            _check_choices(choose, model_dir)
        return (AskedQuestion(None, question, choose),), ()
    if questions is None:
        if source.exists() and dataset_kind(source) != "tokens":
            raise UsageError("there is no question", hint="give one after the folder, or --questions FILE")
        return (), ()
    return _read_questions(source, questions, model_dir, follows_links)


def _check_choices(choose: tuple[str, ...], model_dir: Path) -> None:
    for alike in _vocabulary(model_dir).group_alike(choose):
        if len(alike) > 1:
            raise UsageError(f"--choose names '{alike[0]}' and '{alike[1]}', which the model reads alike", hint="name each answer once")


def _vocabulary(model_dir: Path) -> TextVocabulary:
    from vbcli.checkpointfiles import read_checkpoint_config
    from vbcli.textvocab import load_text_vocabulary

    read_checkpoint_config(model_dir, "answer")
    return load_text_vocabulary(model_dir / "tokenizer.json")


def _read_questions(
    source: Path, path: Path, model_dir: Path, follows_links: bool
) -> tuple[tuple[AskedQuestion, ...], tuple[tuple[str, str], ...]]:
    """The questions of a table, and the videos of `source` that its names are of."""
    from vbcli.inference import videos_of
    from vbcli.stages.answer import AskedQuestion
    from vbcli.text.captionfiles import read_caption_file, resolve_names

    table = read_caption_file(path)
    rows = [row for row in table if row.question]
    if not rows:
        raise VbcliError(f"{path} holds no questions", hint="it needs the columns video and question")
    if len(rows) < len(table):
        console.note(f"answer: {len(table) - len(rows)} rows of {path} have no question and are left out")
    _check_candidates(rows, path, model_dir)
    known = videos_of(source, follows_links=follows_links)
    if not known:
        raise VbcliError(f"{source} holds no videos", hint="all of them failed: see its folder _errors")
    names = resolve_names(rows, sorted(known), str(path))
    unknown = sorted(set(names) - known)
    if len(unknown) == len(set(names)):
        raise VbcliError(f"{path} names none of the videos of {source}", hint=f"its first is {unknown[0]}; there is {min(known)}")
    if unknown:
        console.warn(f"{path} names {len(unknown)} of its videos that are not there, first {unknown[0]}")
    asked = dict.fromkeys(AskedQuestion(row.video, row.question or "", tuple(row.candidates or ())) for row in rows)
    return tuple(asked), tuple(dict(zip((row.video for row in rows), names, strict=True)).items())


def _check_candidates(rows: Sequence[CaptionRow], path: Path, model_dir: Path) -> None:
    from vbcli.text.captionfiles import cell_error

    first = {candidates: row.line for row in reversed(rows) if (candidates := row.candidates)}
    if not first:
        return
    vocabulary = _vocabulary(model_dir)
    for candidates, line in first.items():
        if len(vocabulary.group_alike(candidates)) == 1:
            names = [f"'{text}'" for text in dict.fromkeys(candidates)]
            read = f", as the model reads {' and '.join(names)} alike" if len(names) > 1 else f", {names[0]}"
            raise cell_error(path, line, "candidates", f"names a single answer{read}", "name two or more, or none")


def _rows(target: Path) -> list[dict[str, Any]]:
    from vbcli.shards import read_rows

    columns = ["video_id", "question", "answer", "probability", "is_sure", "unknown_words", "candidates"]
    return read_rows(target, [*columns, "evidence_start_s", "evidence_end_s"])


def _show(rows: list[dict[str, Any]], target: Path) -> None:
    shown = console.shown(rows, N_SHOWN)
    table = [
        (
            row["video_id"],
            row["question"],
            row["answer"] if row["is_sure"] else f"not sure: {row['answer']}{_doubt(row)}",
            f"{row['probability']:.2f}",
            console.format_span(row["evidence_start_s"], row["evidence_end_s"]),
        )
        for row in shown
    ]
    caption = f"{len(rows)} in all: {target}" if len(rows) > len(shown) else str(target)
    console.print_table("Answers", ("video", "question", "answer", "probability", "rests on"), table, caption)
    if not rows:
        console.note("no video has a question")


def _doubt(row: dict[str, Any]) -> str:
    from vbcli.training.answering import content_words

    if row["unknown_words"]:
        return f" (no training question had: {', '.join(row['unknown_words'])})"
    return "" if content_words(row["question"]) else " (the question names nothing to look for)"
