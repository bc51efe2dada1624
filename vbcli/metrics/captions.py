"""Scores of captions against references, and alarms about captions that cannot be right.

CIDEr is given on the scale of the reference implementation: ten times an average cosine, so 1.24 and not 124.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from threading import Timer

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from vbcli.errors import VbcliError
from vbcli.ptb import caption_tokens

CIDER_ORDERS = 4
CIDER_SIGMA = 6.0
ALIKE_SHARE = 0.5

ALIKE_FROM = 4

REPEATED_SHARE = 0.1


@dataclass(frozen=True)
class CaptionScores:
    """Corpus scores of one set of captions.

    Attributes:
        bleu: BLEU-1 to BLEU-4, each in [0, 1], with the closest reference length.
        rouge_l: in [0, 1], the mean over videos.
        cider: in [0, 10], the mean of `cider_per_video`; document frequencies come from these references, so the figure belongs to this
            set of videos, and is 0 for a single one.
        meteor: in [0, 1], or None where it was not computed; then `meteor_reason` says why.
        video_ids: the videos, in the order of the hypotheses.
        cider_per_video: one CIDEr for each of `video_ids`.
    """

    bleu: tuple[float, float, float, float]
    rouge_l: float
    cider: float
    meteor: float | None
    meteor_reason: str | None
    video_ids: tuple[str, ...] = field(repr=False)
    cider_per_video: tuple[float, ...] = field(repr=False)

    def as_row(self) -> dict[str, float]:
        """The scores under their usual names: Bleu_1 to Bleu_4, ROUGE_L, CIDEr and, where it was computed, METEOR."""
        row = {f"Bleu_{order}": score for order, score in enumerate(self.bleu, start=1)}
        row |= {"ROUGE_L": self.rouge_l, "CIDEr": self.cider}
        return row if self.meteor is None else row | {"METEOR": self.meteor}


def score_captions(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], *, with_meteor: bool = True, meteor_timeout_s: float = 300.0
) -> CaptionScores:
    """Score one caption a video against one or more references, all cut into Penn Treebank tokens without punctuation.

    Args:
        hypotheses: video id to caption; an empty caption scores 0.
        references: the same video ids to captions; at least one of each video has a word in it.
        with_meteor: compute METEOR where Java is installed; its program takes some seconds to start.
        meteor_timeout_s: seconds after which METEOR is given up.

    Returns:
        The scores; METEOR is None, with the reason, where it could not be computed.

    Raises:
        VbcliError: no captions, ids on one side only, or a video without a reference.

    Source: BLEU, Papineni et al. 2002; ROUGE-L, Lin 2004; CIDEr-D, Vedantam et al. 2015; METEOR 1.5, Denkowski and Lavie 2014; all as the
        COCO caption evaluation computes them (Chen et al. 2015).
    """
    check_ids(hypotheses, references)
    results = {video_id: [" ".join(caption_tokens(caption))] for video_id, caption in hypotheses.items()}
    truths = {video_id: tokenised_references(video_id, references[video_id]) for video_id in hypotheses}
    bleu, _ = Bleu(4).compute_score(truths, results, verbose=0)
    rouge_l, _ = Rouge().compute_score(truths, results)
    cider, cider_per_video = Cider(n=CIDER_ORDERS, sigma=CIDER_SIGMA).compute_score(truths, results)
    meteor, reason = _meteor(truths, results, meteor_timeout_s) if with_meteor else (None, "METEOR was not asked for")
    return CaptionScores(
        bleu=(float(bleu[0]), float(bleu[1]), float(bleu[2]), float(bleu[3])),
        rouge_l=float(rouge_l),
        cider=float(cider),
        meteor=meteor,
        meteor_reason=reason,
        video_ids=tuple(hypotheses),
        cider_per_video=tuple(float(score) for score in cider_per_video),
    )


def check_ids(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    """Refuses captions that cannot be compared with the references, video by video."""
    if not hypotheses and not references:
        raise VbcliError("there are no captions to score")
    for missing, side in ((hypotheses.keys() - references.keys(), "reference"), (references.keys() - hypotheses.keys(), "caption")):
        if missing:
            shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
            raise VbcliError(f"{len(missing)} videos have no {side}: {shown}", "score the same videos on both sides")


def tokenised_references(video_id: str, references: Sequence[str]) -> list[str]:
    """References of a video as PTB tokens joined by spaces."""
    # A reference without words would count as a perfect match of an empty caption in ROUGE-L.
    tokenised = [joined for reference in references if (joined := " ".join(caption_tokens(reference)))]
    if not tokenised:
        raise VbcliError(f"video {video_id} has no reference with a word in it", "remove the video or give it a reference")
    return tokenised


def _meteor(truths: Mapping[str, Sequence[str]], results: Mapping[str, Sequence[str]], timeout_s: float) -> tuple[float | None, str | None]:
    """METEOR of tokenised captions by its Java program, or None and the reason. The program is always ended."""
    java = shutil.which("java")
    spec = util.find_spec("pycocoevalcap.meteor")
    if java is None:
        return None, "METEOR needs Java, and no java is on the PATH"
    locations = list(spec.submodule_search_locations or []) if spec else []
    jars = [jar for location in locations for jar in Path(location).glob("meteor-*.jar")]
    if not jars:
        return None, "the installed pycocoevalcap has no METEOR program in it"
    # The serial collector starts no thread a core; the encoding would otherwise be the locale's.
    options = ["-XX:+UseSerialGC", "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jars[0].name, "-", "-", "-stdio", "-l", "en", "-norm"]
    deadline_s = time.monotonic() + timeout_s
    try:
        with subprocess.Popen(
            [java, *options], cwd=jars[0].parent, encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            timer = Timer(timeout_s, process.kill)
            timer.start()
            try:
                return _ask_meteor(process, truths, results), None
            finally:
                timer.cancel()
                process.kill()
    except (OSError, ValueError):
        late = time.monotonic() >= deadline_s
        return None, f"METEOR took more than {timeout_s:g} s" if late else "METEOR's Java program ended with an error"


def _ask_meteor(process: subprocess.Popen[str], truths: Mapping[str, Sequence[str]], results: Mapping[str, Sequence[str]]) -> float:
    """Speak the program's line protocol: statistics of each video, then one evaluation of them all."""
    assert process.stdin is not None
    assert process.stdout is not None
    statistics = []
    for video_id, references in truths.items():
        # The space after the last bar is part of the protocol: without it an empty caption is an error.
        fields = [" ".join(text.replace("|||", " ").split()) for text in (*references, results[video_id][0])]
        process.stdin.write(" ||| ".join(["SCORE", *fields]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline().strip()
        if not line or line.startswith("Error"):
            raise ValueError(line)
        statistics.append(line)
    process.stdin.write(" ||| ".join(["EVAL", *statistics]) + "\n")
    process.stdin.flush()
    scores = [float(process.stdout.readline()) for _ in range(len(statistics) + 1)]
    return scores[-1]


def caption_alarms(captions: Sequence[str]) -> list[str]:
    """Say what cannot be right about a set of generated captions.

    Args:
        captions: one a video.

    Returns:
        Sentences of warning, none where all is well: any empty captions; one caption given to more than half of four or more; a trigram
        repeated within at least a tenth of the captions.
    """
    alarms = []
    tokens = [tuple(caption_tokens(caption)) for caption in captions]
    n_empty = sum(not words for words in tokens)
    if n_empty:
        alarms.append(f"{n_empty} of {len(captions)} captions are empty")
    if len(captions) >= ALIKE_FROM:
        ((most_common, n_alike),) = Counter(tokens).most_common(1)
        if most_common and n_alike > ALIKE_SHARE * len(captions):
            alarms.append(f'{n_alike} of {len(captions)} captions are the same: "{" ".join(most_common)}"')
    n_repeating = sum(len(set(trigrams)) < len(trigrams) for trigrams in (list(zip(w, w[1:], w[2:], strict=False)) for w in tokens))
    if n_repeating and n_repeating >= REPEATED_SHARE * len(captions):
        alarms.append(f"{n_repeating} of {len(captions)} captions say the same three words twice")
    return alarms
