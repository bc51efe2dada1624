"""Generation of sentences from a memory: greedy, beam search and seeded sampling.

Notation, with shapes at line ends:

    B  videos still being decoded    D  width of the memory
    N  beams (or samples) a video    S  length of the memory
    T  tokens so far, start token included
    R  rows of the decoder's embedding table

Beam search gives what `transformers` gives with `early_stopping=False` and no forced tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vbcli.config import BartConfig, DecodingConfig
from vbcli.errors import UsageError
from vbcli.models.bart import BartDecoder


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One generated sentence.

    Attributes:
        token_ids: without start, end and padding tokens.
        score: sum of the tokens' log-probabilities (natural, the end token's included) / length ** length_penalty.
    """

    token_ids: list[int]
    score: float


def check_decoding(decoder: BartConfig, config: DecodingConfig) -> None:
    """Refuses sentences that are longer than a decoder can write.

    Raises:
        UsageError: `max_length` is more than the decoder has positions.
    """
    if config.max_length > decoder.max_positions:
        raise UsageError(
            f"--max-length is {config.max_length}", hint=f"this decoder has {decoder.max_positions} positions: give at most that"
        )


@torch.inference_mode()
def generate(
    decoder: BartDecoder, memory: Tensor, memory_mask: Tensor, config: DecodingConfig, *, seeds: Sequence[int] | None = None
) -> list[list[Hypothesis]]:
    """Generates sentences for every video of a batch; a video's do not depend on the other videos.

    Args:
        decoder: in evaluation mode; token ids are those of its configuration.
        memory: float (B, S, D), the encoder's output.
        memory_mask: bool (B, S), True on real tokens.
        config: the way of decoding.
        seeds: B seeds of the draws, when videos should not share `config.seed`.

    Returns:
        For each video its `n_beams` hypotheses, best score first; fewer only where the vocabulary has too few tokens to go on.

    Raises:
        UsageError: `max_length` is more than the decoder has positions.
    """
    if decoder.training:
        raise ValueError("decoding needs the decoder in evaluation mode")
    check_decoding(decoder.config, config)
    if not len(memory):
        return []
    if config.is_sampled:
        return _sample(decoder, memory, memory_mask, config, seeds if seeds is not None else [config.seed] * len(memory))
    return _search(decoder, memory, memory_mask, config)


def _search(decoder: BartDecoder, memory: Tensor, memory_mask: Tensor, config: DecodingConfig) -> list[list[Hypothesis]]:
    """Beam search; with one beam it is greedy, since a finished best beam can then not be overtaken."""
    n_beams, end_id, device = config.n_beams, decoder.config.eos_token_id, memory.device
    finished: list[list[Hypothesis]] = [[] for _ in memory]
    videos = list(range(len(memory)))
    # All beams begin alike: the first step has one.
    cache = decoder.start(memory, memory_mask, 1)
    sequences = torch.full((len(memory), 1, 1), decoder.config.decoder_start_token_id, device=device)  # (B, 1, 1)
    totals = torch.zeros((len(memory), 1), device=device)  # (B, 1)
    for length in range(1, config.max_length + 1):
        logits = decoder.step(sequences[..., -1], cache).float()  # (B, N, R)
        beams, tokens, scores = _candidates(logits, sequences, totals, decoder.config, config)  # (B, 2N) each
        is_end = (tokens == end_id) | (length == config.max_length)  # (B, 2N)
        norm = length**config.length_penalty
        ended = (is_end & scores.isfinite())[:, :n_beams]  # (B, N)
        rows, ranks = ended.nonzero(as_tuple=True)
        texts = torch.cat([sequences[rows, beams[rows, ranks]], tokens[rows, ranks, None]], dim=-1).tolist()
        rows = rows.tolist()
        for row, token_ids, score in zip(rows, texts, scores[:, :n_beams][ended].tolist(), strict=True):
            finished[videos[row]].append(Hypothesis(_without_special(token_ids, decoder.config), score / norm))
        for row in set(rows):
            finished[videos[row]] = _best(finished[videos[row]])[:n_beams]
        if length == config.max_length:
            break
        totals, going_on = scores.masked_fill(is_end, -torch.inf).topk(n_beams)  # (B, N)
        hopes = (totals[:, 0] / norm).tolist()
        rows = [row for row, video in enumerate(videos) if len(finished[video]) < n_beams or hopes[row] > finished[video][-1].score]
        if not rows:
            break
        rows = _fill_gaps(rows)
        kept = torch.tensor(rows, device=device)  # (B',)
        videos = [videos[row] for row in rows]
        totals = totals[kept]  # (B', N)
        beams, tokens = beams.gather(1, going_on)[kept], tokens.gather(1, going_on)[kept]  # (B', N)
        sequences = torch.cat([sequences[kept[:, None], beams], tokens[..., None]], dim=-1)  # (B', N, T + 1)
        cache.keep(kept, beams)
    return finished


