"""How a visual vocabulary is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vbcli.errors import UsageError

Assignment = Literal["exact", "descent"]
MAX_LEVELS = 16
MAX_CODEBOOKS = 64


@dataclass(frozen=True)
class VocabConfig:
    """How a vocabulary is built.

    Args:
        branching: children of a node.
        levels: depth of the tree; 1 is flat k-means with `branching` clusters.
        n_codebooks: M, trees: each but the first quantises what those before it leave over.
        n_components: principal components that features are reduced to before clustering; 0 clusters them as they are.
        whitening: each component is divided by its standard deviation to this power: 0 no, 1 full whitening.
        min_points: a node gets at most (its vectors / min_points) children, so that small data gives a smaller tree.
        n_iterations: of each k-means.
        assignment: `exact` is the nearest of all leaves, `descent` follows the tree.
        seed: of the k-means and of the projection.
        n_refinements: iterations of k-means over all leaves of a tree at once, from the leaves of the tree; for `exact` assignment. Such a
            tree has as many leaves as another, but not as many below each node.
    """

    branching: int = 12
    levels: int = 2
    n_components: int = 64
    whitening: float = 0.5
    min_points: int = 8
    n_iterations: int = 20
    assignment: Assignment = "exact"
    seed: int = 0
    n_codebooks: int = 16
    n_refinements: int = 0

    def __post_init__(self) -> None:
        if self.branching < 2:
            raise UsageError(f"--branching {self.branching} is below 2")
        if not 1 <= self.levels <= MAX_LEVELS:
            raise UsageError(f"--levels {self.levels} is not between 1 and {MAX_LEVELS}")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is below 0")
        if not 1 <= self.n_codebooks <= MAX_CODEBOOKS:
            raise UsageError(f"--codebooks {self.n_codebooks} is not between 1 and {MAX_CODEBOOKS}")
        if self.n_refinements < 0:
            raise UsageError(f"--refine {self.n_refinements} is below 0")
        if not 0 <= self.whitening <= 1:
            raise UsageError(f"--whiten-power {self.whitening:g} is not between 0 and 1")
