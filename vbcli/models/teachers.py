"""Published captioners of `transformers` (extra `hub`): they caption what nobody has, so that a model of our own can learn from them.

| model_type | reads | source |
|---|---|---|
| `git` | several frames where `num_image_with_embedding` is set, else one | Wang et al. 2022 |
| `blip` | one frame | Li et al. 2022 |
| `vision-encoder-decoder` | one frame | Li et al. 2021 (TrOCR); any image encoder with any decoder |
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vbcli.config import DecodingConfig, config_hash
from vbcli.digests import file_sha256
from vbcli.errors import UsageError, VbcliError
from vbcli.files import read_json
from vbcli.models.published import VOCABULARY_NAMES, find_published

KINDS = ("git", "blip", "vision-encoder-decoder")
SETTINGS = ("preprocessor_config.json", "processor_config.json", "generation_config.json", "tokenizer_config.json")
WORDS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
MORE_FILES = (*SETTINGS, *WORDS, "special_tokens_map.json", "added_tokens.json")
UNUSED = ("encoder.pooler.",)
"""Weights that captions do not depend on, and that published folders (of TrOCR) lack."""


@dataclass(frozen=True)
class TeacherSpec:
    """A published captioner that has been found.

    Args:
        source: as it was named.
        folder: where it lies.
        kind: one of `KINDS`.
        n_frames: that it reads of a video.
        sha256: of its weights and configuration, of what prepares pictures, of its tokenizer and of its settings of generation.
    """

    source: str
    folder: str
    kind: str
    n_frames: int
    sha256: str


def find_teacher(source: str) -> TeacherSpec:
    """Finds a captioner: a folder, or a name on the hub.

    Raises:
        VbcliError: there is none, it is of another kind or lacks a file, or `transformers` is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise VbcliError("captioners of the hub need the package transformers", hint="install it with: pip install 'vbcli[hub]'")
    if not source:
        raise VbcliError("hf: names no captioner", hint="write hf:FOLDER, or hf:OWNER/NAME of the hub")
    folder = find_published(source, MORE_FILES)
    config = folder / "config.json"
    values = read_json(config) if config.is_file() else {}
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in KINDS:
        raise VbcliError(
            f"{source} is no captioner that can be asked: its model_type is {kind}", hint=f"of transformers there are: {', '.join(KINDS)}"
        )
    weights = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    if not weights:
        raise VbcliError(f"{source} has no weights", hint="the folder needs model.safetensors")
    if not any((folder / name).is_file() for name in WORDS):
        # transformers makes an empty tokenizer of some kinds, and every caption would be empty, too.
        raise VbcliError(f"{source} has no tokenizer", hint=f"the folder needs one of: {', '.join(WORDS)}")
    for path in (folder / name for name in SETTINGS):
        if path.is_file() and not isinstance(read_json(path), dict):
            raise VbcliError(f"{path} is not a JSON object", hint="copy the model again")
    others = [path for path in (folder / name for name in sorted({*VOCABULARY_NAMES, *MORE_FILES})) if path.is_file()]
    digest = config_hash([(path.name, file_sha256(path)) for path in (config, *weights, *others)])
    n_frames = (values.get("num_image_with_embedding") or 1) if kind == "git" else 1
    return TeacherSpec(source, str(folder), kind, n_frames, digest)


class Teacher:
    """A loaded captioner.

    Raises:
        VbcliError: its folder cannot be loaded, or lacks weights.
    """

    def __init__(self, spec: TeacherSpec, device: str = "cpu") -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.spec, self.device = spec, device
        classes = {
            "git": "AutoModelForCausalLM",
            "blip": "BlipForConditionalGeneration",
            "vision-encoder-decoder": "VisionEncoderDecoderModel",
        }
        try:
            self.model: Any
            self.model, loaded = getattr(transformers, classes[spec.kind]).from_pretrained(
                spec.folder, local_files_only=True, output_loading_info=True
            )
            self.images: Any = transformers.AutoImageProcessor.from_pretrained(spec.folder, local_files_only=True)
            self.words: Any = transformers.AutoTokenizer.from_pretrained(spec.folder, local_files_only=True)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # a damaged file raises what the parsers of half a dozen packages raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
            raise VbcliError(f"{spec.source} cannot be loaded: {reason}", hint="copy the model again, or name another") from error
        missing = sorted(name for name in loaded["missing_keys"] if not name.startswith(UNUSED))
        if missing:
            raise VbcliError(
                f"{spec.source} lacks {len(missing)} weights of a captioner of the kind {spec.kind}, first {missing[0]}",
                hint="it is damaged, or made for something else than captions: name another",
            )
        self.model.eval().to(device)

    def check(self, decoding: DecodingConfig) -> None:
        """Refuses captions that are longer than it can write.

        Raises:
            UsageError: it has fewer positions.
        """
        config = self.model.config
        words = {"git": config, "blip": getattr(config, "text_config", None), "vision-encoder-decoder": getattr(config, "decoder", None)}
        n_positions = getattr(words[self.spec.kind], "max_position_embeddings", None)
        if n_positions is not None and decoding.max_length >= n_positions:
            raise UsageError(
                f"--max-length is {decoding.max_length}, and {self.spec.source} has {n_positions} positions",
                hint=f"give at most {n_positions - 1}",
            )

    def caption(self, frames: Sequence[Image.Image], decoding: DecodingConfig) -> tuple[str, float | None]:
        """The caption of a video, and its score where there are several beams.

        Args:
            frames: `spec.n_frames` of them, in order.
        """
        import torch

        pixels = self.images(images=list(frames), return_tensors="pt").pixel_values.to(self.device)  # (T, 3, H, W)
        if self.spec.n_frames > 1:
            pixels = pixels[None]  # (1, T, 3, H, W)
        options = {
            "num_beams": decoding.n_beams,
            "max_new_tokens": decoding.max_length,
            "min_new_tokens": decoding.min_length or None,
            "length_penalty": decoding.length_penalty,
            "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
            "do_sample": False,
        }
        with torch.inference_mode():
            found = self.model.generate(pixel_values=pixels, return_dict_in_generate=True, output_scores=decoding.n_beams > 1, **options)
        scores = getattr(found, "sequences_scores", None)
        return self.words.decode(found.sequences[0], skip_special_tokens=True).strip(), None if scores is None else float(scores[0])
