"""A made, narrated video world on which every stage can be tried and measured, without downloading anything."""

from __future__ import annotations

import csv
import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vbcli.demo.language import build_lexicon, write_captions, write_narration, write_questions
from vbcli.demo.render import write_clip
from vbcli.demo.world import ACTIONS, COLOURS, SHAPES, Clip, plan_clips
from vbcli.errors import VbcliError
from vbcli.files import check_free
from vbcli.workers import count_cores, open_pool, submit

N_CAPTIONS = 3
MIN_VIDEOS = 3

README = """A made video world, written by `vbcli demo-data` ({n_videos} videos, seed {seed}).

videos/         clips of 4 to 6 s: {n_colours} colours of {n_shapes} shapes do {n_actions} actions; the narration (.srt) is beside each
captions.csv    video, caption, split, label; {n_captions} captions a video; the label is an action (rows of two-action clips take turns)
questions.jsonl video, question, answer
lexicon.json    the words that captions use for each object and action

Each colour, shape and action is common in training, but the test part shows only triples of them that training never does.
Smaller things do nothing. Single frames do not tell the action: objects are placed for the middle frame, whatever they do.
"""


@dataclass(frozen=True)
class DemoSummary:
    """What `write_demo_data` wrote; `n_two_event_videos` counts the videos in which two things happen in order."""

    n_videos: int
    n_train: int
    n_val: int
    n_test: int
    n_two_event_videos: int
    n_captions: int
    n_questions: int


def write_demo_data(out_dir: Path, n_videos: int = 400, seed: int = 0) -> DemoSummary:
    """Writes a narrated video world: clips, narrations, captions with labels and splits, questions, and a lexicon.

    The same seed and count give the same files, byte for byte where the ffmpeg build is the same.

    Args:
        out_dir: a new or empty folder.
        n_videos: at least 3; 70 % go to `train`, 10 % to `val` and 20 % to `test`.
        seed: not negative.

    Raises:
        VbcliError: the folder holds something, an argument is out of range, or a video could not be written.
    """
    if n_videos < MIN_VIDEOS:
        raise VbcliError(f"cannot make {n_videos} demo videos", hint=f"ask for at least {MIN_VIDEOS}, one for each split")
    if seed < 0:
        raise VbcliError(f"the seed {seed} is negative", hint="use 0 or more")
    check_free(out_dir)
    clips = plan_clips(n_videos, seed)
    videos_dir = out_dir / "videos"
    videos_dir.mkdir(parents=True)
    n_captions, n_questions = _write_texts(clips, out_dir)
    readme = README.format(
        n_videos=n_videos, seed=seed, n_colours=len(COLOURS), n_shapes=len(SHAPES), n_actions=len(ACTIONS), n_captions=N_CAPTIONS
    )
    _write_videos(clips, videos_dir)
    # Last: a world with this file is whole.
    (out_dir / "README.txt").write_text(readme, encoding="utf-8")
    n_of = {split: sum(clip.split == split for clip in clips) for split in ("train", "val", "test")}
    n_two = sum(len(clip.events) == 2 for clip in clips)
    return DemoSummary(n_videos, n_of["train"], n_of["val"], n_of["test"], n_two, n_captions, n_questions)


def _write_texts(clips: list[Clip], out_dir: Path) -> tuple[int, int]:
    """Writes narrations, captions, questions and the lexicon; returns how many captions and questions."""
    n_captions = n_questions = 0
    with (
        (out_dir / "captions.csv").open("w", encoding="utf-8", newline="") as captions_file,
        (out_dir / "questions.jsonl").open("w", encoding="utf-8") as questions_file,
    ):
        rows = csv.writer(captions_file, lineterminator="\n")
        rows.writerow(["video", "caption", "split", "label"])
        for clip in clips:
            rng = np.random.default_rng([*clip.seed, 2])
            for i, caption in enumerate(write_captions(clip, N_CAPTIONS, rng)):
                rows.writerow([clip.name, caption, clip.split, clip.events[i % len(clip.events)].action])
                n_captions += 1
            for question, answer in write_questions(clip, rng):
                questions_file.write(json.dumps({"video": clip.name, "question": question, "answer": answer}) + "\n")
                n_questions += 1
            narration_path = out_dir / "videos" / Path(clip.name).with_suffix(".srt")
            narration_path.write_text(write_narration(clip, rng), encoding="utf-8")
    (out_dir / "lexicon.json").write_text(json.dumps(build_lexicon(), indent=1) + "\n", encoding="utf-8")
    return n_captions, n_questions


def _write_videos(clips: list[Clip], videos_dir: Path) -> None:
    with open_pool(min(len(clips), count_cores())) as pool:
        jobs = [(clip, submit(pool, write_clip, clip, videos_dir / clip.name)) for clip in clips]
        for clip, job in jobs:
            try:
                job.result()
            except BrokenProcessPool:
                raise VbcliError(f"the process that wrote {videos_dir / clip.name} died", hint="is there enough memory?") from None
