"""A features dataset of features that others computed, which the rest of the chain takes as its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from vbcli import shards
from vbcli.digests import table_digest
from vbcli.encoderspecs import imported_encoder
from vbcli.errors import MediaError, UsageError, VbcliError
from vbcli.featurefiles import find_feature_files, read_features
from vbcli.listing import ScannedVideo
from vbcli.pipeline import RunOptions, parents_of, run_noted
from vbcli.runner import RunReport, ShardInput, dataset_inputs, run_stage
from vbcli.schemas import VIDEOS
from vbcli.stages.import_features import ImportFeatures, ListVideos
from vbcli.stages.scan import update_plan
from vbcli.videotext import gather_text, keep_given


@dataclass(frozen=True)
class FeatureTimes:
    """When features are.

    Args:
        rate: features a second, one after the other from 0.
        name: instead, what a file calls their times in seconds.
    """

    rate: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.name is None):
            raise UsageError("say when the features are: --rate (features a second) or --times (what a file calls their times)")
        if self.rate is not None and not 0 < self.rate < np.inf:
            raise UsageError(f"--rate is {self.rate:g}", hint="features a second, such as 1 or 0.5")


def import_features(
    source: Path,
    features_dir: Path,
    name: str,
    times: FeatureTimes,
    caption_files: Sequence[Path] = (),
    options: RunOptions | None = None,
    *,
    follows_links: bool = False,
) -> RunReport:
    """Reads features of a folder or an HDF5 file into a dataset.

    Args:
        name: of what made them; features of other names cannot be mixed with them.
        follows_links: also read files that are links out of their folder, and look into linked folders.

    Raises:
        VbcliError: there are none, none can be read, or `features_dir` holds something else.
    """
    options = options or RunOptions()
    found, notes = find_feature_files(source, times.name, follows_links=follows_links)
    dim, rate = _first_readable(found, times, follows_links)
    stage = ImportFeatures(imported_encoder(name, dim, rate), times.name, follows_links)
    shards.check_manifest(features_dir, stage.name, stage.version, stage.identity())
    text = gather_text(source, found, features_dir, caption_files)
    planned, plan_notes = update_plan(features_dir, found)
    if caption_files:
        keep_given(features_dir, text)
    for sentence in (*notes, *text.notes, *plan_notes):
        options.on_note(sentence)
    gone = frozenset(v.video_id for shard in planned for v in shard) - {v.video_id for v in found}
    tables = [
        pa.Table.from_pylist([{**vars(v), "transcript": [], **text.of(v.video_id)} for v in shard], schema=VIDEOS) for shard in planned
    ]
    with options.open(stage.modules()) as executor:
        listed = [ShardInput(i, table, table_digest(table), gone) for i, table in enumerate(tables)]
        run_stage(ListVideos(), listed, features_dir / "videos", executor)
        inputs = dataset_inputs(features_dir / "videos", stage, gone)
        return run_noted(stage, inputs, features_dir, executor, options, parents=parents_of(features_dir / "videos"))


def _first_readable(found: Sequence[ScannedVideo], times: FeatureTimes, follows_links: bool) -> tuple[int, float]:
    """Numbers of a feature, and features a second, of the first file that can be read."""
    reason = ""
    for video in found:
        try:
            features, at_s = read_features(video.path, video.video_id, times.name, follows_links=follows_links)
        except MediaError as error:
            reason = reason or error.message
            continue
        if times.rate is not None:
            return features.shape[1], times.rate
        assert at_s is not None
        return features.shape[1], 1 / float(np.median(np.diff(at_s))) if len(at_s) > 1 else 1.0
    raise VbcliError(f"none of {len(found)} feature files can be read: {reason}", hint="look at the first with numpy or h5py")
