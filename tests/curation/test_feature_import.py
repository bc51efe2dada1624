"""Features in the forms in which they are published, to datasets and through the chain."""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from tests.e2e.commands import rows, vbcli
from vbcli import shards
from vbcli.curation.feature_import import FeatureTimes, import_features
from vbcli.encoders import load_encoder
from vbcli.errors import MediaError, UsageError, VbcliError
from vbcli.featurefiles import find_feature_files, read_features
from vbcli.pipeline import RunOptions
from vbcli.storage import as_path, remove_folder
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


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 5, 6), (0,)),
        ((5, 1, 6), (1,)),
        ((5, 6, 1), (2,)),
        ((5, 6, 1, 1), (2, 3)),
        ((1, 1, 6), (0,)),
        ((5, 6, 2, 3), (2, 3)),
        ((5, 2, 3, 6), (1, 2)),
    ],
)
def test_dimensions_of_length_1_and_maps(tmp_path: Path, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    features, _ = read_features(str(tmp_path / "a.npy"), "a", None)
    assert features == pytest.approx(values.mean(axes).reshape(-1, 6), abs=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 6), (2, 5, 6, 6), (2, 6, 5, 6), (2, 3, 4, 5, 6)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(MediaError, match=re.escape(f"a.npy holds features of the shape {shape}")):
        read_features(str(tmp_path / "a.npy"), "a", None)


def test_columns_that_say_where_a_feature_is_are_no_part_of_it(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    values = arrays["video4"]
    named = pd.DataFrame(values, columns=[f"f{i}" for i in range(6)])
    numbered = pd.DataFrame(values)
    when = np.arange(len(values)) + 0.5
    forms = {
        "when": named.assign(when=when),
        "spans": named.assign(start=when, End=when + 1, Frame_Index=range(len(values)), when=when),
        "numbered": numbered.assign(when=when),
    }
    for name, table in forms.items():
        table.columns = table.columns.astype(str)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        table.to_csv(tmp_path / f"{name}-indexed.csv")
        table.to_parquet(tmp_path / f"{name}.parquet")
        for path in (f"{name}.csv", f"{name}-indexed.csv", f"{name}.parquet"):
            features, times = read_features(str(tmp_path / path), Path(path).stem, "when")
            assert features == pytest.approx(values, abs=1e-6)
            assert times is not None
            assert times.tolist() == when.tolist()
    numbered.to_csv(tmp_path / "plain.csv", index=False)
    assert read_features(str(tmp_path / "plain.csv"), "plain", None)[0] == pytest.approx(values, abs=1e-6)
    named.assign(video_id=["a"] * 6 + ["b"]).to_parquet(tmp_path / "two.parquet")
    np.savez(tmp_path / "several.npz", rgb=values, flow=np.zeros((7, 900)))
    for path, message in (
        ("two.parquet", "rows of several videos, by its column video_id"),
        ("several.npz", r"several tables \(rgb, flow\)"),
    ):
        with pytest.raises(MediaError, match=message):
            read_features(str(tmp_path / path), Path(path).stem, None)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_is_read_whatever_its_suffix_and_python(tmp_path: Path, suffix: str) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", values)
    # As Python 2 wrote numbers.
    data = (tmp_path / "a.npy").read_bytes().replace(b"(3, 4), }  ", b"(3L, 4L), }")
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert b"3L" in data
    assert np.array_equal(read_features(str(tmp_path / f"a.{suffix}"), "a", None)[0], values)


def test_entries_of_an_hdf5_file_are_found_in_its_groups(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for name, place in (
            ("video0", "train/v0"),
            ("video1", "train/v1"),
            ("video2", "val/v2/features"),
            ("video3", "val/v3/feats"),
            ("video4", "v4"),
        ):
            file[place] = arrays[name]
        file["val/v2/fps"] = 25.0
    import_features(tmp_path / "all.h5", tmp_path / "out", "x", FeatureTimes(rate=1), options=SERIAL)
    found = features_of(tmp_path / "out")
    assert set(found) == {"train/v0", "train/v1", "val/v2", "val/v3", "v4"}
    for i, name in enumerate(("train/v0", "train/v1", "val/v2", "val/v3", "v4")):
        assert np.array_equal(found[name], arrays[f"video{i}"])
    # As the C3D features of ActivityNet.
    with h5py.File(tmp_path / "c3d.hdf5", "w") as file:
        for name in arrays:
            file[f"v_{name}/c3d"] = arrays[name]
    assert [v.video_id for v in find_feature_files(tmp_path / "c3d.hdf5").videos] == [f"v_{name}" for name in sorted(arrays)]


def test_hdf5_files_that_are_one_table_or_lie_in_other_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["features"], file["video_ids"] = np.zeros((2, 3, 6)), [b"a", b"b"]
    with pytest.raises(VbcliError, match=r"table.h5 has no entry a video: at its top are features, video_ids"):
        find_feature_files(tmp_path / "table.h5")
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["a"], file["b"] = arrays["video0"], h5py.ExternalLink("table.h5", "/features")
    with pytest.raises(VbcliError, match=r"linked.h5 has a link to another file, 'b'"):
        find_feature_files(tmp_path / "linked.h5")
    (tmp_path / "secret").write_bytes(bytes(48))
    (tmp_path / "source").mkdir()
    with h5py.File(tmp_path / "source" / "c.h5", "w") as file:
        file.create_dataset("features", (2, 6), np.float32, external=[(str(tmp_path / "secret"), 0, 48)])
    (tmp_path / "source" / "damaged.h5").write_bytes((tmp_path / "table.h5").read_bytes()[:300])
    np.save(tmp_path / "source" / "good.npy", arrays["video0"])
    import_features(tmp_path / "source", tmp_path / "out", "x", FeatureTimes(rate=1), options=SERIAL)
    assert set(features_of(tmp_path / "out")) == {"good"}
    failed = {failure.video_id: failure.message for failure in shards.read_failures(tmp_path / "out")}
    assert "'features' lies in another file" in failed["c"]
    assert "damaged.h5 cannot be read as features" in failed["damaged"]


def test_two_files_of_one_video_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    for name in ("a.csv", "a.d.npy", "a.npy"):
        (tmp_path / name).touch()
    with pytest.raises(VbcliError, match=r"several files in .* are of the video 'a'"):
        find_feature_files(tmp_path)


def test_links_out_of_the_folder_are_read_if_that_is_said(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    (tmp_path / "s3d" / "sub").mkdir(parents=True)
    np.save(tmp_path / "secret.npy", arrays["video0"])
    np.save(tmp_path / "s3d" / "own.npy", arrays["video1"])
    (tmp_path / "s3d" / "sub" / "within.npy").symlink_to(tmp_path / "s3d" / "own.npy")
    (tmp_path / "s3d" / "sub" / "out.npy").symlink_to(tmp_path / "secret.npy")
    (tmp_path / "s3d" / "gone.npy").symlink_to(tmp_path / "nothing.npy")
    np.save(tmp_path / "s3d" / ".hidden.npy", arrays["video1"])
    report = vbcli("import-features", "s3d", "plain", "--rate", "1", cwd=tmp_path, status=3)
    assert set(features_of(tmp_path / "plain")) == {"own", "sub/within"}
    failed = {failure.video_id: failure.message for failure in shards.read_failures(tmp_path / "plain")}
    assert "out.npy is a link that leads out of its folder: --follow-links takes such files" in failed["sub/out"]
    assert set(failed) == {"sub/out", "gone"}
    vbcli("import-features", "s3d", "followed", "--rate", "1", "--follow-links", cwd=tmp_path, status=3)
    assert np.array_equal(features_of(tmp_path / "followed")["sub/out"], arrays["video0"])
    # A linked folder, too; without the option it is told.
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere" / "far.npy", arrays["video2"])
    (tmp_path / "s3d" / "linked").symlink_to(tmp_path / "elsewhere")
    found, notes = find_feature_files(tmp_path / "s3d")
    assert [v.video_id for v in found] == ["gone", "own", "sub/out", "sub/within"]
    assert notes == ["1 linked folders are passed over, first linked; --follow-links takes them"]
    vbcli("import-features", "s3d", "folders", "--rate", "1", "--follow-links", cwd=tmp_path, status=3)
    assert np.array_equal(features_of(tmp_path / "folders")["linked/far"], arrays["video2"])
    (tmp_path / "s3d" / "linked").unlink()
    # Whether links are followed is no part of what the features are.
    vbcli("import-features", "s3d", "plain", "--rate", "1", "--follow-links", "--retry-failed", cwd=tmp_path, status=3)
    assert set(features_of(tmp_path / "plain")) == {"own", "sub/within", "sub/out"}
    assert "Traceback" not in report.stderr


def test_names_that_are_not_utf8(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    source = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(source)
    folder = Path(os.fsdecode(source))
    np.save(tmp_path / "array.npy", arrays["video0"])
    (tmp_path / "array.npy").rename(folder / os.fsdecode(b"caf\xe9.npy"))
    pd.DataFrame(arrays["video1"], columns=list("abcdef")).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "table.parquet").rename(folder / os.fsdecode(b"th\xe9.parquet"))
    with h5py.File(folder / os.fsdecode(b"mat\xe9.h5"), "w") as file:
        file["features"] = arrays["video2"]
    (folder / os.fsdecode(b"d\xe9fait.npy")).write_bytes(b"nothing")
    vbcli("import-features", folder, "out", "--rate", "1", cwd=tmp_path, status=3)
    found = features_of(tmp_path / "out")
    assert set(found) == {"caf%E9", "th%E9", "mat%E9"}
    for name, video in (("caf%E9", "video0"), ("th%E9", "video1"), ("mat%E9", "video2")):
        assert np.array_equal(found[name], arrays[video])
    (failure,) = shards.read_failures(tmp_path / "out")
    assert "caf%E9/d%E9fait.npy cannot be read as features" in failure.message


def test_addresses_of_stores(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    source = as_path("memory://features-of-others")
    for name in ("video0", "sub/video1"):
        with (source / f"{name}.npy").open("wb") as file:
            np.save(file, arrays[name.removeprefix("sub/")])
    with (tmp_path / "all.h5").open("wb") as local, h5py.File(local, "w") as file:
        file["train/video2"] = arrays["video2"]
    (source / "entries" / "all.h5").write_bytes((tmp_path / "all.h5").read_bytes())
    vbcli("import-features", "memory://features-of-others/entries/all.h5", "one", "--rate", "1", cwd=tmp_path)
    assert np.array_equal(features_of(tmp_path / "one")["train/video2"], arrays["video2"])
    remove_folder(source / "entries")
    vbcli("import-features", "memory://features-of-others", "out", "--rate", "1", cwd=tmp_path)
    found = features_of(tmp_path / "out")
    assert set(found) == {"video0", "sub/video1"}
    assert np.array_equal(found["sub/video1"], arrays["video1"])
    remove_folder(source)


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
