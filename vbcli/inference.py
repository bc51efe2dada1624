"""Batch inference: a trained model over a tokens dataset, or over a folder of videos from video to answer.

fuse_dataset  tokens -> fused
ask_model     tokens or videos -> what the model's stage writes: captions, classes
find_tokens   tokens or videos -> tokens of a model's own vocabulary, for what is asked without writing a dataset
ask_teacher   videos -> captions, by a published captioner
index_videos  tokens or videos -> an index to search in, by a trained retriever
index_frames  features or videos -> such an index, by an encoder that reads text, too
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbcli import shards
from vbcli.checkpointfiles import read_checkpoint_config
from vbcli.encoderfolders import carried_encoder
from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import VbcliError, with_article
from vbcli.files import check_free, write_json
from vbcli.listing import list_videos
from vbcli.media.decode import MediaOptions
from vbcli.pipeline import RunOptions, dataset_kind, note_missing, on_all_cores, parents_of, run_noted, scan_folder
from vbcli.runner import RunReport, dataset_inputs
from vbcli.stage import Chain
from vbcli.stages.embed import Embed
from vbcli.stages.embed_frames import EmbedFrames
from vbcli.stages.encode import Encode
from vbcli.stages.model import ModelFacts, ModelStage, facts_of, look_at_model
from vbcli.stages.tokenize import Tokenize, tokenize_inputs
from vbcli.storage import copy_folder

if TYPE_CHECKING:
    from vbcli.models.checkpoint import Checkpoint
    from vbcli.stages.teach import TeacherCaption


def fuse_dataset(
    tokens_dir: Path, fused_dir: Path, checkpoint_dir: Path, *, device: str = "cpu", threads: int = 1, options: RunOptions | None = None
) -> RunReport:
    """Writes the fused representation h = f(V, T) of each segment of a tokens dataset.

    Raises:
        VbcliError: no checkpoint that knows video in `checkpoint_dir`, or tokens of another vocabulary.
    """
    from vbcli.models.checkpoint import load_checkpoint
    from vbcli.stages.fuse import Fuse

    options = options or RunOptions()
    values = read_checkpoint_config(checkpoint_dir)
    if values["visual_vocabulary_sha256"] is None:
        raise VbcliError(
            f"the checkpoint {checkpoint_dir} is a published model that knows no video",
            hint=f"pre-train from it: vbcli train --task pretrain --init {checkpoint_dir}",
        )
    check_vocabulary(tokens_dir, checkpoint_dir, values["visual_vocabulary_sha256"])
    if "bridge" in values:
        raise VbcliError(
            f"the captioner {checkpoint_dir} learned from text: it has no representation of clips",
            hint="name one that was trained without --text",
        )
    if values["task"] == "caption" and values.get("window_text") is None:
        if values["n_clips"] == 0:
            raise VbcliError(
                f"the checkpoint {checkpoint_dir} was trained with neither clips nor transcripts, and cannot see any",
                hint="train one without --n-clips 0",
            )
        options.on_note(f"the captioner {checkpoint_dir} learned without transcripts: its encoder is shown no text, and `textual` is empty")
    # Whole, before a folder is bound to it.
    load_checkpoint(checkpoint_dir)
    stage = Fuse(str(checkpoint_dir), values["model_sha256"], values["encoder"]["hidden_size"], device, threads)
    note_missing(tokens_dir, options)
    with options.open(stage.modules()) as executor:
        inputs = dataset_inputs(tokens_dir, stage)
        report = run_noted(stage, inputs, fused_dir, executor, options, parents=parents_of(tokens_dir), videos_dir=tokens_dir / "videos")
    if report.n_done:
        tables = [shards.read_shard(p, columns=["n_windows"]) for p in shards.list_shards(fused_dir)]
        n_long = sum(n > 1 for table in tables for n in table.column("n_windows").to_pylist())
        if n_long:
            options.on_note(f"{n_long} of {report.n_rows} segments are longer than the encoder can read: encoded in overlapping windows")
    return report


def ask_model(source: Path, output_dir: Path, stage: ModelStage, options: RunOptions | None = None) -> RunReport:
    """Runs a trained model over a tokens dataset, or over a folder of videos without storing anything on the way.

    Args:
        stage: what is asked, of which model; its `videos_dir` is set here.

    Raises:
        VbcliError: no model for the stage in its `checkpoint_dir`, or tokens of another vocabulary.
    """
    options = options or RunOptions()
    with options.open((*stage.modules(), Encode.__module__), stage.threads) as executor:
        # Whole and fit for what is asked, before a folder is bound to it; in a worker, which needs it anyway.
        model = executor.call(look_at_model, stage)
        is_tokens = _is_tokens(source, model, stage.name)
        own_videos = output_dir / "videos"
        stage = replace(stage, videos_dir=str(source / "videos" if is_tokens else own_videos))
        if is_tokens:
            _check_split(source, stage.split)
            inputs = dataset_inputs(source, stage)
            return run_noted(stage, inputs, output_dir, executor, options, parents=parents_of(source), videos_dir=source / "videos")
        chain = Chain((*_to_tokens(model, own_videos, stage.device, stage.threads, options.media), stage))
        gone = scan_folder(source, output_dir, (), chain, executor, options)
        media = on_all_cores(options.media, own_videos)
        chain = Chain((*_to_tokens(model, own_videos, stage.device, stage.threads, media), stage))
        is_told = model.reads_text or stage.is_cut_by_transcript
        inputs = tokenize_inputs(own_videos, chain, own_videos, gone) if is_told else dataset_inputs(own_videos, chain, gone)
        return run_noted(chain, inputs, output_dir, executor, options, parents=parents_of(own_videos))


def find_tokens(source: Path, checkpoint: Checkpoint, place: Path, *, threads: int = 1, options: RunOptions | None = None) -> Path:
    """The tokens that a model is asked about: `source` itself, or, of a folder of videos or one video, a tokens dataset made in `place`.

    Raises:
        VbcliError: `source` is neither, its tokens are of another vocabulary, or none of its videos can be read.
    """
    options = options or RunOptions()
    model = facts_of(checkpoint)
    if _is_tokens(source, model, "predict"):
        return source
    own_videos = place / "videos"
    chain = Chain(_to_tokens(model, own_videos, "cpu", threads, options.media))
    with options.open(chain.modules()) as executor:
        gone = scan_folder(source, place, (), chain, executor, options)
        inputs = tokenize_inputs(own_videos, chain, own_videos, gone)
        report = run_noted(chain, inputs, place, executor, options, parents=parents_of(own_videos))
    if not report.n_rows:
        raise VbcliError(shards.read_failures(place)[0].message, hint="name another video, or mend it")
    return place


def _is_tokens(source: Path, model: ModelFacts, command: str) -> bool:
    """Whether a model is asked about tokens, of its own vocabulary, rather than about videos."""
    if not source.exists():
        raise VbcliError(f"{source} does not exist", hint="name a folder of videos, a video, or a tokens dataset")
    kind = dataset_kind(source)
    if kind not in (None, "tokens"):
        raise VbcliError(
            f"{source} is {with_article(kind)} dataset: {command} takes a folder of videos or a tokens dataset",
            hint="name the videos themselves, or what vbcli tokenize made",
        )
    if kind == "tokens":
        check_vocabulary(source, model.vocab_dir.parent, model.vocab_sha256)
    return kind == "tokens"


def _to_tokens(model: ModelFacts, videos_dir: Path, device: str, threads: int, media: MediaOptions) -> tuple[Encode, Tokenize]:
    """From videos to a model's tokens, by the encoder and the vocabulary that its folder carries."""
    encoder, encoder_dir = EncoderSpec.from_dict(model.encoder), carried_encoder(model.vocab_dir)
    return (
        Encode(encoder, "videos", device, threads, media, None if encoder_dir is None else str(encoder_dir)),
        Tokenize(str(model.vocab_dir), model.vocab_sha256, model.codebook_sizes, model.feature_dim, str(videos_dir)),
    )


