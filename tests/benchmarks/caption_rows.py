"""Rows of captions of a tokens dataset, by beam search with four beams, against transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from captioners import captioner, exported
from folder_rows import different
from generation import BATCH, load_exported, sequences, theirs
from harness import N_CORES, OURS, Prepared, Row, Side, at_least, timed
from materials import AGAIN, Inputs, chain, read_captions

from vbcli import shards
from vbcli.errors import ItemFailure
from vbcli.metrics.captions import score_captions
from vbcli.models.checkpoint import load_checkpoint
from vbcli.models.decoding import DecodingConfig
from vbcli.stages.caption import Caption
from vbcli.training.batches import Batch, read_tokens
from vbcli.training.writing import decoder_rows

PEER, DEFAULT_PEER, LIMIT = "transformers", "transformers float32", "one pass over the same tokens"
DECODING = DecodingConfig(n_beams=4, max_length=64)
MIN_SAME, MIN_SAME_BFLOAT16 = 0.99, 0.5
"""Shares of the captions that must be the same. In float32 the two best hypotheses of a video may lie within a rounding error; in bfloat16
rounding chooses among many, and the row `cider` tells whether what it chooses is as good."""
MAX_CIDER_LOSS = 0.01
Precision = Literal["float32", "bfloat16"]
Captions = dict[str, str]


def caption_rows(inputs: Inputs) -> list[Row]:
    """Captions by mini and base models in both precisions, and what bfloat16 does to their score."""
    rows = []
    for size in ("mini", "base"):
        rows.append(Row(f"caption-{size}", (at_least(1.8, PEER), at_least(None, LIMIT)), partial(_caption, inputs, size, "float32")))
        goals = at_least(2.5, PEER), at_least(5.0, DEFAULT_PEER), at_least(None, LIMIT)
        rows.append(Row(f"caption-{size}-bf16", goals, partial(_caption, inputs, size, "bfloat16")))
    return [*rows, Row("cider", (at_least(None, "float32"),), partial(_cider, inputs))]


def our_captions(inputs: Inputs, size: str, precision: Precision) -> Callable[[], Captions]:
    """What `vbcli caption` does in a worker that has loaded the model, over the tokens of the clips."""
    tokens_dir = chain(inputs) / "tokens"
    checkpoint_dir, videos_dir = str(captioner(inputs, size)), str(tokens_dir / "videos")
    options: dict[str, Any] = {"precision": precision} if precision != "float32" else {}
    stage = Caption(checkpoint_dir=checkpoint_dir, videos_dir=videos_dir, threads=N_CORES, decoding=DECODING, **options)
    process = stage.open()
    tables = [table for path in shards.list_shards(tokens_dir) for table in shards.iter_videos(path)]

    def run() -> Captions:
        found: Captions = {}
        for table in process(iter(tables)):
            assert not isinstance(table, ItemFailure), table.message
            found |= {row["video_id"]: row["caption"] for row in table.select(["video_id", "caption"]).to_pylist()}
        return found

    return run


def _caption(inputs: Inputs, size: str, precision: Precision) -> Prepared:
    torch.set_num_threads(N_CORES)
    checkpoint = load_checkpoint(captioner(inputs, size), "caption")
    videos = read_tokens(chain(inputs) / "tokens")
    batches = [sequences(checkpoint, videos[i : i + BATCH]) for i in range(0, len(videos), BATCH)]
    names = [video.video_id for video in videos]
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}

    def peer(named: Precision) -> Side:
        model, build = load_exported(exported(inputs, size))
        model.to(dtypes[named])

        def run() -> Captions:
            def embeds(*arguments: Any) -> torch.Tensor:
                return build(*arguments).to(dtypes[named])

            with torch.inference_mode():
                return dict(zip(names, theirs(model, embeds, batches, checkpoint.text, DECODING), strict=True))

        return timed(run)

    ours = our_captions(inputs, size, precision)
    sides: dict[str, Side] = {OURS: timed(ours), PEER: peer(precision)}
    if precision != "float32":
        sides[DEFAULT_PEER] = peer("float32")
    written = [checkpoint.text.encode(text) for text in ours().values()]
    sides[LIMIT] = timed(partial(_one_pass, checkpoint.captioner.to(dtypes[precision]), batches, written))
    least = MIN_SAME if precision == "float32" else MIN_SAME_BFLOAT16
    return Prepared(sides, lambda results: different(results[OURS], results[PEER], least), len(videos), "captions")


@torch.inference_mode()
def _one_pass(model: Any, batches: list[Batch], written: list[list[int]]) -> None:
    """The least that a search must compute: the encoder once a video, and the decoder once over all tokens of all beams."""
    for number, batch in enumerate(batches):
        arguments = {**batch.arguments(), "features": batch.features.to(next(model.parameters()).dtype)}
        memory, mask = model.encode(**arguments)
        rows, _ = decoder_rows(written[number * BATCH : (number + 1) * BATCH], model.decoder.config)
        beams = [tensor.repeat_interleave(DECODING.n_beams, 0) for tensor in (rows, memory, mask)]
        model.decoder(*beams)


def _cider(inputs: Inputs) -> Prepared:
    references = {name: [text] for name, text in read_captions(inputs).items()}
    sides: dict[str, Side] = {
        OURS: timed(our_captions(inputs, "mini", "bfloat16")),
        "float32": timed(our_captions(inputs, "mini", "float32")),
    }

    def check(results: dict[str, Any]) -> str:
        shown = {name: references[name.removeprefix(AGAIN)] for name in results[OURS]}
        ours, wanted = (score_captions(results[side], shown, with_meteor=False).cider for side in (OURS, "float32"))
        return "" if ours >= wanted * (1 - MAX_CIDER_LOSS) else f"CIDEr {ours:.3f} in bfloat16, {wanted:.3f} in float32"

    return Prepared(sides, check, len(read_tokens(chain(inputs) / "tokens")), "captions")
