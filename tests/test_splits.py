"""Splits: what the data names is kept, near-duplicates stay together, and neither side is ever empty."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from vbcli.splits import DUPLICATE_COSINE, assign_splits, group_duplicates

IDS = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


def apart(n: int) -> np.ndarray:
    """Features that are all different."""
    return np.eye(n, dtype=np.float32)


@given(IDS, st.data())
def test_a_split_that_the_data_names_is_kept(video_ids: list[str], data: st.DataObject) -> None:
    given_splits = data.draw(st.lists(st.sampled_from([None, "train", "val", "test"]), min_size=len(video_ids), max_size=len(video_ids)))
    found = assign_splits(video_ids, given_splits, apart(len(video_ids)))
    if any(given_splits):
        assert found == [s or "train" for s in given_splits]
    else:
        assert set(found) <= {"train", "val"}


@given(IDS, st.integers(0, 5))
def test_a_split_does_not_depend_on_the_order_and_leaves_no_side_empty(video_ids: list[str], seed: int) -> None:
    n = len(video_ids)
    found = dict(zip(video_ids, assign_splits(video_ids, [None] * n, apart(n), seed), strict=True))
    order = np.random.default_rng(seed).permutation(n)
    shuffled = [video_ids[i] for i in order]
    again = dict(zip(shuffled, assign_splits(shuffled, [None] * n, apart(n)[order], seed), strict=True))
    assert found == again
    assert set(found.values()) == ({"train", "val"} if n > 1 else {"train"})


def test_about_a_tenth_validates_and_the_seed_changes_which() -> None:
    video_ids = [f"{i}.mp4" for i in range(2000)]
    features = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    splits = [assign_splits(video_ids, [None] * 2000, features, seed) for seed in (0, 1)]
    for split in splits:
        assert 150 < split.count("val") < 250  # four standard deviations about 200 are 146 to 254
    both = sum(a == b == "val" for a, b in zip(*splits, strict=True))
    assert both < 50
    more = assign_splits([*video_ids, "new.mp4"], [None] * 2001, np.vstack([features, -features.sum(0)]))
    assert more[:2000] == splits[0]


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 7))
def test_groups_are_the_connected_components_of_near_duplicates(seed: int, n: int, block: int) -> None:
    """Directions in the plane, in any order, each near to the next in three cases of four: chains form."""
    random = np.random.default_rng(seed)
    angles = random.permutation(np.cumsum(random.choice([0.09, 0.08, 0.07, 0.12], n)))
    features = (np.stack([np.cos(angles), np.sin(angles)], 1) * random.uniform(0.1, 9, (n, 1))).astype(np.float32)
    near = np.cos(angles[:, None] - angles) >= DUPLICATE_COSINE
    _, expected = connected_components(near, directed=False)
    groups = group_duplicates(features, block=block)
    assert [groups[i] == groups[j] for i in range(n) for j in range(n)] == [expected[i] == expected[j] for i in range(n) for j in range(n)]
    assert all(g <= i and groups[g] == g for i, g in enumerate(groups))


@given(st.integers(0, 10_000), st.integers(2, 30))
def test_near_duplicates_are_never_on_both_sides(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    kinds = random.integers(0, max(2, n // 2), n)
    features = np.eye(n, dtype=np.float32)[kinds] + random.normal(0, 0.003, (n, n)).astype(np.float32)
    found = assign_splits([f"{i}.mp4" for i in range(n)], [None] * n, features, seed)
    for kind in set(kinds):
        assert len({s for s, k in zip(found, kinds, strict=True) if k == kind}) == 1
    if len(set(kinds)) > 1:
        assert set(found) == {"train", "val"}


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.integers(0, 20))
def test_at_most_a_fifth_of_a_few_videos_validates(sizes: list[int], seed: int) -> None:
    """Groups of alike videos, of any sizes; where every group is larger than a fifth, the smallest of them validates."""
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    found = assign_splits([f"{i}.mp4" for i in range(len(kinds))], [None] * len(kinds), apart(len(sizes))[kinds], seed)
    assert 1 <= found.count("val") <= max(1, len(kinds) // 5, min(sizes))


def test_videos_that_are_all_alike_are_for_training() -> None:
    for i in range(40):
        assert set(assign_splits([f"{i}.mp4", f"{i}b.mp4"], [None, None], np.ones((2, 3), np.float32))) == {"train"}


def test_features_without_direction_are_no_duplicates_of_anything() -> None:
    assert group_duplicates(np.zeros((3, 2), np.float32)) == [0, 1, 2]
    assert group_duplicates(np.zeros((0, 2), np.float32)) == []


def test_alike_videos_by_the_thousand_are_grouped_in_little_time() -> None:
    started = time.process_time()
    assert set(group_duplicates(np.ones((3000, 4), np.float32))) == {0}
    assert time.process_time() - started < 3
