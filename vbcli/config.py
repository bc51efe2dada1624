"""Frozen dataclasses for configurations, their JSON form and their hash."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vbcli.errors import UsageError, VbcliError
from vbcli.files import read_json

T = TypeVar("T")

Precision = Literal["auto", "float32", "bfloat16"]
"""Arithmetic of a model."""


@dataclasses.dataclass(frozen=True)
class VideoBertConfig:
    """Shape of a VideoBERT encoder: a BERT over text tokens, special tokens and visual tokens.

    The rows of text tokens, special tokens and visual tokens, codebook by codebook, form the one id space, in that order.

    Args:
        n_special_tokens: rows between the text and the visual rows: 1 is `[>]`, which separates text from video; 0 a BERT of text alone.
        n_visual_tokens: K_1, of the first codebook.
        n_residual_tokens: (K_2, ..., K_M), of the codebooks of what the first leaves over.
        text_bert: shape of a frozen BERT whose features the text enters as; None where it enters as tokens.
    """

    n_layers: int
    hidden_size: int
    n_heads: int
    intermediate_size: int
    n_text_tokens: int = 30522
    n_special_tokens: Literal[0, 1] = 1
    n_visual_tokens: int = 0
    n_residual_tokens: tuple[int, ...] = ()
    feature_dim: int = 0
    visual_input: Literal["tokens", "features", "both"] = "both"
    fusion: Literal["joint", "cross"] = "joint"
    max_positions: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0
    text_bert: VideoBertConfig | None = None

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise VbcliError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")

    @property
    def text_input(self) -> Literal["tokens", "features"]:
        """How text enters."""
        return "tokens" if self.text_bert is None else "features"

    @property
    def n_tokens(self) -> int:
        """Rows of the joint embedding table."""
        return self.first_residual_id + sum(self.n_residual_tokens)

    @property
    def n_codebooks(self) -> int:
        """M, visual tokens of a clip."""
        return 1 + len(self.n_residual_tokens)

    @property
    def boundary_token_id(self) -> int:
        """Id of `[>]`."""
        return self.n_text_tokens

    @property
    def first_visual_id(self) -> int:
        """Id of visual token 0 of the first codebook."""
        return self.n_text_tokens + self.n_special_tokens

    @property
    def first_residual_id(self) -> int:
        """Id of visual token 0 of the second codebook, or of what would be it."""
        return self.first_visual_id + self.n_visual_tokens

    @property
    def codebook_bounds(self) -> tuple[int, ...]:
        """Id of visual token 0 of each codebook, and where the last ends: M + 1 numbers."""
        return tuple(itertools.accumulate((self.n_visual_tokens, *self.n_residual_tokens), initial=self.first_visual_id))


@dataclasses.dataclass(frozen=True)
class BartConfig:
    """Shape of a BART encoder-decoder. A captioner uses the decoder's part of it."""

    n_encoder_layers: int
    n_decoder_layers: int
    hidden_size: int
    n_heads: int
    intermediate_size: int
    n_tokens: int = 50265
    max_positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int = 2

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise VbcliError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")


@dataclasses.dataclass(frozen=True)
class Conv3dConfig:
    """Shape of a 3-D convolution encoder.

    Args:
        n_frames: frames of a clip.
        size_px: height and width of a frame.
        widths: channels of each stage; every stage after the first halves height and width.
        time_strides: of each stage, along time.
        n_groups: of the group norms; each width is a multiple of it.
        dropout: of the pooled features, in training.
    """

    n_frames: int
    size_px: int
    widths: tuple[int, ...]
    time_strides: tuple[int, ...]
    n_groups: int = 8
    dropout: float = 0.2

    def __post_init__(self) -> None:
        if self.n_frames < 2 or self.size_px < 8:
            raise VbcliError(f"n_frames {self.n_frames} and size_px {self.size_px} are not at least 2 and 8")
        if not self.widths or len(self.widths) != len(self.time_strides):
            raise VbcliError(f"widths {self.widths} and time_strides {self.time_strides} are not one of each for every stage")
        if any(width % self.n_groups for width in self.widths):
            raise VbcliError(f"widths {self.widths} are not multiples of n_groups {self.n_groups}")


def preset_names() -> list[str]:
    """Names of the shipped model presets."""
    return sorted(p.name.removesuffix(".json") for p in resources.files("vbcli.presets").iterdir() if p.name.endswith(".json"))


