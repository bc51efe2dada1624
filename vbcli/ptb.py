"""Penn Treebank tokens of captions, as the reference caption scorers see them, without Java.

The reference pipeline runs Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`) and then drops a list of
punctuation marks. The rules here were found by giving sentences to that program and reading its answers, and
`tests/parity/test_ptb_tokenizer.py` holds them to it. One thing cannot be followed: the reference reads all captions as one
stream, so that a single letter at the end of a caption ("vitamin c.") may be cut differently by the caption that follows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

DROPPED_TOKENS = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""The reference's list, compared as it is: the lower-cased brackets (`-lrb-`) therefore stay in."""

_NO_BREAK_SPACE = "\u00a0"
"""Stands for a space inside a token (`1 1/2`), as the reference prints it."""

_FRACTIONS = {
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip
_SYMBOLS = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "“": "``", "”": "''", "«": "``", "»": "''", "‘": "`", "’": "'", "‹": "`", "›": "'",
    "–": "--", "—": "--", "―": "--", "…": "...", "€": "$", "£": "#", "¢": "cents", **_FRACTIONS,
}  # fmt: skip
_ENTITIES = {
    "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "", "&mdash;": "--",
}  # fmt: skip
_INVISIBLE = re.compile("[\u00ad\ufe00-\ufe0f\U00010000-\U0010ffff]")
"""Soft hyphens, variation selectors and what lies beyond 16 bits (emoji), which the reference passes over."""
_SOFT_HYPHEN = "\u00ad"
_STRAIGHT = str.maketrans("’‘", "'`")

_SPLIT_WORDS = {
    "cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "gimme": 3, "lemme": 3,
}  # fmt: skip
"""Words that are cut in two, with the place of the cut."""

_SENTENCE_STARTERS = frozenset([
    "a", "about", "according", "additionally", "after", "an", "as", "at", "but", "earlier", "he", "her", "here", "however", "if", "in",
    "it", "last", "many", "more", "now", "once", "one", "other", "our", "she", "since", "so", "some", "such", "that", "the", "their",
    "then", "there", "these", "they", "this", "we", "what", "when", "while", "yet", "you",
])  # fmt: skip
_ENDING_ABBREVIATIONS = frozenset([
    "al", "ala", "apr", "ariz", "assn", "aug", "bhd", "bldg", "blvd", "bros", "calif", "co", "colo", "conn", "corp", "ct", "dak", "dec",
    "esq", "est", "etc", "ext", "feb", "fla", "fri", "ga", "inc", "ind", "intl", "jan", "jr", "jul", "jun", "kan", "ky", "ltd", "mar",
    "md", "mich", "minn", "mo", "mon", "mont", "neb", "nev", "nov", "oct", "okla", "penn", "plc", "pte", "pty", "rd", "rt", "sep",
    "sept", "seq", "sq", "sr", "sys", "tel", "tenn", "thu", "thurs", "tue", "tues", "univ", "va", "vt", "wed", "wis", "wisc", "wyo",
])  # fmt: skip
"""A capital letter after one of these makes its full stop end the sentence, too."""
_ENDING_IF_CAPITAL = frozenset([
    "ark", "az", "cos", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash",
])  # fmt: skip
_TITLES = frozenset([
    "adj", "adm", "adv", "alex", "assoc", "asst", "ave", "brig", "capt", "cf", "cie", "cmdr", "col", "comdr", "cpl", "dept", "det",
    "dr", "drs", "ens", "ft", "gen", "gov", "hon", "jos", "lieut", "lt", "maj", "messrs", "mfg", "mme", "mr", "mrs", "ms", "mt", "mtg",
    "natl", "pfc", "ph", "pres", "prof", "profs", "pvt", "rep", "reps", "rev", "sen", "sens", "sfc", "sgt", "spc", "st", "ste", "supt",
    "treas", "vs", "wm",
])  # fmt: skip
_BEFORE_NUMBER = frozenset([
    "art", "ca", "fig", "no", "nos", "op", "pp", "prop",
])  # fmt: skip

_L = r"(?:[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u218b]|[\u0300-\u036f\u0900-\u0903\u093a-\u094f\u0e31-\u0e4e])"
_W = rf"(?:{_L}|\d)"
_WORD = rf"{_W}+(?:_{_W}+)*"
_PART = rf"{_WORD}(?:-{_L}{_W}*)*"
_AP = "['\u2019]"
_NUMBER = r"(?:\d*(?:[.,]\d+)+|\d+)"

_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=[ \n]|$)")
_SPACE = re.compile(r"[\s\u200b\ufeff]+")
_NOT_CONTRACTED = re.compile(rf"({_L}*[^\Wn])?(n['\u2018\u2019`]t)(?!{_W})", re.IGNORECASE)

