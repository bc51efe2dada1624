"""An index of videos and segments: a folder that holds all that a search needs.

vectors/      vectors dataset, one shard of it for each of the source
checkpoint/   of the retriever, if a trained one made it
config.json   what the index is of, the encoder where its text tower is what reads sentences, and the removed videos; written last

FAISS indexes are made of the vectors when the index is opened: what is on disk is data alone, and adding or removing videos is running the
command again. Building takes well under a second for a hundred thousand vectors of 256 dimensions, as they are searched exactly; cells and
codes take longer to make than many exact searches, and begin where those would be slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa

from vbcli import shards
from vbcli.encoderspecs import EncoderSpec
from vbcli.errors import VbcliError
from vbcli.files import read_json
from vbcli.stages.embed import WHOLE

INDEX = "index"
"""The kind of the folder."""
Level = Literal["video", "segment"]
MAX_FLAT = 200_000
"""Vectors up to which all are compared (0.1 s a query, where making cells takes a minute)."""
MAX_SEARCHED = 1 / 20
"""Share of the cells that may have to be searched: of more, comparing all by short codes is faster."""
MAX_EXACT = 1024
"""Times as many vectors as are to be found that are compared by what they are, after their codes."""
MIN_CELL = 40
"""Vectors a cell; FAISS warns of fewer than 39."""
FOUND_SHARE = 0.99
"""How much of the nearest a search in part must find, of tried queries."""
N_NEAREST, N_TRAINED = 10, 65_536
"""Of a query, that are to be found, and vectors that codes are learned from."""
N_TRIED, NOISE = 200, 0.5
"""How many are tried, and how far from a vector of the index each lies."""


def is_index(path: Path) -> bool:
    """Whether a folder is an index that is complete."""
    config = path / "config.json"
    return config.is_file() and read_json(config).get("kind") == INDEX


@dataclass(frozen=True)
class Item:
    """A video, or a segment of one.

    Args:
        segment_index: -1 of the whole.
        visual_tokens: int32 (V, M).
        features: float32 (V, P).
    """

    video_id: str
    path: str
    segment_index: int
    start_s: float
    end_s: float
    visual_tokens: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Found:
    """An item and the cosine of its vector with the query's."""

    item: Item
    similarity: float


class VectorIndex:
    """Vectors that are searched by inner product.

    Args:
        vectors: float32 (N, P), of length 1.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        n, width = vectors.shape
        self.kind = "Flat"
        if n <= MAX_FLAT:
            self._index: Any = faiss.index_factory(width, self.kind, faiss.METRIC_INNER_PRODUCT)
            self._index.add(vectors)
            return
        n_cells = min(int(2 * n**0.5), n // MIN_CELL)
        tried = _queries_like(vectors)
        wanted = faiss.knn(tried, vectors, N_NEAREST, faiss.METRIC_INNER_PRODUCT)[1]
        # Else all are compared by short codes, of one or two bits a dimension, and some times ten of them by what they are.
        codes = [width // n_each for n_each in (4, 2) if width % n_each == 0] or [width]
        kinds = [
            (f"IVF{n_cells},Flat", "nprobe", int(MAX_SEARCHED * n_cells)),
            *((f"PQ{m}x4fs,RFlat", "k_factor", MAX_EXACT) for m in codes),
        ]
        for self.kind, parameter, most in kinds:
            self._index = _trained(self.kind, vectors)
            self._index.add(vectors)
            effort = 8
            while effort <= most:
                setattr(self._index, parameter, effort)
                found = self.search(tried, N_NEAREST)[1]
                if np.mean([np.isin(a, b).mean() for a, b in zip(wanted, found, strict=True)]) >= FOUND_SHARE:
                    return
                effort *= 2

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors of each query.

        Args:
            queries: float32 (Q, P).

        Returns:
            similarities float32 (Q, n) and rows int64 (Q, n), the nearest first; -1 where there are fewer.
        """
        return self._index.search(np.ascontiguousarray(queries, np.float32), n)