def load_preset(name: str, cls: type[T], **overrides: Any) -> T:
    """Reads `vbcli/presets/NAME.json`, or the JSON file at that path, as a `cls`.

    Raises:
        VbcliError: the name is not a preset of this kind, or a field is unknown.
    """
    path = Path(name)
    if path.suffix == ".json":
        values = read_json(path)
        if not isinstance(values, dict):
            raise VbcliError(f"{name} is not a model configuration", hint="it must be a JSON object, like those in vbcli/presets")
    else:
        resource = resources.files("vbcli.presets") / f"{name}.json"
        if not resource.is_file():
            raise VbcliError(f"unknown model preset '{name}'", hint=f"choose one of: {', '.join(preset_names())}")
        values = json.loads(resource.read_text(encoding="utf-8"))
    return from_dict(cls, {**values, **overrides}, source=name)


def from_dict(cls: type[T], values: dict[str, Any], source: str) -> T:
    """Builds a frozen dataclass from JSON values; lists become tuples, and what is a dataclass in a field is built in the same way.

    Raises:
        VbcliError: an unknown or missing field, or a value of another type; the message names `source`.
    """
    assert dataclasses.is_dataclass(cls)
    known, hints = {f.name for f in dataclasses.fields(cls)}, get_type_hints(cls)
    unknown = sorted(set(values) - known)
    if unknown:
        raise VbcliError(f"{source}: unknown field '{unknown[0]}' for {cls.__name__}")
    built: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and (inner := _dataclass_of(cls, name)) is not None:
            built[name] = from_dict(inner, value, f"{source}, {name}")
        else:
            if not _fits(value, hints[name]):
                raise VbcliError(
                    f"{source}: '{name}' is {json.dumps(value)}, which is no {getattr(hints[name], '__name__', hints[name])}",
                    hint="it is damaged: copy it again, or make it again",
                )
            built[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**built)
    except TypeError as error:
        raise VbcliError(f"{source}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        kinds = arguments[:1] * len(value) if isinstance(value, (list, tuple)) and arguments[-1] is Ellipsis else arguments
        return isinstance(value, (list, tuple)) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _dataclass_of(cls: type, name: str) -> type | None:
    """The dataclass that a field may hold; None where it holds none."""
    hint = get_type_hints(cls)[name]
    return next((kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind) and isinstance(kind, type)), None)


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready values of a configuration dataclass."""
    return dataclasses.asdict(config)


def config_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON-ready value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


MAX_BEAMS = 256
"""More take gigabytes, and change nothing."""
MAX_LENGTH_PENALTY = 10.0
"""Powers of the length beyond it leave the range of floating point numbers."""


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How sentences are generated; lengths count new tokens, so not the start token.

    Attributes:
        n_beams: beams a video, and hypotheses returned; 1 is greedy. When sampling, sentences drawn independently.
        max_length: most tokens of a sentence, the end token included; at this length it is cut.
        min_length: the end token may only come after this many other tokens.
        length_penalty: a sentence's score is its log-probability / length ** length_penalty, the end token counted.
        no_repeat_ngram_size: no sequence of this many tokens occurs twice; 0 allows all.
        temperature: logits are divided by it before sampling, > 0.
        top_k: sampling among the k likeliest tokens only; 0 means all.
        top_p: sampling among the likeliest tokens that together reach this probability, in (0, 1].
        is_sampled: draw tokens instead of searching.
        seed: of the draws.
    """

    n_beams: int = 4
    max_length: int = 32
    min_length: int = 0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 3
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    is_sampled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, is_valid, wanted in (
            ("beams", self.n_beams, 1 <= self.n_beams <= MAX_BEAMS, f"between 1 and {MAX_BEAMS}"),
            ("max-length", self.max_length, self.max_length >= 1, "at least 1"),
            ("min-length", self.min_length, 0 <= self.min_length <= self.max_length, f"between 0 and --max-length {self.max_length}"),
            (
                "length-penalty",
                self.length_penalty,
                abs(self.length_penalty) <= MAX_LENGTH_PENALTY,
                f"at most {MAX_LENGTH_PENALTY} either way",
            ),
            ("no-repeat-ngram", self.no_repeat_ngram_size, self.no_repeat_ngram_size >= 0, "0 or more"),
            ("temperature", self.temperature, 0 < self.temperature < math.inf, "more than 0, and finite"),
            ("top-k", self.top_k, self.top_k >= 0, "0 or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "more than 0 and at most 1"),
        ):
            if not is_valid:
                raise UsageError(f"--{option} is {value}", hint=f"it must be {wanted}")