# Each rule is tried at each place and the longest match wins, the earlier rule where two are equally long: how a lexer reads.
_RULES: list[tuple[str, re.Pattern[str]]] = [
    (name, re.compile(pattern))
    for name, pattern in [
        ("split", r"(?i:cannot|gonna|gotta|wanna|gimme|lemme)(?![^\W_]|'s)"),
        ("split", r"(?i:'t(?:is|was))(?![^\W_])"),
        ("entity", r"&(?:amp|lt|gt|quot|apos|nbsp|mdash);"),
        ("whole", r"&\#\d+;"),
        ("tag", r"<!--.*?-->|<[!?/]?[A-Za-z][A-Za-z0-9_.-]*(?:\s[^<>]*)?[/?]?>"),
        ("whole", r"https?://[^\s\"<>|()]+\.[^\s\"<>|()]*[^\s\"<>|().,;:?!'{}-]"),
        ("whole", r"(?:[A-Za-z0-9-]+\.)+(?:com|net|org|edu)(?:/[^\s\"<>|()]*[^\s\"<>|().,;:?!'{}-])?(?![A-Za-z])"),
        ("whole", r"[A-Za-z0-9][^\s\"<>|()]*@[^\s\"<>|().{},;:?!]+(?:\.[^\s\"<>|().{},;:?!]+)*"),
        ("whole", rf"[@#]{_L}{_W}*(?:_{_W}+)*"),
        ("whole", r"[cC]\+\+|[cCfF]#"),
        ("whole", r"[A-Z]+(?:&[A-Z]+)+"),
        ("whole", rf"{_WORD}(?:-{_WORD})*"),
        ("whole", rf"{_PART}(?:/{_PART}){{1,2}}"),
        ("whole", rf"{_L}+(?:\.{_L}{_W}*)+(?:-{_W}+)*"),
        ("whole", rf"{_L}{_W}*(?:\.{_L}{_W}*)+"),
        ("whole", rf"(?:{_W}+-)+{_L}(?:\.{_L})+\.(?:-{_W}+)*"),
        ("whole", rf"{_L}(?:\.{_L})+\.(?:-{_W}+)+"),
        ("whole", rf"{_L}\.(?:-{_W}+)+"),
        ("whole", r"(?i:anti|pro)-"),
        ("abbreviation", rf"{_L}(?:\.{_L})*\.|{_L}+\."),
        ("whole", r"[Pp][Hh]\.[Dd]\."),
        # Words with an apostrophe in them, or at one end.
        ("suffix", rf"{_AP}(?i:s|m|d|re|ve|ll)(?!{_W})"),
        ("whole", rf"'[nN](?:'|(?!{_W}))|'(?i:em|til|cause)"),
        ("whole", rf"(?<!\d){_AP}\d\ds?(?!{_W})"),
        ("whole", rf"(?i:[ldj]|ol|somethin){_AP}|[yY]{_AP}(?={_L})"),
        ("whole", rf"(?i:[dlno]){_AP}{_L}{_L}+"),
        ("whole", rf"{_L}+(?i:[aeiouy]){_AP}(?i:[aeiou]){_L}+"),
        ("whole", r"(?i:c'(?:mon|est)|qu'(?:est|ils?)|nat'l|cap'n|hawai'i)(?![^\W_])|(?i:d'ye)"),
        # Figures.
        ("whole", rf"[-+]?{_NUMBER}"),
        ("whole", r"[-+]?\d*(?::\d+)+"),
        ("whole", rf"\d+(?:[.,]\d+)*(?:-{_W}+)+"),
        ("whole", r"\d{1,2}[/-]\d{1,2}[/-]\d{2,4}"),
        ("whole", r"(?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,5}"),
        ("brackets", r"(?:\(\d{2,3}\)[ \u00a0]?|\+?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])\d{3,4}[- \u00a0]?\d{3,5}(?!\d)"),
        # Signs.
        ("brackets", r"[<>]?[:;=]['-]?(?:[()\\|\[\]@]|[DPpO](?![A-Za-z]))(?![A-Za-z])"),
        ("whole", r"[oOT]_[oOT](?![A-Za-z])|-_-|\^_\^"),
        ("whole", r"\$|US\$|%|[?!]{2,}|-{5,}|_{2,}|\*{2,}|<<|>>|''"),
        ("ellipsis", r"\.{3,4}|\.(?: \.){2,}"),
        ("dashes", r"-{2,4}"),
    ]
]


