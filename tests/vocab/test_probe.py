"""The probe of what survives quantisation, in worlds where the answer is known, and against loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig
from vbcli.vocab.probe import MAX_VIDEOS, N_STRETCHES, ProbeVideo, _folds, _stretches, choose_videos, linear_probe, probe_report

N_VIDEOS = 200


def faint_labels(rng, n_clips=6):
    """Clips of two dimensions: a loud one that says nothing, and a faint one that is the label and the word of the caption."""
    sides = rng.integers(0, 2, N_VIDEOS)
    features = [
        np.stack([rng.normal(0, 10, n_clips), np.full(n_clips, s - 0.5) + rng.normal(0, 0.1, n_clips)], 1).astype(np.float32) for s in sides
    ]
    words = ["low", "high"]
    videos = [ProbeVideo([words[s]], [f"it is {words[s]}", "said twice"], i % 4 == 0) for i, s in enumerate(sides)]
    return features, videos


def vocabulary(features, videos, **options):
    training = np.concatenate([f for f, v in zip(features, videos, strict=True) if not v.is_held_out])
    encoder = {"n_cells": options.pop("n_cells", 1)}
    return fit_vocabulary(training, VocabConfig(n_components=0, **options), encoder)


def test_what_is_faint_is_lost_in_one_small_codebook_and_survives_in_many():
    features, videos = faint_labels(np.random.default_rng(0))
    lost = probe_report(vocabulary(features, videos, branching=4, levels=1, n_codebooks=1), features, videos)
    kept = probe_report(vocabulary(features, videos, branching=4, levels=1, n_codebooks=8), features, videos)
    for name in ("labels", "words"):
        assert lost[name]["features"] == kept[name]["features"] > 0.95
        assert lost[name]["tokens"] < 0.65
        assert kept[name]["tokens"] > 0.95
        for found in (lost[name], kept[name]):
            assert found["share"] == pytest.approx(found["tokens"] / found["features"])
            assert (found["n_learned"], found["n_asked"], found["n_folds"]) == (150, 50, 1)


def test_a_linear_probe_of_several_labels_is_one_of_each():
    """Against scikit-learn's one-vs-rest, on the rows that the probe makes of clips."""
    rng = np.random.default_rng(2)
    sides = rng.integers(0, 2, (60, 2))
    clips = [(s - 0.5 + rng.normal(0, 0.4, (9, 2))).astype(np.float32) for s in sides]
    labels = [["any", *(name for name, has in zip(("b", "a"), s, strict=True) if has)] for s in sides]
    names, found = linear_probe(clips[:40], labels[:40], clips[40:])
    assert names == ["a", "any", "b"]
    rows = np.stack([_stretches(c) for c in clips])
    rows = (rows - rows[:40].mean(0)) / np.sqrt(((rows[:40] - rows[:40].mean(0)) ** 2).sum(1).mean())
    expected = OneVsRestClassifier(LogisticRegression(C=10)).fit(rows[:40], sides[:40, ::-1]).predict_proba(rows[40:])
    np.testing.assert_allclose(found[:, [0, 2]], expected, atol=1e-4)
    assert (found[:, 1] == 1).all()
    single, one = linear_probe(clips[:40], [[str(s[0])] for s in sides[:40]], clips[40:])
    assert single == ["0", "1"]
    assert (one.argmax(1) == sides[40:, 0]).mean() > 0.9


def test_the_paper_s_vocabulary_does_not_see_where_things_are():
    """Of two cells one is lit, in one of two colours: the place is lost when cells are pooled, and the colour is not."""
    rng = np.random.default_rng(1)
    places, colours = rng.integers(0, 2, (2, N_VIDEOS))
    features = []
    for place, colour in zip(places, colours, strict=True):
        clips = rng.normal(0, 0.05, (4, 2, 3)).astype(np.float32)
        clips[:, place, colour] += 1
        features.append(clips.reshape(4, 6))
    videos = [
        ProbeVideo([["left", "right"][p]], [["red", "blue"][c]], i % 4 == 0) for i, (p, c) in enumerate(zip(places, colours, strict=True))
    ]
    report = probe_report(vocabulary(features, videos, branching=6, levels=2, n_cells=2), features, videos)
    assert report["labels"]["features"] > 0.95
    assert report["labels"]["paper"] < 0.7
    assert report["words"]["paper"] > 0.95


