"""Checkpoints: a folder that holds all that is needed to run a model.

config.json         task, model shapes, training settings, what it was trained on
model.safetensors   weights
tokenizer.json      text vocabulary
vocab/              visual vocabulary, with the specification of its encoder
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vbcli.checkpointfiles import VERSION, read_checkpoint_config
from vbcli.config import BartConfig, VideoBertConfig, from_dict, to_dict
from vbcli.digests import file_sha256
from vbcli.errors import VbcliError
from vbcli.files import write_atomic, write_json
from vbcli.models.bart import Bart, BartDecoder, Captioner
from vbcli.models.bridge import SentenceBridge
from vbcli.models.classifier import VideoClassifier
from vbcli.models.retriever import VideoRetriever
from vbcli.models.videobert import VideoBert
from vbcli.storage import copy_folder, local_copy
from vbcli.textvocab import TextVocabulary, load_text_vocabulary
from vbcli.tokens import N_FRAMING_TOKENS
from vbcli.vocab.artifact import Vocabulary, load_vocabulary

IMPORTED = "import"
"""The task of a published model that was only read."""
WINDOWED = ("caption", "classify", "retrieve", "answer")
"""Tasks that show the encoder a whole video, and text beside it only where they learned with transcripts."""


@dataclass
class Checkpoint:
    """A model with its vocabularies.

    Args:
        task: `pretrain` (a VideoBert), `denoise`, `caption` or `answer` (a Captioner), `classify` (a VideoClassifier), `retrieve` (a
            VideoRetriever), or `import` (a VideoBert
            without visual rows, or a Bart).
        vocabulary: the visual one; None of an imported model.
        n_clips: clips of a video that the model is shown; None means all.
        window_clips: most clips in one window of the encoder: the longest that training has seen.
        window_text: most text tokens in it, of a task in `WINDOWED` that is shown transcripts; None of one that is not.
        trained_on: facts for the reader: dataset, split, numbers, steps, losses.
        question_words: of the task `answer`, content words of the training questions; None where they were not kept.
    """

    task: str
    model: nn.Module
    text: TextVocabulary
    vocabulary: Vocabulary | None
    vocab_dir: Path
    n_clips: int | None = None
    window_clips: int = 0
    window_text: int | None = None
    trained_on: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    question_words: frozenset[str] | None = None

    @property
    def encoder(self) -> VideoBert:
        """The VideoBERT of the model."""
        encoder = self.model.encoder if isinstance(self.model, Captioner | VideoClassifier | VideoRetriever) else self.model
        assert isinstance(encoder, VideoBert)
        return encoder

    @property
    def captioner(self) -> Captioner:
        """The model as a captioner."""
        assert isinstance(self.model, Captioner)
        return self.model

    @property
    def classifier(self) -> VideoClassifier:
        """The model as a classifier."""
        assert isinstance(self.model, VideoClassifier)
        return self.model

    @property
    def retriever(self) -> VideoRetriever:
        """The model as a retriever."""
        assert isinstance(self.model, VideoRetriever)
        return self.model

    @property
    def reads_text(self) -> bool:
        """Whether the encoder is shown text beside the clips; a captioner's may have learned from clips alone."""
        return self.task not in WINDOWED or self.window_text is not None

    @property
    def window_size(self) -> int:
        """Most text tokens and clips in one window of the encoder: a `WINDOWED` one's learned no positions beyond its longest sequence."""
        room = self.encoder.config.max_positions - N_FRAMING_TOKENS
        return min(room, self.window_clips + (self.window_text or 0)) if self.task in WINDOWED else room

    @property
    def visual(self) -> Vocabulary:
        """The visual vocabulary."""
        assert self.vocabulary is not None
        return self.vocabulary


def refuse_bridge(checkpoint: Checkpoint) -> None:
    """Refuses a captioner that learned from text, where its encoder's input must be clips.

    Raises:
        VbcliError: it is one.
    """
    if isinstance(checkpoint.model, Captioner) and checkpoint.model.bridge is not None:
        raise VbcliError(
            f"the captioner {checkpoint.vocab_dir.parent} learned from text: what it is shown of a video is no sequence of clips",
            hint="name one that was trained without --text",
        )


def save_checkpoint(checkpoint: Checkpoint, checkpoint_dir: Path) -> None:
    """Writes a checkpoint; `config.json` comes last and makes it whole."""
    data = save({k: v.contiguous() for k, v in checkpoint.model.state_dict().items()})
    checkpoint.sha256 = hashlib.sha256(data).hexdigest()
    write_atomic(checkpoint_dir / "model.safetensors", data)
    write_atomic(checkpoint_dir / "tokenizer.json", checkpoint.text.to_json().encode())
    is_imported = checkpoint.vocabulary is None
    if not is_imported and checkpoint.vocab_dir.resolve() != (checkpoint_dir / "vocab").resolve():
        copy_folder(checkpoint.vocab_dir, checkpoint_dir / "vocab")
    values: dict[str, Any] = {
        "kind": "checkpoint",
        "version": VERSION,
        "task": checkpoint.task,
        **_shapes(checkpoint.model),
        "n_clips": checkpoint.n_clips,
        "window_clips": checkpoint.window_clips,
        "window_text": checkpoint.window_text,
        "visual_vocabulary_sha256": None if is_imported else checkpoint.visual.sha256,
        "model_sha256": checkpoint.sha256,
        "trained_on": checkpoint.trained_on,
    }
    if checkpoint.question_words is not None:
        values["question_words"] = sorted(checkpoint.question_words)
    write_json(checkpoint_dir / "config.json", values)


