"""Captioners of the speed benchmarks, which say of each clip what it shows: made once and kept in the work folder."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import N_CORES, run_process, vbcli_command
from materials import Inputs, chain
from torch import nn

from vbcli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vbcli.models.exchange import export_transformers
from vbcli.models.sentences import minilm_dir
from vbcli.models.videobert import VideoBert
from vbcli.stages.caption import encode_videos
from vbcli.training.batches import read_tokens
from vbcli.training.writing import IGNORED, decoder_rows

FEATURE_GAIN = 30.0
"""Of the weights that features come in by: in a fresh encoder what it is shown hardly counts beside where and of what type it is."""
BATCH, LEARNING_RATE, N_WARMUP = 32, 3e-4, 30


def captioner(inputs: Inputs, size: str) -> Path:
    """Checkpoint of a captioner that says different things of different clips.

    Of a hundred clips a captioner learns to write, and one sentence for all. So `vbcli train` makes one, its encoder is put back to random
    weights that clips pass through, and its decoder learns by heart what to say of what comes out.

    Args:
        size: `mini` or `base`: encoder videobert-SIZE, decoder bart-SIZE, and 30,522 words. A quick benchmark has a tiny one for both.
    """

    def make(place: Path) -> None:
        if inputs.is_quick:
            shape, n_steps = ("--model", "videobert-tiny", "--max-steps", "60", "--batch-size", "8"), 30
        elif size == "mini":
            shape, n_steps = ("--model", "videobert-mini", "--init", "minilm", "--max-steps", "100", "--batch-size", "16"), 100
        else:
            shape, n_steps = ("--model", "videobert-base", "--init", fresh_bert(inputs), "--max-steps", "30", "--batch-size", "8"), 150
        run_process(vbcli_command("train", chain(inputs) / "tokens", place, "--task", "caption", "--patience", "1000", *shape))
        checkpoint = load_checkpoint(place, "caption")
        _learn_by_heart(checkpoint, chain(inputs), n_steps)
        save_checkpoint(checkpoint, place)

    return inputs.made("captioner-tiny" if inputs.is_quick else f"captioner-{size}", make)


def exported(inputs: Inputs, size: str) -> Path:
    """A captioner as a folder of transformers."""

    def make(place: Path) -> None:
        export_transformers(load_checkpoint(captioner(inputs, size), "caption"), place)

    return inputs.made(f"exported-{size}", make)


def fresh_bert(inputs: Inputs) -> Path:
    """A BERT-base of random weights in transformers' format that knows the words of MiniLM."""

    def make(place: Path) -> None:
        import transformers

        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig()).save_pretrained(place)
        shutil.copyfile(minilm_dir() / "vocab.txt", place / "vocab.txt")

    return inputs.made("bert-base", make)


def _learn_by_heart(checkpoint: Checkpoint, chain_dir: Path, n_steps: int) -> None:
    """Gives a captioner a fresh encoder, and has its decoder learn the captions of what that makes of the clips."""
    torch.manual_seed(0)
    torch.set_num_threads(N_CORES)
    encoder, decoder = checkpoint.captioner.encoder, checkpoint.captioner.decoder
    encoder.load_state_dict(VideoBert(encoder.config).state_dict())
    assert encoder.feature_projection is not None
    with torch.no_grad():
        encoder.feature_projection.weight *= FEATURE_GAIN
    videos = read_tokens(chain_dir / "tokens")
    with (chain_dir / "captions.csv").open(encoding="utf-8", newline="") as file:
        captions = {row["video"]: row["caption"] for row in csv.DictReader(file)}
    written = [checkpoint.text.encode(captions[video.video_id]) for video in videos]
    with torch.no_grad():
        memory, mask = encode_videos(checkpoint, videos)
    rows, targets = decoder_rows(written, decoder.config)
    optimizer = torch.optim.AdamW(decoder.parameters(), LEARNING_RATE)
    # Evaluation mode: without dropout.
    for step in range(n_steps):
        chosen = torch.randperm(len(videos))[:BATCH]
        with torch.autocast("cpu", torch.bfloat16):
            logits = decoder(rows[chosen], memory[chosen], mask[chosen])
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets[chosen].flatten(), ignore_index=IGNORED)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / N_WARMUP)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
