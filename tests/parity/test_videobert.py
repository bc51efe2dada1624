"""VideoBERT against `transformers.BertForPreTraining` with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from vbcli.config import VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.videobert import VideoBert, load_bert_state, to_bert_state

B, S, F_DIM = 4, 11, 6
LENGTHS = torch.tensor([11, 7, 3, 1])
CONFIG = VideoBertConfig(
    n_layers=3,
    hidden_size=24,
    n_heads=4,
    intermediate_size=40,
    n_text_tokens=50,
    n_visual_tokens=13,
    max_positions=16,
    visual_input="tokens",
)


def bert(config: VideoBertConfig = CONFIG, n_rows: int | None = None) -> transformers.BertForPreTraining:
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=n_rows or config.n_tokens,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            initializer_range=0.02,
        )
    ).eval()
    with torch.no_grad():  # zero biases and unit norms would hide a wrong name
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
            if name.endswith("word_embeddings.weight"):
                parameter[config.pad_token_id].normal_(std=0.02)
    return model


def ours_of(theirs: transformers.BertForPreTraining) -> VideoBert:
    model = VideoBert(CONFIG).eval()
    assert load_bert_state(model, theirs.state_dict(), "bert") == []
    return model


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    input_ids = torch.randint(1, CONFIG.n_tokens, (B, S))
    attention_mask = torch.arange(S) < LENGTHS[:, None]
    return {
        "input_ids": input_ids.masked_fill(~attention_mask, CONFIG.pad_token_id),
        "token_type_ids": torch.randint(0, 2, (B, S)),
        "attention_mask": attention_mask,
    }


def assert_close(result: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    scale = max(1.0, expected.abs().max().item())
    assert (result - expected).abs().max().item() <= tolerance * scale


def test_logits_equal_bert() -> None:
    theirs, inputs = bert(), batch()
    ours = ours_of(theirs)
    with torch.no_grad():
        expected = theirs(**inputs)
        hidden = ours(**inputs)
        masked = inputs["attention_mask"]
        assert_close(ours.masked_logits(hidden[masked]), expected.prediction_logits[masked], 1e-5)
        assert_close(ours.alignment_logits(hidden), expected.seq_relationship_logits, 1e-5)
        assert_close(ours.pool(hidden), theirs.bert(**inputs).pooler_output, 1e-5)
    assert expected.prediction_logits[masked].std() > 0.01


def test_gradients_equal_bert() -> None:
    theirs, inputs = bert(), batch()
    ours = ours_of(theirs)
    labels = torch.randint(0, CONFIG.n_tokens, (B, S))
    is_aligned = torch.tensor([0, 1, 1, 0])
    real = inputs["attention_mask"]
    expected = theirs(**inputs)
    (
        F.cross_entropy(expected.prediction_logits[real], labels[real]) + F.cross_entropy(expected.seq_relationship_logits, is_aligned)
    ).backward()
    hidden = ours(**inputs)
    (
        F.cross_entropy(ours.masked_logits(hidden[real]), labels[real]) + F.cross_entropy(ours.alignment_logits(hidden), is_aligned)
    ).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    grads_holder = VideoBert(CONFIG)
    missing = load_bert_state(grads_holder, {n: g for n, g in gradients.items() if g is not None}, "gradients")
    assert missing == []
    for (name, parameter), expected_grad in zip(ours.named_parameters(), grads_holder.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_close(parameter.grad, expected_grad, 1e-4)
        assert (parameter.grad - expected_grad).norm() <= 1e-4 * expected_grad.norm() + 1e-7, name


def test_state_names_are_those_of_bert_both_ways() -> None:
    theirs = bert()
    state = to_bert_state(ours_of(theirs))
    expected = theirs.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_export_loads_into_bert_for_masked_lm() -> None:
    torch.manual_seed(1)
    ours, inputs = VideoBert(CONFIG).eval(), batch()
    theirs = transformers.BertForMaskedLM(bert().config).eval()
    unexpected = theirs.load_state_dict(to_bert_state(ours), strict=False)
    assert unexpected.missing_keys == []
    with torch.no_grad():
        real = inputs["attention_mask"]
        assert_close(ours.masked_logits(ours(**inputs)[real]), theirs(**inputs).logits[real], 1e-5)


def test_published_bert_fills_the_text_rows_only() -> None:
    published = bert(n_rows=CONFIG.n_text_tokens).state_dict()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for name, t in published.items()
    }
    model = VideoBert(CONFIG)
    fresh = model.token_embedding.weight[CONFIG.n_text_tokens :].detach().clone()
    assert load_bert_state(model, old, "bert-base-uncased") == []
    table = model.token_embedding.weight
    assert torch.equal(table[: CONFIG.n_text_tokens], published["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(table[CONFIG.n_text_tokens :], fresh)
    assert torch.equal(model.masked_bias[: CONFIG.n_text_tokens], published["cls.predictions.bias"])
    assert torch.equal(model.masked_bias[CONFIG.n_text_tokens :], torch.zeros(CONFIG.n_visual_tokens + 1))
    assert torch.equal(model.masked_norm.weight, published["cls.predictions.transform.LayerNorm.weight"])


def test_bare_bert_model_leaves_the_heads_fresh() -> None:
    theirs = bert()
    model = VideoBert(CONFIG).eval()
    missing = load_bert_state(model, theirs.bert.state_dict(), "minilm")
    heads = ("masked_bias", "masked_dense", "masked_norm", "alignment")
    assert missing == [name for name in model.state_dict() if name.startswith(heads)]
    assert len(missing) == 7
    inputs = batch()
    with torch.no_grad():
        real = inputs["attention_mask"]
        assert_close(model(**inputs)[real], theirs.bert(**inputs).last_hidden_state[real], 1e-5)


@pytest.mark.parametrize(
    ("state", "message"),
    [({"bert.embeddings.LayerNorm.weight": torch.zeros(25)}, r"x.safetensors: bert.embeddings.LayerNorm.weight has shape \(25,\)"),
     ({"vision.conv.weight": torch.zeros(3)}, "x.safetensors holds no weights of a BERT")],
)  # fmt: skip
def test_a_wrong_checkpoint_is_refused_and_named(state: dict[str, Any], message: str) -> None:
    model = VideoBert(CONFIG)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(VbcliError, match=message):
        load_bert_state(model, state, "x.safetensors")
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def feature_model(visual_input: Any) -> VideoBert:
    torch.manual_seed(2)
    return VideoBert(
        VideoBertConfig(
            n_layers=1, hidden_size=24, n_heads=4, intermediate_size=40, n_text_tokens=50, n_visual_tokens=13, max_positions=16,
            feature_dim=F_DIM, visual_input=visual_input, initializer_range=0.3,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("visual_input", ["tokens", "features", "both"])
def test_visual_input(visual_input: str) -> None:
    model, inputs = feature_model(visual_input), batch()
    inputs["attention_mask"] = torch.ones(B, S, dtype=torch.bool)
    feature_mask = torch.zeros(B, S, dtype=torch.bool)
    feature_mask[:, 5:9] = True
    features = torch.randn(B, S, F_DIM)
    with torch.no_grad():
        result = model(**inputs, features=features, feature_mask=feature_mask)
        # The same through BERT: what the sum of rows should be, put in as embedded tokens.
        theirs = transformers.BertForPreTraining(
            transformers.BertConfig(
                vocab_size=64, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=40, max_position_embeddings=16
            )
        ).eval()
        theirs.load_state_dict(to_bert_state(model))
        embeds = model.token_embedding.weight[inputs["input_ids"]].clone()
        for b in range(B):
            for s in range(5, 9):
                if visual_input != "tokens":
                    projection = model.feature_projection
                    assert projection is not None
                    mapped = projection.weight @ features[b, s] + projection.bias
                    embeds[b, s] = mapped if visual_input == "features" else embeds[b, s] + mapped
        expected = theirs.bert(
            inputs_embeds=embeds, token_type_ids=inputs["token_type_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
        assert_close(result, expected, 1e-5)
        # Features outside the mask are never read, not even where they are no numbers.
        dirty = features.masked_fill(~feature_mask[..., None], torch.nan)
        assert torch.equal(model(**inputs, features=dirty, feature_mask=feature_mask), result)


def test_tokens_model_has_no_feature_map_and_features_model_exports_without_it() -> None:
    assert feature_model("tokens").feature_projection is None
    assert "feature_projection.weight" not in to_bert_state(feature_model("both"))
    with pytest.raises(ValueError, match="feature_mask"):
        feature_model("both")(**batch(), features=torch.zeros(B, S, F_DIM))


def test_padding_does_not_change_the_real_rows() -> None:
    ours, inputs = ours_of(bert()), batch()
    with torch.no_grad():
        whole = ours(**inputs)
        for row, length in enumerate(LENGTHS.tolist()):
            alone = ours(**{name: t[row : row + 1, :length] for name, t in inputs.items()})
            torch.testing.assert_close(alone[0], whole[row, :length], rtol=1e-5, atol=1e-6)


def test_a_longer_sequence_than_positions_is_refused() -> None:
    ids = torch.ones(1, 17, dtype=torch.int64)
    with pytest.raises(ValueError, match="17 tokens is longer than max_positions 16"):
        VideoBert(CONFIG)(ids, torch.zeros_like(ids), ids.bool())


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = VideoBert(CONFIG)
    assert torch.equal(model.token_embedding.weight[CONFIG.pad_token_id], torch.zeros(24))
    assert model.token_embedding.weight[1:].std().item() == pytest.approx(0.02, rel=0.1)
    assert model.position_embedding.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert torch.equal(model.masked_bias, torch.zeros(CONFIG.n_tokens))
