"""Quality of made videos, whose faults are known, and datasets without them."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from tests.conftest import run_ffmpeg
from tests.e2e.commands import vbcli
from tests.test_pixels import photo
from vbcli import shards
from vbcli.curation.exports import export_dataset
from vbcli.curation.filtering import filter_dataset
from vbcli.curation.quality import score_quality
from vbcli.duplicates import feature_neighbours, group_pairs, hash_neighbours
from vbcli.encoders import load_encoder
from vbcli.errors import UsageError, VbcliError
from vbcli.pipeline import RunOptions, encode_dataset, extract_videos
from vbcli.retrieval.text_tower import TextTower
from vbcli.stages.extract import Extract
from vbcli.validation import validate
from vbcli.vocab.build import feature_matrix

SERIAL = RunOptions("serial")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ffmpeg_exe: str) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    (folder / "videos").mkdir()

    def make(name: str, source: str, *options: str) -> None:
        run_ffmpeg(ffmpeg_exe, "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *options, str(folder / "videos" / name))

    moving = "mandelbrot=size=160x120:rate=10,trim=duration=3"
    make("moving.mp4", moving)
    make("blurred.mp4", f"{moving},hue=h=120,vflip,gblur=sigma=4")
    make("still.mp4", "testsrc2=size=160x120:rate=10:duration=3,loop=30:1,trim=duration=3")
    make("black.mp4", "color=black:size=160x120:rate=10:duration=3")
    make("other.mp4", "life=size=160x120:rate=10:ratio=0.3:seed=4,trim=duration=3")
    # The same again, smaller, at another rate and poorly coded.
    run_ffmpeg(
        ffmpeg_exe,
        "-i",
        str(folder / "videos" / "moving.mp4"),
        "-vf",
        "scale=96:72",
        "-r",
        "15",
        "-crf",
        "34",
        str(folder / "videos" / "z-copy.mp4"),
    )
    names = sorted(p.name for p in (folder / "videos").iterdir())
    rows = [f"{name},{'test' if name == 'z-copy.mp4' else 'train'},a caption" for name in names]
    (folder / "captions.csv").write_text("\n".join(["video,split,caption", *rows]) + "\n")
    extract_videos(folder / "videos", folder / "frames", Extract(fps=5, size_px=96), [folder / "captions.csv"], SERIAL)
    score_quality(folder / "frames", folder / "quality", options=SERIAL)
    return folder


def quality(place: Path, name: str = "quality") -> dict[str, dict]:
    return {row["video_id"]: row for row in shards.read_rows(place / name)}


def test_each_fault_shows_in_its_measure(place: Path) -> None:
    found = quality(place)
    assert found["blurred.mp4"]["sharpness"] < found["moving.mp4"]["sharpness"] / 3
    assert found["still.mp4"]["frozen_share"] == 1
    assert found["moving.mp4"]["frozen_share"] == 0
    assert found["moving.mp4"]["motion"] > 0.005 > found["still.mp4"]["motion"]
    assert (found["black.mp4"]["black_share"], found["moving.mp4"]["black_share"]) == (1, 0)
    assert found["black.mp4"]["brightness"] < 0.05
    assert {row["n_frames"] for row in found.values()} == {15}


def test_a_copy_is_found_and_leaks(place: Path) -> None:
    found = quality(place)
    copy = found["z-copy.mp4"]
    assert (copy["hash_nearest"], copy["duplicate_of"], copy["leaks_into"]) == ("moving.mp4", "moving.mp4", "train")
    assert copy["hash_distance"] < 0.08
    assert (found["moving.mp4"]["duplicate_of"], found["moving.mp4"]["leaks_into"]) == (None, "test")
    others = [row for name, row in found.items() if name not in ("moving.mp4", "z-copy.mp4")]
    assert {(row["duplicate_of"], row["leaks_into"]) for row in others} == {(None, None)}
    assert all(row["feature_nearest"] is None and row["caption_similarity"] is None for row in others)


def test_features_and_captions_are_compared_where_the_encoder_reads_text(place: Path) -> None:
    encoder = load_encoder("open_clip:ViT-S-32-alt/random", pool="mean", precision="float32").spec
    encode_dataset(place / "videos", place / "features", encoder, options=SERIAL)
    report = score_quality(place / "frames", place / "with-features", place / "features", SERIAL)
    found = quality(place, "with-features")
    assert report.n_rows == len(found) == 6
    assert all(-1 <= row["caption_similarity"] <= 1 and row["feature_nearest"] for row in found.values())
    assert score_quality(place / "frames", place / "with-features", place / "features", SERIAL).n_done == 0
    # With what stands for the vectors of whole frames, the same by hand.
    said = TextTower(encoder).embed(["a caption"])[0]
    for table in (t for p in shards.list_shards(place / "features") for t in shards.iter_videos(p)):
        mean = feature_matrix(table).astype(np.float64).mean(0)
        cosine = float(mean @ said / np.linalg.norm(mean))
        assert found[table.column("video_id")[0].as_py()]["caption_similarity"] == pytest.approx(cosine, abs=1e-4)
    with pytest.raises(VbcliError, match="was made with encoder"):
        score_quality(place / "frames", place / "quality", place / "features", SERIAL)


def test_what_features_cannot_be_compared_for_is_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("moving.mp4", "z-copy.mp4"):
        shutil.copy(place / "videos" / name, tmp_path / "videos")
    cells = load_encoder("open_clip:ViT-S-32-alt/random", pool="grid2", precision="float32", clip_s=1).spec
    encode_dataset(tmp_path / "videos", tmp_path / "features", cells, options=SERIAL)
    notes: list[str] = []
    score_quality(place / "frames", tmp_path / "quality", tmp_path / "features", RunOptions("serial", on_note=notes.append))
    missing, pooled = notes
    assert "has no features of 4 of the videos, first black.mp4: they are compared by their looks alone" in missing
    assert "pooled by 'grid2'" in pooled
    assert "--pool mean" in pooled
    found = quality(tmp_path)
    assert {v: row["feature_nearest"] for v, row in found.items() if row["feature_nearest"]} == {
        "moving.mp4": "z-copy.mp4",
        "z-copy.mp4": "moving.mp4",
    }
    assert {row["caption_similarity"] for row in found.values()} == {None}
    (tmp_path / "others").mkdir()
    shutil.copy(place / "videos" / "moving.mp4", tmp_path / "others" / "new.mp4")
    encode_dataset(tmp_path / "others", tmp_path / "other-features", cells, options=SERIAL)
    with pytest.raises(VbcliError, match="no features of any of the 6 videos"):
        score_quality(place / "frames", tmp_path / "none", tmp_path / "other-features", SERIAL)


def test_variants_are_found_and_plain_videos_are_copies_of_none(tmp_path: Path, ffmpeg_exe: str) -> None:
    (tmp_path / "videos").mkdir()

    def make(name: str, *options: str) -> None:
        run_ffmpeg(ffmpeg_exe, *options, "-pix_fmt", "yuv420p", str(tmp_path / "videos" / f"{name}.mp4"))

    for i in (0, 1):
        photo(i, (320, 240)).save(tmp_path / f"{i}.png")
        # The camera goes over a picture.
        pan = "crop=240:180:x=10*t:y=5*t"
        make(f"a{i}", "-loop", "1", "-i", str(tmp_path / f"{i}.png"), "-t", "5", "-r", "10", "-vf", pan)
    first = str(tmp_path / "videos" / "a0.mp4")
    variants = {
        "crop": "crop=iw*0.94:ih*0.94",
        "logo": "drawbox=x=200:y=10:w=30:h=20:color=gray:t=fill",
        "mirror": "hflip",
        "size": "scale=120:90",
    }
    for name, change in variants.items():
        make(f"b-{name}", "-i", first, "-vf", change)
    for colour in ("black", "white", "red", "gray"):
        make(f"c-{colour}", "-f", "lavfi", "-i", f"color={colour}:size=160x120:rate=10:duration=1")
    names = sorted(p.name for p in (tmp_path / "videos").iterdir())
    lines = [f"{name},{('train', 'val')[i % 2]}" for i, name in enumerate(names)]
    (tmp_path / "splits.csv").write_text("\n".join(["video,split", *lines]))
    extract_videos(tmp_path / "videos", tmp_path / "frames", Extract(fps=5, size_px=90), [tmp_path / "splits.csv"], SERIAL)
    encoder = load_encoder("timm:test_convnext/random", pool="mean", precision="float32", clip_s=0.2).spec
    encode_dataset(tmp_path / "frames", tmp_path / "features", encoder, options=SERIAL)
    for target, features, similarity in ((tmp_path / "quality", None, 0.9), (tmp_path / "with-features", tmp_path / "features", 1.0)):
        score_quality(tmp_path / "frames", target, features, SERIAL, similarity=similarity)
        found = {row["video_id"]: row for row in shards.read_rows(target)}
        copies = {v: row["duplicate_of"] for v, row in found.items() if row["duplicate_of"]}
        assert copies == {f"b-{name}.mp4": "a0.mp4" for name in variants}
        for name in ("a1.mp4", *(f"c-{colour}.mp4" for colour in ("black", "white", "red", "gray"))):
            assert found[name]["leaks_into"] is None
            assert (found[name]["hash_nearest"] is None) == name.startswith("c-")
    said = vbcli("measure", "frames", "strict", "--hash-distance", "0.0", "--json", cwd=tmp_path)
    assert json.loads(said.stdout)["n_failed"] == 0
    assert not any(row["duplicate_of"] for row in quality(tmp_path, "strict").values() if row["hash_distance"])


def test_columns_say_how_much_of_a_video_is_black_still_or_written_on(tmp_path: Path, ffmpeg_exe: str) -> None:
    (tmp_path / "videos").mkdir()
    photo(3, (400, 224)).save(tmp_path / "picture.png")
    text = Image.new("RGBA", (400, 224))
    draw, font, area = ImageDraw.Draw(text), ImageFont.load_default(size=18), 0.0
    for line, y in (("now add the onions to the pan", 160), ("and stir them well", 190)):
        draw.text((60, y), line, fill="white", font=font, stroke_width=1, stroke_fill="black")
        left, top, right, bottom = draw.textbbox((60, y), line, font=font)
        area += (right - left) * (bottom - top)
    text.save(tmp_path / "text.png")
    picture = ("-loop", "1", "-t", "4", "-r", "10", "-i", str(tmp_path / "picture.png"))

    def make(name: str, *options: str) -> None:
        run_ffmpeg(ffmpeg_exe, *options, "-pix_fmt", "yuv420p", "-r", "10", str(tmp_path / "videos" / name))

    make("still.mp4", *picture)
    make("written.mp4", *picture, "-i", str(tmp_path / "text.png"), "-filter_complex", "overlay")
    moving = "mandelbrot=size=400x224:rate=10,trim=duration=2"
    make("intro.mp4", "-f", "lavfi", "-i", f"color=black:size=400x224:rate=10:duration=2[a];{moving}[b];[a][b]concat")
    extract_videos(tmp_path / "videos", tmp_path / "frames", Extract(fps=5), options=SERIAL)
    score_quality(tmp_path / "frames", tmp_path / "quality", options=SERIAL)
    found = quality(tmp_path)
    # 20 frames each: of the 19 pairs of the intro, the 9 within black are of equal frames.
    expected = {"still.mp4": (0, 1), "written.mp4": (0, 1), "intro.mp4": (0.5, 9 / 19)}
    assert {v: (row["black_share"], row["frozen_share"]) for v, row in found.items()} == expected
    assert found["still.mp4"]["text_share"] < 0.01
    assert found["written.mp4"]["text_share"] == pytest.approx(area / (400 * 224), rel=0.5)


def test_a_filter_keeps_what_is_true_and_counts_the_rest(place: Path) -> None:
    where = ["black_share < 0.5 and frozen_share < 0.5", "duplicate_of is null", "pts_s >= 1"]
    report, counts = filter_dataset(place / "frames", place / "good", where, place / "quality", SERIAL)
    found = quality(place)
    rows = shards.read_rows(place / "frames", ["video_id", "pts_s"])
    bad = {v for v, row in found.items() if row["black_share"] >= 0.5 or row["frozen_share"] >= 0.5}
    copies = {v for v, row in found.items() if row["duplicate_of"]}
    kept = [row for row in rows if row["video_id"] not in bad | copies and row["pts_s"] >= 1]
    assert shards.read_rows(place / "good", ["video_id", "pts_s"]) == kept
    early = sum(row["video_id"] not in bad | copies and row["pts_s"] < 1 for row in rows)
    assert counts == {where[0]: 15 * len(bad), where[1]: 15 * len(copies - bad), where[2]: early}
    manifest = json.loads((place / "good" / "manifest.json").read_text())
    assert manifest["kind"] == "frames"
    assert manifest["facts"] == {"fps": 5.0, "n_kept": len(kept), "n_left_out": counts}
    assert sum(counts.values()) + len(kept) == len(rows)
    assert report.n_rows == len(kept)
    again, _ = filter_dataset(place / "frames", place / "good", where, place / "quality", SERIAL)
    assert again.n_done == 0
    # It is a dataset of frames as any other.
    encoder = load_encoder("timm:test_convnext/random", pool="mean", precision="float32", clip_s=0.2).spec
    assert encode_dataset(place / "good", place / "good-features", encoder, options=SERIAL).n_rows > 0
    assert len(shards.read_rows(place / "good")) == len(kept)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("sharpnes > 1", "is not understood"),
        ("width_px >", "is not understood"),
        ("1; drop table joined", "is not understood"),
        ("width_px > 'wide'", "is not understood"),
        # Another run would find other rows, and the counts would be untrue.
        ("(select count(*) from read_csv('/etc/passwd')) > 0", "looks at other rows than its own"),
        ("pts_s < (select avg(pts_s) from joined)", "looks at other rows than its own"),
        ("pts_s > 1) is not true union select 99 where (true", "looks at other rows than its own"),
        ("random() < 0.5", "is not the same in each run, by random"),
        ("RANDOM() < pts_s or pts_s > 1", "is not the same in each run, by random"),
        ("current_date > date '2020-01-01'", "is not the same in each run, by current_date"),
        ("now() > make_timestamp(mtime_ns // 1000)", "is not the same in each run, by now"),
    ],
)
def test_what_is_no_expression_of_a_row_is_refused_and_writes_nothing(place: Path, tmp_path: Path, expression: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        filter_dataset(place / "frames", tmp_path / "out", ["pts_s < 1", expression], options=SERIAL)
    assert ("duration_s" if "understood" in message else "values") in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_videos_are_filtered_as_any_dataset(place: Path, tmp_path: Path) -> None:
    where = ["duration_s > 0 and n_captions = 1", "video_id like '%m%' or brightness < 0.05"]
    report, counts = filter_dataset(place / "frames" / "videos", tmp_path / "out", where, place / "quality", SERIAL)
    assert [row["video_id"] for row in shards.read_rows(tmp_path / "out")] == sorted(quality(place))
    assert (report.n_rows, counts) == (6, dict.fromkeys(where, 0))
    where = ["contains(video_id, 'o')", "duplicate_of is null"]
    report, counts = filter_dataset(place / "frames" / "videos", tmp_path / "fewer", where, place / "quality", SERIAL)
    assert [row["video_id"] for row in shards.read_rows(tmp_path / "fewer")] == ["moving.mp4", "other.mp4"]
    assert counts == {where[0]: 3, where[1]: 1}
    assert list(validate(tmp_path / "fewer", reads_data=True)) == []
    assert export_dataset(tmp_path / "fewer", tmp_path / "tars", "webdataset") == []


def test_a_row_is_seen_by_itself_in_the_count_and_in_what_is_written(place: Path, tmp_path: Path) -> None:
    """Several shards, and a number of the row within what is looked at."""
    report, counts = filter_dataset(place / "frames", tmp_path / "out", ["_row < 2"], options=SERIAL)
    kept = shards.read_rows(tmp_path / "out", ["video_id", "frame_index"])
    assert kept == [{"video_id": v, "frame_index": i} for v in sorted(quality(place)) for i in (0, 1)]
    assert (report.n_rows, counts["_row < 2"]) == (12, 6 * 13)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]["n_kept"] == 12


def test_null_is_not_true(place: Path, tmp_path: Path) -> None:
    _, counts = filter_dataset(place / "frames", tmp_path / "out", ["motion > 0 or null"], place / "quality", SERIAL)
    assert counts["motion > 0 or null"] == sum(15 for row in quality(place).values() if row["motion"] <= 0)


def test_new_videos_are_compared_with_the_old(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "videos", tmp_path / "videos", ignore=shutil.ignore_patterns("z-copy.mp4"))
    extract_videos(tmp_path / "videos", tmp_path / "frames", Extract(fps=5, size_px=96), options=SERIAL)
    score_quality(tmp_path / "frames", tmp_path / "quality", options=SERIAL)
    assert not any(row["duplicate_of"] for row in quality(tmp_path).values())
    shutil.copy(place / "videos" / "z-copy.mp4", tmp_path / "videos")
    extract_videos(tmp_path / "videos", tmp_path / "frames", Extract(fps=5, size_px=96), options=SERIAL)
    score_quality(tmp_path / "frames", tmp_path / "quality", options=SERIAL)
    assert quality(tmp_path)["z-copy.mp4"]["duplicate_of"] == "moving.mp4"


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_neighbours_are_those_of_a_brute_force(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1, 2**63, (n, 5), dtype=np.uint64) * (rng.random((n, 5)) < 0.8)
    found = hash_neighbours(hashes)
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(n, 5, 8), axis=2)
    # Mirrored, every second column of each frame's 8 by 8 bits is the other way round.
    mirrored = bits ^ np.tile(np.array([0, 1], np.uint8), 32)
    for i in range(n):
        distances = []
        for k in range(n):
            both = [f for f in range(5) if hashes[i, f] and hashes[k, f]]
            if k != i and len(both) >= 3:
                distances.append(min((one[i, both] != bits[k, both]).mean() for one in (bits, mirrored)))
        n_found = (found.nearest[i] >= 0).sum()
        assert found.closeness[i, :n_found].tolist() == pytest.approx(sorted(distances)[:16], abs=1e-6)
        assert i not in found.nearest[i]
        assert np.isinf(found.closeness[i, n_found:]).all()
    features = rng.normal(size=(n, 6)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = feature_neighbours(features)
    for i in range(n):
        cosines = sorted((float(unit[i] @ unit[k]) for k in range(n) if k != i), reverse=True)
        assert near.closeness[i].tolist() == pytest.approx(cosines[:16], abs=1e-5)
    without = feature_neighbours(np.insert(features, 1, np.nan, axis=0))
    places = [0, *range(2, n + 1)]
    assert without.nearest.shape[1] == near.nearest.shape[1]
    assert (without.nearest[1] == -1).all()
    assert np.array_equal(without.closeness[places], near.closeness)
    assert 1 not in without.nearest[places]


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
def test_groups_are_what_hangs_together(n: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a % n, b % n) for a, b in pairs]
    reach = np.eye(n, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for k, i, j in itertools.product(range(n), repeat=3):
        reach[i, j] |= reach[i, k] and reach[k, j]
    assert group_pairs(n, pairs) == [int(np.flatnonzero(reach[i])[0]) for i in range(n)]
