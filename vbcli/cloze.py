"""Cloze tests of a pre-trained VideoBERT: masked words, masked clips, and the clips that come next.

Every guess stands beside its prior, what the model says of the same place without the video: words of a fixed sentence are guessed well by
themselves.

Source: Sun et al. 2019 (VideoBERT), sections 4.4 (zero-shot action classification with a template) and 3.2 (forecasting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vbcli.errors import VbcliError
from vbcli.models.checkpoint import Checkpoint
from vbcli.tokens import N_FRAMING_TOKENS, PackedSequence, pack, split_windows
from vbcli.training.batches import VideoTokens, collate

TEMPLATE = "now let me show you how to [MASK] the [MASK]"
WINDOW_OVERLAP_CLIPS = 4


@dataclass(frozen=True)
class Guess:
    """One answer for one masked place.

    Args:
        answer: a word, or the number of a visual token of the first codebook.
        probability: among the answers that were possible.
        prior: the same without the video.
    """

    answer: str
    probability: float
    prior: float


def fill_text(checkpoint: Checkpoint, video: VideoTokens, template: str, answers: Sequence[Sequence[str] | None]) -> list[list[Guess]]:
    """Guesses the masked words of a sentence about a video.

    An answer of several word pieces takes as many masks, and is judged by the mean of their log-probabilities.

    Args:
        template: with one `[MASK]` for each entry of `answers`.
        answers: the possible words of each mask; None allows every whole word of the vocabulary.

    Returns:
        All answers of each mask, the likeliest first.

    Raises:
        VbcliError: the template has another number of masks, or the checkpoint is not of pre-training.
    """
    _check_pretrained(checkpoint)
    text_ids = checkpoint.text.encode(template)
    places = [i for i, token in enumerate(text_ids) if token == checkpoint.text.mask_id]
    if len(places) != len(answers):
        raise VbcliError(f"'{template}' has {len(places)} times [MASK], and answers are given for {len(answers)}")
    found = []
    for place, words in zip(places, answers, strict=True):
        possible = _whole_words(checkpoint) if words is None else list(dict.fromkeys(words))
        seen, blind = (answer_log_probs(checkpoint, text_ids, place, possible, shown) for shown in (video, None))
        found.append(_guesses(possible, seen, blind))
    return found


def answer_log_probs(
    checkpoint: Checkpoint, text_ids: list[int], place: int, words: Sequence[str], video: VideoTokens | None
) -> np.ndarray:
    """How likely each answer is in a sentence about a video, float64 (W,): the mean log-probability of its tokens.

    Args:
        text_ids: the sentence, with one `[MASK]` at `place`.
        words: W answers; of several tokens each takes as many masks.
        video: None asks for the prior.

    Raises:
        VbcliError: the text vocabulary does not know an answer, or the sentence leaves no room for the video.
    """
    pieces = [checkpoint.text.encode(word) for word in words]
    for word, ids in zip(words, pieces, strict=True):
        if not ids or checkpoint.text.unk_id in ids:
            raise VbcliError(f"the text vocabulary does not know '{word}'", hint="take it out of the answers")
    scores = np.zeros(len(words))
    for length in {len(ids) for ids in pieces}:
        masks = [checkpoint.text.mask_id] * length
        log_probs = _text_log_probs(checkpoint, [*text_ids[:place], *masks, *text_ids[place + 1 :]], place, length, video)
        for i, ids in enumerate(pieces):
            if len(ids) == length:
                scores[i] = np.mean([log_probs[j, token] for j, token in enumerate(ids)])
    return scores


@torch.inference_mode()
def _text_log_probs(checkpoint: Checkpoint, text_ids: list[int], first: int, n: int, video: VideoTokens | None) -> np.ndarray:
    """Log-probabilities of text tokens at `n` places from `first`, float64 (n, n_text_tokens), the mean over windows of the video."""
    config = checkpoint.encoder.config
    nothing = np.zeros(0, np.int64), np.zeros((0, config.feature_dim), np.float32)
    tokens, features = nothing if video is None else _clips(checkpoint, video)
    room = config.max_positions - N_FRAMING_TOKENS - len(text_ids)
    if room < min(len(tokens), WINDOW_OVERLAP_CLIPS + 1):
        raise VbcliError(f"the sentence has {len(text_ids)} tokens, which leaves no room for the video", hint="give a shorter one")
    spans = split_windows(len(tokens), room, WINDOW_OVERLAP_CLIPS)
    packed = [pack(text_ids, tokens[a:b], features[a:b], checkpoint.text, config) for a, b in spans]
    # [CLS] comes before the text.
    rows = _hidden_rows(checkpoint, packed, np.arange(first + 1, first + 1 + n))  # (W, n, D)
    logits = checkpoint.encoder.masked_logits(rows).double().cpu()  # (W, n, L)
    return logits[..., : config.n_text_tokens].log_softmax(-1).mean(0).numpy()


def fill_clips(checkpoint: Checkpoint, video: VideoTokens, places: Sequence[int]) -> list[list[Guess]]:
    """Guesses clips of a video from the others, all masked at once.

    Args:
        places: numbers of the clips, from 0.

    Raises:
        VbcliError: the video has no such clip, or the checkpoint is not of pre-training.
    """
    _check_pretrained(checkpoint)
    tokens, features = _clips(checkpoint, video)
    wrong = [p for p in places if not 0 <= p < len(tokens)]
    if wrong:
        raise VbcliError(f"{video.video_id} has {len(tokens)} clips, and none with the number {wrong[0]}", hint="clips are counted from 0")
    names, blind = _token_names(checkpoint), _blind(checkpoint)
    return [_guesses(names, _visual_log_probs(checkpoint, tokens, features, places, p)[0], blind) for p in places]


def forecast(checkpoint: Checkpoint, video: VideoTokens, n_clips: int) -> list[list[Guess]]:
    """Guesses the clips after the end of a video, one after the other, each from what came before it and the best guesses since.

    Guesses are of the first codebook; what goes on from them is the likeliest token of each.

    Raises:
        VbcliError: the checkpoint is not of pre-training.
    """
    _check_pretrained(checkpoint)
    tokens, features = _clips(checkpoint, video)
    names, blind = _token_names(checkpoint), _blind(checkpoint)
    found = []
    for _ in range(n_clips):
        place = len(tokens)
        tokens, features = (np.concatenate([a, np.zeros_like(a[:1])]) for a in (tokens, features))
        log_probs = _visual_log_probs(checkpoint, tokens, features, [place], place)
        found.append(_guesses(names, log_probs[0], blind))
        tokens[place] = [int(p.argmax()) for p in log_probs]
        features[place] = checkpoint.visual.reconstruct(tokens[place:])[0, : features.shape[1]]
    return found


@torch.inference_mode()
def _visual_log_probs(
    checkpoint: Checkpoint, tokens: np.ndarray, features: np.ndarray, hidden: Sequence[int], place: int
) -> list[np.ndarray]:
    """Log-probabilities of the visual tokens of the clip `place`, where all `hidden` clips are masked: float64 (K_m,) of each codebook."""
    config = checkpoint.encoder.config
    room = config.max_positions - N_FRAMING_TOKENS
    # The clips around the place, as many as the model can read.
    start = min(max(0, place - room // 2), max(0, len(tokens) - room))
    window = slice(start, start + room)
    packed = pack([], tokens[window], features[window], checkpoint.text, config)
    ids, shown, residual_ids = packed.input_ids.copy(), packed.feature_mask.copy(), packed.residual_ids.copy()
    # [CLS] and [>] come before the video.
    masked = [2 + p - start for p in hidden if start <= p < start + room]
    ids[masked], shown[masked], residual_ids[masked] = checkpoint.text.mask_id, False, checkpoint.text.pad_id
    packed = replace(packed, input_ids=ids, feature_mask=shown, residual_ids=residual_ids)
    row = _hidden_rows(checkpoint, [packed], np.array([2 + place - start]))[0]  # (1, D)
    logits = [checkpoint.encoder.masked_logits(row)[:, config.first_visual_id :], *checkpoint.encoder.residual_logits(row)]  # (1, K_m)
    return [each[0].double().cpu().log_softmax(-1).numpy() for each in logits]


def _blind(checkpoint: Checkpoint) -> np.ndarray:
    """Log-probabilities of the visual tokens (of the first codebook) of a clip that is all there is."""
    config = checkpoint.encoder.config
    no_features = np.zeros((1, config.feature_dim), np.float32)
    return _visual_log_probs(checkpoint, np.zeros((1, config.n_codebooks), np.int64), no_features, [0], 0)[0]


def _hidden_rows(checkpoint: Checkpoint, packed: Sequence[PackedSequence], places: np.ndarray) -> torch.Tensor:
    """What the encoder makes of the given places of each sequence, float (B, n, D)."""
    model = checkpoint.encoder
    batch = collate(packed, model.config.feature_dim, checkpoint.text.pad_id).to(next(model.parameters()).device)
    return model(**batch.arguments())[:, torch.from_numpy(places)]  # (B, n, D)


def _clips(checkpoint: Checkpoint, video: VideoTokens) -> tuple[np.ndarray, np.ndarray]:
    return video.visual_tokens.astype(np.int64), video.features[:, : checkpoint.encoder.config.feature_dim]


def _guesses(answers: Sequence[str], seen: np.ndarray, blind: np.ndarray) -> list[Guess]:
    probability, prior = (np.exp(s - s.max()) / np.exp(s - s.max()).sum() for s in (seen, blind))
    order: list[int] = np.argsort(-probability, kind="stable").tolist()
    return [Guess(answers[i], float(probability[i]), float(prior[i])) for i in order]


def label_shares(guesses: Sequence[Sequence[Guess]], labels: Sequence[Sequence[str]]) -> dict[str, float]:
    """How often a label of the video is the best guess, with the video and by the prior alone.

    Args:
        guesses: of one mask, by video.
        labels: by video; videos of which no label is among the answers do not count.

    Returns:
        `top1` and `prior_top1` in [0, 1], and `n_videos`, how many counted; empty where none did.
    """
    known = [(found, given) for found, given in zip(guesses, labels, strict=True) if {g.answer for g in found} & set(given)]
    if not known:
        return {}
    top1 = sum(found[0].answer in given for found, given in known)
    prior_top1 = sum(max(found, key=lambda g: g.prior).answer in given for found, given in known)
    return {"top1": top1 / len(known), "prior_top1": prior_top1 / len(known), "n_videos": len(known)}


def _whole_words(checkpoint: Checkpoint) -> list[str]:
    """Words of one piece, without special tokens, pieces of words, and signs."""
    vocabulary = checkpoint.text.tokenizer.get_vocab()
    return [w for w, i in sorted(vocabulary.items(), key=lambda item: item[1]) if i not in checkpoint.text.special_ids and w.isalnum()]


def _token_names(checkpoint: Checkpoint) -> list[str]:
    return [str(k) for k in range(checkpoint.encoder.config.n_visual_tokens)]


def _check_pretrained(checkpoint: Checkpoint) -> None:
    if checkpoint.task != "pretrain":
        raise VbcliError(
            f"the checkpoint {checkpoint.vocab_dir.parent} was trained for the task '{checkpoint.task}', not 'pretrain'",
            hint="name one that vbcli train --task pretrain made",
        )
