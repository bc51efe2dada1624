"""Which videos a caption is right for."""

from __future__ import annotations

import numpy as np

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
