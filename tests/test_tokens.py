from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.text.transcripts import TranscriptSegment
from vbcli.textvocab import load_text_vocabulary, train_text_vocabulary
from vbcli.tokens import Timeline, pack, segment_clips, split_windows

TEXTS = ["a red ball falls", "the blue cube grows", "a red cube rises and then falls"] * 3


@pytest.fixture(scope="module")
def vocabulary():
    return train_text_vocabulary(TEXTS)


def config(vocabulary, max_positions=32):
    return VideoBertConfig(1, 8, 2, 16, n_text_tokens=vocabulary.n_tokens, n_visual_tokens=7, feature_dim=3, max_positions=max_positions)


def test_text_round_trip(vocabulary):
    assert [vocabulary.decode(vocabulary.encode(t)) for t in TEXTS] == TEXTS
    assert vocabulary.decode(vocabulary.encode("A RED Ball")) == "a red ball"


def test_vocabulary_does_not_depend_on_the_order_of_texts(vocabulary):
    assert train_text_vocabulary(TEXTS[::-1]).to_json() == vocabulary.to_json()


def test_saved_vocabulary_loads(vocabulary, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(vocabulary.to_json())
    assert load_text_vocabulary(path).encode("a red ball") == vocabulary.encode("a red ball")


def test_other_files_are_no_vocabulary(tmp_path):
    path = tmp_path / "tokenizer.json"
    for text, sentence in (
        ('{"model": {"type": "Unigram"}}', "is not a WordPiece or BPE tokenizer"),
        ('{"model": {"type": "BPE"}}', "is damaged"),
        (Tokenizer(models.WordPiece({"a": 0}, unk_token="a")).to_str(), "has neither the special tokens"),
    ):
        path.write_text(text)
        with pytest.raises(VbcliError, match=rf"tokenizer\.json {sentence}"):
            load_text_vocabulary(path)


def test_packed_sequence_by_hand(vocabulary):
    shape = config(vocabulary)
    text = vocabulary.encode("a red ball")
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = pack(text, np.array([6, 0]), features, vocabulary, shape)
    first = vocabulary.n_tokens + 1
    assert packed.input_ids.tolist() == [vocabulary.cls_id, *text, vocabulary.n_tokens, first + 6, first, vocabulary.sep_id]
    n = len(text)
    assert packed.token_type_ids.tolist() == [0] * (n + 2) + [1, 1, 1]
    assert packed.feature_mask.tolist() == [False] * (n + 2) + [True, True, False]
    assert (packed.features == features).all()


def test_several_tokens_of_a_clip_take_one_position(vocabulary):
    shape = replace(config(vocabulary), n_residual_tokens=(4, 5))
    text, first = vocabulary.encode("a red ball"), vocabulary.n_tokens + 1
    packed = pack(text, np.array([[6, 3, 0], [0, 0, 4]]), np.zeros((2, 3)), vocabulary, shape)
    assert packed.input_ids.tolist() == [vocabulary.cls_id, *text, vocabulary.n_tokens, first + 6, first, vocabulary.sep_id]
    nothing = [vocabulary.pad_id] * 2
    visual = [[first + 7 + 3, first + 11], [first + 7, first + 11 + 4]]
    assert packed.residual_ids.tolist() == [*[nothing] * (len(text) + 2), *visual, nothing]
    alone = pack(text, np.zeros((0, 3)), np.zeros((0, 3)), vocabulary, shape)
    assert (alone.residual_ids == vocabulary.pad_id).all()


def test_too_long_a_sequence_is_refused(vocabulary):
    with pytest.raises(ValueError, match="do not fit 8 positions"):
        pack([5, 5, 5], np.zeros(3), np.zeros((3, 3)), vocabulary, config(vocabulary, 8))


@given(st.integers(0, 500), st.integers(1, 60), st.integers(0, 30))
def test_windows_cover_everything_and_overlap(n, size, overlap):
    overlap = min(overlap, size // 2)
    windows = split_windows(n, size, overlap)
    assert windows[0][0] == 0
    assert windows[-1][1] == n
    assert all(end - start == min(n, size) for start, end in windows)
    assert all(b_start <= a_end - overlap and b_start > a_start for (a_start, a_end), (b_start, _) in itertools.pairwise(windows))


segments = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), max_size=8)


