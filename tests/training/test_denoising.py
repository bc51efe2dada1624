from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.videobert import VideoBert
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.batches import SegmentRow, VideoTokens, read_texts
from vbcli.training.denoising import DenoiseTask
from vbcli.training.noising import NoiseConfig, add_noise
from vbcli.training.pretrain import PretrainTask
from vbcli.training.tasks import TRAINING, VALIDATION, row_rng
from vbcli.training.trainer import TrainConfig, Trainer

SENTENCES = ["the red ball falls", "a green cube rises slowly", "then the white ring turns", "and the black star blinks twice"]
TEXT = train_text_vocabulary(SENTENCES)


def video(name: str, sentences: list[str], captions: list[str]) -> VideoTokens:
    segments = [SegmentRow(name, i, i + 1, np.zeros(1, np.int32), np.zeros((1, 4), np.float32), s) for i, s in enumerate(sentences)]
    return VideoTokens(name, segments, captions, "train")


VIDEOS = [video("a.mp4", SENTENCES[:3], ["a ball"]), video("b.mp4", ["", SENTENCES[3], ""], []), video("c.mp4", [""], [])]


def captioner(max_positions: int = 64) -> Captioner:
    torch.manual_seed(0)
    encoder = VideoBertConfig(
        1, 32, 2, 64, n_text_tokens=TEXT.n_tokens, n_visual_tokens=4, feature_dim=4, max_positions=max_positions, dropout=0.0,
        attention_dropout=0.0,
    )  # fmt: skip
    decoder = BartConfig(
        0, 1, 32, 2, 64, TEXT.n_tokens, max_positions=64, dropout=0.0, attention_dropout=0.0, pad_token_id=TEXT.pad_id,
        bos_token_id=TEXT.cls_id, eos_token_id=TEXT.sep_id, decoder_start_token_id=TEXT.cls_id,
    )  # fmt: skip
    return Captioner(VideoBert(encoder), BartDecoder(decoder))


def task(videos=VIDEOS, **changes) -> DenoiseTask:
    return DenoiseTask(captioner(), TEXT, videos, videos, **changes)


def test_rows_are_transcripts_and_captions():
    made = task()
    assert [[TEXT.decode(s) for s in row] for _, row in made.parts[0]] == [SENTENCES[:3], [SENTENCES[3]], ["a ball"]]


def test_loss_by_hand(losses_of):
    made = task(label_smoothing=0.0, seed=4)
    made.model.eval()
    expected, n = 0.0, 0
    for row in range(3):
        sentences = made.parts[0][row][1]
        spoiled = add_noise(sentences, NoiseConfig(), TEXT.mask_id, row_rng(4, 2, row)).tolist()
        ids = torch.tensor([[TEXT.cls_id, *spoiled, TEXT.n_tokens, TEXT.sep_id]])
        types = torch.zeros_like(ids)
        types[0, -1] = 1
        memory = made.model.encoder(ids, types, torch.ones_like(ids, dtype=torch.bool))
        whole = list(chain(*sentences))
        logits = made.model.decoder(torch.tensor([[TEXT.cls_id, *whole]]), memory, torch.ones_like(ids, dtype=torch.bool))
        expected += float(F.cross_entropy(logits[0], torch.tensor([*whole, TEXT.sep_id]), reduction="sum").detach())
        n += len(whole) + 1
    total, count = losses_of(made, [0, 1, 2], 2)["denoise"]
    assert count == n
    assert total == pytest.approx(expected, rel=1e-5)


def test_noise_differs_between_epochs(losses_of):
    made = task()
    made.model.eval()
    one, other, again = (losses_of(made, [0], epoch)["denoise"][0] for epoch in (0, 1, 0))
    assert one == again != other


def test_it_learns_to_restore(tmp_path, losses_of):
    made = task()
    total, count = losses_of(made, [0, 1, 2], 0, VALIDATION, False)["denoise"]
    config = TrainConfig(max_steps=150, batch_size=3, learning_rate=1e-2, warmup_steps=10, eval_every=50)
    result = Trainer(made, config, tmp_path, {}, lambda now: None).run()
    assert result.best_loss < 0.5 < total / count


def test_long_texts_are_cut_and_counted():
    made = DenoiseTask(captioner(max_positions=24), TEXT, VIDEOS, VIDEOS)
    assert made.budget == 9
    assert made.notes == ["1 of 3 texts are cut to 9 tokens"]
    assert sum(map(len, made.parts[0][0][1])) == 9
    assert made.draw(TRAINING, [0, 1, 2], 0, is_disturbed=True).batch.input_ids.shape[1] <= 24


def test_video_without_text_is_refused():
    with pytest.raises(VbcliError, match="no training video has a transcript or a caption"):
        task([VIDEOS[2]])


def test_text_of_files_is_learned_with_the_rest(tmp_path):
    """A text a line, what follows the last tab of it, or the captions of a caption file; video tasks leave it alone."""
    (tmp_path / "lines.tsv").write_text("vid1\tthe white ring turns\n\nvid2\textra\ta green cube rises slowly\r\n")
    (tmp_path / "captions.csv").write_text("video,caption\na.mp4,the red ball falls\nb.mp4,\n")
    texts = [text for name in ("lines.tsv", "captions.csv") for text in read_texts(tmp_path / name, 4)]
    assert [v.segments[0].text for v in texts] == ["the white ring turns", "a green cube rises slowly", "the red ball falls"]
    assert texts[1].video_id == f"{tmp_path / 'lines.tsv'}:3"
    made = task([*VIDEOS, *texts])
    assert [[TEXT.decode(s) for s in row] for _, row in made.parts[0]] == [
        SENTENCES[:3], [SENTENCES[3]], ["the white ring turns"], ["a green cube rises slowly"], ["the red ball falls"], ["a ball"],
    ]  # fmt: skip
    model = VideoBert(captioner().encoder.config)
    drawn = PretrainTask(model, TEXT, texts, texts).draw(TRAINING, [0, 1, 2], 0, is_disturbed=True)
    assert not drawn.batch.feature_mask.any()
    assert drawn.counts["visual"] == drawn.counts["alignment"] == 0
    for name, content in (("none.txt", None), ("empty.txt", b"\n \n"), ("bytes.txt", b"\xff\xfe\x00")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(VbcliError, match=name):
            read_texts(tmp_path / name, 4)
