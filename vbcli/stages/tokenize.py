"""Tokenisation: features to visual tokens, joined with the text of the same time span."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from vbcli import shards
from vbcli.config import config_hash
from vbcli.errors import ItemFailure, VbcliError
from vbcli.runner import ShardInput, dataset_inputs, read_videos
from vbcli.schemas import VIDEOS, tokens_schema
from vbcli.stage import Process, Rows, Stage
from vbcli.storage import as_path
from vbcli.text import captionfiles
from vbcli.text.transcripts import TranscriptSegment
from vbcli.tokens import segment_clips

if TYPE_CHECKING:
    from vbcli.vocab.artifact import Vocabulary


@dataclass(frozen=True)
class Tokenize(Stage):
    """Visual tokens, projected features and text of each segment of each video.

    Args:
        vocab_dir: of the visual vocabulary; its hash, not its place, is part of the identity.
        vocab_sha256: of the vocabulary.
        codebook_sizes: visual tokens of each of its codebooks.
        feature_dim: P, of the projected features.
        videos_dir: the videos dataset with transcripts and captions.
        clips_per_segment: where there is no transcript.
    """

    vocab_dir: str
    vocab_sha256: str
    codebook_sizes: tuple[int, ...]
    feature_dim: int
    videos_dir: str
    clips_per_segment: int = 16

    name: ClassVar[str] = "tokenize"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "tokens"

    def output_schema(self) -> pa.Schema:
        return tokens_schema(len(self.codebook_sizes), self.feature_dim)

    def identity(self) -> dict[str, Any]:
        return {"vocab_sha256": self.vocab_sha256, "clips_per_segment": self.clips_per_segment}

    def facts(self) -> dict[str, Any]:
        return {
            "vocab_sha256": self.vocab_sha256,
            "n_visual_tokens": sum(self.codebook_sizes),
            "feature_dim": self.feature_dim,
            "n_codebooks": len(self.codebook_sizes),
        }

    def open(self) -> Process:
        from vbcli.vocab.artifact import load_vocabulary

        vocabulary = load_vocabulary(as_path(self.vocab_dir))
        texts = VideoRows(as_path(self.videos_dir))

        def process(rows: Rows) -> Rows:
            for table in rows:
                if isinstance(table, ItemFailure):
                    yield table
                else:
                    video = texts.get(table.column("video_id")[0].as_py())
                    yield self._tokenize_video(table, video, vocabulary)

        return process

    def _tokenize_video(self, table: pa.Table, video: dict[str, Any], vocabulary: Vocabulary) -> pa.Table:
        from vbcli.vocab.build import feature_matrix

        features = feature_matrix(table)
        projected = vocabulary.project(features)
        tokens = vocabulary.assign(projected)
        spans = list(zip(table.column("start_s").to_pylist(), table.column("end_s").to_pylist(), strict=True))
        transcript = [TranscriptSegment(**s) for s in video["transcript"] or []]
        segments = segment_clips(spans, transcript, self.clips_per_segment)
        split = video["split"] or vocabulary.splits.get(video["video_id"])
        rows = []
        for index, segment in enumerate(segments):
            clips = slice(segment.first_clip, segment.last_clip + 1)
            rows.append(
                {
                    "video_id": video["video_id"],
                    "segment_index": index,
                    "start_s": segment.start_s,
                    "end_s": segment.end_s,
                    "visual_tokens": tokens[clips].tolist(),
                    "features": list(projected[clips]),
                    "text": segment.text,
                    "captions": captions_within(video["captions"] or [], segment.start_s, segment.end_s),
                    "labels": video["labels"],
                    "questions": video["questions"],
                    "split": split,
                }
            )
        return pa.Table.from_pylist(rows, schema=self.output_schema())


def captions_within(captions: list[dict[str, Any]], start_s: float, end_s: float) -> list[dict[str, Any]]:
    """Captions of the whole video, and timed ones that overlap the span."""
    return [c for c in captions if c["start_s"] is None or (c["start_s"] < end_s and c["end_s"] > start_s)]


class VideoRows:
    """Rows of a videos dataset by `video_id`, reading a shard when it is first needed."""

    def __init__(self, videos_dir: Path) -> None:
        self._shard_of = {}
        for path in shards.list_shards(videos_dir):
            for video_id in shards.read_shard(path, columns=["video_id"]).column("video_id").to_pylist():
                self._shard_of[video_id] = path
        self._loaded: OrderedDict[Path, dict[str, dict[str, Any]]] = OrderedDict()

    def get(self, video_id: str) -> dict[str, Any]:
        """The row of a video.

        Raises:
            VbcliError: it is not in the dataset.
        """
        path = self._shard_of.get(video_id)
        if path is None:
            raise VbcliError(f"video {video_id} is not in the videos dataset")
        if path not in self._loaded:
            self._loaded[path] = {row["video_id"]: row for row in shards.read_shard(path).to_pylist()}
            if len(self._loaded) > 2:
                self._loaded.popitem(last=False)
        return self._loaded[path][video_id]


def tokenize_inputs(features_dir: Path, stage: Stage, videos_dir: Path, gone: frozenset[str] = frozenset()) -> list[ShardInput]:
    """Shards of features whose digest counts the text of their videos, too."""
    texts = {shards.shard_index(p): shards.input_digest(p, TEXT_COLUMNS) for p in shards.list_shards(videos_dir)}
    inputs = dataset_inputs(features_dir, stage, gone)
    return [replace(i, digest=config_hash([i.digest, texts.get(i.index)])) for i in inputs]


TEXT_COLUMNS = ["video_id", "transcript", "captions", "labels", "questions", "split"]


@dataclass(frozen=True)
class Relabel(Stage):
    """The videos dataset with other captions, labels, questions and splits: its input rows already hold them."""

    name: ClassVar[str] = "relabel"
    version: ClassVar[int] = 1
    output_kind: ClassVar[str] = "videos"

    def output_schema(self) -> pa.Schema:
        return VIDEOS

    def open(self) -> Process:
        return lambda rows: rows


def relabel_inputs(dataset_dir: Path, caption_files: Sequence[Path]) -> list[ShardInput]:
    """Rows of a dataset's videos with the text of other caption files in place of theirs.

    Raises:
        VbcliError: the files name none of the videos.
    """
    rows = [row for path in caption_files for row in captionfiles.read_caption_file(path)]
    names = ", ".join(str(p) for p in caption_files)
    texts, _ = captionfiles.match_rows(rows, read_videos(dataset_dir).column("video_id").to_pylist(), names)
    if not texts:
        raise VbcliError(
            f"{names} names none of the videos of {dataset_dir}", hint="the column video has their file names, with or without the suffix"
        )
    inputs = []
    for path in shards.list_shards(dataset_dir / "videos"):
        relabelled = [{**row, **_text_columns(texts.get(row["video_id"]))} for row in shards.read_shard(path).to_pylist()]
        table = pa.Table.from_pylist(relabelled, schema=VIDEOS)
        inputs.append(ShardInput(shards.shard_index(path), table, shards.table_digest(table)))
    return inputs


def _text_columns(text: captionfiles.VideoText | None) -> dict[str, Any]:
    return (text or captionfiles.VideoText()).as_columns()
