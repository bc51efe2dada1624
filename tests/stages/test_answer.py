"""Many questions, and many candidates, in batches: what comes out does not depend on them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vbcli.models.decoding import DecodingConfig
from vbcli.models.videobert import VideoBert
from vbcli.stages import answer
from vbcli.stages.answer import Answer, answer_questions
from vbcli.stages.model import BATCH_SIZE
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.answering import content_words, words_of_questions
from vbcli.training.batches import Question, SegmentRow, VideoTokens
from vbcli.vocab.artifact import save_vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

RNG = np.random.default_rng(3)
WORDS = ["red", "blue", "ball", "cube", "falls", "grows", "what", "color"]
TEXT = train_text_vocabulary([" ".join(WORDS), "the red ball falls and the blue cube grows"])
VIDEO = VideoTokens(
    "a.mp4", [SegmentRow("a.mp4", 0, 10, RNG.integers(0, 3, 20).astype(np.int32), RNG.normal(size=(20, 6)).astype(np.float32), "")]
)
DECODING = DecodingConfig(2, 6, no_repeat_ngram_size=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    vocab_dir = tmp_path_factory.mktemp("vocab")
    features = RNG.normal(size=(200, 12)).astype(np.float32)
    visual = fit_vocabulary(features, VocabConfig(branching=3, levels=2, n_components=6), {"name": "none"})
    save_vocabulary(visual, vocab_dir, [])
    torch.manual_seed(1)
    shape = VideoBertConfig(
        2, 16, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=visual.n_tokens, feature_dim=6, max_positions=40, initializer_range=0.4
    )
    words = BartConfig(
        1, 1, 16, 2, 32, TEXT.n_tokens, initializer_range=0.4, pad_token_id=TEXT.pad_id,
        bos_token_id=TEXT.cls_id, eos_token_id=TEXT.sep_id, decoder_start_token_id=TEXT.cls_id,
    )  # fmt: skip
    model = Captioner(VideoBert(shape), BartDecoder(words)).eval()
    return Checkpoint("answer", model, TEXT, visual, vocab_dir, window_clips=12)


def test_batches_of_questions_and_candidates_change_nothing(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    pairs = [f"{a} {b}" for a in WORDS for b in WORDS]
    questions = [Question(f"what {pair}") for pair in pairs[: 2 * BATCH_SIZE + 3]] + [Question("what", candidates=tuple(pairs))]
    sizes: list[int] = []
    encode, score = answer._encode_asked, answer.sentence_log_probs
    monkeypatch.setattr(answer, "_encode_asked", lambda c, asked: (sizes.append(len(asked)), encode(c, asked))[1])
    monkeypatch.setattr(answer, "sentence_log_probs", lambda c, m, k, said: (sizes.append(len(said)), score(c, m, k, said))[1])
    rows = answer_questions(checkpoint, VIDEO, questions, DECODING)
    assert max(sizes) == BATCH_SIZE
    assert sum(sizes) == len(questions) + len(pairs)
    for row, question in zip(rows, questions, strict=True):
        (alone,) = answer_questions(checkpoint, VIDEO, [question], DECODING)
        assert (row["question"], row["answer"]) == (question.text, alone["answer"])
        assert row["probability"] == pytest.approx(alone["probability"], abs=1e-5)
    # The likelihoods of all candidates at once.
    memory, mask = encode(checkpoint, [("what", answer.video_windows(VIDEO, checkpoint))])
    odds = np.exp(score(checkpoint, memory, mask, pairs)[0])
    expected = dict(zip(pairs, odds / odds.sum(), strict=True))
    assert {c["answer"]: c["probability"] for c in rows[-1]["candidates"]} == pytest.approx(expected, abs=1e-5)
    assert answer_questions(checkpoint, VIDEO, [], DECODING) == []


def test_candidates_that_read_alike_are_one(checkpoint: Checkpoint):
    assert TEXT.group_alike(["red", " Red", "blue", "RED.", "red red", "."]) == [["red", " Red", "RED."], ["blue"], ["red red"], ["."]]
    many, few = (
        answer_questions(checkpoint, VIDEO, [Question("what color", candidates=candidates)], DECODING)[0]
        for candidates in (("red", "Red", "blue", "red."), ("red", "blue"))
    )
    assert many == few


def test_an_answer_to_no_question_is_not_sure(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answer, "UNSURE", 0.0)
    questions = [Question(text) for text in ("?", "...", "the", "", "what COLOR", "red")]
    rows = answer_questions(checkpoint, VIDEO, questions, DECODING)
    assert [row["is_sure"] for row in rows] == [False, False, False, False, True, True]


def test_words_of_training_questions_are_kept_and_part_of_the_identity(checkpoint: Checkpoint, tmp_path: Path):
    segments = VIDEO.segments
    train = [
        VideoTokens("b.mp4", segments, questions=[Question("What COLOR is the ball?", ("red",)), Question("is it 3-D?", ("no",))]),
        VideoTokens("c.mp4", segments, questions=[Question("and the hat?")]),
    ]
    assert words_of_questions(train) == {"color", "ball", "3", "d"}
    assert content_words("Où est-ce que l'Été_2 commence ?") == {"où", "est", "ce", "que", "l", "été", "2", "commence"}
    asked = {"a": words_of_questions(train), "b": frozenset(["hat"]), "none": None}
    for name, words in asked.items():
        save_checkpoint(replace(checkpoint, question_words=words), tmp_path / name)
        assert load_checkpoint(tmp_path / name).question_words == words
    identities = {str(Answer(checkpoint_dir=str(tmp_path / name), decoding=DECODING).identity()) for name in asked}
    assert len(identities) == 3


def test_one_of_a_closed_set_is_sure_where_its_own_words_are_likely_too(checkpoint: Checkpoint):
    likely = {TEXT.encode("red")[0]: 0.5, TEXT.encode("blue")[0]: 0.05, TEXT.encode("ball")[0]: 0.005, TEXT.sep_id: 0.4}
    model = copy.deepcopy(checkpoint.captioner)
    # Without embeddings the decoder says the same at each place, whatever it sees.
    model.decoder.token_embedding.weight.data.zero_()
    for token in range(TEXT.n_tokens):
        left = (1 - sum(likely.values())) / (TEXT.n_tokens - len(likely))
        model.decoder.final_logits_bias[0, token] = np.log(likely.get(token, left))
    asked = [Question("what color", candidates=candidates) for candidates in (("blue", "red"), ("ball", "blue"))]
    red, blue = answer_questions(replace(checkpoint, model=model), VIDEO, asked, DECODING)
    # By hand, a word and the end: red 0.447, blue 0.141, ball 0.045.
    assert [(row["answer"], row["is_sure"]) for row in (red, blue)] == [("red", True), ("blue", False)]
    assert [row["probability"] for row in (red, blue)] == pytest.approx([0.7597, 0.7597], abs=1e-4)