def _trained(kind: str, vectors: np.ndarray) -> Any:
    index: Any = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    if kind.startswith("IVF"):
        index.cp.max_points_per_centroid = 2 * MIN_CELL
        index.train(vectors)
    else:
        index.train(vectors[:: max(1, len(vectors) // N_TRAINED)])
    return index


def _queries_like(vectors: np.ndarray) -> np.ndarray:
    """Queries are near vectors of an index, not among them: what is among them is found by little search."""
    tried = vectors[:: max(1, len(vectors) // N_TRIED)]
    noise = np.random.default_rng(0).normal(size=tried.shape).astype(np.float32)
    return tried + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)


class VideoIndex:
    """An opened index; `encoder` is what made it, where it was no retriever (None).

    Args:
        index_dir: that `index_dataset` made.

    Raises:
        VbcliError: it is none, or incomplete.
    """

    def __init__(self, index_dir: Path) -> None:
        if not is_index(index_dir):
            raise VbcliError(f"{index_dir} is not an index", hint="make one with: vbcli index SOURCE INDEX_DIR")
        self.checkpoint_dir = index_dir / "checkpoint"
        values = read_json(index_dir / "config.json")
        self.encoder = None if values.get("encoder") is None else EncoderSpec.from_dict(values["encoder"])
        tables = [shards.read_shard(path) for path in shards.list_shards(index_dir / "vectors")]
        self._table = pa.concat_tables(tables).combine_chunks() if tables else None
        if self._table is not None:
            removed = set(values["removed"])
            is_there = [video_id not in removed for video_id in self._table.column("video_id").to_pylist()]
            self._table = self._table.filter(pa.array(is_there, pa.bool_())).combine_chunks()
        if self._table is None or not len(self._table):
            raise VbcliError(
                f"the index {index_dir} holds no videos", hint="all of them failed or are gone: see the folder vectors/_errors in it"
            )
        numbers = self._table.column("segment_index").to_numpy()
        column = self._table.column("vector").combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(numbers), -1)
        # A video of one segment is its own only segment.
        has_segments = set(np.array(self._table.column("video_id").to_pylist())[numbers != WHOLE].tolist())
        is_segment = np.array(
            [n != WHOLE or video not in has_segments for n, video in zip(numbers, self._table.column("video_id").to_pylist(), strict=True)]
        )
        self._vectors = vectors
        self._rows = {"video": np.nonzero(numbers == WHOLE)[0], "segment": np.nonzero(is_segment)[0]}
        self._indexes = {level: VectorIndex(vectors[rows]) for level, rows in self._rows.items()}

    def n_items(self, level: Level) -> int:
        """How many videos or segments there are."""
        return len(self._rows[level])

    def vectors(self, level: Level) -> np.ndarray:
        """Unit vectors of all items, float32 (N, P), in the order of `items`."""
        return self._vectors[self._rows[level]]

    def items(self, level: Level) -> list[Item]:
        """All items."""
        return [self._item(int(row)) for row in self._rows[level]]

    def search(self, vector: np.ndarray, n: int, level: Level) -> list[Found]:
        """The nearest items of a vector, float (P,), the nearest first."""
        similarities, rows = self._indexes[level].search(vector[None], min(n, self.n_items(level)))
        return [
            Found(self._item(int(self._rows[level][row])), float(s)) for s, row in zip(similarities[0], rows[0], strict=True) if row >= 0
        ]

    def _item(self, row: int) -> Item:
        assert self._table is not None
        (found,) = self._table.slice(row, 1).to_pylist()
        return Item(
            found["video_id"],
            found["path"],
            found["segment_index"],
            found["start_s"],
            found["end_s"],
            np.array(found["visual_tokens"], np.int32),
            np.array(found["features"], np.float32),
        )
