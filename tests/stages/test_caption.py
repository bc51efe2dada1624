from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vbcli.models.decoding import DecodingConfig, generate
from vbcli.models.precision import Precision
from vbcli.models.videobert import VideoBert
from vbcli.stages.caption import MAX_CLIPS, MAX_VIDEOS, Caption, _batches, caption_videos, encode_videos
from vbcli.stages.model import BATCH_SIZE, video_windows
from vbcli.stages.zero_shot import NamedClass, ZeroShot
from vbcli.textvocab import train_text_vocabulary
from vbcli.tokens import split_windows
from vbcli.training.batches import SegmentRow, VideoTokens, collate
from vbcli.vocab.artifact import save_vocabulary
from vbcli.vocab.build import fit_vocabulary
from vbcli.vocab.config import VocabConfig

PRECISIONS: list[Precision] = ["float32", "bfloat16", "auto"]
RNG = np.random.default_rng(3)
TEXT = train_text_vocabulary(["a red ball falls", "the blue cube grows and then it shrinks"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    vocab_dir = tmp_path_factory.mktemp("vocab")
    visual = fit_vocabulary(
        RNG.normal(size=(200, 12)).astype(np.float32), VocabConfig(branching=3, levels=2, n_components=6), {"name": "none"}
    )
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
    return Checkpoint("caption", model, TEXT, visual, vocab_dir, window_clips=12)


def video(name: str, n_clips: int) -> VideoTokens:
    tokens = RNG.integers(0, 3, n_clips).astype(np.int32)
    return VideoTokens(name, [SegmentRow(name, 0, n_clips / 2, tokens, RNG.normal(size=(n_clips, 6)).astype(np.float32), "")])


def test_a_short_video_is_one_window_decoded_as_is(checkpoint):
    short = video("a", 9)
    ((packed, part),) = video_windows(short, checkpoint)
    assert part == list(range(len(packed.input_ids)))
    batch = collate([packed], 6, TEXT.pad_id)
    with torch.inference_mode():
        memory, mask = checkpoint.captioner.encode(**batch.arguments())
        expected = generate(checkpoint.captioner.decoder, memory, mask, DecodingConfig(max_length=8))[0][0]
    (found,) = caption_videos(checkpoint, [short], DecodingConfig(max_length=8))
    assert found.token_ids == expected.token_ids
    assert found.score == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.parametrize("n_clips", [12, 13, 25, 100])
def test_windows_give_each_clip_one_place_in_the_memory(checkpoint, n_clips):
    long = video("long", n_clips)
    first_visual = checkpoint.encoder.config.first_visual_id
    memory_ids = np.concatenate([packed.input_ids[part] for packed, part in video_windows(long, checkpoint)])
    assert memory_ids[0] == TEXT.cls_id
    assert memory_ids[1] == checkpoint.encoder.config.boundary_token_id
    assert memory_ids[-1] == TEXT.sep_id
    np.testing.assert_array_equal(memory_ids[2:-1] - first_visual, long.visual_tokens)
    assert all(len(packed.input_ids) <= 12 + 3 for packed, _ in video_windows(long, checkpoint))


def test_a_caption_does_not_depend_on_the_other_videos(checkpoint):
    videos = [video(str(i), n) for i, n in enumerate((3, 30, 12, 7))]
    together = caption_videos(checkpoint, videos, DecodingConfig(max_length=10))
    for one, expected in zip(videos, together, strict=True):
        (alone,) = caption_videos(checkpoint, [one], DecodingConfig(max_length=10))
        assert alone.token_ids == expected.token_ids
        assert alone.score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([5, 3, 4], [[1, 2, 0]]),
        ([0] * (MAX_VIDEOS + 1), [list(range(MAX_VIDEOS)), [MAX_VIDEOS]]),
        ([MAX_CLIPS // 2, 1, MAX_CLIPS // 2], [[1, 0], [2]]),
        ([3 * MAX_CLIPS, 3 * MAX_CLIPS], [[0], [1]]),
    ],
)
def test_videos_of_like_length_are_captioned_together_as_far_as_memory_goes(lengths, expected):
    assert list(_batches(lengths)) == expected


def test_bfloat16_is_another_run_and_gives_captions(checkpoint, tmp_path: Path):
    save_checkpoint(checkpoint, tmp_path / "c")
    stages = [Caption(checkpoint_dir=str(tmp_path / "c"), decoding=DecodingConfig(max_length=10), precision=p) for p in PRECISIONS]
    names = [stage.identity()["precision"] for stage in stages]
    assert names[:2] == ["float32", "bfloat16"]
    assert names[2] in names[:2]
    loaded = load_checkpoint(tmp_path / "c", "caption")
    stages[1].convert(loaded)
    assert loaded.captioner.decoder.token_embedding.weight.dtype == torch.bfloat16
    videos = [video(str(i), n) for i, n in enumerate((3, 30, 12, 7))]
    with torch.inference_mode():
        memory, mask = encode_videos(checkpoint, videos)
        rounded, _ = encode_videos(loaded, videos)
    assert (memory - rounded.float())[mask].abs().mean() < 0.03
    assert all(isinstance(h.score, float) for h in caption_videos(loaded, videos, stages[1].decoding))


def test_windows_are_encoded_a_few_at_a_time_as_if_they_were_encoded_at_once(checkpoint):
    videos = [video(str(i), n) for i, n in enumerate((200, 5, 90))]
    windows = [video_windows(one, checkpoint) for one in videos]
    together = collate([window.packed for of_video in windows for window in of_video], 6, TEXT.pad_id)
    sizes = []
    hook = checkpoint.captioner.encoder.register_forward_hook(lambda _model, _inputs, found: sizes.append(len(found)))
    with torch.inference_mode():
        memory, mask = encode_videos(checkpoint, videos)
        hook.remove()
        at_once = iter(checkpoint.captioner.encoder(**together.arguments()))
    n_windows = sum(map(len, windows))
    assert n_windows > 2 * BATCH_SIZE
    assert sizes == [BATCH_SIZE] * (n_windows // BATCH_SIZE) + [n_windows % BATCH_SIZE]
    for row, is_real, of_video in zip(memory, mask, windows, strict=True):
        expected = torch.cat([next(at_once)[window.kept] for window in of_video])
        torch.testing.assert_close(row[is_real], expected, atol=1e-5, rtol=1e-5)


def test_a_saved_checkpoint_gives_the_same_captions(checkpoint, tmp_path: Path):
    save_checkpoint(checkpoint, tmp_path / "c")
    loaded = load_checkpoint(tmp_path / "c", "caption")
    videos = [video(str(i), 10) for i in range(3)]
    decoding = DecodingConfig(max_length=10)
    assert caption_videos(loaded, videos, decoding) == caption_videos(checkpoint, videos, decoding)
    assert (tmp_path / "c" / "vocab" / "vocabulary.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "was written by another version"),
        ({"encoder": {"n_layers": "two"}}, "'n_layers' is \"two\", which is no int"),
        ({"encoder": {"hidden_size": 16.5}}, "'hidden_size' is 16.5"),
        ({"encoder": {"n_residual_tokens": [3, "x"]}}, "'n_residual_tokens' is"),
        ({"encoder": {"fusion": "sum"}}, "'fusion' is \"sum\""),
        ({"encoder": {"n_layers": 3}}, r"cannot be loaded: .*[Mm]issing key.*blocks\.2"),
    ],
)
def test_a_damaged_configuration_is_named(checkpoint, tmp_path: Path, changes: dict, message: str):
    save_checkpoint(checkpoint, tmp_path / "c")
    path = tmp_path / "c" / "config.json"
    values = json.loads(path.read_text())
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(values))
    with pytest.raises(VbcliError, match=message):
        load_checkpoint(tmp_path / "c", "caption")


def test_what_is_said_is_in_the_memory_once_beside_the_clips_of_its_time(checkpoint):
    """Against the memory built from windows written out: every word and clip from the window in whose middle it lies."""
    config = checkpoint.encoder.config
    told = replace(checkpoint, window_clips=10, window_text=6)
    size, overlap = 16, 4
    rows = [video("v", n).segments[0] for n in (3, 8, 5, 14)]
    for row, text in zip(rows, ("", "a red ball falls and the blue cube grows", "it shrinks", ""), strict=True):
        row.text = text
    long = VideoTokens("v", rows)
    moments, first = [], 0
    for row in rows:
        ids, n = TEXT.encode(row.text), len(row.visual_tokens)
        moments += [(first + (i + 0.5) / len(ids) * n, 0, token) for i, token in enumerate(ids)]
        moments += [(first + i + 0.5, 1, config.first_visual_id + int(token)) for i, token in enumerate(row.visual_tokens)]
        first += n
    moments.sort(key=lambda m: m[:2])
    spans = split_windows(len(moments), size, overlap)
    windows = video_windows(long, told)
    assert len(windows) == len(spans) > 2
    for number, ((packed, kept), (start, end)) in enumerate(zip(windows, spans, strict=True)):
        words, clips = ([token for _, kind, token in moments[start:end] if kind == wanted] for wanted in (0, 1))
        assert packed.input_ids.tolist() == [TEXT.cls_id, *words, config.boundary_token_id, *clips, TEXT.sep_id]
        left = (start + spans[number - 1][1]) // 2 if number else 0
        right = (end + spans[number + 1][0]) // 2 if number < len(spans) - 1 else len(moments)
        mine = [[token for _, kind, token in moments[left:right] if kind == wanted] for wanted in (0, 1)]
        framed = [[TEXT.cls_id], [config.boundary_token_id]] if number == 0 else [[], []]
        ends = [TEXT.sep_id] if number == len(spans) - 1 else []
        assert packed.input_ids[kept].tolist() == [*framed[0], *mine[0], *framed[1], *mine[1], *ends]


def test_a_transcript_changes_the_caption_of_a_captioner_that_is_shown_it_alone(checkpoint):
    plain, spoken = video("a", 9), video("a", 9)
    spoken.segments[0] = replace(plain.segments[0], text="a red ball falls")
    decoding = DecodingConfig(max_length=8)
    scores = [caption_videos(c, [v], decoding)[0].score for c in (checkpoint, replace(checkpoint, window_text=8)) for v in (plain, spoken)]
    # Without transcripts nothing of them is seen; a video without one is what it is to a captioner without.
    assert scores[0] == scores[1] == pytest.approx(scores[2], abs=1e-5)
    assert abs(scores[3] - scores[0]) > 1e-3
    (packed, _), *_ = video_windows(spoken, replace(checkpoint, window_text=8))
    with torch.inference_mode():
        memory, mask = checkpoint.captioner.encode(**collate([packed], 6, TEXT.pad_id).arguments())
        expected = generate(checkpoint.captioner.decoder, memory, mask, decoding)[0][0]
    assert scores[3] == pytest.approx(expected.score, abs=1e-5)


def step_by_step(checkpoint: Checkpoint, shown: VideoTokens, sentence: str) -> np.ndarray:
    """Log-probabilities of a sentence's tokens and of the end, a token at a time as generation reads them, float64 (T,)."""
    decoder = checkpoint.captioner.decoder
    memory, mask = encode_videos(checkpoint, [shown])
    cache, previous, found = decoder.start(memory, mask, 1), TEXT.cls_id, []
    for token in (*TEXT.encode(sentence), TEXT.sep_id):
        found.append(float(decoder.step(torch.tensor([[previous]]), cache)[0, 0].log_softmax(-1)[token].detach()))
        previous = token
    return np.array(found)


@pytest.mark.parametrize(
    ("template", "words", "shared"),
    [
        ("the red ball [MASK]", ("falls", "grows and then it shrinks", "shrinks"), "the red ball"),
        ("[MASK] the red ball", ("falls", "grows and then it shrinks", "shrinks"), ""),
        # Where one sentence goes on from another, its end is all that tells it.
        ("the red ball [MASK]", ("falls", "falls and then it shrinks", "falls and"), "the red ball falls"),
        ("the red ball [MASK]", ("falls", "falls", "falls"), "the red ball falls"),
    ],
)
def test_classes_by_the_likelihood_of_their_sentences(checkpoint, template: str, words: tuple[str, ...], shared: str):
    names = ("down", "both", "up")
    stage = ZeroShot(checkpoint_dir="none", classes=tuple(map(NamedClass, names, words)), template=template)
    videos = [video("short", 5), video("long", 30)]
    n_shared = len(TEXT.encode(shared))
    for shown, (row,) in zip(videos, stage.answer(checkpoint, videos), strict=True):
        scores = [step_by_step(checkpoint, shown, template.replace("[MASK]", of))[n_shared:].mean() for of in words]
        expected = np.exp(scores) / np.exp(scores).sum()
        found = {s["label"]: s["probability"] for s in row["scores"]}
        assert found == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-5)
        assert found[row["labels"][0]] == max(found.values())


