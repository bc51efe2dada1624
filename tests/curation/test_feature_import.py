"""Features in the forms in which they are published, to datasets and through the chain."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from tests.e2e.commands import rows, vbcli
from vbcli import shards
from vbcli.curation.feature_import import FeatureTimes, import_features
from vbcli.encoders import load_encoder
from vbcli.errors import UsageError, VbcliError
from vbcli.pipeline import RunOptions
from vbcli.vocab.build import feature_matrix

SERIAL = RunOptions("serial")


def features_of(dataset: Path) -> dict[str, np.ndarray]:
    return {
        table.column("video_id")[0].as_py(): feature_matrix(table)
        for path in shards.list_shards(dataset)
        for table in shards.iter_videos(path)
    }


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"video{i}": rng.normal(size=(3 + i, 6)).astype(np.float32) for i in range(5)}


def test_numpy_files_at_a_rate(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    source = tmp_path / "s3d"
    (source / "sub").mkdir(parents=True)
    np.save(source / "video0.npy", arrays["video0"])
    np.save(source / "sub" / "video1.npy", arrays["video1"].astype(np.float16))
    np.savez(source / "video2.npz", features=arrays["video2"], other=np.zeros(1000))
    np.save(source / "single.npy", arrays["video3"][0])
    maps = np.random.default_rng(1).normal(size=(4, 6, 2, 3)).astype(np.float32)
    np.save(source / "maps.npy", maps)
    report = import_features(source, tmp_path / "out", "s3d", FeatureTimes(rate=0.5), options=SERIAL)
    found = features_of(tmp_path / "out")
    assert set(found) == {"video0", "sub/video1", "video2", "single", "maps"}
    assert np.array_equal(found["video0"], arrays["video0"])
    assert np.array_equal(found["sub/video1"], arrays["video1"].astype(np.float16).astype(np.float32))
    assert np.array_equal(found["video2"], arrays["video2"])
    assert np.array_equal(found["single"], arrays["video3"][:1])
    assert found["maps"] == pytest.approx(maps.mean((2, 3)), abs=1e-6)
    spans = rows(f"select start_s, end_s from '{tmp_path}/out/shard-*.parquet' where video_id = 'video0' order by clip_index")
    assert spans == [(0, 2), (2, 4), (4, 6)]
    assert (report.n_rows, report.n_failed) == (3 + 4 + 5 + 1 + 4, 0)
    assert import_features(source, tmp_path / "out", "s3d", FeatureTimes(rate=0.5), options=SERIAL).n_done == 0


@pytest.mark.parametrize("form", ["hdf5 of arrays", "hdf5 of groups", "csv", "parquet", "npz"])
def test_files_with_times(tmp_path: Path, arrays: dict[str, np.ndarray], form: str) -> None:
    source = tmp_path / "features"
    source.mkdir()
    times = {name: np.cumsum(np.linspace(0.5, 1.5, len(values))) for name, values in arrays.items()}
    for name, values in arrays.items():
        columns = {"time_s": times[name], **{f"f{k}": values[:, k] for k in range(6)}}
        if form == "csv":
            pd.DataFrame(columns).to_csv(source / f"{name}.csv", index=False)
        elif form == "parquet":
            pd.DataFrame({"time_s": times[name], "feature": list(values)}).to_parquet(source / f"{name}.parquet")
        elif form == "npz":
            np.savez(source / f"{name}.npz", feats=values, time_s=times[name])
    if form.startswith("hdf5"):
        source = source / "all.hdf5"
        with h5py.File(source, "w") as file:
            for name, values in arrays.items():
                if form == "hdf5 of arrays":
                    file[name] = values
                else:
                    file[f"{name}/features"], file[f"{name}/time_s"] = values, times[name]
    when = FeatureTimes(rate=2) if form == "hdf5 of arrays" else FeatureTimes(name="time_s")
    import_features(source, tmp_path / "out", "x", when, options=SERIAL)
    found = features_of(tmp_path / "out")
    for name, values in arrays.items():
        assert found[name] == pytest.approx(values, abs=1e-6)
        spans = rows(f"select start_s, end_s from '{tmp_path}/out/shard-*.parquet' where video_id = '{name}' order by clip_index")
        starts = [i / 2 for i in range(len(values))] if form == "hdf5 of arrays" else times[name].tolist()
        assert [a for a, _ in spans] == pytest.approx(starts)
        assert [b for _, b in spans[:-1]] == pytest.approx(starts[1:])


def test_what_cannot_be_read_costs_its_video(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    source = tmp_path / "features"
    source.mkdir()
    np.save(source / "good.npy", arrays["video0"])
    (source / "damaged.npy").write_bytes(b"\x93NUMPY broken")
    np.save(source / "pickled.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(source / "wider.npy", np.zeros((2, 9), np.float32))
    np.save(source / "infinite.npy", np.full((2, 6), np.inf))
    np.save(source / "empty.npy", np.zeros((0, 6)))
    report = import_features(source, tmp_path / "out", "x", FeatureTimes(rate=1), options=SERIAL)
    assert set(features_of(tmp_path / "out")) == {"good"}
    failed = {failure.video_id: failure.message for failure in shards.read_failures(tmp_path / "out")}
    assert set(failed) == {"damaged", "pickled", "wider", "infinite", "empty"}
    assert "of 9 numbers, and the others of 6" in failed["wider"]
    assert "no finite numbers" in failed["infinite"]
    assert (report.n_failed, report.exit_status) == (5, 3)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for values in ((None, None), (1.0, "t"), (0.0, None), (float("inf"), None)):
        with pytest.raises(UsageError):
            FeatureTimes(*values)
    with pytest.raises(VbcliError, match="does not exist"):
        import_features(tmp_path / "none", tmp_path / "out", "x", FeatureTimes(1))
    with pytest.raises(VbcliError, match="holds no features"):
        import_features(tmp_path, tmp_path / "out", "x", FeatureTimes(1))
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(VbcliError, match="none of 1 feature files can be read"):
        import_features(tmp_path, tmp_path / "out", "x", FeatureTimes(1))
    assert not (tmp_path / "out").exists()
    with pytest.raises(VbcliError, match="features of s3d were imported"):
        load_encoder("imported:s3d")


def test_imported_features_go_through_the_chain(tmp_path: Path) -> None:
    """As MSR-VTT's: an array a video, captions in a table."""
    rng = np.random.default_rng(2)
    (tmp_path / "s3d").mkdir()
    for i in range(24):
        centre = np.eye(8)[i % 4] * 5
        np.save(tmp_path / "s3d" / f"video{i}.npy", (centre + rng.normal(size=(6, 8))).astype(np.float32))
    lines = [f"video{i}.mp4,a thing of kind {'abcd'[i % 4]},{'val' if i >= 20 else 'train'}" for i in range(24)]
    (tmp_path / "captions.csv").write_text("\n".join(["video,caption,split", *lines]))
    vbcli("import-features", "s3d", "--name", "s3d", "--rate", "1", "--captions", "captions.csv", cwd=tmp_path)
    vbcli("build-vocab", "--codebooks", "1", "--whiten", "0", cwd=tmp_path)
    vbcli("tokenize", cwd=tmp_path)
    vbcli("train", "--task", "caption", "--max-steps", "2", "--model", "videobert-tiny", cwd=tmp_path)
    vbcli("caption", "vbcli-work/tokens", "captions", "--split", "val", cwd=tmp_path)
    assert rows(f"select count(*) from '{tmp_path}/captions/shard-*.parquet'") == [(4,)]
    refused = vbcli("caption", "s3d", "other", cwd=tmp_path, status=1).stderr
    assert "s3d holds no videos" in " ".join(refused.split())
