"""Vectors of sentences against transformers' MiniLM, pooled as its folder says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vbcli.models.naming import ClassNames, imagenet_names
from vbcli.models.sentences import load_sentence_encoder, minilm_dir

SENTENCES = [
    "A man is riding a horse.",
    "a cat",
    "",
    "Two women cook something in a large pan, and then a dog eats all of it!",
    "word " * 400,
]


def test_vectors_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    folder = minilm_dir()
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = load_sentence_encoder(folder).encode(SENTENCES)
    for sentence, vector in zip(SENTENCES, found, strict=True):
        inputs = tokenizer([sentence], truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        expected = hidden.mean(0) / hidden.mean(0).norm()
        np.testing.assert_allclose(vector, expected.numpy(), atol=2e-6)


def test_likeliest_classes_speak_by_their_names():
    """By hand: two of three classes at a time would be many; of all three the vectors are averaged by their probabilities."""
    classifier = torch.nn.Linear(2, 3)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        classifier.bias.zero_()
        vectors = torch.eye(3)
        found = ClassNames(classifier, vectors)(torch.tensor([[3.0, 4.0]]))[0]
    odds = np.exp([3.0, 4.0, 0.0])
    expected = odds / np.linalg.norm(odds)
    np.testing.assert_allclose(found.numpy(), [0.6, 0.8, *expected], atol=1e-6)


def test_names_are_near_what_they_name():
    """The class of a tabby cat speaks like a sentence about a cat, not like one about a lorry."""
    names = imagenet_names(torch.nn.Linear(4, 1000), "none")
    cat, lorry = load_sentence_encoder(minilm_dir()).encode(["a cat lies on a sofa", "a lorry drives on a road"])
    tabby, trailer_truck = names.vectors[281].numpy(), names.vectors[867].numpy()
    assert tabby @ cat > tabby @ lorry + 0.2
    assert trailer_truck @ lorry > trailer_truck @ cat + 0.2
