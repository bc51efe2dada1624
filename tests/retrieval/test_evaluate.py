"""Which videos a caption is right for."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vbcli.metrics.mentions import find_mentions
from vbcli.retrieval.evaluate import _right_pairs


def test_a_caption_is_right_for_what_is_described_alike():
    texts = [
        (0, "a red ball falls"),
        (0, "the red sphere drops"),
        (1, "a red ball falls"),
        (2, "red sphere, falling: it drops"),
        (3, "rain"),
    ]
    assert _right_pairs(texts, 4, None).astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    lexicon = {"object": {"red ball": ["red ball", "red sphere"]}, "action": {"fall": ["falls", "drops"]}}
    found = _right_pairs(texts, 4, lexicon)
    # Three ways to say the same; what names nothing of the lexicon is compared as it stands.
    assert found.astype(int).tolist() == [[1, 1, 1, 0]] * 4 + [[0, 0, 0, 1]]
    assert np.diagonal(found[[0, 2, 3, 4]]).all()


LEXICON = {"object": {"red": ["red", "crimson"], "blue": ["blue"]}, "action": {"fall": ["falls", "drops"], "rise": ["rises"]}}
SAID = [" ".join(words) for words in itertools.product(("red", "crimson", "blue", "grey"), ("falls", "drops", "rises", "sleeps"))]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(SAID)), min_size=1, max_size=20), st.sampled_from([None, LEXICON]))
def test_pairs_are_those_of_comparing_each_caption_with_each(texts: list[tuple[int, str]], lexicon: dict | None):
    def is_same(one: str, other: str) -> bool:
        named = [[tuple(find_mentions(text, values)) for values in (lexicon or {}).values()] for text in (one, other)]
        return one == other or (named[0] == named[1] and any(named[0]))

    expected = [[any(v == video and (v == mine or is_same(text, said)) for v, said in texts) for video in range(5)] for mine, text in texts]
    assert _right_pairs(texts, 5, lexicon).tolist() == expected
