from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vbcli.training.masking import mask_tokens

MASK_ID = 4


def test_rates_are_bert_s():
    n = 100_000
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 1000, n)
    masked = mask_tokens(ids, np.ones(n, bool), (10, 1000), MASK_ID, rng)

    def assert_rate(share, count, total):
        error = (share * (1 - share) / total) ** 0.5
        assert abs(count / total - share) < 3 * error

    n_target = int(masked.is_target.sum())
    assert_rate(0.15, n_target, n)
    assert_rate(0.80, int((masked.input_ids[masked.is_target] == MASK_ID).sum()), n_target)
    # A random token equals the original once in 990 draws.
    assert_rate(0.10 + 0.10 / 990, int((masked.input_ids[masked.is_target] == ids[masked.is_target]).sum()), n_target)


def test_the_rate_of_short_rows_is_that_of_long_ones():
    rng = np.random.default_rng(1)
    ids = np.arange(10, 15)
    counts = [int(mask_tokens(ids, np.ones(5, bool), (10, 20), MASK_ID, rng).is_target.sum()) for _ in range(20_000)]
    assert abs(sum(counts) / 100_000 - 0.15) < 3 * (0.15 * 0.85 / 100_000) ** 0.5


@given(st.integers(0, 2**32 - 1), st.lists(st.booleans(), min_size=1, max_size=60))
def test_only_what_may_be_masked_is(seed, allowed):
    can_mask = np.array(allowed)
    ids = np.arange(100, 100 + len(allowed))
    masked = mask_tokens(ids, can_mask, (10, 20), MASK_ID, np.random.default_rng(seed))
    assert not (masked.is_target & ~can_mask).any()
    assert not (masked.is_hidden & ~masked.is_target).any()
    assert (masked.input_ids[~masked.is_hidden] == ids[~masked.is_hidden]).all()
    replaced = masked.input_ids[masked.is_hidden]
    assert ((replaced == MASK_ID) | ((replaced >= 10) & (replaced < 20))).all()
