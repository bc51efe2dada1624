"""The map commands as functions: each takes a folder, runs a stage over it and gives a report.

extract_videos    videos -> frames
encode_dataset    frames or videos -> features
tokenize_dataset  features -> tokens
fuse_dataset      tokens -> fused
caption_dataset   tokens or videos -> captions
classify_dataset  tokens or videos -> classes
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash
from vbcli.encoderfolders import carried_encoder, carry_encoder
from vbcli.errors import VbcliError
from vbcli.executors import ExecutorName, open_executor
from vbcli.media import ffmpeg_build, find_ffmpeg
from vbcli.runner import (
    Chain,
    Executor,
    Progress,
    RunReport,
    ShardInput,
    Stage,
    carry_videos,
    check_same_videos,
    dataset_inputs,
    last_run,
    no_progress,
    read_videos,
    run_stage,
)
from vbcli.stages.extract import Extract
from vbcli.stages.scan import Probe, scan_videos

if TYPE_CHECKING:
    # These load torch: a run that only extracts frames does without it.
    from vbcli.encoders import EncoderSpec
    from vbcli.models.checkpoint import Checkpoint
    from vbcli.models.decoding import DecodingConfig
    from vbcli.stages.model import ModelStage


TRUNCATED_S = 1.0
"""A video that lacks so much, and a tenth of its length, was cut off."""


def _ignore_note(text: str) -> None:
    del text


@dataclass(frozen=True)
class RunOptions:
    """How a dataset is run.

    Args:
        executor: `serial` or `processes`.
        n_workers: worker processes; 0 is one a core.
        is_retry: also redo the items that failed before.
        on_note: called with sentences for the user.
        on_progress: called when shards are done.
    """

    executor: ExecutorName = "processes"
    n_workers: int = 0
    is_retry: bool = False
    ffmpeg: str = "bundled"
    on_note: Callable[[str], None] = field(default=_ignore_note, compare=False)
    on_progress: Progress = field(default=no_progress, compare=False)

    @contextmanager
    def open(self) -> Iterator[Executor]:
        with open_executor(self.executor, self.n_workers) as executor:
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
    with options.open() as executor:
        gone = _scan(videos_dir, frames_dir, caption_files, stage, executor, options)
        inputs = dataset_inputs(frames_dir / "videos", stage, gone)
        report = _run(stage, inputs, frames_dir, executor, options, parents=_parents(frames_dir / "videos"))
    if report.n_done:
        _note_truncated(frames_dir, "pts_s", 1 / stage.fps, options)
    return report


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


def _scan(
    videos_dir: Path, dataset_dir: Path, caption_files: Sequence[Path], stage: Stage, executor: Executor, options: RunOptions
) -> frozenset[str]:
    """Writes the videos dataset below `dataset_dir`, once the folder is known to be free for `stage`.

    Returns:
        The planned videos that are gone from the folder.
    """
    shards.check_manifest(dataset_dir, stage.name, stage.version, stage.identity())
    scan = scan_videos(videos_dir, dataset_dir, caption_files)
    for sentence in scan.notes:
        options.on_note(sentence)
    run_stage(Probe(), scan.inputs, dataset_dir / "videos", executor)
    return scan.gone


def _parents(dataset_dir: Path) -> list[dict[str, Any]]:
    manifest = shards.read_manifest(dataset_dir).as_dict()
    return [{k: v for k, v in manifest.items() if k != "parents"}, *manifest["parents"]]


def _run(
    stage: Stage,
    inputs: list[ShardInput],
    output_dir: Path,
    executor: Executor,
    options: RunOptions,
    *,
    parents: list[dict[str, Any]],
    videos_dir: Path | None = None,
) -> RunReport:
    build = ffmpeg_build(find_ffmpeg(options.ffmpeg))
    before = last_run(output_dir).get("ffmpeg", build)
    if before != build:
        options.on_note(f"{output_dir} was begun with {before}, and goes on with {build}: frames may differ in their last bits")
    report = run_stage(
        stage,
        inputs,
        output_dir,
        executor,
        parents=parents,
        videos_dir=videos_dir,
        is_retry=options.is_retry,
        progress=options.on_progress,
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
    options: RunOptions | None = None,
) -> RunReport:
    """Encodes a frames dataset, or a folder of videos without storing frames.

    Args:
        encoder_dir: of an encoder that was trained; the features carry a copy of it.

    Raises:
        VbcliError: frames stored too sparsely for the encoder's clips, or the output folder holds something else.
    """
    from vbcli.stages.encode import Encode, check_sampling

    options = options or RunOptions()
    kind = dataset_kind(source_dir)
    if kind not in (None, "frames"):
        raise VbcliError(f"{source_dir} is a {kind} dataset: encode takes frames or videos")
    stage = Encode(encoder, "frames" if kind else "videos", device, threads, options.ffmpeg)
    if kind is not None:
        check_sampling(shards.read_manifest(source_dir).fact("fps"), encoder, source_dir)
    shards.check_manifest(features_dir, stage.name, stage.version, stage.identity())
    copy = carry_encoder(encoder_dir, features_dir)
    stage = replace(stage, encoder_dir=None if copy is None else str(copy))
    with options.open() as executor:
        if kind is None:
            gone = _scan(source_dir, features_dir, caption_files, stage, executor, options)
            inputs = dataset_inputs(features_dir / "videos", stage, gone)
            report = _run(stage, inputs, features_dir, executor, options, parents=_parents(features_dir / "videos"))
            if report.n_done:
                _note_truncated(features_dir, "end_s", encoder.clip_s, options)
            return report
        if caption_files:
            raise VbcliError("--captions goes with videos, not with a frames dataset", hint="give it to vbcli extract or vbcli tokenize")
        _note_missing(source_dir, options)
        inputs = dataset_inputs(source_dir, stage)
        return _run(stage, inputs, features_dir, executor, options, parents=_parents(source_dir), videos_dir=source_dir / "videos")


def _note_missing(dataset_dir: Path, options: RunOptions) -> None:
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
        shutil.rmtree(own_videos)
    videos_dir = own_videos if is_own else features_dir / "videos"
    stage = replace(stage, videos_dir=str(videos_dir))
    _note_missing(features_dir, options)
    with options.open() as executor:
        if relabelled:
            run_stage(Relabel(), relabelled, videos_dir, executor, parents=_parents(features_dir / "videos"))
        inputs = tokenize_inputs(features_dir, stage, videos_dir)
        carried = None if is_own else videos_dir
        report = _run(stage, inputs, tokens_dir, executor, options, parents=_parents(features_dir), videos_dir=carried)
    if report.n_done:
        _note_lost_captions(tokens_dir, options)
    if vocab_dir.resolve() != (tokens_dir / "vocab").resolve():
        shutil.copytree(vocab_dir, tokens_dir / "vocab", dirs_exist_ok=True)
    return report


def fuse_dataset(
    tokens_dir: Path, fused_dir: Path, checkpoint_dir: Path, *, device: str = "cpu", threads: int = 1, options: RunOptions | None = None
) -> RunReport:
    """Writes the fused representation h = f(V, T) of each segment of a tokens dataset.

    Raises:
        VbcliError: no checkpoint that knows video in `checkpoint_dir`, or tokens of another vocabulary.
    """
    from vbcli.models.checkpoint import read_checkpoint_config
    from vbcli.stages.fuse import Fuse

    options = options or RunOptions()
    values = read_checkpoint_config(checkpoint_dir)
    if values["visual_vocabulary_sha256"] is None:
        raise VbcliError(
            f"the checkpoint {checkpoint_dir} is a published model that knows no video",
            hint=f"pre-train from it: vbcli train --task pretrain --init {checkpoint_dir}",
        )
    check_vocabulary(tokens_dir, checkpoint_dir, values["visual_vocabulary_sha256"])
    if values["task"] == "caption" and values.get("window_text") is None:
        if values["n_clips"] == 0:
            raise VbcliError(f"the checkpoint {checkpoint_dir} was trained with neither clips nor transcripts, and cannot see any")
        options.on_note(f"the captioner {checkpoint_dir} learned without transcripts: its encoder is shown no text, and `textual` is empty")
    stage = Fuse(str(checkpoint_dir), values["model_sha256"], values["encoder"]["hidden_size"], device, threads)
    _note_missing(tokens_dir, options)
    with options.open() as executor:
        inputs = dataset_inputs(tokens_dir, stage)
        report = _run(stage, inputs, fused_dir, executor, options, parents=_parents(tokens_dir), videos_dir=tokens_dir / "videos")
    if report.n_done:
        tables = [shards.read_shard(p, columns=["n_windows"]) for p in shards.list_shards(fused_dir)]
        n_long = sum(n > 1 for table in tables for n in table.column("n_windows").to_pylist())
        if n_long:
            options.on_note(f"{n_long} of {report.n_rows} segments are longer than the encoder can read: encoded in overlapping windows")
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


def caption_identity(model_sha256: str, decoding: DecodingConfig, split: str | None) -> str:
    """What decides captions, for the name of their folder."""
    return config_hash([model_sha256, vars(decoding), split])


def classify_identity(model_sha256: str, split: str | None) -> str:
    """What decides classes, for the name of their folder."""
    return config_hash([model_sha256, split])


def caption_dataset(
    source: Path,
    captions_dir: Path,
    checkpoint_dir: Path,
    decoding: DecodingConfig,
    *,
    split: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    options: RunOptions | None = None,
) -> RunReport:
    """Captions a tokens dataset, or a folder of videos, streaming from video to sentence.

    Raises:
        VbcliError: no captioner in `checkpoint_dir`, or tokens of another vocabulary.
    """
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.models.decoding import check_decoding
    from vbcli.stages.caption import Caption

    # Whole and fit for the decoding, before a folder is bound to them.
    checkpoint = load_checkpoint(checkpoint_dir, "caption")
    check_decoding(checkpoint.captioner.decoder.config, decoding)

    def stage(videos_dir: Path) -> ModelStage:
        return Caption(
            checkpoint_dir=str(checkpoint_dir),
            model_sha256=checkpoint.sha256,
            videos_dir=str(videos_dir),
            split=split,
            device=device,
            threads=threads,
            decoding=decoding,
        )

    return _ask_model(source, captions_dir, checkpoint, stage, options or RunOptions())


def classify_dataset(
    source: Path,
    classes_dir: Path,
    checkpoint_dir: Path,
    *,
    split: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    options: RunOptions | None = None,
) -> RunReport:
    """Classifies a tokens dataset, or a folder of videos, streaming from video to class.

    Raises:
        VbcliError: no classifier in `checkpoint_dir`, or tokens of another vocabulary.
    """
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.stages.classify import Classify

    # Whole, before a folder is bound to it.
    checkpoint = load_checkpoint(checkpoint_dir, "classify")

    def stage(videos_dir: Path) -> ModelStage:
        return Classify(
            checkpoint_dir=str(checkpoint_dir),
            model_sha256=checkpoint.sha256,
            videos_dir=str(videos_dir),
            split=split,
            device=device,
            threads=threads,
        )

    return _ask_model(source, classes_dir, checkpoint, stage, options or RunOptions())


def _ask_model(
    source: Path, output_dir: Path, checkpoint: Checkpoint, build: Callable[[Path], ModelStage], options: RunOptions
) -> RunReport:
    """Runs a trained model over a tokens dataset, or over a folder of videos without storing anything on the way.

    Args:
        build: the stage, for the folder of the videos dataset.
    """
    from vbcli.encoders import EncoderSpec
    from vbcli.stages.encode import Encode
    from vbcli.stages.tokenize import Tokenize, tokenize_inputs

    if not source.exists():
        raise VbcliError(f"{source} does not exist", hint="name a folder of videos, a video, or a tokens dataset")
    kind = dataset_kind(source)
    own_videos = output_dir / "videos"
    ask = build(own_videos if kind is None else source / "videos")
    if kind not in (None, "tokens"):
        raise VbcliError(f"{source} is a {kind} dataset: {ask.name} takes a folder of videos or a tokens dataset")
    if kind == "tokens":
        check_vocabulary(source, checkpoint.vocab_dir.parent, checkpoint.visual.sha256)
        _check_split(source, ask.split)
    with options.open() as executor:
        if kind == "tokens":
            inputs = dataset_inputs(source, ask)
            return _run(ask, inputs, output_dir, executor, options, parents=_parents(source), videos_dir=source / "videos")
        vocabulary, vocab_dir = checkpoint.visual, checkpoint.vocab_dir
        encoder, encoder_dir = EncoderSpec.from_dict(vocabulary.encoder), carried_encoder(vocab_dir)
        stage = Chain(
            (
                Encode(encoder, "videos", ask.device, ask.threads, options.ffmpeg, None if encoder_dir is None else str(encoder_dir)),
                Tokenize(str(vocab_dir), vocabulary.sha256, vocabulary.codebook_sizes, vocabulary.feature_dim, str(own_videos)),
                ask,
            )
        )
        gone = _scan(source, output_dir, (), stage, executor, options)
        is_told = checkpoint.reads_text
        inputs = tokenize_inputs(own_videos, stage, own_videos, gone) if is_told else dataset_inputs(own_videos, stage, gone)
        return _run(stage, inputs, output_dir, executor, options, parents=_parents(own_videos))


def _check_split(tokens_dir: Path, split: str | None) -> None:
    tables = [shards.read_shard(p, columns=["split"]) for p in shards.list_shards(tokens_dir)]
    known = {s for table in tables for s in table.column("split").to_pylist() if s}
    if split is not None and split not in known:
        raise VbcliError(f"no video of {tokens_dir} is in the split '{split}'", hint=f"there is: {', '.join(sorted(known)) or 'none'}")


def check_vocabulary(tokens_dir: Path, checkpoint_dir: Path, vocab_sha256: str) -> None:
    """Refuses tokens of another visual vocabulary than a checkpoint's.

    Raises:
        VbcliError: they are of another, or `tokens_dir` is no tokens dataset.
    """
    if shards.read_manifest(tokens_dir, "tokens").fact("vocab_sha256") != vocab_sha256:
        raise VbcliError(
            f"{tokens_dir} was tokenised with another visual vocabulary than the checkpoint {checkpoint_dir} knows",
            hint=f"tokenise with --vocab {checkpoint_dir / 'vocab'}; vbcli caption takes the folder of videos, too",
        )
