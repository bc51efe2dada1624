from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.dropout import key_dropout
from vbcli.models.videobert import VideoBert
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.batches import SegmentRow, VideoTokens, choose_clips, collate
from vbcli.training.captioning import CaptionTask
from vbcli.training.pretrain import PretrainTask
from vbcli.training.showing import Showing
from vbcli.training.tasks import TRAINING, split_videos
from vbcli.training.tasks import VALIDATION as VALIDATION_PART
from vbcli.training.trainer import TrainConfig, Trainer

COLOURS = ("red", "green", "blue", "white")
SETTINGS = TrainConfig(max_steps=12, batch_size=4, warmup_steps=2, eval_every=4, learning_rate=3e-3)


def video(i: int, split: str = "train", n_clips: int = 5) -> VideoTokens:
    rng = np.random.default_rng(i)
    colour = i % len(COLOURS)
    features = rng.normal(size=(n_clips, 4)).astype(np.float32) * 0.1 + np.eye(4, dtype=np.float32)[colour]
    tokens = np.full(n_clips, colour, np.int32)
    text = f"here you see a {COLOURS[colour]} thing"
    return VideoTokens(
        f"v{i:02d}.mp4", [SegmentRow(f"v{i:02d}.mp4", 0, n_clips / 2, tokens, features, text)], [f"a {COLOURS[colour]} thing"], split
    )


VIDEOS = [video(i) for i in range(24)]
VALIDATION = [video(i, "val") for i in range(100, 108)]
TEXT = train_text_vocabulary([s.text for v in VIDEOS for s in v.segments] + [c for v in VIDEOS for c in v.captions])


def encoder(dropout=0.1, **changes) -> VideoBert:
    torch.manual_seed(0)
    shape = VideoBertConfig(
        1, 16, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=4, feature_dim=4, dropout=dropout, attention_dropout=dropout, **changes
    )
    return VideoBert(shape)


def captioner(dropout=0.1) -> Captioner:
    decoder = BartConfig(
        1, 1, 16, 2, 32, TEXT.n_tokens, dropout=dropout, attention_dropout=dropout, pad_token_id=TEXT.pad_id,
        bos_token_id=TEXT.cls_id, eos_token_id=TEXT.sep_id, decoder_start_token_id=TEXT.cls_id,
    )  # fmt: skip
    return Captioner(encoder(dropout), BartDecoder(decoder))


def caption_task(**changes) -> CaptionTask:
    return CaptionTask(captioner(), TEXT, VIDEOS, VALIDATION, **changes)


