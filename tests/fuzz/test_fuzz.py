"""Damaged videos, subtitles, caption files, tar files and features: each is read, or is an error that names it, within its limits.

    FUZZ_CASES=2000 make fuzz

A short form runs with the other tests.
"""

from __future__ import annotations

import json
import os
import resource
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import MakeVideo
from tests.fuzz.mutations import mutated
from vbcli.errors import VbcliError
from vbcli.featurefiles import read_features
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.limits import Limits
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate, Uniform
from vbcli.shards import read_shard
from vbcli.tars import describe, described_transcript, read_tar
from vbcli.text.captionfiles import match_rows, read_caption_file
from vbcli.text.transcripts import read_transcript

CASES = int(os.environ.get("FUZZ_CASES", "60"))
LIMITS = Limits(timeout_s=10, memory_mb=1024, max_pixels=4_000_000, max_frames=500)
KINDS = {
    "a.mp4": [],
    "b.mkv": ["-c:v", "ffv1"],
    "c.avi": ["-c:v", "mpeg4"],
    "d.ts": ["-c:v", "mpeg2video"],
    "e.webm": ["-c:v", "libvpx", "-b:v", "200k"],
    "f.flv": ["-c:v", "flv1"],
    "g.gif": ["-pix_fmt", "rgb8"],
    "h.mov": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
    "i.mp4": ["-movflags", "frag_keyframe+empty_moov"],
}


@contextmanager
def naming(path: Path, ended: Counter[str] | None = None) -> Iterator[None]:
    """What goes wrong in the block is an error of ours that names the file."""
    outcome = "read"
    try:
        yield
    except VbcliError as error:
        outcome = "refused"
        if str(path) not in error.message:
            raise AssertionError(f"{error.message!r} does not name {path}") from error
    if ended is not None:
        ended[outcome] += 1


def test_damaged_videos_cost_themselves_alone(tmp_path: Path, make_video: MakeVideo) -> None:
    decoder = Decoder(find_ffmpeg(), LIMITS)
    whole = {name: make_video(tmp_path / "whole" / name, fps=25, arguments=arguments).read_bytes() for name, arguments in KINDS.items()}
    names, ended, slowest_s = list(whole), Counter[str](), 0.0
    for case in range(CASES):
        name = names[case % len(names)]
        path = tmp_path / f"{case}-{name}"
        path.write_bytes(mutated(whole[name], case))
        started = time.monotonic()
        frames: list[tuple[float, bytes]] = []
        with naming(path, ended):
            sampling = Uniform(3) if case % 3 == 0 else AtRate(4)
            frames = list(decoder.jpegs(str(path), sampling, Geometry(32)))
            assert frames
        assert [t for t, _ in frames] == sorted({t for t, _ in frames})
        slowest_s = max(slowest_s, time.monotonic() - started)
        path.unlink()
    assert slowest_s < 2 * LIMITS.timeout_s + 5
    # Neither does everything pass, nor nothing: what is damaged a little is read.
    assert min(ended["read"], ended["refused"]) > CASES / 20
    # Kilobytes; of ffmpeg and of the process that reads headers. A child counts as large as its parent until it is another program, and the
    # parent is small only where these tests run alone.
    own, largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    assert largest < max((LIMITS.memory_mb + 200) << 10, own + 1)


SUBTITLES = {
    "a.srt": "1\n00:00:00,500 --> 00:00:02,000\n<i>Hello</i> there.\n\n2\n00:00:02,000 --> 00:00:04,250\nAgain &amp; again\n\n" * 5,
    "b.vtt": "WEBVTT\n\nSTYLE\n::cue { color: lime }\n\n00:00.080 --> 00:02.389 align:start\nhello<00:00:00.320><c> and</c>\n\n" * 5,
    "c.ass": "[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: D,Arial\n"
    "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    "Dialogue: 0,0:00:01.50,0:00:03.25,D,Ann,0,0,0,,{\\i1}Hello,{\\i0}\\Nthere\n",
    "d.json3": json.dumps({"events": [{"tStartMs": 5, "dDurationMs": 90, "segs": [{"utf8": "so"}, {"utf8": " on", "tOffsetMs": 3}]}] * 4}),
    "e.json": json.dumps(
        {"segments": [{"start": 0.5, "end": 1.2, "text": " Cut it", "words": [{"word": " Cut", "start": 0.5, "end": 0.8}]}] * 4}
    ),
}


