"""The text vocabulary: WordPiece as BERT has it, trained here or published, or the byte-level BPE of BART.

Source: Schuster and Nakajima 2012 (WordPiece); Sennrich et al. 2016 and Radford et al. 2019 (byte-level BPE).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vbcli.errors import VbcliError
from vbcli.files import read_json

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BART_SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
"""The same roles in the same order."""
# Letters with a token of their own; rarer ones are unknown.
MAX_LETTERS = 1000


class TextVocabulary:
    """A text vocabulary with BERT's special tokens, or BART's in the same roles.

    Args:
        tokenizer: of the tokenizers library; it must know `SPECIAL_TOKENS` or `BART_SPECIAL_TOKENS`.
        source: the file it came from, for messages.
    """

    def __init__(self, tokenizer: Tokenizer, source: str = "tokenizer") -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        known = [names for names in (SPECIAL_TOKENS, BART_SPECIAL_TOKENS) if all(token in ids for token in names)]
        if not known:
            raise VbcliError(f"{source} has neither the special tokens of BERT ({' '.join(SPECIAL_TOKENS)}) nor those of BART")
        self.special_tokens: tuple[str, ...] = known[0]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in self.special_tokens)

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

    def group_alike(self, texts: Iterable[str]) -> list[list[str]]:
        """Texts gathered by their token ids, in the order of the first of each; spaces and a full stop at the end are no difference."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for text in texts:
            groups.setdefault(tuple(self.encode(text.strip().rstrip("."))), []).append(text)
        return list(groups.values())

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def to_json(self) -> str:
        """The tokenizers library's JSON form."""
        return self.tokenizer.to_str()


def load_text_vocabulary(path: Path) -> TextVocabulary:
    """Reads a `tokenizer.json`.

    Raises:
        VbcliError: the file is missing or neither a WordPiece nor a BPE vocabulary.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model", {}).get("type") not in ("WordPiece", "BPE"):
        raise VbcliError(f"{path} is not a WordPiece or BPE tokenizer of the tokenizers library")
    try:
        tokenizer = Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # the tokenizers library raises no narrower one
        raise VbcliError(f"{path} is damaged: {error}", hint="copy it again, or make it again") from error
    return TextVocabulary(tokenizer, str(path))


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


def _wordpiece_tokenizer(ids: dict[str, int], normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    if ids:
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


# ---------------------------------------------------------------- published vocabularies


def read_published_vocabulary(folder: Path) -> TextVocabulary:
    """The vocabulary of a folder in Hugging Face's format: `tokenizer.json`, or `vocab.txt` (WordPiece), or `vocab.json` and
    `merges.txt` (byte-level BPE).

    Raises:
        VbcliError: the folder has none of these, or one is damaged.
    """
    if (folder / "tokenizer.json").is_file():
        return load_text_vocabulary(folder / "tokenizer.json")
    if (folder / "vocab.txt").is_file():
        return _read_wordpiece(folder / "vocab.txt", _options(folder))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _read_bpe(folder / "vocab.json", folder / "merges.txt", _options(folder))
    raise VbcliError(
        f"{folder} holds no text vocabulary", hint="it needs tokenizer.json, or vocab.txt (BERT), or vocab.json and merges.txt (BART)"
    )


def _options(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _read_wordpiece(path: Path, options: dict[str, Any]) -> TextVocabulary:
    try:
        words = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VbcliError(f"{path} cannot be read: {error}", hint="it must be a text file with a word piece on each line") from error
    ids = {word.removesuffix("\r"): i for i, word in enumerate(words) if word or i < len(words) - 1}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise VbcliError(f"{path} has no token {missing[0]}: it is not a BERT vocabulary")
    normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    return TextVocabulary(_wordpiece_tokenizer(ids, normalizer), str(path))


def _read_bpe(vocab_path: Path, merges_path: Path, options: dict[str, Any]) -> TextVocabulary:
    ids = read_json(vocab_path)
    try:
        lines = merges_path.read_text(encoding="utf-8").split("\n")
        pairs = [line.removesuffix("\r").split(" ") for line in lines if line and not line.startswith("#version")]
        merges = [(left, right) for left, right in pairs]
        tokenizer = Tokenizer(models.BPE(ids, merges))
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise VbcliError(f"{vocab_path} and {merges_path.name} are not a BPE vocabulary: {error}") from error
    has_space = bool(options.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=has_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (BART_SPECIAL_TOKENS[3], ids.get(BART_SPECIAL_TOKENS[3], 0)),
        (BART_SPECIAL_TOKENS[2], ids.get(BART_SPECIAL_TOKENS[2], 0)),
        trim_offsets=True,
        add_prefix_space=has_space,
    )
    present = [token for token in BART_SPECIAL_TOKENS if token in ids]
    # BART's mask swallows the space before it: "a <mask>" is two tokens.
    tokenizer.add_special_tokens([AddedToken(token, lstrip=token == "<mask>", special=True) for token in present])
    return TextVocabulary(tokenizer, str(vocab_path))
