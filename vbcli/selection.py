"""What to keep of a video: segments that cover it and do not repeat each other.

Notation: V clips, N candidates (sets of clips), f a set function.

What a set S of candidates covers is f(S), the mean of two shares between 0 and 1:

    clips     the mean over all clips of the similarity to the nearest clip of S (facility location); of more than 2,000 clips, over
              every second, third, ... of them, so that no more than 2,000 are compared with: long videos change slowly
    tokens    the share of all visual tokens, counted as often as they occur, that also occur in S

Both are monotone and submodular: a candidate adds less to a set that has more. The greedy choice of k candidates therefore reaches
at least 1 - 1/e of the best one (Nemhauser, Wolsey and Fisher 1978). Under a budget of seconds, the better of the greedy choices by gain
and by gain a second reaches at least half of that (Leskovec et al. 2007, CELF, theorem 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_COMPARED = 2000


@dataclass(frozen=True)
class Chosen:
    """A candidate and what it added when it was chosen.

    Args:
        index: of the candidate.
        gain: growth of f, 0 to 1.
    """

    index: int
    gain: float


class Coverage:
    """The set function f of the candidates of one video.

    Args:
        features: float (V, P), of the clips.
        visual_tokens: int (V, M).
        candidates: clip numbers of each candidate, none empty.
    """

    def __init__(self, features: np.ndarray, visual_tokens: np.ndarray, candidates: Sequence[np.ndarray]) -> None:
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
        compared = unit[:: -(-len(unit) // MAX_COMPARED)]  # (K, P)
        similarity = (1 + unit @ compared.T) / 2  # (V, K)
        self.nearest = np.empty((len(candidates), similarity.shape[1]), similarity.dtype)  # (N, K)
        for row, clips in zip(self.nearest, candidates, strict=True):
            row[:] = similarity[clips].max(0)
        # Tokens of different codebooks are different ones.
        numbered = visual_tokens + np.arange(visual_tokens.shape[1]) * (int(visual_tokens.max(initial=0)) + 1)
        _, places, counts = np.unique(numbered, return_inverse=True, return_counts=True)
        places = places.reshape(numbered.shape)
        self.weights = counts / max(counts.sum(), 1)  # (T,)
        # Few of all tokens occur in a candidate: their numbers take less memory than a table of both.
        self.has = [np.unique(places[clips]) for clips in candidates]
        self.owners = np.repeat(np.arange(len(self.has)), [len(tokens) for tokens in self.has])

    def value(self, chosen: Sequence[int]) -> float:
        """f of a set of candidates; 0 of none."""
        if not len(chosen):
            return 0.0
        rows = list(chosen)
        return float(self.nearest[rows].max(0).mean() + self.weights[self._is_shown(rows)].sum()) / 2

    def gains(self, chosen: Sequence[int]) -> np.ndarray:
        """What each candidate would add to a set, float (N,)."""
        rows = list(chosen)
        best = self.nearest[rows].max(0) if rows else np.zeros(self.nearest.shape[1])
        missing = self.weights * ~self._is_shown(rows)
        tokens = np.bincount(self.owners, missing[np.concatenate(self.has)], len(self.has))
        growth = self.nearest - best
        return (np.maximum(growth, 0, out=growth).mean(1) + tokens) / 2

    def _is_shown(self, chosen: Sequence[int]) -> np.ndarray:
        """Whether a set of candidates has each token, bool (T,)."""
        is_shown = np.zeros(len(self.weights), bool)
        for row in chosen:
            is_shown[self.has[row]] = True
        return is_shown


def choose_some(coverage: Coverage, n: int) -> list[Chosen]:
    """At most n candidates, greedily, in the order in which they were chosen."""
    return _greedy(coverage, np.ones(len(coverage.nearest)), n, by_cost=False)


def choose_within(coverage: Coverage, costs: np.ndarray, budget: float) -> list[Chosen]:
    """Candidates whose costs sum up to at most a budget, in the order in which they were chosen.

    Args:
        costs: float (N,), all above 0.
    """
    choices = [_greedy(coverage, costs, budget, by_cost=by_cost) for by_cost in (True, False)]
    return max(choices, key=lambda choice: coverage.value([c.index for c in choice]))


def _greedy(coverage: Coverage, costs: np.ndarray, budget: float, *, by_cost: bool) -> list[Chosen]:
    chosen: list[Chosen] = []
    left = budget + 1e-9
    is_open = np.ones(len(costs), bool)
    while (is_open & (costs <= left)).any():
        gains = coverage.gains([c.index for c in chosen])
        best = int(np.where(is_open & (costs <= left), gains / costs if by_cost else gains, -1).argmax())
        chosen.append(Chosen(best, float(gains[best])))
        is_open[best] = False
        left -= costs[best]
    return chosen
