"""The map commands as functions: each takes a folder, runs a stage over it and gives a report.

extract_videos    videos -> frames
encode_dataset    frames or videos -> features
tokenize_dataset  features -> tokens

What a trained model does to datasets is in inference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from vbcli import shards
from vbcli.clips import ClipRule
from vbcli.digests import table_digest
from vbcli.encoderfolders import carry_encoder
from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import VbcliError, with_article
from vbcli.executors import ExecutorName, open_executor
from vbcli.media.decode import MediaOptions
from vbcli.media.program import ffmpeg_build
from vbcli.runner import (
    Executor,
    Progress,
    RunReport,
    ShardInput,
    carry_videos,
    check_same_videos,
    count_jobs,
    dataset_inputs,
    last_run,
    no_note,
    no_progress,
    read_videos,
    run_stage,
)
from vbcli.shots import Detector
from vbcli.stage import Stage
from vbcli.stages.extract import Extract
from vbcli.stages.scan import Probe, Scan, scan_videos
from vbcli.storage import copy_folder, remove_folder
from vbcli.workers import count_cores

TRUNCATED_S = 1.0
"""A video that lacks so much, and a tenth of its length, was cut off."""


@dataclass(frozen=True)
class RunOptions:
    """How a dataset is run.

    Args:
        executor: `serial`, `processes`, or one that is open already.
        n_workers: worker processes; 0 is as many as keep all cores busy.
        is_retry: also redo the items that failed before.
        part: (i, n) makes part i of n of the shards, from 1; the others are for other machines.
        limit: plan no more than so many videos of a folder; None plans all.
        language: of the subtitles beside videos; None takes the first.
        is_dry: write nothing, and count what would be done.
        on_note: called with sentences for the user.
        on_progress: called when shards are done.
    """

    executor: ExecutorName | Executor = "processes"
    n_workers: int = 0
    is_retry: bool = False
    media: MediaOptions = field(default_factory=MediaOptions)
    part: tuple[int, int] = (1, 1)
    limit: int | None = None
    language: str | None = None
    is_dry: bool = False
    on_note: Callable[[str], None] = field(default=no_note, compare=False)
    on_progress: Progress = field(default=no_progress, compare=False)

    def inputs_of_part(self, inputs: list[ShardInput]) -> list[ShardInput]:
        """The shards that are made here."""
        number, n_parts = self.part
        return [shard for shard in inputs if shard.index % n_parts == number - 1]

    @contextmanager
    def open(self, modules: Sequence[str], threads: int = 1) -> Iterator[Executor]:
        """The executor, for the block.

        Args:
            modules: what its workers are going to load.
            threads: that a worker computes in.
        """
        # Found, before anything is written.
        self.media.open()
        if isinstance(self.executor, Executor):
            yield self.executor
            return
        with open_executor(self.executor, self.n_workers, modules, threads) as executor:
            yield executor


def dataset_kind(path: Path) -> str | None:
    """Kind of the dataset in a folder; None where it is none."""
    return shards.read_manifest(path).kind if (path / "manifest.json").is_file() else None


def extract_videos(
    videos_dir: Path, frames_dir: Path, stage: Extract, caption_files: Sequence[Path] = (), options: RunOptions | None = None
) -> RunReport:
    """Extracts the frames of a folder of videos, with the text that belongs to them.

    Raises:
        VbcliError: there are no videos, or the output folder holds something else.
    """
    options = options or RunOptions()
    with options.open(stage.modules()) as executor:
        if options.is_dry:
            return dry_run(stage, dry_inputs(videos_dir, frames_dir, caption_files, stage, options), frames_dir, options)
        gone = scan_folder(videos_dir, frames_dir, caption_files, stage, executor, options)
        inputs = dataset_inputs(frames_dir / "videos", stage, gone)
        stage = replace(stage, media=on_all_cores(stage.media, frames_dir / "videos"))
        report = run_noted(stage, inputs, frames_dir, executor, options, parents=parents_of(frames_dir / "videos"))
    if report.n_done and stage.mode == "fps":
        _note_truncated(frames_dir, "pts_s", 1 / stage.fps, options)
    return report


def on_all_cores(media: MediaOptions, videos_dir: Path) -> MediaOptions:
    """How the videos of a `videos` dataset are decoded: few of them leave cores idle that their decoders can use."""
    n_cores, paths = count_cores(), shards.list_shards(videos_dir)
    if 2 * len(paths) > n_cores:
        return media
    n_videos = sum(shards.read_footer(path)["n_rows"] for path in paths)
    return replace(media, threads=max(1, n_cores // max(1, n_videos)))


def _note_truncated(dataset_dir: Path, time_column: str, step_s: float, options: RunOptions) -> None:
    """Names videos whose pictures end long before their containers say: files that were cut off, and what was left of them used."""
    tables = [shards.read_shard(p, columns=["video_id", time_column]) for p in shards.list_shards(dataset_dir)]
    ends = pa.concat_tables(tables).group_by("video_id").aggregate([(time_column, "max")])
    last_s = dict(zip(*(ends.column(name).to_pylist() for name in ("video_id", f"{time_column}_max")), strict=True))
    lengths = read_videos(dataset_dir).select(["video_id", "duration_s"]).to_pylist()
    short = [
        f"{row['video_id']} ({last_s[row['video_id']]:.1f} of {row['duration_s']:.1f} s)"
        for row in lengths
        if row["video_id"] in last_s and row["duration_s"] and last_s[row["video_id"]] + step_s < 0.9 * row["duration_s"] - TRUNCATED_S
    ]
    if short:
        options.on_note(f"{len(short)} videos end long before their containers say, first {short[0]}: what there is of them is used")


def _scan(videos_dir: Path, dataset_dir: Path, caption_files: Sequence[Path], options: RunOptions) -> Scan:
    scan = scan_videos(
        videos_dir,
        dataset_dir,
        caption_files,
        limit=options.limit,
        is_dry=options.is_dry,
        follows_links=options.media.follows_links,
        language=options.language,
    )
    for sentence in scan.notes:
        options.on_note(sentence)
    return scan


def scan_folder(
    videos_dir: Path, dataset_dir: Path, caption_files: Sequence[Path], stage: Stage, executor: Executor, options: RunOptions
) -> frozenset[str]:
    """Writes the videos dataset below `dataset_dir`, once the folder is known to be free for `stage`.

    Returns:
        The planned videos that are gone from the folder.
    """
    shards.check_manifest(dataset_dir, stage.name, stage.version, stage.identity())
    scan = _scan(videos_dir, dataset_dir, caption_files, options)
    inputs = options.inputs_of_part(scan.inputs)
    run_stage(Probe(options.media), inputs, dataset_dir / "videos", executor, is_retry=options.is_retry, on_note=options.on_note)
    return scan.gone


def dry_inputs(videos_dir: Path, dataset_dir: Path, caption_files: Sequence[Path], stage: Stage, options: RunOptions) -> list[ShardInput]:
    """The shards of a folder of videos as they would be planned, once the output folder is known to be free for `stage`."""
    shards.check_manifest(dataset_dir, stage.name, stage.version, stage.identity())
    scan = _scan(videos_dir, dataset_dir, caption_files, options)
    planned = []
    for shard in scan.inputs:
        assert not isinstance(shard.source, Path)  # a dry scan writes nothing
        planned.append(replace(shard, digest=table_digest(shard.source.select(stage.input_columns))))
    return planned


def dry_run(stage: Stage, inputs: list[ShardInput], output_dir: Path, options: RunOptions) -> RunReport:
    """What a run would do."""
    report = count_jobs(stage, options.inputs_of_part(inputs), output_dir, is_retry=options.is_retry)
    for sentence in report.notes:
        options.on_note(sentence)
    return report


def parents_of(dataset_dir: Path) -> list[dict[str, Any]]:
    manifest = shards.read_manifest(dataset_dir).as_dict()
    return [{k: v for k, v in manifest.items() if k != "parents"}, *manifest["parents"]]


def run_noted(
    stage: Stage,
    inputs: list[ShardInput],
    output_dir: Path,
    executor: Executor,
    options: RunOptions,
    *,
    parents: list[dict[str, Any]],
    videos_dir: Path | None = None,
) -> RunReport:
    build = ffmpeg_build(options.media.open().executable)
    before = last_run(output_dir).get("ffmpeg", build)
    if before != build:
        options.on_note(f"{output_dir} was begun with {before}, and goes on with {build}: frames may differ in their last bits")
    report = run_stage(
        stage,
        options.inputs_of_part(inputs),
        output_dir,
        executor,
        parents=parents,
        videos_dir=videos_dir,
        is_retry=options.is_retry,
        progress=options.on_progress,
        on_note=options.on_note,
        environment={"ffmpeg": build},
    )
    for sentence in report.notes:
        options.on_note(sentence)
    return report


def encode_dataset(
    source_dir: Path,
    features_dir: Path,
    encoder: EncoderSpec,
    *,
    caption_files: Sequence[Path] = (),
    device: str = "cpu",
    threads: int = 1,
    encoder_dir: Path | None = None,
    clips: ClipRule = "fixed",
    detect_shots: Detector | None = None,
    options: RunOptions | None = None,
) -> RunReport:
    """Encodes a frames dataset, or a folder of videos without storing frames.

    Args:
        encoder_dir: of an encoder that was trained; the features carry a copy of it.
        clips: how the videos are cut into clips.
        detect_shots: what finds the shots of videos; frames know theirs.

    Raises:
        VbcliError: frames stored too sparsely for the encoder's clips or without the shots that clips are to follow, or the output folder
            holds something else.
    """
    from vbcli.stages.encode import Encode

    options = options or RunOptions()
    kind = dataset_kind(source_dir)
    if kind not in (None, "frames"):
        raise VbcliError(
            f"{source_dir} is {with_article(kind)} dataset: encode takes frames or videos",
            hint="name the videos themselves, or what vbcli extract made",
        )
    if kind is not None:
        if caption_files:
            raise VbcliError("--captions goes with videos, not with a frames dataset", hint="give it to vbcli extract or vbcli tokenize")
        if options.language:
            raise VbcliError("--language goes with videos, not with a frames dataset", hint="give it to vbcli extract")
        clips = _clips_of_frames(source_dir, encoder, clips)
    stage = Encode(encoder, "frames" if kind else "videos", device, threads, options.media, clips=clips, detect_shots=detect_shots)
    shards.check_manifest(features_dir, stage.name, stage.version, stage.identity())
    if not options.is_dry:
        copy = carry_encoder(encoder_dir, features_dir)
        stage = replace(stage, encoder_dir=None if copy is None else str(copy))
    with options.open(stage.modules()) as executor:
        if kind is None and options.is_dry:
            return dry_run(stage, dry_inputs(source_dir, features_dir, caption_files, stage, options), features_dir, options)
        if kind is None:
            gone = scan_folder(source_dir, features_dir, caption_files, stage, executor, options)
            stage = replace(stage, media=on_all_cores(stage.media, features_dir / "videos"))
            inputs = dataset_inputs(features_dir / "videos", stage, gone)
            report = run_noted(stage, inputs, features_dir, executor, options, parents=parents_of(features_dir / "videos"))
            if report.n_done:
                _note_truncated(features_dir, "end_s", encoder.clip_s, options)
            return report
        note_missing(source_dir, options)
        inputs = dataset_inputs(source_dir, stage)
        if options.is_dry:
            return dry_run(stage, inputs, features_dir, options)
        return run_noted(stage, inputs, features_dir, executor, options, parents=parents_of(source_dir), videos_dir=source_dir / "videos")


def _clips_of_frames(frames_dir: Path, encoder: EncoderSpec, clips: ClipRule) -> ClipRule:
    from vbcli.stages.encode import check_sampling, check_shots

    manifest = shards.read_manifest(frames_dir)
    check_shots(clips, manifest.config, frames_dir)
    stored = check_sampling(manifest.fact("fps"), encoder, frames_dir)
    return stored if clips == "fixed" else clips


def note_missing(dataset_dir: Path, options: RunOptions) -> None:
    n_made, n_planned = len(shards.list_shards(dataset_dir)), len(shards.list_shards(dataset_dir / "videos"))
    if n_made < n_planned:
        options.on_note(f"{dataset_dir} is incomplete: {n_made} of {n_planned} shards; run the command that makes it again")
    n_failed = len(shards.read_failures(dataset_dir))
    if n_failed:
        options.on_note(f"{n_failed} videos failed before {dataset_dir} and are left out")


def tokenize_dataset(
    features_dir: Path, tokens_dir: Path, vocab_dir: Path, *, caption_files: Sequence[Path] = (), options: RunOptions | None = None
) -> RunReport:
    """Turns features into visual tokens and joins the text.

    Args:
        caption_files: text that replaces the captions, labels, questions and splits of the videos; later runs without keep it.

    Raises:
        VbcliError: the vocabulary is of another encoder.
    """
    from vbcli.stages.tokenize import Relabel, Tokenize, relabel_inputs, tokenize_inputs
    from vbcli.vocab.artifact import load_vocabulary

    options = options or RunOptions()
    manifest = shards.read_manifest(features_dir, "features")
    vocabulary = load_vocabulary(vocab_dir)
    if vocabulary.encoder != manifest.fact("encoder"):
        raise VbcliError(
            f"the vocabulary {vocab_dir} was built on features of {vocabulary.encoder['name']}, and {features_dir} differs",
            hint="build a vocabulary of these features: vbcli build-vocab FEATURES_DIR VOCAB_DIR",
        )
    own_videos = tokens_dir / "videos"
    stage = Tokenize(str(vocab_dir), vocabulary.sha256, vocabulary.codebook_sizes, vocabulary.feature_dim, str(own_videos))
    # Before anything there is touched: the folder is ours, and the captions can be read.
    shards.check_manifest(tokens_dir, stage.name, stage.version, stage.identity())
    relabelled = relabel_inputs(features_dir, caption_files) if caption_files else []
    was_relabelled = (own_videos / "manifest.json").is_file() and shards.read_manifest(own_videos).stage == Relabel.name
    is_own = bool(caption_files) or was_relabelled
    if is_own:
        check_same_videos(features_dir / "videos", own_videos)
    if caption_files and not was_relabelled and own_videos.exists():
        # A copy of the features' videos; with their text replaced it is made anew.
        remove_folder(own_videos)
    videos_dir = own_videos if is_own else features_dir / "videos"
    stage = replace(stage, videos_dir=str(videos_dir))
    note_missing(features_dir, options)
    with options.open(stage.modules()) as executor:
        if relabelled:
            run_stage(Relabel(), relabelled, videos_dir, executor, parents=parents_of(features_dir / "videos"))
        inputs = tokenize_inputs(features_dir, stage, videos_dir)
        carried = None if is_own else videos_dir
        report = run_noted(stage, inputs, tokens_dir, executor, options, parents=parents_of(features_dir), videos_dir=carried)
    if report.n_done:
        _note_lost_captions(tokens_dir, options)
    if vocab_dir.resolve() != (tokens_dir / "vocab").resolve():
        copy_folder(vocab_dir, tokens_dir / "vocab")
    return report


def _note_lost_captions(tokens_dir: Path, options: RunOptions) -> None:
    """Tells of captions whose time no clip overlaps: they are in no segment."""
    tables = [shards.read_shard(p, columns=["video_id", "captions"]).to_pylist() for p in shards.list_shards(tokens_dir)]
    kept: dict[str, set[tuple[str, float | None]]] = {}
    for row in (row for rows in tables for row in rows):
        kept.setdefault(row["video_id"], set()).update((c["text"], c["start_s"]) for c in row["captions"] or [])
    lost = [
        f"{row['video_id']} at {c['start_s']:g} s"
        for row in read_videos(tokens_dir).select(["video_id", "captions"]).to_pylist()
        if row["video_id"] in kept
        for c in row["captions"] or []
        if (c["text"], c["start_s"]) not in kept[row["video_id"]]
    ]
    if lost:
        options.on_note(f"{len(lost)} captions lie outside of their videos, first {lost[0]}, and are left out")


def refresh_text(frames_dir: Path, features_dir: Path) -> None:
    """Brings captions, labels and splits that were given to a later extraction to the features made of its frames."""
    if dataset_kind(frames_dir) == "frames" and dataset_kind(features_dir) == "features":
        carry_videos(frames_dir / "videos", features_dir / "videos")