def _abbreviation(text: str, start: int, end: int) -> list[str] | None:
    """The tokens of `text[start:end]`, which ends in a full stop; None where that stop is no part of the word."""
    token = text[start:end]
    stem = token[:-1].lower()
    following = _SPACE.sub(" ", text[end : end + 24])
    capital = re.match(r" ?([A-Z][a-z]*)", following) if following.startswith(" ") else None
    if len(stem) == 1 or "." in stem:
        starts = capital is not None and capital.group(1).lower() in _SENTENCE_STARTERS
        if not starts or stem == "ph.d":
            return [token]
        return [token[:-1], "."] if len(stem) == 1 else [token, "."]
    if stem in _TITLES:
        return [token]
    if stem in _ENDING_ABBREVIATIONS or (stem in _ENDING_IF_CAPITAL and token[0].isupper()):
        return [token, "."] if capital else [token]
    if stem in _BEFORE_NUMBER and re.match(r"[ \t]?\d", text[end : end + 2]):
        return [token]
    return None


def _quote(text: str, position: int) -> str:
    """An opening quotation mark stands directly before a letter or a figure."""
    return "``" if re.match(rf"{_W}|[$£€]", text[position + 1 : position + 2]) else "''"


def _apostrophe(text: str, position: int) -> str:
    """One that no other rule takes is a quotation mark, opening before two letters or more."""
    return "`" if re.match(rf"{_L}{_L}", text[position + 1 : position + 3]) else "'"


def _longest(text: str, position: int) -> tuple[list[str], int]:
    """The tokens of the rule that reads furthest from `position`, and where it stops; an empty list where no rule applies."""
    tokens: list[str] = []
    best = position
    for name, rule in _RULES:
        match = rule.match(text, position)
        if match is None or match.end() <= best:
            continue
        found = _TOKENS_OF.get(name, _whole)(text, position, match.end())
        if found is not None:
            tokens, best = found, match.end()
    return tokens, best


def _whole(text: str, start: int, end: int) -> list[str] | None:
    return [text[start:end].replace(" ", _NO_BREAK_SPACE)]


def _bracketed(text: str, start: int, end: int) -> list[str] | None:
    """Brackets inside emoticons and telephone numbers are spelled out, too."""
    token = text[start:end].replace("(", "-lrb-").replace(")", "-rrb-")
    return [token.replace(" ", _NO_BREAK_SPACE)]


def _two_parts(text: str, start: int, end: int) -> list[str] | None:
    token = text[start:end]
    cut = _SPLIT_WORDS.get(token.lower(), 2)
    return [token[:cut], token[cut:]]


_TOKENS_OF: dict[str, Callable[[str, int, int], list[str] | None]] = {
    "abbreviation": _abbreviation,
    "suffix": lambda text, start, end: ["'" + text[start + 1 : end]],
    "entity": lambda text, start, end: [_ENTITIES[text[start:end]]],
    "brackets": _bracketed,
    "split": _two_parts,
    "ellipsis": lambda text, start, end: ["..."],
    "dashes": lambda text, start, end: ["--"],
}


def ptb_tokens(text: str) -> list[str]:
    """Cut one caption into lower-cased Penn Treebank tokens, punctuation included.

    Args:
        text: one caption; line breaks count as spaces.

    Returns:
        The tokens: "don't (1 1/2)" gives `do n't -lrb- 1<no-break space>1/2 -rrb-`.

    Source: The Penn Treebank's tokenisation (Marcus et al. 1993), with the extensions of Stanford's PTBTokenizer 3.4.1.
    """
    text = _INVISIBLE.sub(lambda match: "" if match.group() == _SOFT_HYPHEN else " ", text)
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if space := _SPACE.match(text, position):
            position = space.end()
            continue
        plain = _PLAIN_WORD.match(text, position)
        if plain and plain.group().lower() not in _SPLIT_WORDS:
            tokens.append(plain.group())
            position = plain.end()
            continue
        contracted = _NOT_CONTRACTED.match(text, position)
        if contracted:
            tokens += [part.translate(_STRAIGHT) for part in contracted.groups() if part]
            position = contracted.end()
            continue
        found, position_after = _longest(text, position)
        if not found:
            character = text[position]
            found = {'"': [_quote(text, position)], "'": [_apostrophe(text, position)]}.get(character, [_SYMBOLS.get(character, character)])
            position_after = position + 1
        tokens += found
        position = position_after
    return [token.lower() for token in tokens if token]


def caption_tokens(text: str) -> list[str]:
    """Cut one caption into the tokens that caption scores count: Penn Treebank tokens less the punctuation marks.

    Args:
        text: one caption.

    Returns:
        Lower-cased tokens. Bracket tokens (`-lrb-`) are among them, for the reference pipeline keeps them once they are lower-cased.

    Source: Chen et al. 2015, "Microsoft COCO Captions", section 4.2 (tokenisation before scoring).
    """
    return [token for token in ptb_tokens(text) if token not in DROPPED_TOKENS]
