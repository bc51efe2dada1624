"""Generation against `transformers`' generate, brute force and its own invariants."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from typing import Any

import hypothesis
import pytest
import torch
import transformers
from hypothesis import strategies as st

from vbcli.config import BartConfig
from vbcli.errors import VbcliError
from vbcli.models.bart import Bart, BartDecoder, load_bart_state, pack_model
from vbcli.models.decoding import DecodingConfig, Hypothesis, _fill_gaps, generate
from vbcli.models.linear import HAS_ONEDNN

B, S, R = 6, 8, 40
START, BOS, PAD, END = 2, 0, 1, 2
CONFIG = BartConfig(n_encoder_layers=1, n_decoder_layers=2, hidden_size=16, n_heads=2, intermediate_size=24, n_tokens=R, max_positions=40)


@functools.cache
def models(end_bias: float, is_special_free: bool = False) -> tuple[transformers.BartForConditionalGeneration, Bart]:
    """The same weights in both; large ones, so that sentences vary, and float64, so that rounding decides nothing."""
    torch.manual_seed(11)
    theirs = transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=R,
            d_model=16,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            max_position_embeddings=40,
            init_std=0.4,
            forced_eos_token_id=None,
        )
    ).eval()
    with torch.no_grad():
        theirs.final_logits_bias.normal_(std=0.5)
        theirs.final_logits_bias[0, END] += end_bias
        if is_special_free:
            theirs.final_logits_bias[0, [BOS, PAD]] = -1e4
    ours = Bart(CONFIG).eval()
    load_bart_state(ours, theirs.state_dict(), "bart")
    return theirs.double(), ours.double()


@functools.cache
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(12)
    mask = torch.arange(S) < torch.tensor([8, 5, 3, 1, 8, 6])[:, None]
    return torch.randint(3, R, (B, S)), mask


def theirs_generate(theirs: Any, ids: torch.Tensor, mask: torch.Tensor, config: DecodingConfig, **options: Any) -> Any:
    return theirs.generate(
        input_ids=ids,
        attention_mask=mask,
        num_return_sequences=config.n_beams,
        max_new_tokens=config.max_length,
        min_new_tokens=config.min_length,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


def theirs_search(theirs: Any, config: DecodingConfig) -> Any:
    options = {"length_penalty": config.length_penalty, "early_stopping": False} if config.n_beams > 1 else {}
    return theirs_generate(theirs, *inputs(), config, num_beams=config.n_beams, do_sample=False, **options)


def plain(sequences: torch.Tensor) -> list[list[int]]:
    return [[t for t in row if t not in (START, BOS, PAD, END)] for row in sequences.tolist()]


def ours_generate(ours: Bart, ids: torch.Tensor, mask: torch.Tensor, config: DecodingConfig, **options: Any) -> list[list[Hypothesis]]:
    with torch.no_grad():
        return generate(ours.decoder, *ours.encode(ids, mask), config, **options)


BEAM_CONFIGS = [
    *(
        DecodingConfig(n_beams=n_beams, max_length=16, length_penalty=penalty, no_repeat_ngram_size=size)
        for n_beams, penalty, size in itertools.product((4, 5), (0.6, 1.0, 2.0), (0, 3))
    ),
    DecodingConfig(n_beams=4, max_length=20, min_length=9),
    DecodingConfig(n_beams=5, max_length=5, min_length=5, length_penalty=0.6),
    DecodingConfig(n_beams=4, max_length=12, length_penalty=0.0, no_repeat_ngram_size=2),
    DecodingConfig(n_beams=2, max_length=12, length_penalty=-1.0, no_repeat_ngram_size=1),
    DecodingConfig(n_beams=3, max_length=1),
]
BEAM_CASES = [(config, end_bias) for config, end_bias in zip(BEAM_CONFIGS, itertools.cycle((1.0, 3.0, 3.0, 1.0)), strict=False)]


@pytest.mark.parametrize(("config", "end_bias"), BEAM_CASES)
def test_beam_search_equals_transformers(config: DecodingConfig, end_bias: float) -> None:
    theirs, ours = models(end_bias)
    expected = theirs_search(theirs, config)
    result = [hypothesis for video in ours_generate(ours, *inputs(), config) for hypothesis in video]
    assert [h.token_ids for h in result] == plain(expected.sequences)
    torch.testing.assert_close(torch.tensor([h.score for h in result]), expected.sequences_scores, rtol=1e-5, atol=1e-5)


def test_the_beam_cases_are_not_degenerate() -> None:
    """Best sentences have many lengths, cut ones among them, and the options change them."""
    texts = [
        [video[0].token_ids for video in ours_generate(models(end_bias)[1], *inputs(), config)] for config, end_bias in BEAM_CASES[:12]
    ]
    lengths = {len(text) for case in texts for text in case}
    assert len(lengths) >= 6
    assert min(lengths) < 6
    assert max(lengths) >= 14
    assert len({str(case) for case in texts}) >= 8


@pytest.mark.parametrize("size", [0, 2, 3])
@pytest.mark.parametrize("lengths", [(0, 16), (6, 30)])
def test_greedy_equals_transformers(size: int, lengths: tuple[int, int]) -> None:
    theirs, ours = models(2.0)
    config = DecodingConfig(n_beams=1, min_length=lengths[0], max_length=lengths[1], no_repeat_ngram_size=size, length_penalty=0.7)
    expected = theirs_search(theirs, config)
    result = ours_generate(ours, *inputs(), config)
    assert [[h.token_ids for h in video] for video in result] == [[text] for text in plain(expected.sequences)]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"temperature": 1.5, "top_k": 9, "top_p": 0.8}], ids=str
)
def test_sampling_draws_what_transformers_draws(options: dict[str, Any]) -> None:
    theirs, ours = models(1.0)
    config = DecodingConfig(n_beams=3, max_length=14, is_sampled=True, **options)
    hf_options = {"top_k": 0} | options
    for row in range(B):
        ids, mask = (t[row : row + 1] for t in inputs())
        torch.manual_seed(40 + row)
        expected = theirs_generate(theirs, ids, mask, config, do_sample=True, num_beams=1, **hf_options)
        result = ours_generate(ours, ids, mask, dataclasses.replace(config, seed=40 + row))[0]
        assert sorted(h.token_ids for h in result) == sorted(plain(expected.sequences))


def test_scores_of_samples_are_the_models_own_log_probabilities() -> None:
    _, ours = models(3.0, is_special_free=True)
    ids, mask = (t[:1] for t in inputs())
    config = DecodingConfig(
        n_beams=12, max_length=9, is_sampled=True, temperature=1.5, top_k=20, length_penalty=0.8, no_repeat_ngram_size=0
    )
    lengths = set()
    for h in ours_generate(ours, ids, mask, config)[0]:
        tokens = h.token_ids if len(h.token_ids) == 9 else [*h.token_ids, END]
        with torch.no_grad():
            logits = ours(ids, mask, decoder_input_ids=torch.tensor([[START, *tokens[:-1]]]))[0]
        total = sum(logits[i].log_softmax(-1)[token].item() for i, token in enumerate(tokens))
        assert h.score == pytest.approx(total / len(tokens) ** 0.8, rel=1e-5)
        lengths.add(len(tokens))
    assert len(lengths) >= 3


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 1.0, 2.0]), st.integers(0, 2))
def test_a_beam_that_holds_everything_finds_every_sentence(seed: int, penalty: float, min_length: int) -> None:
    """Brute force over all sentences of a five-token vocabulary, up to 3 tokens long."""
    torch.manual_seed(seed)
    decoder = BartDecoder(BartConfig(1, 1, 8, 2, 8, n_tokens=5, max_positions=8, initializer_range=0.8)).eval().double()
    memory, mask = torch.randn(1, 3, 8, dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    prefixes = list(itertools.product(range(5), repeat=2))
    with torch.no_grad():
        logits = decoder(torch.tensor([[START, *p] for p in prefixes]), memory.expand(25, -1, -1), mask.expand(25, -1))
    steps = dict(zip(prefixes, logits.log_softmax(-1).tolist(), strict=True))  # one uncached pass
    scores: dict[tuple[int, ...], float] = {}
    for length in (1, 2, 3):
        for tokens in itertools.product(range(5), repeat=length):
            is_whole = length > min_length if tokens[-1] == END else length == 3
            if is_whole and END not in tokens[:-1]:
                table = steps[(*tokens, 0, 0)[:2]]
                scores[tokens] = sum(table[i][token] for i, token in enumerate(tokens)) / length**penalty
    search = DecodingConfig(n_beams=90, max_length=3, min_length=min_length, length_penalty=penalty, no_repeat_ngram_size=0)
    result = generate(decoder, memory, mask, search)[0]
    assert [h.score for h in result] == pytest.approx(sorted(scores.values(), reverse=True), rel=1e-5, abs=1e-5)
    assert result[0].token_ids == [t for t in max(scores, key=lambda tokens: scores[tokens]) if t > END]


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_video_does_not_depend_on_the_others(is_sampled: bool) -> None:
    _, ours = models(2.0)
    ids, mask = inputs()
    config = DecodingConfig(n_beams=4, max_length=20, is_sampled=is_sampled, seed=3)
    together = ours_generate(ours, ids, mask, config)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = ours_generate(ours, ids[order], mask[order], config)
    for row in range(B):
        (alone,) = ours_generate(ours, ids[row : row + 1], mask[row : row + 1], config)
        for other in (together[row], shuffled[order.index(row)]):
            assert [h.token_ids for h in other] == [h.token_ids for h in alone]
            assert [h.score for h in other] == pytest.approx([h.score for h in alone], rel=1e-5)


@hypothesis.given(st.sets(st.integers(0, 30)))
def test_gaps_are_filled_from_the_end(rows: set[int]) -> None:
    filled = _fill_gaps(sorted(rows))
    assert sorted(filled) == sorted(rows)
    assert all(row == place for place, row in enumerate(filled) if place in rows)


@pytest.mark.skipif(not HAS_ONEDNN, reason="oneDNN is not used here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_decoder_writes_the_same(dtype: torch.dtype) -> None:
    ours, packed = (copy.deepcopy(models(3.0)[1]).to(dtype) for _ in range(2))
    pack_model(packed)
    ids, mask = inputs()
    with torch.inference_mode():
        memory = ours.encode(ids, mask)
        expected, result = (generate(model.decoder, *memory, DecodingConfig(max_length=12)) for model in (ours, packed))
        again = ours.decoder(ids, *memory)
        torch.testing.assert_close(packed.decoder(ids, *memory), again, rtol=0.02, atol=0.02 if dtype == torch.float32 else 0.2)
    if dtype == torch.float32:
        assert [[h.token_ids for h in video] for video in result] == [[h.token_ids for h in video] for video in expected]
    assert packed.decoder.packed_output is not None


@pytest.mark.parametrize("n_beams", [1, 4])
def test_the_cache_forgets_what_no_beam_reads(n_beams: int) -> None:
    """It holds no more than twice what the pasts of the beams hold, and the results stay those of the whole sequence."""
    _, ours = models(0.0)
    torch.manual_seed(5)
    memory, mask = torch.randn(2, 3, 16, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    cache, sequences = ours.decoder.start(memory, mask, n_beams), torch.full((2, n_beams, 1), START)
    sizes = []
    for _ in range(30):
        logits = ours.decoder.step(sequences[..., -1], cache)
        # All beams go on from one: all others' tokens are dead.
        beams = torch.randint(n_beams, (2, 1)).expand(-1, n_beams)
        new = torch.randint(3, R, (2, n_beams, 1))
        with torch.no_grad():
            expected = ours.decoder(sequences.flatten(0, 1), memory.repeat_interleave(n_beams, 0), mask.repeat_interleave(n_beams, 0))
        torch.testing.assert_close(logits.flatten(0, 1), expected[:, -1], rtol=1e-5, atol=1e-5)
        sequences = torch.cat([sequences.gather(1, beams[..., None].expand_as(sequences)), new], dim=-1)
        cache.keep(torch.arange(2), beams)
        sizes.append(cache.is_past.shape[-1])
    assert sizes[-1] <= 2 * 30
    assert sizes[9] <= 2 * 10


def test_seeds_decide_the_samples() -> None:
    _, ours = models(1.0)
    config = DecodingConfig(n_beams=2, max_length=12, is_sampled=True, seed=5)
    ids, mask = (t[:1].expand(3, -1) for t in inputs())
    same = ours_generate(ours, ids, mask, config)
    assert same[0] == same[1] == same[2] == ours_generate(ours, ids[:1], mask[:1], config)[0]
    mixed = ours_generate(ours, ids, mask, config, seeds=[5, 6, 5])
    assert mixed[0] == mixed[2] == same[0]
    assert mixed[1] != same[0]


@pytest.mark.parametrize("is_sampled", [False, True])
def test_finished_videos_stop_costing(is_sampled: bool) -> None:
    _, ours = models(3.0)
    rows: list[int] = []
    block = ours.decoder.blocks[0].get_submodule("feed_forward")
    handle = block.register_forward_hook(lambda _module, arguments, _output: rows.append(len(arguments[0])))
    ours_generate(ours, *inputs(), DecodingConfig(n_beams=2, max_length=30, is_sampled=is_sampled))
    handle.remove()
    assert rows[0] == B
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < B
    assert len(set(rows)) >= 3


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 25), st.integers(0, 25), st.booleans())
def test_lengths_and_repeats_are_kept(n_beams: int, size: int, max_length: int, min_length: int, is_sampled: bool) -> None:
    min_length = min(min_length, max_length)
    config = DecodingConfig(n_beams=n_beams, max_length=max_length, min_length=min_length, no_repeat_ngram_size=size, is_sampled=is_sampled)
    for video in ours_generate(models(1.0, is_special_free=True)[1], *inputs(), config):
        assert len(video) == n_beams
        assert [h.score for h in video] == sorted((h.score for h in video), reverse=True)
        for h in video:
            assert min_length <= len(h.token_ids) <= max_length
            grams = [tuple(h.token_ids[i : i + size]) for i in range(len(h.token_ids) - size + 1)]
            assert len(grams) == len(set(grams))


def test_special_tokens_are_left_out() -> None:
    decoder = BartDecoder(CONFIG).eval()
    decoder.final_logits_bias[0, [BOS, PAD, 7]] = 20.0
    memory, mask = torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.bool)
    (video,) = generate(decoder, memory, mask, DecodingConfig(n_beams=2, max_length=20, no_repeat_ngram_size=2))
    assert 0 < len(video[0].token_ids) < 20
    assert set(video[0].token_ids) & {BOS, PAD, START, END} == set()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_beams": 0}, "--beams is 0"),
        ({"max_length": 0}, "--max-length is 0"),
        ({"min_length": 33}, "--min-length is 33"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_p": 0.0}, "--top-p is 0.0"),
        ({"top_k": -1}, "--top-k is -1"),
        ({"no_repeat_ngram_size": -1}, "--no-repeat-ngram is -1"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(VbcliError, match=message):
        DecodingConfig(**values)


def test_generate_refuses_what_it_cannot_do() -> None:
    decoder = BartDecoder(CONFIG)
    memory, mask = torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="evaluation mode"):
        generate(decoder, memory, mask, DecodingConfig())
    with pytest.raises(VbcliError, match="--max-length is 41"):
        generate(decoder.eval(), memory, mask, DecodingConfig(max_length=41))
    assert generate(decoder, memory[:0], mask[:0], DecodingConfig()) == []
