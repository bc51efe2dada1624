"""A stage: one step from shard to shard, and several of them as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vbcli import shards
from vbcli.config import to_dict
from vbcli.errors import ItemFailure

Rows = Iterator[pa.Table | ItemFailure]
Process = Callable[[Rows], Rows]


class Stage(ABC):
    """One step from shard to shard.

    `process`, which `open` returns, takes the rows of a shard as an iterator of tables (one a video) and yields tables
    in `output_schema`, letting failures pass through, so that stages compose and memory stays bounded by a batch.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    output_kind: ClassVar[str]
    input_columns: ClassVar[list[str] | None] = None
    """Columns of the input that decide the output; None means all."""
    is_batched: ClassVar[bool] = False
    """The last bits of an item's rows depend on what it is processed with: a retry then redoes its whole shard."""

    @abstractmethod
    def output_schema(self) -> pa.Schema:
        """Schema of the rows that the stage yields."""

    @abstractmethod
    def open(self) -> Process:
        """Loads weights, once a worker, and returns the function that processes rows."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the output's bytes, JSON-ready. By default the fields."""
        return to_dict(self)

    def facts(self) -> dict[str, Any]:
        """What later stages need to know of the output."""
        return {}

    def origin(self) -> dict[str, Any]:
        """What readers want to know of how the output came about; it stands beside the facts of the manifest alone.

        Shards are without it: equal weights make equal shards, wherever they were trained.
        """
        return {}

    def modules(self) -> tuple[str, ...]:
        """What is loaded to run it, by name."""
        return (type(self).__module__,)

    def failed_in(self, shard: Path) -> frozenset[str]:
        """The videos of an output shard that a retry makes anew.

        Raises:
            VbcliError: the file is not a shard, or is damaged.
        """
        return frozenset(shards.read_footer(shard)["failed"])


@dataclass(frozen=True)
class Chain(Stage):
    """Stages one after the other as one stage: rows stream through, nothing in between is written."""

    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return "+".join(s.name for s in self.stages)

    @property
    def version(self) -> int:  # type: ignore[override]
        return int("".join(str(s.version) for s in self.stages))

    @property
    def output_kind(self) -> str:  # type: ignore[override]
        return self.stages[-1].output_kind

    @property
    def input_columns(self) -> list[str] | None:  # type: ignore[override]
        return self.stages[0].input_columns

    @property
    def is_batched(self) -> bool:  # type: ignore[override]
        return any(s.is_batched for s in self.stages)

    def output_schema(self) -> pa.Schema:
        return self.stages[-1].output_schema()

    def identity(self) -> dict[str, Any]:
        return {s.name: s.identity() for s in self.stages}

    def facts(self) -> dict[str, Any]:
        return self.stages[-1].facts()

    def origin(self) -> dict[str, Any]:
        return self.stages[-1].origin()

    def modules(self) -> tuple[str, ...]:
        return tuple(module for s in self.stages for module in s.modules())

    def open(self) -> Process:
        processes = [s.open() for s in self.stages]

        def run(rows: Rows) -> Rows:
            for process in processes:
                rows = process(rows)
            return rows

        return run
