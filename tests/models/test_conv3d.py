"""The 3-D convolution network: against loops, and what its features must not depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vbcli.config import Conv3dConfig, load_preset
from vbcli.encoderfolders import carried_encoder, carry_encoder, is_encoder
from vbcli.encoders import load_encoder
from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import VbcliError
from vbcli.models.conv3d import Conv3dClassifier, Conv3dEncoder, SplitConv
from vbcli.models.encoder_checkpoint import EncoderCheckpoint, load_encoder_checkpoint, save_encoder
from vbcli.storage import as_path, copy_folder

SMALL = Conv3dConfig(n_frames=4, size_px=32, widths=(8, 16), time_strides=(1, 2))


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained") / "encoder"
    save_encoder(EncoderCheckpoint(Conv3dEncoder(SMALL), 4.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), {"n_steps": 3}), folder)
    return folder


def clips(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SMALL.n_frames, SMALL.size_px, SMALL.size_px, 3), np.uint8)


def convolve(x: np.ndarray, weight: np.ndarray, strides: tuple[int, int, int]) -> np.ndarray:
    """A 3-D convolution by its definition: x (C, f, h, w), weight (C', C, a, b, c), zeros around."""
    kernel = weight.shape[2:]
    padded = np.pad(x, ((0, 0), *((k // 2, k // 2) for k in kernel)))
    shape = [(n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(x.shape[1:], kernel, strides, strict=True)]
    out = np.zeros((len(weight), *shape))
    for place in np.ndindex(*shape):
        window = tuple(slice(p * s, p * s + k) for p, s, k in zip(place, strides, kernel, strict=True))
        out[(slice(None), *place)] = (weight * padded[(slice(None), *window)]).sum((1, 2, 3, 4))
    return out


def normalise(x: np.ndarray, n_groups: int, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Group norm by its definition: x (C, f, h, w)."""
    out = np.empty_like(x)
    for group in np.array_split(np.arange(len(x)), n_groups):
        out[group] = (x[group] - x[group].mean()) / np.sqrt(x[group].var() + 1e-5)
    return out * scale[:, None, None, None] + shift[:, None, None, None]


@pytest.mark.parametrize(("stride", "time_stride"), [(1, 1), (2, 1), (2, 2)])
def test_a_split_convolution_is_the_one_written_with_loops(stride: int, time_stride: int) -> None:
    torch.manual_seed(1)
    layer = SplitConv(3, 4, stride, time_stride, 2).double()
    for value in layer.parameters():
        torch.nn.init.normal_(value)
    x = np.random.default_rng(0).normal(size=(3, 5, 6, 7))
    values = [value.detach().numpy() for value in layer.parameters()]
    space, space_scale, space_shift, time, time_scale, time_shift = values
    between = np.maximum(normalise(convolve(x, space, (1, stride, stride)), 2, space_scale, space_shift), 0)
    expected = normalise(convolve(between, time, (time_stride, 1, 1)), 2, time_scale, time_shift)
    found = layer(torch.from_numpy(x)[None])[0].detach().numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-9)


@torch.inference_mode()
def test_the_tiny_preset_has_the_shapes_and_the_size_it_says() -> None:
    config = load_preset("conv3d-tiny", Conv3dConfig)
    model = Conv3dClassifier(config, 5)
    frames = torch.zeros(2, 3, config.n_frames, config.size_px, config.size_px)
    shapes = [tuple(m.shape) for m in model.encoder(frames)]
    # The stem divides height and width by 4, each stage after the first by 2.
    assert shapes == [(2, 32, 8, 16, 16), (2, 64, 4, 8, 8), (2, 128, 2, 4, 4), (2, 192, 2, 2, 2)]
    assert [tuple(m.shape) for m in model.encoder.feature_maps(frames)] == [(2, 64, 8, 8), (2, 128, 4, 4), (2, 192, 2, 2)]
    assert model(frames).shape == (2, 5)
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 2e6


@torch.inference_mode()
def test_the_order_of_frames_counts_and_rows_do_not_meet() -> None:
    torch.manual_seed(0)
    model = Conv3dClassifier(SMALL, 3).train()
    x = torch.randn(3, 3, 4, 32, 32)
    model.dropout.p = 0.0
    alone = torch.cat([model(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-4)
    # The same frames backwards: what is pooled over space and time would be equal, if no weight looked along time.
    assert (model(x.flip(2)) - model(x)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"widths": (8, 12)}, "not multiples of n_groups 8"),
        ({"time_strides": (1,)}, "not one of each for every stage"),
        ({"n_frames": 1}, "not at least 2 and 8"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(VbcliError, match=sentence):
        replace(SMALL, **changes)


# ---------------------------------------------------------------- as an encoder


@torch.inference_mode()
def test_a_trained_encoder_encodes_as_its_network_does(encoder_dir: Path) -> None:
    encoder = load_encoder(str(encoder_dir), pool="grid2", precision="float32")
    spec = encoder.spec
    assert (spec.fps, spec.n_frames, spec.clip_s, spec.block_dims) == (4.0, 4, 1.0, (8, 16))
    assert EncoderSpec.from_dict(spec.as_dict()) == spec
    batch = clips(3)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    x = torch.from_numpy(np.moveaxis((batch / 255 - mean) / std, -1, 1)).float()
    maps = load_encoder_checkpoint(encoder_dir).model(x)
    # Cells of 4 x 4 of an 8 x 8 map, and of 2 x 2 of a 4 x 4 map, row by row, over all frames.
    cells = [m.mean(2).unflatten(3, (2, -1)).unflatten(2, (2, -1)).mean((3, 5)).flatten(2) for m in maps]
    expected = torch.cat([c.transpose(1, 2) for c in cells], 2).flatten(1).numpy()
    np.testing.assert_allclose(encoder.encode(batch), expected, atol=1e-5)
    pooled = load_encoder(str(encoder_dir), pool="mean", precision="float32").encode(batch)
    np.testing.assert_allclose(pooled, expected.reshape(3, 4, 24).mean(1), atol=1e-5)


def test_features_depend_on_the_clip_alone(encoder_dir: Path) -> None:
    encoder = load_encoder(str(encoder_dir), precision="float32")
    batch = clips(7)
    whole = encoder.encode(batch)
    assert np.array_equal(whole, load_encoder(str(encoder_dir), precision="float32").encode(batch))
    for i in (0, 3, 6):
        assert np.array_equal(encoder.encode(batch[i : i + 1])[0], whole[i])
    assert np.array_equal(encoder.encode(batch[::-1].copy()), whole[::-1])


def test_an_encoder_is_the_same_wherever_it_lies(encoder_dir: Path, tmp_path: Path) -> None:
    spec = load_encoder(str(encoder_dir)).spec
    copy = carry_encoder(encoder_dir, tmp_path / "features")
    assert copy == carried_encoder(tmp_path / "features") == tmp_path / "features/encoder"
    assert load_encoder(str(copy)).spec == spec
    assert spec.name == f"conv3d:{spec.weights_sha256[:16]}"
    with pytest.raises(VbcliError, match=f"the folder of the trained encoder {spec.name} is not there"):
        load_encoder(spec.name)
    assert carried_encoder(tmp_path) is None
    assert carry_encoder(None, tmp_path) is None


def test_an_encoder_in_a_store_is_the_one_here(encoder_dir: Path, tmp_path: Path) -> None:
    there = as_path(f"memory://{tmp_path.name}/encoder")
    copy_folder(encoder_dir, there)
    loaded, here = load_encoder(str(there)), load_encoder(str(encoder_dir))
    assert loaded.spec == here.spec
    assert carry_encoder(loaded.folder, tmp_path) == tmp_path / "encoder"
    assert load_encoder(str(tmp_path / "encoder")).spec == here.spec
    there.parent.rmdir(recursive=True)  # type: ignore[call-arg]
    with pytest.raises(VbcliError, match=f"unknown encoder '{there}'"):
        load_encoder(str(there))
    with pytest.raises(VbcliError, match=r"the weights memory://a/w\.pth are not on this machine") as caught:
        load_encoder("timm:test_convnext/memory://a/w.pth")
    assert caught.value.hint == "copy them, and name timm:test_convnext/PATH"


def test_what_is_no_encoder_is_refused(encoder_dir: Path, tmp_path: Path) -> None:
    assert not is_encoder(tmp_path)
    with pytest.raises(VbcliError, match=f"there is no trained encoder in {tmp_path}") as caught:
        load_encoder(str(tmp_path))
    assert "--task encoder" in str(caught.value.hint)
    other = tmp_path / "other"
    torch.manual_seed(5)
    save_encoder(EncoderCheckpoint(Conv3dEncoder(SMALL), 4.0, (0.5,) * 3, (0.2,) * 3), other)
    carry_encoder(other, tmp_path)
    copy = carry_encoder(encoder_dir, tmp_path)
    assert copy is not None
    # What a killed run of another encoder left is replaced.
    assert load_encoder(str(copy)).spec == load_encoder(str(encoder_dir)).spec
    (copy / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(VbcliError, match="does not hold the weights that"):
        load_encoder(str(copy))
    (copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(VbcliError, match=r"model\.safetensors cannot be loaded"):
        load_encoder(str(copy))
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "fps"}))
    (copy / "model.safetensors").write_bytes((encoder_dir / "model.safetensors").read_bytes())
    with pytest.raises(VbcliError, match="does not say 'fps'"):
        load_encoder(str(copy))
