"""The text vocabulary, the joint id space, and the packing of text and video into one sequence.

A sequence is `[CLS] text [>] video [SEP]`. Ids: text tokens first, then `[>]`, then the K visual tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.files import read_json
from vbcli.transcripts import TranscriptSegment, assign_segments, best_spans

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# [CLS], [>] and [SEP] of a packed sequence.
N_FRAMING_TOKENS = 3
# Letters with a token of their own; rarer ones are unknown.
MAX_LETTERS = 1000


class TextVocabulary:
    """A WordPiece vocabulary with BERT's special tokens.

    Args:
        tokenizer: of the tokenizers library; it must know `SPECIAL_TOKENS`.
        source: the file it came from, for messages.
    """

    def __init__(self, tokenizer: Tokenizer, source: str = "tokenizer") -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (_id_of(tokenizer, t, source) for t in SPECIAL_TOKENS)

    @property
    def n_tokens(self) -> int:
        """Rows of text tokens, special ones included."""
        return self.tokenizer.get_vocab_size()

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are never masked."""
        return frozenset((self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def to_json(self) -> str:
        """The tokenizers library's JSON form."""
        return self.tokenizer.to_str()


def _id_of(tokenizer: Tokenizer, token: str, source: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise VbcliError(f"{source} has no token {token}: it is not a BERT vocabulary")
    return found


def load_text_vocabulary(path: Path) -> TextVocabulary:
    """Reads a `tokenizer.json`.

    Raises:
        VbcliError: the file is missing or not a WordPiece vocabulary.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model", {}).get("type") != "WordPiece":
        raise VbcliError(f"{path} is not a WordPiece tokenizer of the tokenizers library")
    return TextVocabulary(Tokenizer.from_str(json.dumps(values)), str(path))


def train_text_vocabulary(texts: Iterable[str], n_tokens: int = 8000) -> TextVocabulary:
    """Trains a WordPiece vocabulary, lower-case as BERT's uncased one.

    Args:
        texts: in any number.
        n_tokens: most tokens; small text gives fewer.

    Source: Schuster and Nakajima 2012, WordPiece, as the tokenizers library trains it.
    """
    texts = list(texts)
    learner = _wordpiece_tokenizer({})
    assert learner.normalizer is not None
    assert learner.pre_tokenizer is not None
    letters = Counter(
        c for t in texts for word, _ in learner.pre_tokenizer.pre_tokenize_str(learner.normalizer.normalize_str(t)) for c in word
    )
    alphabet = sorted(c for c, _ in sorted(letters.items(), key=lambda item: (-item[1], item[0]))[:MAX_LETTERS])
    # The trainer numbers letters in the order of a randomly seeded hash table, and breaks ties by number: naming them as
    # special tokens fixes their numbers, and with them the result.
    fixed = [*SPECIAL_TOKENS, *alphabet, *(f"##{c}" for c in alphabet)]
    trainer = trainers.WordPieceTrainer(vocab_size=max(n_tokens, len(fixed)), special_tokens=fixed, limit_alphabet=0, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return TextVocabulary(_wordpiece_tokenizer(learner.get_vocab()))


def _wordpiece_tokenizer(ids: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    if ids:
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


# ---------------------------------------------------------------- packing


@dataclass(frozen=True)
class PackedSequence:
    """One sequence `[CLS] text [>] video [SEP]`.

    Args:
        input_ids: int64 (S,).
        token_type_ids: int64 (S,), 0 up to and including `[>]`, then 1.
        feature_mask: bool (S,), True on visual positions.
        features: float32 (V, P), of the visual positions in order.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    feature_mask: np.ndarray
    features: np.ndarray


def pack(
    text_ids: Sequence[int], visual_tokens: np.ndarray, features: np.ndarray, vocabulary: TextVocabulary, config: VideoBertConfig
) -> PackedSequence:
    """Packs text and video.

    Args:
        text_ids: text tokens without special ones.
        visual_tokens: int (V,), 0 <= token < K.
        features: float32 (V, P).

    Raises:
        ValueError: the sequence is longer than `max_positions`.
    """
    n_text, n_visual = len(text_ids), len(visual_tokens)
    if n_text + n_visual + N_FRAMING_TOKENS > config.max_positions:
        raise ValueError(f"{n_text} text and {n_visual} visual tokens do not fit {config.max_positions} positions")
    ids = np.concatenate(
        [
            [vocabulary.cls_id],
            np.asarray(text_ids, np.int64),
            [config.boundary_token_id],
            config.first_visual_id + np.asarray(visual_tokens, np.int64),
            [vocabulary.sep_id],
        ]
    ).astype(np.int64)
    first = n_text + 2
    is_visual = np.zeros(len(ids), bool)
    is_visual[first : first + n_visual] = True
    types = (np.arange(len(ids)) >= first).astype(np.int64)
    return PackedSequence(ids, types, is_visual, np.asarray(features, np.float32))


def split_windows(n: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Covers 0..n by windows of at most `size`, each sharing at least `overlap` with the one before, evenly spaced.

    Returns:
        (start, end) of each window; one window where n <= size.
    """
    if n <= size:
        return [(0, n)]
    n_windows = -(-(n - overlap) // (size - overlap))
    starts = np.linspace(0, n - size, n_windows).round().astype(int)
    return [(int(a), int(a) + size) for a in starts]


# ---------------------------------------------------------------- segments


@dataclass(frozen=True)
class Segment:
    """Consecutive clips with the text of the same time."""

    first_clip: int
    last_clip: int
    start_s: float
    end_s: float
    text: str


def segment_clips(
    spans: Sequence[tuple[float, float]], transcript: Sequence[TranscriptSegment], clips_per_segment: int = 16
) -> list[Segment]:
    """Groups the clips of a video into segments.

    A clip belongs to the transcript segment that it shares most time with. Clips without speech, and all clips of a video
    without transcript, form segments of at most `clips_per_segment`. Each transcript segment's text goes to the one segment
    that it overlaps most.

    Args:
        spans: (start_s, end_s) of each clip, in order.
        transcript: sorted by time.

    Source: Sun et al. 2019 (VideoBERT), section 4.2: 16 visual tokens a segment where there is no speech.
    """
    speech = [(s.start_s, s.end_s) for s in transcript]
    owners = best_spans([TranscriptSegment(a, b, "") for a, b in spans], speech) if speech else [None] * len(spans)
    groups: list[tuple[int, int]] = []
    for i, owner in enumerate(owners):
        if groups:
            first, _ = groups[-1]
            is_same = owner == owners[i - 1] and (owner is not None or i - first < clips_per_segment)
            if is_same:
                groups[-1] = (first, i)
                continue
        groups.append((i, i))
    times = [(spans[a][0], spans[b][1]) for a, b in groups]
    texts = assign_segments(transcript, times)
    return [Segment(a, b, start, end, text) for (a, b), (start, end), text in zip(groups, times, texts, strict=True)]
