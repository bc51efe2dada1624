"""evaluate and inspect: what came out, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vbcli.cli import console
from vbcli.cli.options import DEFAULT_WORKSPACE, AsJson, Workspace
from vbcli.errors import UsageError, VbcliError
from vbcli.workspace import Workspace as Places

if TYPE_CHECKING:
    from vbcli.evaluation.captions import Evaluation, References
    from vbcli.evaluation.classes import ClassEvaluation

Run = TypeVar("Run")


def evaluate(
    captions: Annotated[
        Path | None,
        typer.Argument(
            help="Captions (dataset or file), answers, classes, summaries, or an index; the workspace's newest captions if left out."
        ),
    ] = None,
    references: Annotated[
        Path | None, typer.Argument(help="Caption file (of labels for classes) or dataset; the workspace's tokens/ if left out.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="Results of another system, for a row; those of one name are its runs with other seeds ('captions', 'classes', 'answers', "
            "'summary': the first row's).",
        ),
    ] = None,
    baselines: Annotated[Path | None, typer.Option(help="Tokens dataset with the training videos, for the baselines.")] = None,
    lexicon: Annotated[Path | None, typer.Option(help="JSON file of what captions should name: slot, value, forms.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Of classes: draw their confusions and calibration (.png, .svg, .pdf).")] = None,
    candidates: Annotated[int | None, typer.Option(min=2, help="Of an index, score so many of the videos; all if left out.")] = None,
    split: Annotated[str | None, typer.Option(help="Score the videos of this split; all but train if left out.")] = None,
    meteor: Annotated[bool, typer.Option(help="Compute METEOR, too; its Java program takes many seconds.")] = True,
    workspace: Workspace = DEFAULT_WORKSPACE,
    as_json: AsJson = False,
) -> None:
    """Score captions: BLEU, ROUGE-L, CIDEr and, with Java, METEOR; beside baselines.

    The baselines are the caption of the nearest training video, the best single training caption for all, and the same captions with the
    videos shuffled (mean of 20 permutations).

    Classes are scored by accuracy, macro F1 and calibration, beside a linear probe of the features and the most frequent class; answers by
    exact match and F1, beside what the question alone suggests; an index by recall and median rank in both directions; summaries by the
    events that they show (captions with start_s and end_s), beside segments at even distances.

    The gain over each other row (in CIDEr, accuracy or exact match, F1 of summaries) has the interval of a paired bootstrap.
    """
    from vbcli.pipeline import dataset_kind
    from vbcli.retrieval.index import is_index
    from vbcli.shards import read_manifest

    places = Places(workspace)
    given = captions or places.newest_captions()
    if given is None:
        raise VbcliError(f"the workspace {places.root} has no captions", hint="make them with: vbcli caption FOLDER")
    if baselines is not None:
        read_manifest(baselines, "tokens")
    against = references or places.tokens_dir
    if not against.exists():
        raise VbcliError(f"{against} does not exist", hint="name a caption file or a dataset as REFERENCES")
    tokens_dir = baselines or _first_tokens(against, places)
    kind = "index" if is_index(given) else dataset_kind(given)
    _check_options(kind, {"--also": also or None, "--lexicon": lexicon, "--picture": picture, "--candidates": candidates})
    if kind == "index":
        _evaluate_index(given, against, split, candidates, lexicon, as_json)
    elif kind == "answers":
        _evaluate_answers(given, against, split, also or [], tokens_dir, as_json)
    elif kind == "summaries":
        _evaluate_summaries(given, against, split, also or [], as_json)
    elif kind == "classes":
        _evaluate_classes(given, against, split, also or [], tokens_dir, picture, as_json)
    else:
        _evaluate_captions(given, against, split, also or [], tokens_dir, lexicon, as_json, has_meteor=meteor)


OPTIONS = {
    "index": ("--lexicon", "--candidates"),
    "classes": ("--also", "--picture"),
    "answers": ("--also",),
    "summaries": ("--also",),
}
"""What only some kinds of results are scored by."""


def _check_options(kind: str | None, given: Mapping[str, object]) -> None:
    known = OPTIONS.get(kind or "", ("--also", "--lexicon"))
    wrong = next((name for name, value in given.items() if value is not None and name not in known), None)
    if wrong:
        raise UsageError(f"{wrong} is not for {'an index' if kind == 'index' else kind if kind in OPTIONS else 'captions'}")


def _evaluate_captions(
    given: Path,
    against: Path,
    split: str | None,
    also: Sequence[str],
    tokens_dir: Path | None,
    lexicon: Path | None,
    as_json: bool,
    *,
    has_meteor: bool,
) -> None:
    from vbcli.evaluation.captions import ROWS, evaluate_captions, read_captions, read_failed, read_references
    from vbcli.metrics.mentions import load_lexicon

    rows, failed = read_captions(given, against), read_failed(given)
    truths = read_references(against, [*rows, *failed])
    rows = {v: rows[v] for v in _held_out(truths, list(rows), split, "captions of videos")}
    reruns, others = _read_also(also, ROWS, lambda path: read_captions(path, against))
    named = load_lexicon(lexicon) if lexicon else None
    evaluation = evaluate_captions(
        rows, truths.captions, reruns=reruns, others=others, tokens_dir=tokens_dir, lexicon=named, with_meteor=has_meteor
    )
    evaluation.notes += truths.failure_notes(failed, truths.captions, list(rows), split)
    if tokens_dir is None:
        evaluation.notes.append("no tokens dataset named (--baselines): no baselines from training captions")
    if as_json:
        _print_json("captions", given, against, evaluation)
        return
    _print_columns(f"{given} against {against}", evaluation)
    _print_gains(evaluation, "CIDEr", "videos")


def _read_also(also: Sequence[str], rows: Sequence[str], read: Callable[[Path], Run]) -> tuple[list[Run], dict[str, list[Run]]]:
    """What `--also` names: further runs of the system of the first row, and the runs of others by name."""
    from vbcli.evaluation.captions import name_systems

    runs = {name: [read(path) for path in paths] for name, paths in name_systems(also, rows).items()}
    return runs.pop(rows[0], []), runs


def _held_out(truths: References, video_ids: Sequence[str], split: str | None, what: str) -> list[str]:
    """The videos to score; it is told how many are left out."""
    scored = truths.held_out(video_ids, split)
    if len(scored) < len(video_ids):
        console.note(f"evaluate: {len(video_ids) - len(scored)} {what} in other splits are left out; --split train scores training videos")
    if split is None and truths.are_for_training(scored):
        console.note(f"evaluate: all {len(scored)} {what} are in the split 'train': a model that learned from them is scored too high")
    return scored


def _first_tokens(against: Path, places: Places) -> Path | None:
    """A tokens dataset that knows the training videos."""
    from vbcli.pipeline import dataset_kind

    return next((d for d in (against, places.tokens_dir) if dataset_kind(d) == "tokens"), None)


def _evaluate_classes(
    given: Path, against: Path, split: str | None, also: Sequence[str], tokens_dir: Path | None, picture: Path | None, as_json: bool
) -> None:
    from vbcli.evaluation.captions import read_failed, read_references
    from vbcli.evaluation.classes import GIVEN, ROWS, evaluate_classes, read_classes

    if picture:
        from vbcli.pictures import picture_format

        picture_format(picture)
    rows, failed = read_classes(given), read_failed(given)
    truths = read_references(against, [*rows.scores, *failed])
    scored = _held_out(truths, list(rows.scores), split, "videos")
    reruns, others = _read_also(also, ROWS, read_classes)
    evaluation = evaluate_classes(rows, truths.labels, scored, tokens_dir, reruns=reruns, others=others)
    evaluation.notes += truths.failure_notes(failed, truths.labels, scored, split)
    if picture:
        from vbcli.pictures import draw_classes

        draw_classes(evaluation, picture)
        evaluation.notes.append(f"drawn in {picture}")
    if as_json:
        _print_json("classes", given, against, evaluation)
        return
    _print_columns(f"{given} against {against}", evaluation)
    _print_confusions(evaluation)
    _print_gains(evaluation, next(iter(evaluation.scores[GIVEN])), "videos")


def _print_confusions(evaluation: ClassEvaluation) -> None:
    """What is taken for what, and how far probabilities can be believed."""
    from vbcli.metrics.classes import AGAINST_REST

    if evaluation.confusions:
        rows = [(name, *map(str, row)) for name, row in zip(evaluation.classes, evaluation.confusions, strict=True)]
        console.print_table("Videos by true class (rows) and first guess (columns)", ("", *evaluation.classes), rows)
    else:
        rows = [(of_class.name, *map(str, of_class.as_row())) for of_class in evaluation.counts]
        console.print_table("Videos, each class against the rest", ("", *AGAINST_REST), rows)
    bins = [(f"{b.low:.1f} to {b.high:.1f}", str(b.n_guesses), f"{b.confidence:.3f}", f"{b.accuracy:.3f}") for b in evaluation.reliability]
    console.print_table("Calibration", (f"probability of the {evaluation.guess}", "guesses", "mean probability", "right"), bins)


def _evaluate_answers(given: Path, against: Path, split: str | None, also: Sequence[str], tokens_dir: Path | None, as_json: bool) -> None:
    from vbcli.evaluation.answers import ROWS, evaluate_answers, read_answers
    from vbcli.evaluation.captions import read_references

    rows = read_answers(given)
    truths = read_references(against, rows.video_ids)
    scored = _held_out(truths, rows.video_ids, split, "answered videos")
    reruns, others = _read_also(also, ROWS, read_answers)
    evaluation = evaluate_answers(rows, truths, scored, tokens_dir, reruns=reruns, others=others)
    if as_json:
        _print_json("answers", given, against, evaluation)
        return
    _print_rows(f"{given} against {against}", evaluation.scores, evaluation.spread)
    names = list(next(iter(evaluation.scores.values())))
    kinds = [(kind, str(int(s["questions"])), *(f"{s[name]:.3f}" for name in names)) for kind, s in evaluation.kinds.items()]
    console.print_table("By the first words of the question", ("", "questions", *names), kinds)
    _print_gains(evaluation, "exact match", "questions")


def _evaluate_summaries(given: Path, against: Path, split: str | None, also: Sequence[str], as_json: bool) -> None:
    from vbcli.evaluation.captions import read_failed, read_references
    from vbcli.evaluation.summaries import ROWS, evaluate_summaries, read_segments

    found, failed = read_segments(given), read_failed(given)
    truths = read_references(against, [*found, *failed])
    scored = _held_out(truths, list(found), split, "summaries of videos")
    reruns, others = _read_also(also, ROWS, read_segments)
    evaluation = evaluate_summaries({v: found[v] for v in scored}, truths.events, reruns=reruns, others=others)
    evaluation.notes += truths.failure_notes(failed, truths.events, scored, split)
    if as_json:
        _print_json("summaries", given, against, evaluation)
        return
    _print_rows(f"{given} against {against}", evaluation.scores, evaluation.spread)
    _print_gains(evaluation, "F1", "videos")


def _evaluate_index(given: Path, against: Path, split: str | None, candidates: int | None, lexicon: Path | None, as_json: bool) -> None:
    from vbcli.evaluation.captions import read_references
    from vbcli.metrics.mentions import load_lexicon
    from vbcli.retrieval.evaluate import evaluate_index
    from vbcli.retrieval.index import VideoIndex
    from vbcli.retrieval.search import open_reader

    index = VideoIndex(given)
    video_ids = [item.video_id for item in index.items("video")]
    truths = read_references(against, video_ids)
    scored = _held_out(truths, video_ids, split, "videos")
    captions = {v: truths.captions[v] for v in scored if truths.captions.get(v)}
    named = load_lexicon(lexicon) if lexicon else None
    evaluation = evaluate_index(index, open_reader(index), captions, n_candidates=candidates, lexicon=named)
    if as_json:
        console.print_json({"index": str(given), "references": str(against), **vars(evaluation)})
        return
    _print_rows(f"{given} against {against}", evaluation.scores, {})
    for sentence in evaluation.notes:
        console.note(sentence)


def _print_json(kind: str, given: Path, against: Path, evaluation: Evaluation) -> None:
    from dataclasses import asdict

    console.print_json({kind: str(given), "references": str(against), **asdict(evaluation)})


def _print_rows(title: str, scores: Mapping[str, Mapping[str, float]], spread: Mapping[str, Mapping[str, float]]) -> None:
    """A row a system, a column a score."""
    names = list(next(iter(scores.values())))
    rows = [(system, *(_cell(of, spread.get(system, {}), name) for name in names)) for system, of in scores.items()]
    console.print_table(title, ("", *names), rows)


def _print_columns(title: str, evaluation: Evaluation) -> None:
    """A column a system, a row a score."""
    systems = list(evaluation.scores)
    names = list(dict.fromkeys(name for scores in evaluation.scores.values() for name in scores))
    rows = [(name, *(_cell(evaluation.scores[s], evaluation.spread.get(s, {}), name) for s in systems)) for name in names]
    console.print_table(title, ("", *systems), rows)


def _print_gains(evaluation: Evaluation, score: str, over: str) -> None:
    """What was given has above the other rows, and the notes."""
    if evaluation.gains:
        gained = [(name, f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}") for name, gain in evaluation.gains.items()]
        console.print_table(f"{score[0].upper()}{score[1:]} above", ("", "gain", f"95 % of resampled {over}"), gained)
    for sentence in evaluation.notes:
        console.note(sentence)


def _cell(scores: Mapping[str, float], spread: Mapping[str, float], name: str) -> str:
    if name not in scores:
        return "-"
    return f"{scores[name]:.3f}" + (f" ±{spread[name]:.3f}" if name in spread else "")
