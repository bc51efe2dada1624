"""Teaching classes: what is asked, what counts, and a world in which they can be learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.classifier import VideoClassifier
from vbcli.models.heads import balanced_class_weights
from vbcli.models.videobert import VideoBert
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import pack
from vbcli.training import classifying
from vbcli.training.batches import SegmentRow, VideoTokens, collate
from vbcli.training.classifying import ClassifyTask, ClassSet, fit_probe
from vbcli.training.showing import Showing
from vbcli.training.tasks import VALIDATION
from vbcli.training.trainer import TrainConfig, Trainer

N_DIMS = 4
COLOURS = ("red", "green", "blue", "white")
TEXT = train_text_vocabulary(["a thing that is seen"])
STILL = Showing(feature_noise=0.0, clip_drop=0.0)


def video(i: int, *labels: str) -> VideoTokens:
    """Its clips show the colour `i % 4`."""
    rng = np.random.default_rng(i)
    features = np.eye(N_DIMS, dtype=np.float32)[np.full(4, i % 4)] + 0.1 * rng.normal(size=(4, N_DIMS)).astype("f4")
    segment = SegmentRow(f"{i}.mp4", 0.0, 2.0, np.full(4, i % 4, np.int32), features, "")
    return VideoTokens(f"{i}.mp4", [segment], [], "train", list(labels) or [COLOURS[i % 4]])


def task(train: list[VideoTokens], validation: list[VideoTokens], weights: bool = False, showing: Showing = STILL) -> ClassifyTask:
    torch.manual_seed(0)
    classes = ClassSet.of(train)
    shape = VideoBertConfig(
        1,
        64,
        2,
        128,
        n_text_tokens=TEXT.n_tokens,
        n_visual_tokens=4,
        feature_dim=N_DIMS,
        max_positions=16,
        dropout=0.0,
        attention_dropout=0.0,
    )
    balanced = balanced_class_weights(torch.tensor(classes.counts)) if weights else None
    model = VideoClassifier(VideoBert(shape), classes.names, is_multi_label=classes.is_multi_label, class_weights=balanced)
    return ClassifyTask(model, TEXT, train, validation, showing=showing)


def test_the_classes_of_training_videos():
    single = ClassSet.of([video(0), video(1), video(4), replace(video(2), labels=[])])
    assert (single.names, single.counts, single.is_multi_label, single.n_videos) == (("green", "red"), (1, 2), False, 3)
    several = ClassSet.of([video(0, "red", "round"), video(1, "red")])
    assert (several.names, several.counts, several.is_multi_label) == (("red", "round"), (2, 1), True)
    # The same label twice is one.
    assert not ClassSet.of([video(0, "red", "red"), video(1)]).is_multi_label


def test_targets_of_labels():
    single, several = (task([video(0), video(1, *more)], []).model for more in ((), ("green", "round")))
    assert (single.targets(["red"]), single.targets(["blue"])) == ([1], [])
    assert several.classes == ("green", "red", "round")
    assert several.targets(["round", "unknown", "green"]) == [1, 0, 1]


@pytest.mark.parametrize(("labels", "found"), [([[], []], "no labels"), ([["red"], ["red"]], "the one label 'red'")])
def test_fewer_than_two_classes_are_refused(labels: list[list[str]], found: str):
    videos = [replace(video(i), labels=of_video) for i, of_video in enumerate(labels)]
    with pytest.raises(VbcliError, match=f"the training videos have {found}"):
        ClassSet.of(videos)


def test_videos_without_a_known_label_are_left_out():
    made = task([video(0), video(1), replace(video(2), labels=[])], [video(4), video(3, "white")])
    assert (made.n_train, made.n_validation) == (2, 1)
    assert made.notes == ["1 of 3 training videos have no label and are left out"]


@pytest.mark.parametrize("weights", [False, True])
def test_the_loss_equals_torch_on_each_row(losses_of, weights: bool):
    made = task([video(0), video(1), video(4), video(8)], [video(4)], weights)
    total, count = losses_of(made, [0, 1, 2])["classify"]
    # Three red, one green: balanced weights are 4 / (2 * n).
    weight = {"red": 4 / 6, "green": 2.0}
    expected = 0.0
    for row in range(3):
        v = made.parts[0][row][0]
        packed = made.shown.pack(v, np.random.default_rng(0), is_disturbed=False)
        logits = made.model(**collate([packed], N_DIMS, TEXT.pad_id).arguments())
        loss = F.cross_entropy(logits, torch.tensor([("green", "red").index(v.labels[0])]))
        expected += float(loss.detach()) * (weight[v.labels[0]] if weights else 1.0)
    assert count == 3
    assert total == pytest.approx(expected, rel=1e-5)


def test_several_labels_are_asked_for_one_by_one(losses_of):
    made = task([video(0, "red", "round"), video(1, "red")], [video(4, "red")])
    total, count = losses_of(made, [0, 1])["classify"]
    assert count == 4
    packed = [made.shown.pack(v, np.random.default_rng(0), is_disturbed=False) for v, _ in made.parts[0]]
    with torch.no_grad():
        logits = made.model(**collate(packed, N_DIMS, TEXT.pad_id).arguments())
    wanted = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert total == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")), rel=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        [[COLOURS[i % 4]] for i in range(24)],
        [["warm" if i % 4 in (0, 3) else "cold"] for i in range(24)],
        [["thing", COLOURS[i % 4], *(["warm"] if i % 3 else [])] for i in range(24)],
    ],
    ids=["several classes", "two classes", "any number of classes"],
)
def test_training_starts_from_what_a_logistic_regression_of_mean_features_says(labels: list[list[str]]):
    train = [video(i, *of_video) for i, of_video in enumerate(labels)]
    asked = [video(i) for i in range(30, 38)]
    model = task(train, []).model
    # One without a label teaches nothing, nor does one whose features are no numbers.
    broken = video(99, *labels[0])
    broken.segments[0].features[0] = np.nan
    fit_probe(model, [replace(video(98), labels=[]), *train, broken])
    # What the encoder adds at first is small and random.
    torch.nn.init.zeros_(model.head.output.weight)
    batch = collate([pack([], v.visual_tokens, v.features, TEXT, model.encoder.config) for v in asked], N_DIMS, TEXT.pad_id)
    with torch.no_grad():
        found = model.head.probabilities(model.eval()(**batch.arguments())).numpy()
    means, others = (np.stack([v.features.mean(0) for v in part]) for part in (train, asked))
    scaled, others_scaled = ((of - means.mean(0)) / means.std() for of in (means, others))
    columns = []
    for name in model.classes if model.head.is_multi_label else [None]:
        answers = [name in of_video if name else of_video[0] for of_video in labels]
        if len(set(answers)) == 1:
            columns.append(np.full((len(asked), 1), 1 / (1 + np.exp(-4))))
            continue
        regression = LogisticRegression(C=0.1, max_iter=1000).fit(scaled, answers)
        columns.append(regression.predict_proba(others_scaled)[:, -1:] if name else regression.predict_proba(others_scaled))
    np.testing.assert_allclose(found, np.concatenate(columns, 1), atol=1e-4)


def test_a_class_that_the_probe_does_not_see_is_unlikely(monkeypatch: pytest.MonkeyPatch):
    train = [video(i) for i in range(12)]
    monkeypatch.setattr(classifying, "MAX_PROBED", 4)  # 0, 3, 7, 11: one is red, three are white
    model = task(train, []).model
    fit_probe(model, train)
    assert model.probe is not None
    seen = {COLOURS[i % 4] for i in (0, 3, 7, 11)}
    for row, name in enumerate(model.classes):
        assert bool(model.probe.weight[row].any()) == (name in seen)
        assert name in seen or model.probe.bias[row] == -4


def test_what_can_be_seen_is_learned(tmp_path: Path):
    made = task([video(i) for i in range(40)], [video(i) for i in range(100, 120)], showing=Showing())
    settings = TrainConfig(max_steps=300, batch_size=16, learning_rate=2e-3, warmup_steps=10, eval_every=100, patience=9)
    result = Trainer(made, settings, tmp_path, {}, lambda now: None).run()
    # Chance is log(4) = 1.39.
    assert result.best_loss < 0.2
    drawn = made.draw(VALIDATION, range(20), 0, is_disturbed=False)
    made.model.eval()
    with torch.no_grad():
        guesses = made.model(**drawn.batch.arguments()).argmax(-1)
    assert torch.equal(guesses, drawn.wanted["labels"])
