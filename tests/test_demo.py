"""The demo world: exact counts and texts, what single frames give away, and videos that show what the texts say."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vbcli.demo import DemoSummary, write_demo_data
from vbcli.demo.language import build_lexicon, write_captions, write_narration
from vbcli.demo.render import render_clip
from vbcli.demo.world import ACTIONS, COLOURS, FPS, SHAPES, Clip, Event, Thing, allowed_triples, is_held_out, plan_clips
from vbcli.errors import VbcliError

N_VIDEOS = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoSummary]:
    out_dir = tmp_path_factory.mktemp("demo") / "data"
    return out_dir, write_demo_data(out_dir, N_VIDEOS, seed=3)


def _rows(out_dir: Path) -> list[dict[str, str]]:
    with (out_dir / "captions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _questions(out_dir: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out_dir / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def _mentions(text: str, slot: str) -> list[str]:
    """Values of a slot in order of mention, by searching each surface form alone."""
    found = [
        (match.start(), value)
        for value, forms in build_lexicon()[slot].items()
        for form in forms
        for match in re.finditer(rf"\b{re.escape(form)}\b", text)
    ]
    return [value for _, value in sorted(found)]


def _decode(path: Path) -> tuple[list[float], NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = [(float(frame.time or 0.0), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time_s for time_s, _ in frames], np.stack([image for _, image in frames]).astype(np.uint8)


def test_summary_counts_what_is_on_disk(written: tuple[Path, DemoSummary]) -> None:
    out_dir, summary = written
    rows, questions = _rows(out_dir), _questions(out_dir)
    split_of = {row["video"]: row["split"] for row in rows}
    videos = {path.name for path in (out_dir / "videos").glob("*.mp4")}
    assert videos == set(split_of) == {question["video"] for question in questions}
    assert {path.stem for path in (out_dir / "videos").glob("*.srt")} == {Path(name).stem for name in videos}
    n_of = Counter(split_of.values())
    assert (n_of["train"], n_of["val"], n_of["test"]) == (9, 1, 2) == (summary.n_train, summary.n_val, summary.n_test)
    assert summary.n_videos == N_VIDEOS == len(videos)
    assert summary.n_captions == len(rows) == 3 * N_VIDEOS
    assert summary.n_questions == len(questions)
    assert all(set(question) == {"video", "question", "answer"} for question in questions)
    two_labels = sum(len({row["label"] for row in rows if row["video"] == name}) == 2 for name in videos)
    assert summary.n_two_event_videos == two_labels
    assert json.loads((out_dir / "lexicon.json").read_text(encoding="utf-8")) == build_lexicon()


def test_videos_have_the_planned_length_size_and_pictures(written: tuple[Path, DemoSummary]) -> None:
    out_dir, _ = written
    for clip in plan_clips(N_VIDEOS, seed=3)[:4]:
        times_s, images = _decode(out_dir / "videos" / clip.name)
        assert times_s == pytest.approx([i / 10 for i in range(round(clip.duration_s * 10))])
        assert images.shape[1:] == (120, 160, 3)
        rendered = np.stack(list(render_clip(clip))).astype(float)
        assert np.abs(images - rendered).mean() < 6
        assert np.abs(images[::-1] - rendered).mean() > np.abs(images - rendered).mean()


def test_same_seed_same_bytes_other_seed_other_videos(written: tuple[Path, DemoSummary], tmp_path: Path) -> None:
    out_dir, _ = written
    write_demo_data(tmp_path / "again", N_VIDEOS, seed=3)
    names = sorted(path.relative_to(out_dir) for path in out_dir.rglob("*") if path.is_file())
    assert len(names) == 2 * N_VIDEOS + 4
    assert all((out_dir / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    assert plan_clips(N_VIDEOS, seed=4) != plan_clips(N_VIDEOS, seed=3)


def test_refuses_a_folder_in_use_and_bad_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(VbcliError, match=re.escape(str(tmp_path))):
        write_demo_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(VbcliError, match="2 demo videos"):
        write_demo_data(tmp_path / "new", n_videos=2)
    with pytest.raises(VbcliError, match="-1"):
        write_demo_data(tmp_path / "new", seed=-1)
    assert not (tmp_path / "new").exists()


def test_test_part_shows_only_unseen_triples_whose_pairs_are_all_seen() -> None:
    clips = plan_clips(400, seed=0)
    shown = {
        split: Counter((e.thing.colour, e.thing.shape, e.action) for clip in clips if clip.split == split for e in clip.events)
        for split in ("train", "val", "test")
    }
    assert not (shown["train"] + shown["val"]).keys() & shown["test"].keys()
    assert [{triple[i] for triple in shown["test"]} for i in range(3)] == [set(COLOURS), set(SHAPES), set(ACTIONS)]
    for i, minimum in ((0, 40), (1, 50), (2, 30)):
        assert min(Counter(triple[i] for triple in shown["train"].elements()).values()) >= minimum
    for i, j in combinations(range(3), 2):
        in_training = {(triple[i], triple[j]) for triple in shown["train"]}
        assert {(triple[i], triple[j]) for triple in shown["test"]} <= in_training


def test_held_out_triples_are_a_quarter_spread_evenly() -> None:
    held_out = [(c, s, a) for c in COLOURS for s in SHAPES for a in ACTIONS if is_held_out(c, s, a)]
    assert len(held_out) == 60 == len(allowed_triples("test"))
    assert set(Counter((c, s) for c, s, _ in held_out).values()) == {2}
    assert max(Counter((c, a) for c, _, a in held_out).values()) == 2
    assert max(Counter((s, a) for _, s, a in held_out).values()) == 2


def test_clips_are_varied_and_two_events_come_in_order() -> None:
    clips = plan_clips(400, seed=0)
    two = [clip for clip in clips if len(clip.events) == 2]
    assert 0.2 < len(two) / len(clips) < 0.4
    assert 0.35 < sum(len(clip.actors) == 2 for clip in two) / len(two) < 0.65
    assert 0.4 < sum(bool(clip.bystanders) for clip in clips) / len(clips) < 0.6
    for clip in clips:
        times = [time_s for event in clip.events for time_s in (event.start_s, event.end_s)]
        assert times == sorted(times)
        assert times[0] > 0
        assert times[-1] < clip.duration_s
        assert len({event.action for event in clip.events}) == len(clip.events)
        names = [thing.name for thing in (*clip.actors, *clip.bystanders)]
        assert len(set(names)) == len(names)
    for clip in two:
        assert clip.events[0].end_s <= clip.middle_s <= clip.events[1].start_s


def test_no_surface_form_is_part_of_another() -> None:
    forms = [form for values in build_lexicon().values() for surface in values.values() for form in surface]
    assert not [(a, b) for a in forms for b in forms if a is not b and a in b]


def test_captions_read_back_to_what_happens() -> None:
    rng = np.random.default_rng(0)
    for clip in plan_clips(200, seed=1):
        captions = write_captions(clip, 3, rng)
        assert len(set(captions)) == 3
        for caption in captions:
            assert _mentions(caption, "action") == [event.action for event in clip.events]
            assert _mentions(caption, "object") == [thing.name for thing in clip.actors]


def test_narration_is_longer_than_captions_and_says_each_event_while_it_lasts() -> None:
    rng = np.random.default_rng(0)
    for clip in plan_clips(60, seed=2):
        blocks = write_narration(clip, rng).strip().split("\n\n")
        spans, texts = [], []
        for block in blocks:
            _, times, text = block.split("\n")
            clock = [int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in re.findall(r"(\d\d):(\d\d):([\d.]+)", times.replace(",", "."))]
            spans.append(clock)
            texts.append(text)
        flat = [time_s for span in spans for time_s in span]
        assert flat == sorted(flat)
        assert flat[-1] == clip.duration_s
        assert [_mentions(text, "action") for text in texts[1:-1]] == [[event.action] for event in clip.events]
        for (start_s, end_s), event in zip(spans[1:-1], clip.events, strict=True):
            assert start_s < event.end_s
            assert end_s > event.start_s
        assert len(" ".join(texts).split()) > 1.5 * max(len(caption.split()) for caption in write_captions(clip, 3, rng))


def test_answers_follow_from_the_captions(written: tuple[Path, DemoSummary]) -> None:
    out_dir, _ = written
    caption_of = {row["video"]: row["caption"] for row in _rows(out_dir)}
    kinds = Counter()
    for row in _questions(out_dir):
        caption, question, answer = caption_of[row["video"]], row["question"], row["answer"]
        objects, actions = _mentions(caption, "object"), _mentions(caption, "action")
        owner = dict(zip(actions, objects if len(objects) == len(actions) else objects * 2, strict=True))
        kind = " ".join(question.split()[:2])
        kinds[kind] += 1
        if kind == "which one":
            assert answer == f"the {objects[0]}"
        elif kind == "what does":
            [said], [named] = _mentions(answer, "action"), _mentions(question, "object")
            assert owner[said] == named
            if question.endswith(("first?", "last?")):
                assert said == actions[0 if question.endswith("first?") else 1]
        else:
            [asked] = _mentions(question, "action")
            assert answer == owner[asked].split()[0 if kind == "what color" else 1]
    assert set(kinds) == {"what color", "which shape", "what does", "which one"}


def _solo(action: str) -> Clip:
    thing = Thing("red", "ball", "plain", x=80.0, y=60.0, size=44.0, tilt=0.0)
    return Clip("x.mp4", "train", (0, 0), 4.0, (Event(thing, action, 0.2, 3.8, 1.0),), ())


def _red_ball(frame: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Centre and area of the red pixels, measured on the picture."""
    red = frame.astype(int)
    rows, columns = np.nonzero((red[:, :, 0] > red[:, :, 1] + 60) & (red[:, :, 0] > red[:, :, 2] + 60))
    if not len(rows):
        return float("nan"), float("nan"), 0.0
    return float(columns.mean()), float(rows.mean()), float(len(rows))