def _candidates(
    logits: Tensor, sequences: Tensor, totals: Tensor, tokens: BartConfig, config: DecodingConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The best ways to go on.

    Args:
        logits: float32 (B, N, R), changed in place.
        sequences: int64 (B, N, T), with the start token.
        totals: float32 (B, N), log-probabilities of the sequences.

    Returns:
        Beam and token of each candidate, int64 (B, 2 n_beams), and the log-probability with it, float32, best first and minus infinity
        where there is none.
    """
    # Each beam gives at most one candidate that ends, so twice as many candidates as beams leave enough to go on with.
    n_wanted = 2 * config.n_beams
    totals = totals - logits.logsumexp(-1)  # (B, N)
    _forbid(logits, sequences, tokens, config)
    best, token_ids = logits.topk(min(n_wanted, logits.shape[-1]))  # (B, N, K)
    n_each = best.shape[-1]
    scores, order = (totals[..., None] + best).flatten(1).topk(min(n_wanted, best[0].numel()))  # (B, up to 2 n_beams)
    missing = (0, n_wanted - scores.shape[1])
    found = F.pad(order // n_each, missing), F.pad(token_ids.flatten(1).gather(1, order), missing)
    return *found, F.pad(scores, missing, value=-torch.inf)


def _fill_gaps(rows: list[int]) -> list[int]:
    """Puts the last of increasing numbers where one is missing, so that all others keep their place: [0, 3, 4] becomes [0, 4, 3]."""
    kept, spare = set(rows), [row for row in rows if row >= len(rows)]
    return [place if place in kept else spare.pop() for place in range(len(rows))]


def _sample(
    decoder: BartDecoder, memory: Tensor, memory_mask: Tensor, config: DecodingConfig, seeds: Sequence[int]
) -> list[list[Hypothesis]]:
    """Draws N sentences a video, each video from a generator of its own."""
    n_samples, device = config.n_beams, memory.device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    finished: list[list[Hypothesis]] = [[] for _ in memory]
    videos = list(range(len(memory)))
    cache = decoder.start(memory, memory_mask, n_samples)
    sequences = torch.full((len(memory), n_samples, 1), decoder.config.decoder_start_token_id, device=device)  # (B, N, 1)
    totals = torch.zeros(len(memory), n_samples, device=device)  # (B, N)
    is_done = torch.zeros(len(memory), n_samples, dtype=torch.bool, device=device)  # (B, N)
    for length in range(1, config.max_length + 1):
        logits = decoder.step(sequences[..., -1], cache).float()  # (B, N, R)
        log_probs = logits.log_softmax(-1)  # (B, N, R)
        _forbid(logits, sequences, decoder.config, config)
        probs = _truncate(logits / config.temperature, config).softmax(-1).cpu()  # (B, N, R)
        drawn = [torch.multinomial(probs[row], 1, generator=generators[video]) for row, video in enumerate(videos)]
        tokens = torch.stack(drawn).to(device)  # (B, N, 1)
        totals = totals + log_probs.gather(-1, tokens)[..., 0]  # (B, N), read when a sentence ends
        sequences = torch.cat([sequences, tokens], dim=-1)  # (B, N, T + 1)
        is_last = ~is_done & ((tokens[..., 0] == decoder.config.eos_token_id) | (length == config.max_length))  # (B, N)
        for row, sample in is_last.nonzero().tolist():
            token_ids = _without_special(sequences[row, sample].tolist(), decoder.config)
            finished[videos[row]].append(Hypothesis(token_ids, float(totals[row, sample]) / length**config.length_penalty))
        is_done = is_done | is_last
        going_on = _fill_gaps((~is_done.all(-1)).nonzero()[:, 0].tolist())
        if not going_on:
            break
        rows = torch.tensor(going_on, device=device)  # (B',)
        videos = [videos[row] for row in going_on]
        sequences, totals, is_done = sequences[rows], totals[rows], is_done[rows]
        cache.keep(rows, torch.arange(n_samples, device=device).expand(len(rows), -1))
    return [_best(hypotheses) for hypotheses in finished]


def _forbid(scores: Tensor, sequences: Tensor, tokens: BartConfig, config: DecodingConfig) -> None:
    """Sets to minus infinity, in place, the tokens that would repeat an n-gram, and the end token where it is too early.

    Args:
        scores: float (B, N, R).
        sequences: int64 (B, N, T), with the start token.
        tokens: names the end token.
        config: sizes and lengths.
    """
    size, length = config.no_repeat_ngram_size, sequences.shape[-1]
    if 0 < size <= length:
        grams = sequences.unfold(-1, size, 1)  # (B, N, T - size + 1, size)
        is_repeat = (grams[..., :-1] == sequences[..., None, length - size + 1 :]).all(-1)  # (B, N, T - size + 1)
        video, beam, gram = is_repeat.nonzero(as_tuple=True)
        scores[video, beam, grams[video, beam, gram, -1]] = -torch.inf
    if length - 1 < config.min_length:
        scores[..., tokens.eos_token_id] = -torch.inf


def _truncate(logits: Tensor, config: DecodingConfig) -> Tensor:
    """Keeps the `top_k` likeliest tokens, and of these the fewest that reach probability `top_p`.

    Source: Holtzman et al. 2020, section 3.1 (nucleus sampling).

    Args:
        logits: float (B, N, R).
        config: top_k and top_p.

    Returns:
        float (B, N, R), minus infinity for the tokens left out.
    """
    if 0 < config.top_k < logits.shape[-1]:
        least = logits.topk(config.top_k).values[..., -1:]  # (B, N, 1)
        logits = logits.masked_fill(logits < least, -torch.inf)
    if config.top_p < 1.0:
        ordered, order = logits.sort(descending=True)  # (B, N, R)
        probs = ordered.softmax(-1)  # (B, N, R)
        is_beyond = probs.cumsum(-1) - probs >= config.top_p  # (B, N, R)
        logits = logits.masked_fill(is_beyond.scatter(-1, order, is_beyond), -torch.inf)
    return logits


def _best(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: hypothesis.score, reverse=True)


def _without_special(token_ids: list[int], tokens: BartConfig) -> list[int]:
    special = {tokens.pad_token_id, tokens.bos_token_id, tokens.eos_token_id, tokens.decoder_start_token_id}
    return [token_id for token_id in token_ids if token_id not in special]