def curve(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("make", [caption_task, lambda: PretrainTask(encoder(), TEXT, VIDEOS, VALIDATION)])
def test_interrupted_training_resumes_to_the_same_curve_and_weights(tmp_path, make, ema_decay):
    whole, settings = make(), replace(SETTINGS, ema_decay=ema_decay)
    Trainer(whole, settings, tmp_path / "whole", {}, lambda now: None).run()

    class Stop(Exception):
        pass

    def stop_at(now):
        if now.step == 7:
            raise Stop

    broken = tmp_path / "broken"
    with pytest.raises(Stop):
        Trainer(make(), settings, broken, {}, stop_at).run()
    assert len(curve(broken)) == 4
    resumed = make()
    steps = []
    Trainer(resumed, settings, broken, {}, lambda now: steps.append(now.step)).run()
    assert steps[0] == 5
    assert curve(broken) == curve(tmp_path / "whole")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_another_run_s_state_is_refused(tmp_path):
    def stop(now):
        if now.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(caption_task(), SETTINGS, tmp_path, {}, stop).run()
    with pytest.raises(VbcliError, match="begun with other options"):
        Trainer(caption_task(), replace(SETTINGS, learning_rate=1e-4), tmp_path, {}, lambda now: None).run()


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("in the way")
    steps = []
    with pytest.raises(VbcliError, match="cannot write"):
        Trainer(caption_task(), SETTINGS, tmp_path / "file" / "model", {}, lambda now: steps.append(now.step)).run()
    assert steps == []


def test_seeds_decide(tmp_path):
    losses = []
    for i, seed in enumerate((0, 0, 1)):
        trainer = Trainer(caption_task(seed=seed), replace(SETTINGS, seed=seed), tmp_path / str(i), {}, lambda now: None)
        trainer.run()
        losses.append([row["loss"] for row in trainer.history])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_captioner_learns_what_the_video_decides(tmp_path):
    task = CaptionTask(captioner(dropout=0.0), TEXT, VIDEOS, VALIDATION, showing=Showing(feature_noise=0.1, clip_drop=0.0))
    trainer = Trainer(
        task, TrainConfig(max_steps=200, batch_size=8, learning_rate=1e-2, warmup_steps=10, eval_every=25), tmp_path, {}, lambda now: None
    )
    result = trainer.run()
    # Three words and an end, one of the words unknown without the video: log(4) / 4 = 0.35 blind; smoothed targets leave about 0.1.
    assert result.best_loss < 0.15


def test_weights_with_the_best_validation_loss_are_kept(tmp_path, losses_of):
    task = caption_task()
    trainer = Trainer(task, replace(SETTINGS, learning_rate=0.3, max_steps=40, patience=3), tmp_path, {}, lambda now: None)
    result = trainer.run()
    total, count = losses_of(task, range(task.n_validation), 0, VALIDATION_PART, False)["caption"]
    assert total / count == pytest.approx(result.best_loss, rel=1e-5)
    assert result.best_loss == min(row["validation"]["loss"] for row in trainer.history if "validation" in row)


def test_a_start_that_training_makes_worse_is_kept(tmp_path):
    task = caption_task()
    Trainer(task, replace(SETTINGS, max_steps=100, learning_rate=1e-2), tmp_path / "first", {}, lambda now: None).run()
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    result = Trainer(
        task, replace(SETTINGS, learning_rate=1.0, warmup_steps=0, max_steps=4), tmp_path / "second", {}, lambda now: None
    ).run()
    assert (result.n_steps, result.best_step) == (4, 0)
    assert all(torch.equal(value, start[name]) for name, value in task.model.state_dict().items())


def test_the_running_mean_is_what_is_kept(tmp_path):
    """Against the mean written out: m <- d m + (1 - d) w, with d = min(0.5, (1 + t) / (10 + t))."""
    settings = replace(SETTINGS, max_steps=5, eval_every=5, ema_decay=0.5)
    seen: list[torch.Tensor] = []
    name = "decoder.embedder.norm.weight"
    plain = caption_task()
    start = plain.model.state_dict()[name].clone()
    Trainer(
        plain, replace(settings, ema_decay=0.0), tmp_path / "a", {}, lambda now: seen.append(plain.model.state_dict()[name].clone())
    ).run()
    mean = start
    for step, weights in enumerate(seen):
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weights
    averaged = caption_task()
    Trainer(averaged, settings, tmp_path / "b", {}, lambda now: None).run()
    assert torch.allclose(averaged.model.state_dict()[name], mean, atol=1e-7)
    assert not torch.allclose(seen[-1], mean, atol=1e-4)


def test_small_gains_do_not_keep_training_alive(tmp_path):
    settings = replace(SETTINGS, learning_rate=1e-7, max_steps=100, eval_every=2, patience=3)
    result = Trainer(caption_task(), settings, tmp_path / "a", {}, lambda now: None).run()
    assert (result.n_steps, result.is_early) == (8, True)  # the first validation is a gain, three are not
    result = Trainer(caption_task(), replace(settings, min_gain=0.0), tmp_path / "b", {}, lambda now: None).run()
    assert result.n_steps > 8


def test_a_loss_that_is_no_number_stops(tmp_path):
    task = caption_task()
    with torch.no_grad():
        task.model.decoder.token_embedding.weight[:] = torch.nan
    with pytest.raises(VbcliError, match="the validation loss is nan at step 0"):
        Trainer(task, SETTINGS, tmp_path, {}, lambda now: None).run()


def test_features_that_are_no_numbers_are_named_with_their_shard(tmp_path):
    bad = replace(video(3), shard="tokens/shard-00001.parquet")
    bad.segments[0].features[2] = np.nan
    task = CaptionTask(captioner(), TEXT, [*VIDEOS[:3], bad, *VIDEOS[4:]], VALIDATION)
    with pytest.raises(VbcliError, match=r"the loss of v03\.mp4 in tokens/shard-00001\.parquet is nan"):
        Trainer(task, SETTINGS, tmp_path, {}, lambda now: None).run()


def test_the_learning_rate_rises_and_falls_as_stated(tmp_path):
    settings = replace(SETTINGS, max_steps=12, warmup_steps=2, learning_rate=1.0)
    linear = Trainer(caption_task(), replace(settings, schedule="linear"), tmp_path, {}, print)
    assert [linear._learning_rate(s) for s in (0, 1, 2, 7, 12)] == pytest.approx([0.5, 1, 1, 0.5, 0])
    cosine = Trainer(caption_task(), settings, tmp_path, {}, print)
    assert [cosine._learning_rate(s) for s in (0, 1, 2, 7, 12)] == pytest.approx([0.5, 1, 1, 0.55, 0.1])


def test_what_tensorboard_shows_is_the_curve(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(caption_task(), SETTINGS, tmp_path, {}, lambda now: None).run()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = curve(tmp_path)
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(r["step"], pytest.approx(r["loss"])) for r in rows]
    validated = [(r["step"], pytest.approx(r["validation"]["caption"])) for r in rows if "validation" in r]
    assert [(e.step, e.value) for e in board.Scalars("validation/caption")] == validated


def test_weights_that_diverge_at_the_last_step_stop_too(tmp_path):
    with pytest.raises(VbcliError, match="the validation loss is nan at step 1"):
        Trainer(caption_task(), replace(SETTINGS, max_steps=1, eval_every=1, learning_rate=1e30), tmp_path, {}, lambda now: None).run()
    assert not (tmp_path / "_training").exists()


@pytest.mark.parametrize("make", [caption_task, lambda: PretrainTask(encoder(), TEXT, VIDEOS, VALIDATION)])
def test_rows_do_not_depend_on_their_batch(make, losses_of):
    """Masks, noise and dropout are a row's own, whatever it is batched with and padded to."""
    task = make()
    task.model.train()

    def losses(rows):
        key_dropout(task.model, task.draw(TRAINING, rows, 3, is_disturbed=True).keys)
        return losses_of(task, rows, 3)

    together, apart = losses(range(8)), [losses([row]) for row in range(8)]
    for name, (total, count) in together.items():
        assert count == sum(a[name][1] for a in apart)
        assert total == pytest.approx(sum(a[name][0] for a in apart), rel=1e-4)
    key_dropout(task.model, task.draw(TRAINING, range(8), 4, is_disturbed=True).keys)
    assert losses_of(task, range(8), 3) != together


def test_steps_that_are_cut_into_pieces_end_with_the_same_weights(tmp_path):
    whole, pieces = caption_task(), caption_task()
    # The last step of an epoch has fewer rows than there are pieces.
    settings = replace(SETTINGS, batch_size=7)
    for task, n in ((whole, 1), (pieces, 5)):
        Trainer(task, replace(settings, accumulation=n), tmp_path / str(n), {}, lambda now: None).run()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(pieces.model.state_dict()[name], value, rtol=0, atol=2e-5)
    for one, other in zip(curve(tmp_path / "1"), curve(tmp_path / "5"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_pretrain_loss_by_hand(losses_of):
    task = PretrainTask(encoder(dropout=0.0), TEXT, VIDEOS, VALIDATION, regime_weights=(0, 1, 0))
    task.model.eval()
    epoch = next(e for e in range(20) if (task._draw(task.parts[0], 0, e, True)[1] != -100).sum() > 1)
    packed, targets, aligned = task._draw(task.parts[0], 0, epoch, True)
    assert aligned == -100
    assert not packed.feature_mask.any()  # text only
    batch = collate([packed], 4, TEXT.pad_id)
    hidden = task.model(**batch.arguments())
    rows = np.nonzero(targets[:, 0] != -100)[0]
    expected = sum(float(F.cross_entropy(task.model.masked_logits(hidden[:, r]), torch.tensor(targets[r])).detach()) for r in rows)
    total, count = losses_of(task, [0], epoch)["text"]
    assert count == len(rows) > 1
    assert total == pytest.approx(expected, rel=1e-5)


def test_masked_clips_hide_their_features():
    task = PretrainTask(encoder(), TEXT, VIDEOS, VALIDATION, regime_weights=(0, 0, 1))
    n_hidden = 0
    for row in range(24):
        packed, targets, _ = task._draw(task.parts[0], row, 0, True)
        visual = packed.token_type_ids[:-1] == 1
        first = task.model.config.first_visual_id
        original = VIDEOS[row].visual_tokens + first
        replaced = packed.input_ids[:-1][visual] != original
        n_hidden += int(replaced.sum())
        assert not packed.feature_mask[:-1][visual][replaced].any()
        assert (targets[:-1, 0][visual][replaced] == original[replaced]).all()
    assert n_hidden > 10


def test_misaligned_rows_carry_another_text():
    task = PretrainTask(encoder(), TEXT, VIDEOS, VALIDATION, regime_weights=(1, 0, 0))
    classes = []
    for row in range(24):
        packed, targets, aligned = task._draw(task.parts[0], row, 1, True)
        restored = np.where(targets[:, 0] != -100, targets[:, 0], packed.input_ids)
        n_text = int((packed.token_type_ids == 0).sum()) - 2
        text = TEXT.decode(restored[1 : 1 + n_text].tolist())
        assert (text == VIDEOS[row].segments[0].text) == (aligned == 0)
        classes.append(aligned)
    assert 0 in classes
    assert 1 in classes


def test_chosen_clips():
    assert choose_clips(5, None).tolist() == [0, 1, 2, 3, 4]
    assert choose_clips(5, 1).tolist() == [2]
    assert choose_clips(10, 1).tolist() == [5]
    assert choose_clips(8, 2).tolist() == [2, 6]
    assert choose_clips(5, 0).tolist() == []


def test_a_captioner_of_no_clips_sees_none():
    task = caption_task(showing=Showing(n_clips=0))
    packed = task.shown.pack(VIDEOS[0], np.random.default_rng(0), is_disturbed=False)
    assert packed.input_ids.tolist() == [TEXT.cls_id, TEXT.n_tokens, TEXT.sep_id]
    assert task.shown.longest_clips == 0


def test_disturbance_has_the_stated_size_and_spares_validation(losses_of):
    task = caption_task(showing=Showing(feature_noise=0.5, clip_drop=0.25))
    plain = task.shown.pack(VIDEOS[0], np.random.default_rng(0), is_disturbed=False)
    drawn = [task.shown.pack(VIDEOS[0], np.random.default_rng(i), is_disturbed=True) for i in range(2000)]
    lengths = [np.linalg.norm(d.features - plain.features, axis=1) for d in drawn]
    assert np.mean(np.square(lengths)) == pytest.approx(0.25, rel=0.05)
    shown = np.mean([d.feature_mask[plain.feature_mask].mean() for d in drawn])
    assert shown == pytest.approx(0.75, abs=0.02)
    assert not any(d.feature_mask[~plain.feature_mask].any() for d in drawn)
    task.model.eval()
    quiet = CaptionTask(task.model, TEXT, VIDEOS, VALIDATION, showing=Showing(feature_noise=0.0, clip_drop=0.0))
    one, other = (losses_of(t, [0, 1], 0, VALIDATION_PART, False) for t in (task, quiet))
    assert one == other


def test_splits():
    train, validation, note = split_videos([*VIDEOS, *VALIDATION], "train")
    assert (len(train), len(validation), note) == (24, 8, None)
    train, validation, note = split_videos(VIDEOS, "train")
    assert len(train) + len(validation) == 24
    assert not {v.video_id for v in train} & {v.video_id for v in validation}
    assert note is not None
    with pytest.raises(VbcliError, match="no video is in the split 'test'"):
        split_videos(VIDEOS, "test")


def test_smoothed_caption_loss_equals_torch_on_each_row(losses_of):
    showing = Showing(feature_noise=0.0, clip_drop=0.0)
    task = CaptionTask(captioner(dropout=0.0), TEXT, VIDEOS, VALIDATION, label_smoothing=0.1, showing=showing)
    task.model.train()
    total, _ = losses_of(task, [0, 1])["caption"]
    expected = 0.0
    for row in (0, 1):
        v, ids = task.parts[0][row]
        batch = collate([task.shown.pack(v, np.random.default_rng(0), is_disturbed=False)], 4, TEXT.pad_id)
        inputs = torch.tensor([[TEXT.cls_id, *ids]])
        logits = task.model(**batch.arguments(), decoder_input_ids=inputs)[0]
        expected += float(F.cross_entropy(logits, torch.tensor([*ids, TEXT.sep_id]), label_smoothing=0.1, reduction="sum").detach())
    assert total == pytest.approx(expected, rel=1e-5)


def test_visual_rows_stay_at_their_centroids(tmp_path):
    task = caption_task()
    model = task.model.encoder
    first = model.config.first_visual_id
    before = model.token_embedding.weight.detach().clone()
    model.freeze_visual_rows()
    Trainer(task, SETTINGS, tmp_path, {}, lambda now: None).run()
    after = model.token_embedding.weight.detach()
    assert torch.equal(after[first:], before[first:])
    assert not torch.equal(after[TEXT.cls_id], before[TEXT.cls_id])