def test_damaged_subtitles_are_read_or_named(tmp_path: Path) -> None:
    for case in range(4 * CASES):
        name, text = list(SUBTITLES.items())[case % len(SUBTITLES)]
        path = tmp_path / name
        path.write_bytes(mutated(text.encode(), case))
        with naming(path):
            transcript = read_transcript(path)
            for segment in transcript.segments if transcript else []:
                assert 0 <= segment.start_s <= segment.end_s
                assert segment.text


CAPTIONS = {
    "a.csv": 'video,caption,start_s,end_s,split,question,answer\na.mp4,"one, two",0,1.5,train,what?,this\nb.mp4,three,,,val,,\n' * 3,
    "b.tsv": "video\tcaption\ncandidates\na.mp4\tone\n" * 3,
    "c.jsonl": '{"video": "a.mp4", "caption": "one", "label": 3}\n{"video": "b.mp4", "candidates": ["x", "y"], "question": "q"}\n' * 3,
    "d.json": json.dumps({"videos": [{"video_id": "a", "split": "train"}], "sentences": [{"video_id": "a", "caption": "one"}] * 4}),
    "e.json": json.dumps({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": "one"}]}),
    "f.json": json.dumps({"database": {"a": {"subset": "training", "annotations": [{"segment": [0, 1], "sentence": "one"}] * 3}}}),
    "g.json": json.dumps({"v_a": {"timestamps": [[0, 1.5], [2, 3]], "sentences": ["one", "two"]}}),
}


def test_damaged_caption_files_are_read_or_named(tmp_path: Path) -> None:
    whole = {name: text.encode() for name, text in CAPTIONS.items()}
    pd.DataFrame({"video": ["a.mp4", "b.mp4"], "caption": ["one", None], "start_s": [0.5, None], "end_s": [1.5, None]}).to_parquet(
        tmp_path / "whole.parquet"
    )
    whole["h.parquet"] = (tmp_path / "whole.parquet").read_bytes()
    ended = Counter[str]()
    for case in range(4 * CASES):
        name = list(whole)[case % len(whole)]
        path = tmp_path / name
        path.write_bytes(mutated(whole[name], case))
        with naming(path, ended):
            match_rows(read_caption_file(path), ["a.mp4", "b.mp4"], str(path))
    # A few letters are damaged thoroughly: hardly a file is read.
    assert ended["read"]
    assert ended["refused"] > CASES


def test_damaged_tar_files_features_and_shards_are_read_or_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        for name, text in (
            ("a.mp4", "no video"),
            ("a.json", json.dumps({"captions": ["one"], "labels": ["x"], "split": "val"})),
            ("a.srt", "1\n"),
        ):
            (tmp_path / name).write_text(text)
            tar.add(tmp_path / name, name)
    np.save(tmp_path / "whole.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    np.savez(tmp_path / "whole.npz", features=np.zeros((3, 4)), times=np.arange(3))
    (tmp_path / "whole.csv").write_text("time,a,b\n0,1,2\n1,3,4\n")
    pd.DataFrame({"video_id": ["a"], "feature": [[1.0, 2.0]]}).to_parquet(tmp_path / "whole.parquet")
    whole = {suffix: (tmp_path / f"whole{suffix}").read_bytes() for suffix in (".tar", ".npy", ".npz", ".csv", ".parquet")}
    for case in range(4 * CASES):
        suffix = list(whole)[case % len(whole)]
        path = tmp_path / f"x{suffix}"
        path.write_bytes(mutated(whole[suffix], case))
        with naming(path):
            if suffix == ".tar":
                videos, notes = read_tar(path)
                for video in videos:
                    notes += describe(video, "a").problems
                    for sidecar, _ in video.sidecars():
                        read_transcript(sidecar)
                    described_transcript(video)
                assert all(str(path) in note for note in notes)
            else:
                features, _ = read_features(str(path), "a", "times" if suffix == ".npz" else None)
                assert np.isfinite(features).all()
        if suffix == ".parquet":
            with naming(path):
                read_shard(path)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_damages_in_the_same_way(seed: int) -> None:
    data = bytes(range(256)) * 4
    assert mutated(data, seed) == mutated(data, seed)