def test_middle_frame_does_not_depend_on_the_action() -> None:
    middles = [list(render_clip(_solo(action)))[2 * FPS] for action in ACTIONS]
    assert all(np.array_equal(middles[0], other) for other in middles[1:])


def test_middle_frame_of_two_events_does_not_depend_on_actions_or_order() -> None:
    clip = next(c for c in plan_clips(100, seed=0) if len(c.actors) == 2)
    first, last = clip.events
    swapped = (replace(first, thing=last.thing, action="rise"), replace(last, thing=first.thing, action="blink"))
    middle = round(clip.middle_s * FPS)
    here, there = (list(render_clip(c)) for c in (clip, replace(clip, events=swapped)))
    assert np.array_equal(here[middle], there[middle])
    assert not np.array_equal(here[0], there[0])


@pytest.mark.parametrize(
    ("action", "dx", "dy", "area_ratio"),
    [
        ("left", -54.4, 0, 1),
        ("right", 54.4, 0, 1),
        ("rise", 0, -48, 1),
        ("fall", 0, 48, 1),
        ("grow", 0, 0, 3.24),
        ("shrink", 0, 0, 1 / 3.24),
    ],
)
def test_pictures_show_the_action_from_first_to_last_frame(action: str, dx: float, dy: float, area_ratio: float) -> None:
    frames = list(render_clip(_solo(action)))
    (x0, y0, area0), (x1, y1, area1) = _red_ball(frames[0]), _red_ball(frames[-1])
    # The camera pans by at most 12 px over a clip and shakes by a few.
    assert x1 - x0 == pytest.approx(dx, abs=17)
    assert y1 - y0 == pytest.approx(dy, abs=17)
    assert area1 / area0 == pytest.approx(area_ratio, rel=0.1)