def ask_teacher(source: Path, output_dir: Path, stage: TeacherCaption, options: RunOptions | None = None) -> RunReport:
    """Captions a folder of videos, or one video, by a published captioner.

    Raises:
        VbcliError: `source` is neither, the captioner cannot be loaded, or `output_dir` holds something else.
    """
    from vbcli.models.teachers import Teacher

    options = options or RunOptions()
    if not source.exists():
        raise VbcliError(f"{source} does not exist", hint="name a folder of videos, or one video")
    kind = dataset_kind(source)
    if kind is not None:
        raise VbcliError(
            f"{source} is {with_article(kind)} dataset: a published captioner takes a folder of videos", hint="name the videos themselves"
        )
    # Whole and fit for what is asked, before a folder is bound to it.
    Teacher(stage.teacher, stage.device).check(stage.decoding)
    with options.open(stage.modules(), stage.threads) as executor:
        gone = scan_folder(source, output_dir, (), stage, executor, options)
        inputs = dataset_inputs(output_dir / "videos", stage, gone)
        return run_noted(stage, inputs, output_dir, executor, options, parents=parents_of(output_dir / "videos"))


def _check_split(tokens_dir: Path, split: str | None) -> None:
    tables = [shards.read_shard(p, columns=["split"]) for p in shards.list_shards(tokens_dir)]
    known = {s for table in tables for s in table.column("split").to_pylist() if s}
    if split is not None and split not in known:
        raise VbcliError(f"no video of {tokens_dir} is in the split '{split}'", hint=f"there is: {', '.join(sorted(known)) or 'none'}")


