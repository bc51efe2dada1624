"""The fused representation: against the model run on each sequence by itself, and windows against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from vbcli import shards
from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import ItemFailure, VbcliError
from vbcli.inference import fuse_dataset
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint, save_checkpoint
from vbcli.models.videobert import VideoBert
from vbcli.pipeline import RunOptions
from vbcli.schemas import VIDEOS, tokens_schema
from vbcli.stages.fuse import Fuse, fuse_segments
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import split_windows
from vbcli.training.batches import SegmentRow
from vbcli.vocab.artifact import Vocabulary, load_vocabulary, save_vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

D, P, N_POSITIONS = 16, 6, 24
ROOM = N_POSITIONS - 3
SENTENCE = "the blue cube grows and then it shrinks while a red ball falls "
TEXT = train_text_vocabulary([SENTENCE])


@pytest.fixture(scope="module")
def vocab_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vocab")
    features = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    save_vocabulary(fit_vocabulary(features, VocabConfig(branching=3, levels=2, n_components=P), {"name": "none"}), out, [])
    return out


@pytest.fixture(scope="module")
def visual(vocab_dir: Path) -> Vocabulary:
    return load_vocabulary(vocab_dir)


def encoder(visual: Vocabulary, **changes: Any) -> VideoBert:
    torch.manual_seed(1)
    shape = VideoBertConfig(
        2, D, 2, 32, n_text_tokens=TEXT.n_tokens, n_visual_tokens=visual.n_tokens, feature_dim=P, max_positions=N_POSITIONS,
        initializer_range=0.4, **changes,
    )  # fmt: skip
    return VideoBert(shape).eval()


def pretrained(visual: Vocabulary, vocab_dir: Path, **changes: Any) -> Checkpoint:
    return Checkpoint("pretrain", encoder(visual, **changes), TEXT, visual, vocab_dir)


def captioner(visual: Vocabulary, vocab_dir: Path, **changes: Any) -> Checkpoint:
    words = BartConfig(1, 1, D, 2, 32, TEXT.n_tokens)
    return Checkpoint("caption", Captioner(encoder(visual), BartDecoder(words)).eval(), TEXT, visual, vocab_dir, **changes)


def segment(n_clips: int, text: str = "", name: str = "v.mp4") -> SegmentRow:
    rng = np.random.default_rng([n_clips, len(text)])
    return SegmentRow(name, 0, n_clips / 2, rng.integers(0, 3, n_clips).astype(np.int32), rng.normal(size=(n_clips, P)).astype("f4"), text)


def alone(model: VideoBert, text_ids: Sequence[int], tokens: np.ndarray, features: np.ndarray) -> np.ndarray:
    """h of one sequence, float32 (S, D), with inputs put together by hand."""
    config, n_text = model.config, len(text_ids)
    visual_ids = [config.n_text_tokens + 1 + int(t) for t in tokens]
    ids = torch.tensor([[TEXT.cls_id, *text_ids, config.n_text_tokens, *visual_ids, TEXT.sep_id]])
    place = torch.arange(ids.shape[1])
    types = (place >= n_text + 2).long()[None]
    is_clip = ((place >= n_text + 2) & (place < ids.shape[1] - 1))[None]
    inputs = torch.zeros(1, ids.shape[1], P)
    inputs[is_clip] = torch.from_numpy(features)
    with torch.no_grad():
        return model(ids, types, torch.ones_like(is_clip), inputs, is_clip)[0].numpy()


@pytest.mark.parametrize("fusion", ["joint", "cross"])
@pytest.mark.parametrize("visual_input", ["both", "tokens", "features"])
def test_vectors_are_those_of_the_model_on_each_sequence_by_itself(visual: Vocabulary, vocab_dir: Path, fusion: str, visual_input: str):
    made = pretrained(visual, vocab_dir, fusion=fusion, visual_input=visual_input)
    rows = [segment(3, "a red ball falls"), segment(9), segment(1, "it grows"), segment(7, "the blue cube shrinks"), *[segment(4)] * 30]
    fused = fuse_segments(made, rows)
    for row, found in zip(rows, fused, strict=True):
        ids = TEXT.encode(row.text)
        h = alone(made.encoder, ids, row.visual_tokens, row.features)
        assert (found.n_windows, found.token_ids) == (1, ids)
        np.testing.assert_allclose(found.pooled, h[0], atol=2e-5)
        np.testing.assert_allclose(found.textual, h[1 : 1 + len(ids)], atol=2e-5)
        np.testing.assert_allclose(found.visual, h[2 + len(ids) : -1], atol=2e-5)


LONG = {
    "clips": (50, ""),
    "text": (2, SENTENCE * 4),
    "both": (40, SENTENCE * 3),
    "just too long": (ROOM - 2, "a red ball"),
}


@pytest.mark.parametrize("name", LONG)
def test_windows_against_brute_force(visual: Vocabulary, vocab_dir: Path, name: str):
    """Each position from the window of which it is farthest from the ends that are not ends of the segment."""
    made, row = pretrained(visual, vocab_dir), segment(*LONG[name])
    ids, n_clips = TEXT.encode(row.text), len(row.visual_tokens)
    places = [((i + 0.5) / len(ids) * n_clips, 0, i) for i in range(len(ids))] + [(i + 0.5, 1, i) for i in range(n_clips)]
    order = [(kind, i) for _, kind, i in sorted(places)]
    assert len(order) > ROOM
    vectors: dict[tuple[int, int], list[tuple[float, int, np.ndarray]]] = {}
    pooled = []
    for number, (start, end) in enumerate(split_windows(len(order), ROOM, ROOM // 4)):
        shown = order[start:end]
        words, clips = ([i for kind, i in shown if kind == wanted] for wanted in (0, 1))
        h = alone(made.encoder, [ids[i] for i in words], row.visual_tokens[clips], row.features[clips])
        pooled.append(h[0])
        of = {**{(0, i): h[1 + k] for k, i in enumerate(words)}, **{(1, i): h[2 + len(words) + k] for k, i in enumerate(clips)}}
        for place, key in enumerate(shown, start):
            before = np.inf if start == 0 else place - start
            after = np.inf if end == len(order) else end - 1 - place
            vectors.setdefault(key, []).append((min(before, after), number, of[key]))
    assert max(map(len, vectors.values())) == 2
    (found,) = fuse_segments(made, [row])
    assert found.n_windows == len(pooled) > 1
    np.testing.assert_allclose(found.pooled, np.mean(pooled, 0), atol=2e-5)
    for kind, part in enumerate((found.textual, found.visual)):
        assert len(part) == (len(ids), n_clips)[kind]
        for i, vector in enumerate(part):
            best = max(vectors[kind, i], key=lambda v: v[:2])
            np.testing.assert_allclose(vector, best[2], atol=2e-5)


def test_a_captioner_s_encoder_is_shown_what_it_learned_from(visual: Vocabulary, vocab_dir: Path):
    row = segment(20, "a red ball falls")
    made = captioner(visual, vocab_dir, window_clips=20)
    (found,) = fuse_segments(made, [row])
    assert (found.n_windows, found.textual.shape, found.token_ids) == (1, (0, D), [])
    np.testing.assert_allclose(found.visual, alone(made.encoder, [], row.visual_tokens, row.features)[2:-1], atol=2e-5)
    (windowed,) = fuse_segments(replace(made, window_clips=12), [row])
    assert (windowed.n_windows, windowed.visual.shape) == (2, (20, D))
    first = alone(made.encoder, [], row.visual_tokens[:12], row.features[:12])
    np.testing.assert_allclose(windowed.visual[:10], first[2:12], atol=2e-5)


def test_a_captioner_of_transcripts_reads_them(visual: Vocabulary, vocab_dir: Path):
    row = segment(8, "a red ball falls")
    made = captioner(visual, vocab_dir, window_clips=8, window_text=4)
    ids = TEXT.encode(row.text)
    (found,) = fuse_segments(made, [row])
    h = alone(made.encoder, ids, row.visual_tokens, row.features)
    assert (found.n_windows, found.token_ids) == (1, ids)
    np.testing.assert_allclose(found.textual, h[1 : 1 + len(ids)], atol=2e-5)
    np.testing.assert_allclose(found.visual, h[2 + len(ids) : -1], atol=2e-5)
    # Of a captioner that has seen no clips the transcript alone is encoded.
    (said,) = fuse_segments(replace(made, n_clips=0, window_clips=0), [row])
    assert said.visual.shape == (0, D)
    np.testing.assert_allclose(said.textual, alone(made.encoder, ids, row.visual_tokens[:0], row.features[:0])[1:-2], atol=2e-5)


def tokens_table(video_id: str, rows: Sequence[SegmentRow]) -> pa.Table:
    values = [
        {
            "video_id": video_id, "segment_index": i, "start_s": row.start_s, "end_s": row.end_s, "text": row.text,
            "visual_tokens": row.visual_tokens[:, None].tolist(), "features": list(row.features),
        }
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return pa.Table.from_pylist(values, schema=tokens_schema(1, P))


def test_a_row_a_segment_in_the_order_of_the_input(visual: Vocabulary, vocab_dir: Path, tmp_path: Path):
    """Among many others, and alone; videos of more and of fewer segments than a batch."""
    made = pretrained(visual, vocab_dir)
    save_checkpoint(made, tmp_path)
    videos = {f"{n}.mp4": [segment(1 + (i + n) % 9, SENTENCE[: 7 * (i % 5)]) for i in range(n)] for n in (1, 40, 3, 2, 17)}
    videos["long.mp4"] = [segment(90, SENTENCE)]
    stage = Fuse(str(tmp_path), made.sha256, D)
    process = stage.open()
    tables = [t for t in process(tokens_table(name, rows) for name, rows in videos.items()) if not isinstance(t, ItemFailure)]
    assert [t.column("video_id")[0].as_py() for t in tables] == list(videos)
    for table, (name, rows) in zip(tables, videos.items(), strict=True):
        assert table.schema == stage.output_schema()
        (by_itself,) = process(iter([tokens_table(name, rows)]))
        assert not isinstance(by_itself, ItemFailure)
        assert table.column("segment_index").to_pylist() == list(range(len(rows)))
        for found, lone, row in zip(table.to_pylist(), by_itself.to_pylist(), rows, strict=True):
            ids = TEXT.encode(row.text)
            assert found["tokens"] == [TEXT.tokenizer.id_to_token(i) for i in ids]
            assert (len(found["textual"]), len(found["visual"])) == (len(ids), len(row.visual_tokens))
            assert (found["n_windows"] > 1) == (len(ids) + len(row.visual_tokens) > ROOM)
            for column in ("pooled", "visual", "textual"):
                np.testing.assert_allclose(np.array(found[column]), np.array(lone[column]), atol=2e-5)
    expected = fuse_segments(made, list(itertools.chain(*videos.values())))
    pooled = np.concatenate([np.array(t.column("pooled").to_pylist()) for t in tables])
    np.testing.assert_allclose(pooled, [f.pooled for f in expected], atol=2e-5)


def tokens_dataset(folder: Path, videos: dict[str, list[SegmentRow]], vocab_sha256: str) -> None:
    """A tokens dataset of one shard, with its videos."""
    for place, kind in ((folder, "tokens"), (folder / "videos", "videos")):
        shards.claim_manifest(place, shards.Manifest(kind, "by hand", 1, {}, {"vocab_sha256": vocab_sha256}, []))
    footer = {"key": "", "failed": [], "n_items": len(videos)}
    with shards.ShardWriter(folder / shards.shard_name(0), tokens_schema(1, P)) as writer:
        for name, rows in videos.items():
            writer.write(tokens_table(name, rows))
        writer.close(footer)
    with shards.ShardWriter(folder / "videos" / shards.shard_name(0), VIDEOS) as writer:
        writer.write(pa.Table.from_pylist([{"video_id": name, "path": name} for name in videos], schema=VIDEOS))
        writer.close(footer)


def test_long_segments_and_what_is_not_shown_are_told(visual: Vocabulary, vocab_dir: Path, tmp_path: Path):
    tokens_dataset(tmp_path / "tokens", {"a.mp4": [segment(3), segment(90, SENTENCE)], "b.mp4": [segment(4)]}, visual.sha256)
    save_checkpoint(pretrained(visual, vocab_dir), tmp_path / "pretrain")
    save_checkpoint(captioner(visual, vocab_dir, window_clips=4), tmp_path / "caption")
    save_checkpoint(captioner(visual, vocab_dir, n_clips=0), tmp_path / "blind")

    def run(name: str) -> list[str]:
        notes: list[str] = []
        options = RunOptions("serial", on_note=notes.append)
        fuse_dataset(tmp_path / "tokens", tmp_path / f"fused-{name}", tmp_path / name, options=options)
        return notes

    windows = "1 of 3 segments are longer than the encoder can read: encoded in overlapping windows"
    assert run("pretrain") == [windows]
    # Told by the run that made it.
    assert run("pretrain") == []
    no_text, same = run("caption")
    assert "its encoder is shown no text" in no_text
    assert same == windows
    with pytest.raises(VbcliError, match="was trained with neither clips nor transcripts"):
        run("blind")


def test_what_cannot_be_fused_is_refused(visual: Vocabulary, vocab_dir: Path, tmp_path: Path):
    tokens_dataset(tmp_path / "tokens", {"a.mp4": [segment(3)]}, "another")
    save_checkpoint(pretrained(visual, vocab_dir), tmp_path / "pretrain")
    with pytest.raises(VbcliError, match="another visual vocabulary"):
        fuse_dataset(tmp_path / "tokens", tmp_path / "out", tmp_path / "pretrain")
    bert = VideoBert(VideoBertConfig(1, D, 2, 32, n_text_tokens=TEXT.n_tokens, n_special_tokens=0, visual_input="tokens"))
    save_checkpoint(Checkpoint("import", bert, TEXT, None, Path()), tmp_path / "bert")
    with pytest.raises(VbcliError, match="is a published model that knows no video"):
        fuse_dataset(tmp_path / "tokens", tmp_path / "out", tmp_path / "bert")
    with pytest.raises(VbcliError, match="is not a tokens dataset"):
        fuse_dataset(tmp_path, tmp_path / "out", tmp_path / "pretrain")
    tokens_dataset(tmp_path / "own", {"a.mp4": [segment(3)]}, visual.sha256)
    weights = tmp_path / "pretrain" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(VbcliError, match=r"is not the file that .* describes"):
        fuse_dataset(tmp_path / "own", tmp_path / "out", tmp_path / "pretrain")
    assert not (tmp_path / "out").exists()
