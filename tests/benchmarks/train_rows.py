"""Rows of training: whole steps (drawing, forward and backward passes, clipping, AdamW) against transformers on padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from captioners import captioner, exported
from generation import load_exported
from harness import N_CORES, OURS, Prepared, Row, Side, at_least, timed
from materials import Inputs, chain, fresh
from torch import Tensor
from torch.nn import functional as F

from vbcli.config import VideoBertConfig, load_preset
from vbcli.models.checkpoint import load_checkpoint
from vbcli.models.sentences import minilm_dir
from vbcli.models.videobert import VideoBert, to_bert_state
from vbcli.textvocab import read_published_vocabulary
from vbcli.training.batches import Batch, SegmentRow, VideoTokens, read_tokens
from vbcli.training.captioning import CaptionTask
from vbcli.training.pretrain import PretrainTask
from vbcli.training.tasks import IGNORED, TRAINING, VALIDATION, DrawnRows, split_videos
from vbcli.training.trainer import TrainConfig, Trainer

N_VISUAL_TOKENS = 12**4
MAX_LOSS_DIFFERENCE = 1e-4
PEER, DEFAULT_PEER = "transformers", "transformers float32"
Precision = Literal["float32", "bfloat16"]
Loss = Callable[[DrawnRows[Batch]], Tensor]


def train_rows(inputs: Inputs) -> list[Row]:
    """Pre-training and the training of captioners against transformers."""
    rows = []
    for size, least, least_fast in (("mini", 3.0, 6.0), ("base", 2.0, 4.0)):
        rows.append(Row(f"pretrain-{size}", (at_least(least, PEER),), partial(_pretrain, inputs, size, "float32")))
        goals = at_least(least, PEER), at_least(least_fast, DEFAULT_PEER)
        rows.append(Row(f"pretrain-{size}-bf16", goals, partial(_pretrain, inputs, size, "bfloat16")))
    return [*rows, Row("train-caption", (at_least(1.5, PEER),), partial(_train_caption, inputs))]


class Steps:
    """Training steps of a trainer: `run` takes `n_steps` more, over the same rows each time."""

    def __init__(self, inputs: Inputs, task: Any, precision: Precision, n_steps: int) -> None:
        # One process has one precision, unless its state is told to forget it.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, mixed_precision="bf16" if precision == "bfloat16" else "no")
        batch_size = inputs.size(32, 8)
        config = TrainConfig(max_steps=1000, batch_size=batch_size, learning_rate=1e-5)
        self.trainer = Trainer(task, config, fresh(inputs, "training"), {}, lambda progress: None, accelerator)
        self.n_steps = n_steps
        order = [self.trainer._rows_of(step) for step in range(n_steps)]
        self.drawn = [task.draw(TRAINING, rows, epoch, is_disturbed=True) for rows, epoch in order]

    @property
    def n_tokens(self) -> int:
        """Real tokens that go through the model."""
        return sum(drawn.n_tokens for drawn in self.drawn)

    def run(self) -> None:
        """`Trainer.run` would also validate and save, which no peer here does."""
        self.trainer.step = 0
        for _ in range(self.n_steps):
            self.trainer._train_step()
            self.trainer.step += 1


def peer_steps(model: Any, drawn: Sequence[DrawnRows[Batch]], loss: Loss, precision: Precision) -> Callable[[], None]:
    """The same steps over the same rows, which are drawn already; as the Trainer of transformers takes them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        model.train()
        for rows in drawn:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                total = loss(rows)
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return run


def loss_difference(task: Any, model: Any, loss: Loss, names: Sequence[str]) -> str:
    """What is wrong with the loss of the same weights without dropout; empty if nothing."""
    task.model.eval()
    model.eval()
    drawn = task.draw(VALIDATION, list(range(min(8, task.n_validation))), 0, is_disturbed=False)
    with torch.no_grad():
        parts = task.losses(drawn)
        ours = float(sum(parts[name] for name in names)) / sum(drawn.counts[name] for name in names)
        theirs = float(loss(drawn))
    return "" if abs(ours - theirs) <= MAX_LOSS_DIFFERENCE else f"loss {ours:.5f}, theirs {theirs:.5f}"


# ---------------------------------------------------------------- pre-training


