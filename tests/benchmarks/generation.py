"""Whether a trained captioner, exported, says with `generate` of transformers what `vbcli caption` says.

    python tests/benchmarks/generation.py CHECKPOINT TOKENS_DIR [--split test] [--n-videos 200]

Every way of decoding is run over the same tokens in float32 by both. Strings that differ are counted by the gap between the two best of
our hypotheses: within 1e-5 either is as good (the sums are added in another order), beyond it there is an error, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from vbcli.models.checkpoint import Checkpoint, load_checkpoint
from vbcli.models.decoding import DecodingConfig, Hypothesis, generate
from vbcli.models.exchange import export_transformers
from vbcli.stages.caption import caption_videos
from vbcli.tokens import pack
from vbcli.training.batches import Batch, VideoTokens, choose_clips, collate, read_tokens

NEAR_TIE = 1e-5
BATCH = 16
# Beams, length penalty, no-repeat n-grams, minimum and maximum length.
GRID = [
    *itertools.product((4, 5), (0.6, 1.0, 1.4, 2.0), (3,), (0,), (20,)),
    *((4, 1.0, 3, 8, 20), (5, 2.0, 3, 12, 24), (5, 0.6, 3, 0, 6), (1, 1.0, 3, 0, 20)),
]


def ours(checkpoint: Checkpoint, batches: Sequence[list[VideoTokens]], decoding: DecodingConfig) -> list[str]:
    """What `vbcli caption` writes."""
    return [checkpoint.text.decode(h.token_ids) for videos in batches for h in caption_videos(checkpoint, videos, decoding)]


def sequences(checkpoint: Checkpoint, videos: Sequence[VideoTokens]) -> Batch:
    """The videos as one sequence each, as the captioner reads them."""
    config = checkpoint.encoder.config
    packed = []
    for video in videos:
        clips = choose_clips(len(video.visual_tokens), checkpoint.n_clips)
        assert len(clips) <= checkpoint.window_size, f"{video.video_id} is read in windows, which transformers does not know"
        packed.append(pack([], video.visual_tokens[clips], video.features[clips, : config.feature_dim], checkpoint.text, config))
    return collate(packed, config.feature_dim, checkpoint.text.pad_id)


def theirs(model: Any, build: Callable[..., Any], batches: Sequence[Batch], text: Any, decoding: DecodingConfig) -> list[str]:
    """What `generate` writes; its lengths count the start token."""
    said = []
    for batch in batches:
        residual_ids = batch.residual_ids if batch.residual_ids.shape[2] else None
        embeds = build(model, batch.input_ids, batch.features, batch.feature_mask, residual_ids)
        rows = model.generate(
            inputs_embeds=embeds, attention_mask=batch.attention_mask.long(), num_beams=decoding.n_beams, do_sample=False,
            length_penalty=decoding.length_penalty, early_stopping=False, max_length=decoding.max_length + 1, max_new_tokens=None,
            min_length=decoding.min_length + 1 if decoding.min_length else 0, no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        )  # fmt: skip
        said += [text.decode(row.tolist()) for row in rows]
    return said


def load_exported(folder: Path) -> tuple[Any, Callable[..., Any]]:
    """The model of an exported captioner, and what builds its inputs."""
    spec = importlib.util.spec_from_file_location("video_inputs", folder / "video_inputs.py")
    assert spec is not None
    assert spec.loader is not None
    video_inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(video_inputs)
    return transformers.BartForConditionalGeneration.from_pretrained(folder).eval(), video_inputs.inputs_embeds


def two_best(checkpoint: Checkpoint, batch: Batch, row: int, decoding: DecodingConfig) -> list[Hypothesis]:
    """Of one video, all hypotheses of our search, best first."""
    one = Batch(**{name: value[row : row + 1] for name, value in vars(batch).items()})
    with torch.inference_mode():
        memory, mask = checkpoint.captioner.encode(**one.arguments())
        return generate(checkpoint.captioner.decoder, memory, mask, decoding)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokens_dir", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--n-videos", type=int, default=200)
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.checkpoint, "caption")
    videos = [v for v in read_tokens(arguments.tokens_dir) if v.split == arguments.split][: arguments.n_videos]
    groups = [videos[i : i + BATCH] for i in range(0, len(videos), BATCH)]
    batches = [sequences(checkpoint, group) for group in groups]
    n_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "bart"
        export_transformers(checkpoint, exported)
        model, build = load_exported(exported)
        sys.stdout.write("beams  length penalty  no-repeat  min  max | videos  same  near ties  wrong | our s  their s\n")
        for n_beams, penalty, no_repeat, minimum, maximum in GRID:
            decoding = DecodingConfig(n_beams, maximum, minimum, penalty, no_repeat)
            with torch.inference_mode():
                started = time.perf_counter()
                mine = ours(checkpoint, groups, decoding)
                between = time.perf_counter()
                others = theirs(model, build, batches, checkpoint.text, decoding)
                ended = time.perf_counter()
            different = [i for i, (a, b) in enumerate(zip(mine, others, strict=True)) if a != b]
            gaps = []
            for i in different:
                found = two_best(checkpoint, batches[i // BATCH], i % BATCH, decoding)
                gaps.append(found[0].score - found[1].score if len(found) > 1 else float("inf"))
                sys.stdout.write(f"  {videos[i].video_id}: {mine[i]!r} / {others[i]!r}, gap {gaps[-1]:.2e}\n")
            wrong = sum(gap > NEAR_TIE for gap in gaps)
            n_wrong += wrong
            counts = f"{len(mine):6d} {len(mine) - len(different):5d} {len(different) - wrong:10d} {wrong:6d}"
            times = f"{between - started:6.1f} {ended - between:8.1f}"
            sys.stdout.write(f"{n_beams:5d} {penalty:15.1f} {no_repeat:10d} {minimum:4d} {maximum:4d} | {counts} | {times}\n")
            sys.stdout.flush()
    sys.exit(1 if n_wrong else 0)


if __name__ == "__main__":
    main()
