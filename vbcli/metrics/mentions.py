"""Whether captions name the right things: the share of videos whose objects or actions they tell, and in what order."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vbcli.errors import VbcliError
from vbcli.metrics.captions import check_ids
from vbcli.storage import as_path

Lexicon = Mapping[str, Mapping[str, Sequence[str]]]
"""Slot ("object") to value ("red ball") to the surface forms that name the value in a caption."""


@dataclass(frozen=True)
class MentionScores:
    """How well captions name the values of one slot, over all videos.

    Attributes:
        n_videos: videos scored.
        share_same_sequence: share of them whose caption mentions exactly the values, in the order, of at least one reference.
        share_same_values: the same, with the order left out of account (repeated mentions count).
        n_ordered: videos with a reference that mentions two different values or more.
        share_ordered: share of the `n_ordered` videos whose caption's sequence equals that of such a reference; None where there are none.
        share_ordered_given_values: the same, over those of the `n_ordered` videos whose caption has the values of such a reference in any
            order; chance is 0.5 for two values. None where there are none.
    """

    n_videos: int
    share_same_sequence: float
    share_same_values: float
    n_ordered: int
    share_ordered: float | None
    share_ordered_given_values: float | None


def load_lexicon(path: Path | str) -> dict[str, dict[str, list[str]]]:
    """Read a lexicon, a JSON file such as `{"object": {"red ball": ["red ball"]}, "action": {"fall": ["falls", "drops"]}}`.

    Raises:
        VbcliError: no such file, another shape, an empty form, or one form given to two values of a slot.
    """
    hint = 'write {"slot": {"value": ["form", "another form"]}}'
    try:
        lexicon = json.loads(as_path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise VbcliError(f"cannot read the lexicon {path}: {error.strerror}", hint="look at the name") from error
    except ValueError as error:
        raise VbcliError(f"the lexicon {path} is not JSON: {error}", hint) from error
    if not isinstance(lexicon, dict) or not lexicon:
        raise VbcliError(f"the lexicon {path} is not an object of slots", hint)
    for slot, values in lexicon.items():
        if not isinstance(values, dict) or not values:
            raise VbcliError(f"slot {slot!r} of the lexicon {path} is not an object of values", hint)
        owners: dict[str, str] = {}
        for value, forms in values.items():
            if not isinstance(forms, list) or not forms or not all(isinstance(form, str) and form.strip() for form in forms):
                raise VbcliError(f"value {value!r} of slot {slot!r} of the lexicon {path} has no list of forms", hint)
            for form in map(_normal_form, forms):
                if owners.setdefault(form, value) != value:
                    raise VbcliError(f"form {form!r} stands for both {owners[form]!r} and {value!r} in the lexicon {path}")
    return lexicon


def _normal_form(form: str) -> str:
    return " ".join(form.lower().split())


def find_mentions(text: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """List the values that a caption mentions.

    Args:
        text: the caption, in any case.
        values: one slot of a lexicon, value to surface forms. Forms match at word boundaries; where several match at one place the
            longest is taken, and mentions do not overlap.

    Returns:
        The values in the order of mention, repeated as often as they are mentioned.
    """
    value_of = {_normal_form(form): value for value, forms in values.items() for form in forms}
    if not value_of:
        return []
    longest_first = sorted(value_of, key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(re.escape(form) for form in longest_first)})(?!\w)"
    return [value_of[match] for match in re.findall(pattern, _normal_form(text))]


def score_mentions(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], lexicon: Lexicon) -> dict[str, MentionScores]:
    """Compare what captions name with what their references name, slot by slot.

    Args:
        hypotheses: video id to caption.
        references: the same video ids to captions, at least one each.
        lexicon: slots, their values and the forms of these, as `load_lexicon` gives it.

    Returns:
        Slot to scores. A caption that names nothing agrees with a reference that names nothing.

    Raises:
        VbcliError: no captions, or ids on one side only.
    """
    check_ids(hypotheses, references)
    return {slot: _score_slot(hypotheses, references, values) for slot, values in lexicon.items()}


def _score_slot(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]]
) -> MentionScores:
    same_sequence, same_values, ordered, ordered_values = [], [], [], []
    for video_id, caption in hypotheses.items():
        said = find_mentions(caption, values)
        truths = [find_mentions(reference, values) for reference in references[video_id]]
        same_sequence.append(said in truths)
        same_values.append(sorted(said) in map(sorted, truths))
        several = [truth for truth in truths if len(set(truth)) >= 2]
        if several:
            ordered.append(said in several)
            ordered_values.append(sorted(said) in map(sorted, several))
    return MentionScores(
        n_videos=len(hypotheses),
        share_same_sequence=sum(same_sequence) / len(hypotheses),
        share_same_values=sum(same_values) / len(hypotheses),
        n_ordered=len(ordered),
        share_ordered=sum(ordered) / len(ordered) if ordered else None,
        share_ordered_given_values=sum(ordered) / sum(ordered_values) if any(ordered_values) else None,
    )