@given(segments, st.integers(1, 40), st.sampled_from([1, 2, 5]))
def test_windows_of_time_keep_everything_once_and_in_step(counts, size, every):
    n_text, n_clips = (sum(c) for c in zip(*counts, strict=True)) if counts else (0, 0)
    clips = np.arange(n_clips)[::every]
    timeline = Timeline(counts, clips)
    assert timeline.n_tokens == n_text + len(clips)
    windows = timeline.windows(size, size // 4)
    assert [i for w in windows for i in range(n_text)[w.kept_text]] == list(range(n_text))
    assert [i for w in windows for i in range(len(clips))[w.kept_clips]] == list(range(len(clips)))
    # When each token is said, in clips, token by token.
    said, first = [], 0
    for n, span in counts:
        said += [first + span * (i + 0.5) / n for i in range(n)]
        first += span
    for w in windows:
        text, seen = said[w.text], (clips[w.clips] + 0.5).tolist()
        assert len(text) + len(seen) <= size
        sequence = ["CLS", *range(n_text)[w.text], ">", *range(len(clips))[w.clips], "SEP"]
        assert sequence[w.text_positions] == list(range(n_text)[w.kept_text])
        assert sequence[w.clip_positions] == list(range(len(clips))[w.kept_clips])
        # What is shown is all that lies between its first and its last moment.
        if text and seen:
            start, end = min(text[0], seen[0]), max(text[-1], seen[-1])
            assert all(start <= t <= end for t in (*text, *seen))
            outside = [t for t in said[: w.text.start] if t > start] + [t for t in said[w.text.stop :] if t < end]
            assert not outside


def test_a_timeline_by_hand():
    """Three words over two clips, silence of one clip, and a word over the last one."""
    timeline = Timeline([(3, 2), (0, 1), (1, 1)])
    # w0 at 0.33, c0 at 0.5, w1 at 1.0, c1 at 1.5, w2 at 1.67, c2 at 2.5, w3 and c3 at 3.5.
    assert timeline.n_tokens == 8
    assert timeline.stretch(0, 2) == (slice(0, 1), slice(0, 1))
    assert timeline.stretch(2, 5) == (slice(1, 3), slice(1, 2))
    assert timeline.stretch(5, 8) == (slice(3, 4), slice(2, 4))


def test_without_transcript_sixteen_clips_a_segment():
    spans = [(0.5 * i, 0.5 * i + 0.5) for i in range(35)]
    segments = segment_clips(spans, [])
    assert [(s.first_clip, s.last_clip) for s in segments] == [(0, 15), (16, 31), (32, 34)]
    assert {s.text for s in segments} == {""}


def test_no_segment_has_a_gap_within():
    spans = [(0.0, 0.5), (0.5, 1.0), (4.0, 4.5), (4.5, 5.0)]
    assert [(s.first_clip, s.last_clip, s.start_s, s.end_s) for s in segment_clips(spans, [])] == [(0, 1, 0.0, 1.0), (2, 3, 4.0, 5.0)]
    found = segment_clips(spans, [TranscriptSegment(0, 5, "all of it")])
    assert [(s.start_s, s.end_s, s.text) for s in found] == [(0.0, 1.0, "all of it"), (4.0, 5.0, "")]


def test_speech_forms_segments_by_hand():
    spans = [(0.5 * i, 0.5 * i + 0.5) for i in range(8)]  # 0 .. 4 s
    transcript = [TranscriptSegment(0.6, 1.9, "first"), TranscriptSegment(2.0, 3.1, "second")]
    segments = segment_clips(spans, transcript)
    # Clip 0 is silent; clips 1 to 3 are first; 4, 5 and 6 (2.0 to 3.5) second; 7 is silent.
    assert [(s.first_clip, s.last_clip, s.text) for s in segments] == [(0, 0, ""), (1, 3, "first"), (4, 6, "second"), (7, 7, "")]


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0.05, 5)), max_size=8),
)
def test_segments_partition_clips_and_lose_no_overlapping_text(n_clips, speech):
    spans = [(0.5 * i, 0.5 * i + 0.5) for i in range(n_clips)]
    transcript = sorted((TranscriptSegment(a, a + d, f"w{i}") for i, (a, d) in enumerate(speech)), key=lambda s: s.start_s)
    segments = segment_clips(spans, transcript)
    assert [i for s in segments for i in range(s.first_clip, s.last_clip + 1)] == list(range(n_clips))
    said = " ".join(s.text for s in segments).split()
    assert sorted(said) == sorted(t.text for t in transcript if t.start_s < n_clips * 0.5)
