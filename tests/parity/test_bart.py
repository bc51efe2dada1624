"""BART against `transformers.BartForConditionalGeneration` with the same weights, and cached against uncached decoding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.errors import VbcliError
from vbcli.models.bart import Bart, BartDecoder, Captioner, load_bart_state, to_bart_state
from vbcli.models.videobert import VideoBert

B, S, T = 4, 9, 7
LENGTHS = torch.tensor([9, 5, 2, 1])
TARGET_LENGTHS = torch.tensor([7, 3, 6, 1])
CONFIG = BartConfig(
    n_encoder_layers=2, n_decoder_layers=3, hidden_size=24, n_heads=4, intermediate_size=40, n_tokens=60, max_positions=20
)  # fmt: skip


def hf_bart(std: float = 0.02) -> transformers.BartForConditionalGeneration:
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=CONFIG.n_tokens,
            d_model=CONFIG.hidden_size,
            encoder_layers=CONFIG.n_encoder_layers,
            decoder_layers=CONFIG.n_decoder_layers,
            encoder_attention_heads=CONFIG.n_heads,
            decoder_attention_heads=CONFIG.n_heads,
            encoder_ffn_dim=CONFIG.intermediate_size,
            decoder_ffn_dim=CONFIG.intermediate_size,
            max_position_embeddings=CONFIG.max_positions,
            init_std=std,
        )
    ).eval()
    with torch.no_grad():  # zero biases and unit norms would hide a wrong name
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.02 * torch.randn_like(parameter))
        model.get_input_embeddings().get_parameter("weight")[CONFIG.pad_token_id].normal_(std=std)
        model.final_logits_bias.normal_(std=std)
    return model


def ours_of(theirs: transformers.BartForConditionalGeneration) -> Bart:
    model = Bart(CONFIG).eval()
    load_bart_state(model, theirs.state_dict(), "bart")
    return model


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    target_mask = torch.arange(T) < TARGET_LENGTHS[:, None]
    target_mask[0, 2] = target_mask[2, 1] = False  # padding at the end alone would never be seen by a causal decoder
    return {
        "input_ids": torch.randint(3, CONFIG.n_tokens, (B, S)),
        "attention_mask": torch.arange(S) < LENGTHS[:, None],
        "decoder_input_ids": torch.randint(3, CONFIG.n_tokens, (B, T)),
        "decoder_attention_mask": target_mask,
    }


def assert_close(result: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    scale = max(1.0, expected.abs().max().item())
    assert (result - expected).abs().max().item() <= tolerance * scale


def test_logits_equal_bart() -> None:
    theirs, inputs = hf_bart(), batch()
    ours = ours_of(theirs)
    real = inputs["decoder_attention_mask"]
    with torch.no_grad():
        expected = theirs(**inputs)
        assert_close(ours(**inputs)[real], expected.logits[real], 1e-5)
        memory, mask = ours.encode(inputs["input_ids"], inputs["attention_mask"])
        assert_close(memory[mask], expected.encoder_last_hidden_state[mask], 1e-5)
    assert expected.logits[real].std() > 0.01


def test_gradients_equal_bart() -> None:
    theirs, inputs = hf_bart(), batch()
    ours = ours_of(theirs)
    real = inputs["decoder_attention_mask"]
    labels = torch.randint(3, CONFIG.n_tokens, (B, T))
    F.cross_entropy(theirs(**inputs).logits[real], labels[real]).backward()
    F.cross_entropy(ours(**inputs)[real], labels[real]).backward()
    holder = Bart(CONFIG)
    load_bart_state(holder, {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}, "gradients")
    for (name, parameter), expected in zip(ours.named_parameters(), holder.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_close(parameter.grad, expected, 1e-4)
        assert (parameter.grad - expected).norm() <= 1e-4 * expected.norm() + 1e-7, name


def test_state_names_are_those_of_bart_both_ways() -> None:
    theirs = hf_bart()
    state = to_bart_state(ours_of(theirs))
    expected = theirs.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_bare_bart_model_loads() -> None:
    theirs = hf_bart()
    model = Bart(CONFIG)
    load_bart_state(model, theirs.model.state_dict(), "bart-base")
    state = to_bart_state(model)
    assert all(torch.equal(state[f"model.{name}"], t) for name, t in theirs.model.state_dict().items())
    assert torch.equal(model.decoder.final_logits_bias, torch.zeros(1, CONFIG.n_tokens))


def test_a_wrong_checkpoint_is_refused_and_named() -> None:
    state = dict(hf_bart().state_dict())
    with pytest.raises(VbcliError, match=r"x.bin: model.shared.weight has shape \(61, 24\)"):
        load_bart_state(Bart(CONFIG), state | {"model.shared.weight": torch.zeros(61, 24)}, "x.bin")
    del state["model.decoder.layers.2.fc1.weight"]
    with pytest.raises(VbcliError, match=r"x.bin lacks model.decoder.layers.2.fc1.weight"):
        load_bart_state(Bart(CONFIG), state, "x.bin")


def test_a_longer_sequence_than_positions_is_refused() -> None:
    decoder = BartDecoder(CONFIG)
    with pytest.raises(ValueError, match="21 tokens is longer than max_positions 20"):
        decoder(torch.zeros(1, 21, dtype=torch.int64), torch.zeros(1, 2, 24), torch.ones(1, 2, dtype=torch.bool))


def test_cached_steps_equal_the_whole_sequence_also_after_reordering() -> None:
    torch.manual_seed(3)
    n_beams, n_steps = 3, 8
    decoder = ours_of(hf_bart(std=0.3)).decoder
    memory, memory_mask = torch.randn(B, S, 24), torch.arange(S) < LENGTHS[:, None]
    videos = torch.arange(B)
    sequences = torch.full((B, n_beams, 1), 2)
    with torch.no_grad():
        cache = decoder.start(memory, memory_mask, n_beams)
        for step in range(n_steps):
            logits = decoder.step(sequences[..., -1], cache)
            flat = sequences.flatten(0, 1)
            expected = decoder(flat, memory[videos].repeat_interleave(n_beams, 0), memory_mask[videos].repeat_interleave(n_beams, 0))
            torch.testing.assert_close(logits.flatten(0, 1), expected[:, -1], rtol=1e-4, atol=1e-5)
            kept = torch.arange(len(videos)) if step not in (3, 5) else torch.tensor([0, 2, 3][: len(videos) - 1])
            beams = torch.randint(0, n_beams, (len(kept), n_beams))
            videos = videos[kept]
            new = torch.randint(3, CONFIG.n_tokens, (len(kept), n_beams, 1))
            sequences = torch.cat([sequences[kept[:, None], beams], new], dim=-1)
            cache.keep(kept, beams)
    assert videos.tolist() == [0, 3]


def test_the_memory_is_projected_once_per_video() -> None:
    decoder = ours_of(hf_bart()).decoder
    shapes: list[torch.Size] = []
    for name, module in decoder.named_modules():
        if name.endswith(("cross_attention.k", "cross_attention.v")):
            module.register_forward_hook(lambda _module, inputs, _output: shapes.append(inputs[0].shape))
    with torch.no_grad():
        cache = decoder.start(torch.randn(B, S, 24), torch.ones(B, S, dtype=torch.bool), 5)
        for _ in range(4):
            decoder.step(torch.full((B, 5), 7), cache)
    assert shapes == [torch.Size([B, S, 24])] * (2 * CONFIG.n_decoder_layers)


def test_captioner_is_the_encoder_then_the_decoder() -> None:
    torch.manual_seed(4)
    encoder_config = VideoBertConfig(
        n_layers=1, hidden_size=24, n_heads=2, intermediate_size=40, n_text_tokens=60, n_visual_tokens=8, feature_dim=5, max_positions=16
    )  # fmt: skip
    captioner = Captioner(VideoBert(encoder_config), BartDecoder(CONFIG)).eval()
    inputs, features = batch(), torch.randn(B, S, 5)
    arguments = {
        "input_ids": inputs["input_ids"],
        "token_type_ids": torch.zeros(B, S, dtype=torch.int64),
        "attention_mask": inputs["attention_mask"],
        "features": features,
        "feature_mask": inputs["attention_mask"],
    }
    memory, mask = captioner.encode(**arguments)
    logits = captioner(**arguments, decoder_input_ids=inputs["decoder_input_ids"])
    assert torch.equal(mask, inputs["attention_mask"])
    torch.testing.assert_close(logits, captioner.decoder(inputs["decoder_input_ids"], memory, mask))
    other = captioner(**(arguments | {"features": features + 1}), decoder_input_ids=inputs["decoder_input_ids"])
    assert not torch.allclose(logits, other)
    F.cross_entropy(logits.flatten(0, 1), inputs["decoder_input_ids"].flatten()).backward()
    projection = captioner.encoder.feature_projection
    assert projection is not None
    assert projection.weight.grad is not None
    assert projection.weight.grad.abs().max() > 0
    with pytest.raises(VbcliError, match="hidden_size 24 is not the decoder's 32"):
        Captioner(captioner.encoder, BartDecoder(BartConfig(1, 1, 32, 2, 40, n_tokens=60)))