def index_videos(source: Path, index_dir: Path, checkpoint_dir: Path, *, threads: int = 1, options: RunOptions | None = None) -> RunReport:
    """Makes an index of a tokens dataset or a folder of videos, or brings one up to date: videos that came are added, those gone removed.

    Raises:
        VbcliError: no retriever in `checkpoint_dir`, tokens of another vocabulary, or the folder holds something else.
    """
    from vbcli.vocab.artifact import load_vocabulary

    options = options or RunOptions()
    _check_index(index_dir, source)
    values = read_checkpoint_config(checkpoint_dir, "retrieve")
    encoder = values["encoder"]
    stage = Embed(
        checkpoint_dir=str(checkpoint_dir),
        threads=threads,
        width=values["space"],
        feature_dim=load_vocabulary(checkpoint_dir / "vocab").feature_dim,
        n_codebooks=1 + len(encoder["n_residual_tokens"]),
    )
    report = ask_model(source, index_dir / "vectors", stage, options)
    copy = index_dir / "checkpoint"
    if checkpoint_dir.resolve() != copy.resolve():
        copy_folder(checkpoint_dir, copy, without=("_training", "tensorboard", "metrics.jsonl"))
    return _finish_index(report, source, index_dir, {"model_sha256": stage.model_sha256}, options)


def index_frames(
    source: Path, index_dir: Path, encoder: EncoderSpec | None, *, threads: int = 1, options: RunOptions | None = None
) -> RunReport:
    """Makes an index of a features dataset or a folder of videos by an encoder that has a text tower, or brings one up to date.

    Args:
        encoder: of a folder of videos; a features dataset names its own (None).

    Raises:
        VbcliError: the encoder reads no text, or the folder holds something else.
    """
    from vbcli.retrieval.text_tower import TextTower

    options = options or RunOptions()
    _check_index(index_dir, source)
    kind = dataset_kind(source)
    if kind not in (None, "features"):
        raise VbcliError(
            f"{source} is {with_article(kind)} dataset: an encoder makes an index of videos or of features",
            hint="name a retriever with --checkpoint",
        )
    spec = encoder if kind is None else EncoderSpec.from_dict(shards.read_manifest(source, "features").fact("encoder"))
    if spec is None or (encoder is not None and encoder != spec):
        raise VbcliError(f"{source} is not of the encoder that is asked for", hint="leave --encoder out: features name their own")
    # Whole, before a folder is bound to it.
    TextTower(spec)
    vectors_dir = index_dir / "vectors"
    videos_dir = source / "videos" if kind else vectors_dir / "videos"
    stage = EmbedFrames(spec.weights_sha256, spec.width, str(videos_dir))
    chain = Chain((Encode(spec, "videos", "cpu", threads, options.media), stage))
    with options.open(stage.modules() if kind else chain.modules()) as executor:
        if kind is None:
            gone = scan_folder(source, vectors_dir, (), chain, executor, options)
            report = run_noted(
                chain, dataset_inputs(videos_dir, chain, gone), vectors_dir, executor, options, parents=parents_of(videos_dir)
            )
        else:
            inputs = dataset_inputs(source, stage)
            report = run_noted(stage, inputs, vectors_dir, executor, options, parents=parents_of(source), videos_dir=videos_dir)
    return _finish_index(report, source, index_dir, {"encoder": spec.as_dict()}, options)


def _finish_index(report: RunReport, source: Path, index_dir: Path, made_by: dict[str, Any], options: RunOptions) -> RunReport:
    """Records which videos the index is of; datasets keep the rows of those whose files are gone, and a search must not find them."""
    from vbcli.retrieval.index import INDEX

    known = [row["video_id"] for row in shards.read_rows(index_dir / "vectors", ["video_id"])]
    removed = set(known) & report.gone if dataset_kind(source) is None else set(known) - videos_of(source)
    write_json(index_dir / "config.json", {"kind": INDEX, "version": 1, **made_by, "removed": sorted(removed)})
    if removed:
        options.on_note(f"{len(removed)} videos that are gone from {source} are found no longer, first {min(removed)}")
    return replace(report, n_rows=report.n_rows - sum(video_id in removed for video_id in known))


def videos_of(source: Path, *, follows_links: bool = False) -> set[str]:
    """The videos that a folder or a dataset holds now.

    Args:
        follows_links: also those in tar files that are links out of the folder.

    Raises:
        VbcliError: there is no such folder, or no video in it.
    """
    if dataset_kind(source) is None:
        return {video.video_id for video in list_videos(source, follows_links=follows_links).videos}
    return {row["video_id"] for row in shards.read_rows(source, ["video_id"])}


def _check_index(index_dir: Path, source: Path) -> None:
    """Refuses a folder that holds neither nothing nor an index that was begun, and one video of an index of several.

    Raises:
        VbcliError: it says which.
    """
    check_free(index_dir, ("vectors", "checkpoint", "config.json"))
    if not source.is_file():
        return
    if {row["video_id"] for row in shards.read_rows(index_dir / "vectors" / "videos", ["video_id"])} - {source.name}:
        raise VbcliError(
            f"{index_dir} is of a folder of videos, not of {source} alone", hint="name the folder: an index follows all that lies in it"
        )


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