def test_long_names_win_nothing_by_a_template_that_is_unlikely(checkpoint):
    """Of two classes the shorter is likelier by its words; over the whole sentence the longer would be, as more of it is no template."""
    template, words = "then then then then [MASK]", ("falls", "grows and then it shrinks")
    shown = video("v", 8)
    each = [step_by_step(checkpoint, shown, template.replace("[MASK]", of)) for of in words]
    assert each[0][4:].mean() > each[1][4:].mean()
    assert each[0].mean() < each[1].mean()
    ((row,),) = ZeroShot(checkpoint_dir="none", classes=tuple(map(NamedClass, "sl", words)), template=template).answer(checkpoint, [shown])
    assert row["labels"] == ["s"]


@pytest.mark.parametrize(
    ("template", "words", "message"),
    [("the ball", "falls", "has 0 times"), ("[MASK] and [MASK]", "falls", "has 2 times"), ("[MASK]", "\u4e2d", "does not know '\u4e2d'")],
)
def test_sentences_without_a_place_and_unknown_words_are_refused(checkpoint, template: str, words: str, message: str):
    with pytest.raises(VbcliError, match=message):
        ZeroShot(checkpoint_dir="none", classes=(NamedClass("a", words), NamedClass("b", "grows")), template=template).check(checkpoint)