def _shapes(model: nn.Module) -> dict[str, Any]:
    """The configurations that `_build_model` needs."""
    if isinstance(model, Bart):
        return {"bart": to_dict(model.decoder.config)}
    if isinstance(model, Captioner):
        shapes = {"encoder": to_dict(model.encoder.config), "decoder": to_dict(model.decoder.config)}
        return shapes if model.bridge is None else {**shapes, "bridge": list(model.bridge.weight.shape)}
    if isinstance(model, VideoClassifier):
        return {
            "encoder": to_dict(model.encoder.config),
            "classes": list(model.classes),
            "is_multi_label": model.head.is_multi_label,
        }
    if isinstance(model, VideoRetriever):
        return {"encoder": to_dict(model.encoder.config), "space": model.width}
    assert isinstance(model, VideoBert)
    return {"encoder": to_dict(model.config)}


class _Uninitialised(TorchFunctionMode):
    """Modules that are made within it are not given weights to begin with: on `meta` torch would load its compiler for that."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _build_model(values: dict[str, Any], source: str) -> nn.Module:
    if "bart" in values:
        return Bart(from_dict(BartConfig, values["bart"], source))
    encoder = VideoBert(from_dict(VideoBertConfig, values["encoder"], source))
    if "classes" in values:
        return VideoClassifier(encoder, tuple(values["classes"]), is_multi_label=values["is_multi_label"])
    if "space" in values:
        return VideoRetriever(encoder, values["space"])
    if "decoder" not in values:
        return encoder
    bridge = SentenceBridge(*values["bridge"]) if "bridge" in values else None
    return Captioner(encoder, BartDecoder(from_dict(BartConfig, values["decoder"], source)), bridge)


def load_checkpoint(checkpoint_dir: Path, *tasks: str) -> Checkpoint:
    """Loads a checkpoint; the model is in evaluation mode.

    Raises:
        VbcliError: it is missing, damaged or of another task.
    """
    values = read_checkpoint_config(checkpoint_dir, *tasks)
    source = str(checkpoint_dir / "config.json")
    # Without memory of its own: the weights are the file's, mapped, so that workers share what they do not change.
    with torch.device("meta"), _Uninitialised():
        model = _build_model(values, source)
    weights = checkpoint_dir / "model.safetensors"
    hint = "copy the checkpoint again, or train it again"
    try:
        if file_sha256(weights) != values["model_sha256"]:
            raise VbcliError(f"{weights} is not the file that {source} describes", hint=hint)
        with local_copy(weights) as local:
            model.load_state_dict(load_file(local), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch says in its second line which weights do not fit.
        cause = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise VbcliError(f"{weights} cannot be loaded: {cause}", hint=hint) from error
    return Checkpoint(
        values["task"],
        model.eval(),
        load_text_vocabulary(checkpoint_dir / "tokenizer.json"),
        None if values["visual_vocabulary_sha256"] is None else load_vocabulary(checkpoint_dir / "vocab"),
        checkpoint_dir / "vocab",
        values["n_clips"],
        values["window_clips"],
        values.get("window_text"),
        values["trained_on"],
        values["model_sha256"],
        frozenset(values["question_words"]) if "question_words" in values else None,
    )


def init_visual_rows(model: VideoBert, centroids: Sequence[Tensor], seed: int) -> None:
    """Starts the visual rows from the centroids of the vocabulary, projected to the model's width.

    A random projection with orthonormal columns, one for all codebooks, keeps the distances between centroids and between sums of them; the
    rows are scaled so that the sum of a clip's has the spread of the text rows.

    Args:
        centroids: float (K_m, P) of each codebook.

    Source: Sun et al. 2019 (VideoBERT), section 4.3: visual rows are initialised with their cluster centroids.
    """
    width = model.config.hidden_size
    generator = torch.Generator().manual_seed(seed)
    dim = centroids[0].shape[1]  # P
    basis = torch.linalg.qr(torch.randn(max(dim, width), max(dim, width), generator=generator))[0]
    tables = [(rows - rows.mean(0)) @ basis[:dim, :width] for rows in centroids]  # (K_m, D) each
    spread = torch.stack([rows.std() for rows in tables]).norm()
    with torch.no_grad():
        model.token_embedding.weight[model.config.first_visual_id :] = torch.cat(tables) * (
            model.config.initializer_range / spread.clamp_min(1e-6)
        )
