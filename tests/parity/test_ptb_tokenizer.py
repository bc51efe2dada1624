"""`vbcli.ptb` against the Java program that the reference caption scores are computed with."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from vbcli.metrics.captions import score_captions
from vbcli.ptb import caption_tokens, ptb_tokens

DATA_DIR = Path(__file__).parents[2] / "../shared/data"
JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokenizer needs java on the PATH")

FIGURES = [
    "1/2",
    "1 1/2",
    "3.5",
    "10:30",
    "50%",
    "$5",
    "5kg",
    "U.S.",
    "Mr.",
    "p.m.",
    "½",
    "350°F",
    "t-shirt",
    "don't",
    "Café",
    "#1",
    "etc.",
]
HAND_MADE = """\
don't can't won't he's they've I'm we'd you're she'll isn’t it’s 'tis 'twas
cannot gonna gotta wanna gimme lemme dunno more'n y'all o'clock O'Brien ma'am rock'n'roll 'em 'til '90s 90's the dogs' bowl
well-known t-shirt x-ray 5-year-old mother-in-law's jump- and -jump a -- b man--woman man – woman wait... wait.... hmm…
1/2 cup 1 1/2 cups 1½ ½ 3.14 1,000 1,000,000.50 .5 -5 +5 1-2 10:30 10:30am 3pm 1st 100th 5x5 3D 1.5kg 350°F. 5'10"
$5 $5.00 £10 €3 5¢ 50% 5.5% US$ 5 #1 No. 1 no. Nos. 2
the U.S. flag is at 5 p.m. sharp with Mr. Smith, Dr. Who vs. St. Louis, Inc. and etc.
He lives in the U.S. The end. Plan A. Then B. e.g. this, i.e. that
(hello) [hello] {hello} "hello" 'hello' “hello” ‘hello’ ``hello'' "a b" he said "hello."
what?! wow!!! ok;ok: a:b a,b end.start x.y.z file.txt
me@x.com http://www.x.com/a?b=c https://x.org/d. www.x.com x.com #tag @user
and/or he/she 1/2/2012 24/7 w/o km/h a / b a/b/c/d
a & b AT&T r&b R&B &amp; a+b C++ a=b a_b a*b a^b a|b ~ ** __ < > <b> </b>
café naïve jalapeño's crème brûlée 日本 привет हिन्दी ™ © · → 😀 ok
:) :-( ;) =D :P <3 ^_^ 555-1234 (555) 123-4567 1-800-123-4567 100 200 300
a man is eating . A woman is cooking. He's eating!
""".splitlines()


def java_tokens(sentences: Sequence[str]) -> list[list[str]]:
    """What the reference pipeline leaves of each sentence."""
    tokenised = PTBTokenizer().tokenize({"all": [{"caption": sentence} for sentence in sentences]})
    assert len(tokenised["all"]) == len(sentences)
    return [[token for token in line.split(" ") if token] for line in tokenised["all"]]


def msvd_captions() -> dict[str, list[str]]:
    path = DATA_DIR / "text/msvd_train_sentences.tsv"
    if not path.exists():
        pytest.skip(f"no MSVD sentences at {path}")
    videos: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        video_id, sentence = line.split("\t")
        videos.setdefault(video_id, []).append(sentence)
    return videos


def real_sentences() -> list[str]:
    sentences = [sentence for captions in msvd_captions().values() for sentence in captions]
    recipes = json.loads((DATA_DIR / "text/youcook2_annotations_trainval.json").read_text(encoding="utf-8"))["database"]
    sentences += [step["sentence"] for recipe in recipes.values() for step in recipe["annotations"]]
    with (DATA_DIR / "clips/captions.csv").open(encoding="utf-8", newline="") as file:
        return sentences + [row["caption"] for row in csv.DictReader(file)]


def decorated(sentence: str, rng: random.Random) -> str:
    """The sentence with the punctuation and figures that people put into captions."""
    words = [sentence.split()[0].capitalize(), *sentence.split()[1:]]
    for place, word in enumerate(words):
        draw = rng.random()
        if draw < 0.05:
            words[place] = word + rng.choice([",", ";", ":", "...", ".", "--", "!", "?"])
        elif draw < 0.10:
            words[place] = rng.choice(['"{}"', "({})", "'{}'", "[{}]"]).format(word)
        elif draw < 0.15:
            words[place] = word + rng.choice(["'s", "'", "n't", "'re", "’s", "-" + words[0], "/" + words[0], " & " + words[0]])
        elif draw < 0.20:
            words[place] = rng.choice(FIGURES) + " " + word
    return " ".join(words) + rng.choice(["", ".", " .", "!", '."'])


@JAVA
def test_hand_made_lines_agree() -> None:
    theirs = java_tokens(HAND_MADE)
    assert [caption_tokens(line) for line in HAND_MADE] == theirs


@JAVA
def test_real_captions_agree() -> None:
    sentences = real_sentences()
    assert len(sentences) > 60_000
    theirs = java_tokens(sentences)
    different = [pair for pair in zip(sentences, theirs, strict=True) if caption_tokens(pair[0]) != pair[1]]
    assert different == []


@JAVA
def test_punctuated_captions_agree() -> None:
    rng = random.Random(0)
    sentences = [decorated(sentence, rng) for sentence in rng.sample(real_sentences(), 6000)]
    theirs = java_tokens(sentences)
    different = [pair for pair in zip(sentences, theirs, strict=True) if caption_tokens(pair[0]) != pair[1]]
    assert len(different) <= 0.001 * len(sentences), different[:5]


@JAVA
def test_scores_agree_with_the_java_pipeline() -> None:
    rng = random.Random(0)
    videos = {
        video_id: [decorated(caption, rng) for caption in captions[:12]] for video_id, captions in list(msvd_captions().items())[:300]
    }
    hypotheses = {video_id: captions[0] for video_id, captions in videos.items()}
    references = {video_id: captions[1:] for video_id, captions in videos.items()}
    flat = [caption for captions in videos.values() for caption in captions]
    lines = iter([" ".join(tokens) for tokens in java_tokens(flat)])
    theirs = {video_id: [next(lines) for _ in captions] for video_id, captions in videos.items()}
    results = {video_id: captions[:1] for video_id, captions in theirs.items()}
    truths = {video_id: captions[1:] for video_id, captions in theirs.items()}

    ours = score_captions(hypotheses, references, with_meteor=False)

    assert ours.bleu == pytest.approx(Bleu(4).compute_score(truths, results, verbose=0)[0], rel=0.005)
    assert ours.rouge_l == pytest.approx(Rouge().compute_score(truths, results)[0], rel=0.005)
    assert ours.cider == pytest.approx(Cider().compute_score(truths, results)[0], rel=0.005)


# The expected tokens were read off the Java program, so that they hold on a machine without it.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man isn't well-dressed.", "a man is n't well-dressed ."),
        ("the man's (red) t-shirt", "the man 's -lrb- red -rrb- t-shirt"),
        ('he said "hello."', "he said `` hello . ''"),
        ("add 1/2 cup, then 50% at 10:30am", "add 1/2 cup , then 50 % at 10:30 am"),
        ("Mr. Smith of the U.S. cannot eat $5...", "mr. smith of the u.s. can not eat $ 5 ..."),
        ("He lives in the U.S. The end.", "he lives in the u.s. . the end ."),
        ("wait.... no. 5 is no.", "wait ... no. 5 is no ."),
        ("and/or — me@x.com http://a.b/c, café", "and/or -- me@x.com http://a.b/c , café"),
        ("", ""),
    ],
)
def test_tokens(text: str, tokens: str) -> None:
    assert ptb_tokens(text) == tokens.split()


def test_space_inside_a_token_is_no_break() -> None:
    assert ptb_tokens("1 1/2 cups") == ["1\u00a01/2", "cups"]


def test_punctuation_is_dropped_but_lower_cased_brackets_stay() -> None:
    assert caption_tokens('"Yes", he (a man) said - ok?!') == ["yes", "he", "-lrb-", "a", "man", "-rrb-", "said", "ok", "?!"]
