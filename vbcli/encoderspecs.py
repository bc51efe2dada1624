"""What identifies an encoder, without the libraries that run one: its specification, which travels with the features.

An encoder's name is `LIBRARY:ARCHITECTURE[/WEIGHTS]`; WEIGHTS is a tag that the library can download, a local path, or
`random`. Or it is the folder of an encoder that `vbcli train --task encoder` made. The pre-processing is part of the weights'
identity and travels in the encoder's specification.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vbcli.config import config_hash
from vbcli.media.filters import Geometry

DEFAULT_ENCODER = "timm:tf_efficientnet_lite0"
IMPORTED = "imported"
TRAINED = "conv3d"
"""What stands before the hash in the name of an encoder of ours: the same wherever its folder lies."""
Pool = Literal["mean", "grid2", "grid3", "names"]


@dataclass(frozen=True)
class Preprocessing:
    """What the weights expect of a frame: its geometry, then (pixel / 255 - mean) / std by channel."""

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class EncoderSpec:
    """Identity of an encoder: what must be equal for two features to be comparable.

    `fps` and `n_frames` declare a clip: one frame every 1/fps seconds, n_frames of them. A feature has `n_cells * dim` numbers: the
    grid cells row by row, each the mean of what one or several stages of the network say there (`block_dims` numbers each).
    """

    name: str
    weights_sha256: str
    preprocessing: Preprocessing
    fps: float
    n_frames: int
    pool: Pool
    n_cells: int
    block_dims: tuple[int, ...]
    precision: str

    @property
    def dim(self) -> int:
        """Numbers in a grid cell."""
        return sum(self.block_dims)

    @property
    def clip_s(self) -> float:
        """Length of a clip in seconds."""
        return self.n_frames / self.fps

    @property
    def width(self) -> int:
        """Numbers in a feature."""
        return self.n_cells * self.dim

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, as `from_dict` takes them."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderSpec:
        """The specification that `as_dict` wrote."""
        pre = values["preprocessing"]
        resize = pre["geometry"]["resize_px"]
        geometry = Geometry(tuple(resize) if isinstance(resize, list) else resize, pre["geometry"]["crop_px"])
        return cls(
            **{
                **values,
                "preprocessing": Preprocessing(geometry, tuple(pre["mean"]), tuple(pre["std"])),
                "block_dims": tuple(values["block_dims"]),
            }
        )


def imported_encoder(name: str, dim: int, rate: float) -> EncoderSpec:
    """What stands for an encoder that is not here, whose features were imported.

    Args:
        name: that features of one encoder share: those of another cannot be compared with them.
        dim: numbers of a feature.
        rate: features a second.
    """
    nothing = Preprocessing(Geometry(1, 1), (0.0,) * 3, (1.0,) * 3)
    return EncoderSpec(f"{IMPORTED}:{name}", config_hash([IMPORTED, name, dim]), nothing, rate, 1, "mean", 1, (dim,), "float32")


def trained_preprocessing(size_px: int) -> Preprocessing:
    """What the encoders that we train are given: the whole frame, squeezed into a square."""
    return Preprocessing(Geometry((size_px, size_px), size_px), (0.45,) * 3, (0.225,) * 3)