def told_videos(inputs: Inputs, n: int) -> list[VideoTokens]:
    """Videos of 5 to 60 clips in segments of at most 16, each with a sentence; tokens are drawn evenly from 12^4."""
    lines = (inputs.text_dir / "msvd_train_sentences.tsv").read_text(encoding="utf-8").splitlines()
    rng = np.random.default_rng(0)
    sentences = [lines[i].rpartition("\t")[2] for i in rng.permutation(len(lines))]
    videos = []
    for number in range(n):
        n_clips, segments = int(rng.integers(5, 61)), []
        for first in range(0, n_clips, 16):
            visual = rng.integers(0, N_VISUAL_TOKENS, (min(16, n_clips - first), 1)).astype(np.int32)
            features = np.zeros((len(visual), 0), np.float32)
            text = sentences[(4 * number + first // 16) % len(sentences)]
            segments.append(SegmentRow(str(number), first / 2, (first + len(visual)) / 2, visual, features, text))
        videos.append(VideoTokens(str(number), segments, split="val" if number % 10 == 0 else "train"))
    return videos


def bert_of(model: VideoBert) -> Any:
    """transformers' BertForMaskedLM with the same rows and weights."""
    config = model.config
    bert = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=config.n_tokens,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            intermediate_size=config.intermediate_size,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.attention_dropout,
            max_position_embeddings=config.max_positions,
            pad_token_id=config.pad_token_id,
        )
    )
    left_out = bert.load_state_dict(to_bert_state(model), strict=False)
    assert not left_out.missing_keys, left_out.missing_keys
    return bert


def masked_loss(model: Any, drawn: DrawnRows[Batch]) -> Tensor:
    """The mean over all masked tokens, of text and video."""
    batch, labels = drawn.batch, drawn.wanted["tokens"][..., 0]
    mask = batch.attention_mask.long()
    return model(input_ids=batch.input_ids, token_type_ids=batch.token_type_ids, attention_mask=mask, labels=labels).loss


def _pretrain(inputs: Inputs, size: str, precision: Precision) -> Prepared:
    torch.set_num_threads(N_CORES)
    torch.manual_seed(0)
    text = read_published_vocabulary(minilm_dir())
    preset = f"videobert-{'tiny' if inputs.is_quick else size}"
    options: dict[str, Any] = {"n_text_tokens": text.n_tokens, "n_visual_tokens": N_VISUAL_TOKENS, "visual_input": "tokens"}
    model = VideoBert(load_preset(preset, VideoBertConfig, **options))
    train, validation, _ = split_videos(told_videos(inputs, inputs.size(400, 40)), "train")
    task = PretrainTask(model, text, train, validation)
    steps = Steps(inputs, task, precision, inputs.size(4 if size == "mini" else 2, 1))
    bert = bert_of(model)
    loss = partial(masked_loss, bert)
    # In float32, before anything is learned.
    difference = loss_difference(task, bert, loss, ("text", "visual"))
    sides: dict[str, Side] = {OURS: timed(steps.run), PEER: timed(peer_steps(bert, steps.drawn, loss, precision))}
    if precision != "float32":
        sides[DEFAULT_PEER] = timed(peer_steps(bert, steps.drawn, loss, "float32"))
    return Prepared(sides, lambda results: difference, steps.n_tokens, "real tokens")


# ---------------------------------------------------------------- captioners


def _train_caption(inputs: Inputs) -> Prepared:
    torch.set_num_threads(N_CORES)
    checkpoint = load_checkpoint(captioner(inputs, "mini"), "caption")
    train, validation, _ = split_videos(read_tokens(chain(inputs) / "tokens"), "train")
    # The exported table blocks visual rows by minus infinity: smoothing would spread the target over them.
    task = CaptionTask(checkpoint.captioner, checkpoint.text, train, validation, label_smoothing=0.0)
    model, build = load_exported(exported(inputs, "mini"))

    def loss(drawn: DrawnRows[Batch]) -> Tensor:
        batch = drawn.batch
        embeds = build(model, batch.input_ids, batch.features, batch.feature_mask, batch.residual_ids)
        mask = batch.attention_mask.long()
        logits = model(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=drawn.wanted["inputs"]).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), drawn.wanted["targets"].flatten(), ignore_index=IGNORED)

    difference = loss_difference(task, model, loss, ("caption",))
    steps = Steps(inputs, task, "float32", inputs.size(4, 1))
    sides: dict[str, Side] = {OURS: timed(steps.run), PEER: timed(peer_steps(model, steps.drawn, loss, "float32"))}
    return Prepared(sides, lambda results: difference, steps.n_tokens, "real tokens")