def test_pictures_show_blinking_and_circling() -> None:
    blink = [_red_ball(frame)[2] > 0 for frame in list(render_clip(_solo("blink")))[:: FPS // 2]]
    assert blink == [True, False, True, False, True, False, True, False]
    circle = np.array([_red_ball(frame)[:2] for frame in render_clip(_solo("circle"))])
    assert np.ptp(circle, axis=0) == pytest.approx([48, 48], abs=17)
    assert np.abs(circle[0] - circle[-1]).max() < 17
    # Twice the enclosed area of the path, by the shoelace formula, against that of a circle of radius 24 px.
    x, y = circle.T
    assert abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) == pytest.approx(2 * np.pi * 24**2, rel=0.3)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("ball", np.pi),
        ("cube", 4 * 0.88**2),
        ("ring", np.pi * (1.02**2 - 0.48**2)),
        ("star", 10 * 0.5 * 1.1 * 0.48 * np.sin(np.pi / 5)),
    ],
)
def test_shapes_cover_their_geometric_area(shape: str, area: float) -> None:
    clip = _solo("left")
    still = replace(clip.events[0], thing=replace(clip.actors[0], shape=shape, tilt=0.15))
    frame = list(render_clip(replace(clip, events=(still,))))[2 * FPS]
    assert _red_ball(frame)[2] == pytest.approx(area * 22**2, rel=0.06)


def test_bystanders_stay_still_against_the_background() -> None:
    bystander = Thing("black", "star", "plain", x=80.0, y=60.0, size=22.0, tilt=0.0)
    shifts = [(dx, dy) for dx in range(-14, 15) for dy in range(-14, 15)]
    n_decisive = 0
    for seed in range(18):
        clip = Clip("x.mp4", "train", (seed, 0), 4.0, (), (bystander,))
        scenes = [np.stack(list(render_clip(c))).astype(float).mean(axis=3) for c in (clip, replace(clip, bystanders=()))]
        # The noise of both renderings is the same, so only the star differs.
        centres = [np.argwhere(np.abs(scenes[0][i] - scenes[1][i]) > 30).mean(axis=0) for i in (0, -1)]
        first, last = scenes[1][0], scenes[1][-1]
        errors = {(dx, dy): np.square(last[16 + dy : 104 + dy, 16 + dx : 144 + dx] - first[16:104, 16:144]).mean() for dx, dy in shifts}
        (dx, dy), best = min(errors.items(), key=lambda item: item[1])
        # Where the background is too smooth to tell the camera's path, there is nothing to compare.
        rival = min(error for (x, y), error in errors.items() if abs(x - dx) + abs(y - dy) > 2)
        if best < 0.85 * rival:
            n_decisive += 1
            assert centres[1] - centres[0] == pytest.approx([dy, dx], abs=0.3)
    assert n_decisive >= 2