def test_figures_equal_those_of_loops():
    rng = np.random.default_rng(2)
    n_clips = rng.integers(1, 20, N_VIDEOS)
    kinds = rng.integers(0, 3, N_VIDEOS)
    features = [
        rng.normal(0, 1, (n, 4)).astype(np.float32) + 0.4 * np.eye(4, dtype=np.float32)[k] for n, k in zip(n_clips, kinds, strict=True)
    ]
    videos = [ProbeVideo([f"kind {k}"], ["Alpha, beta!" if k == 2 else "beta."], i % 5 == 0) for i, k in enumerate(kinds)]
    videos[3] = ProbeVideo(["kind 0", "kind 1"], [], False)  # not of one label, and without a caption
    found = probe_report(vocabulary(features, videos, branching=5, levels=1), features, videos)

    rows = []
    for clips in features:
        parts = []
        for k in range(N_STRETCHES):
            first = k * len(clips) // N_STRETCHES
            last = max(first + 1, (k + 1) * len(clips) // N_STRETCHES)
            parts += [sum(float(c[d]) for c in clips[first:last]) / (last - first) for d in range(4)]
        rows.append(parts)
    told = [i for i in range(N_VIDEOS) if i != 3]
    learned, asked = [i for i in told if i % 5], [i for i in told if i % 5 == 0]
    x = np.array(rows) - np.array(rows)[learned].mean(0)
    x /= np.sqrt(np.mean([(x[i] ** 2).sum() for i in learned]))
    model = LogisticRegression(C=10, max_iter=1000).fit(x[learned], kinds[learned])
    assert found["labels"]["features"] == pytest.approx(np.mean([model.predict(x[i : i + 1])[0] == kinds[i] for i in asked]), abs=1e-9)

    # "beta" is in every caption, which leaves one word.
    assert found["words"]["n_classes"] == 1
    model = LogisticRegression(C=10, max_iter=1000).fit(x[learned], kinds[learned] == 2)
    ranked = sorted(asked, key=lambda i: -float(model.decision_function(x[i : i + 1])[0]))
    hits = [rank for rank, i in enumerate(ranked, 1) if kinds[i] == 2]
    expected = np.mean([n / rank for n, rank in enumerate(hits, 1)])
    assert found["words"]["features"] == pytest.approx(expected, abs=2e-3)
    assert 0.5 < expected < 0.999


def test_without_a_split_every_video_is_asked_about_once_and_never_learned_from_then():
    videos = [ProbeVideo(["a"], [], False) for _ in range(103)]
    folds = _folds(np.arange(103), videos)
    assert sorted(np.concatenate([asked for _, asked in folds]).tolist()) == list(range(103))
    for learned, asked in folds:
        assert sorted([*learned.tolist(), *asked.tolist()]) == list(range(103))
        assert 20 <= len(asked) <= 21
    # Nineteen that are held out are too few, twenty are not.
    few, enough = ([ProbeVideo(["a"], [], i < n) for i in range(103)] for n in (19, 20))
    assert len(_folds(np.arange(103), few)) == 5
    ((learned, asked),) = _folds(np.arange(103), enough)
    assert (asked.tolist(), learned.tolist()) == (list(range(20)), list(range(20, 103)))


def test_folds_give_the_same_figures_again():
    features, videos = faint_labels(np.random.default_rng(3))
    videos = [ProbeVideo(v.labels, v.captions, False) for v in videos]
    made = vocabulary(features, videos, branching=4, levels=1, n_codebooks=3)
    report = probe_report(made, features, videos)
    assert report == probe_report(made, features, videos)
    assert report["labels"]["n_folds"] == 5
    assert (report["labels"]["n_learned"], report["labels"]["n_asked"]) == (160, 200)
    assert report["labels"]["features"] > 0.95


def test_fewer_clips_than_stretches_are_in_several():
    clips = np.arange(3, dtype=np.float32)[:, None]
    assert _stretches(clips).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert _stretches(np.arange(16, dtype=np.float32)[:, None]).tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5]


def test_what_cannot_be_probed_is_said():
    features, videos = faint_labels(np.random.default_rng(4))
    made = vocabulary(features, videos, branching=4, levels=1)
    few = probe_report(made, features[:39], videos[:39])
    assert few["labels"] == few["words"] == {"skipped": "39 videos have a label or caption, and a probe needs 40"}
    silent = [ProbeVideo(["one"], [], v.is_held_out) for v in videos]
    report = probe_report(made, features, silent)
    assert report["labels"] == {"skipped": "fewer than two labels are those of 5 videos to learn from and of one to ask about"}
    assert "no word is in the captions of 2% to 50%" in report["words"]["skipped"]


def test_many_videos_are_thinned_out_evenly():
    videos = [ProbeVideo(["a"] if i % 2 else [], [], False) for i in range(4 * MAX_VIDEOS)]
    chosen = choose_videos(videos)
    assert len(chosen) == MAX_VIDEOS
    assert all(i % 2 for i in chosen)
    assert set(np.diff(chosen)) <= {2, 4, 6}
    assert choose_videos(videos[:100]) == list(range(1, 100, 2))
