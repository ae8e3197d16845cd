"""How near an answer is to the expected one, in words and in fields: pure functions; `passes` calls them.

The tokenisations are those of the reference implementations, so that figures can be compared with published ones. They
are made for languages that separate words by spaces; ROUGE-L knows the letters a to z and digits alone.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune.evaluation.metrics import normalise_answer

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_ROUGE = re.compile(r"[^a-z0-9]+")


def squad_normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces (SQuAD's evaluation script, v1.1)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def normalised_match(prediction: str, reference: str) -> float:
    """1.0 if both say the same after `squad_normalise`, else 0.0; the `exact match` of SQuAD."""
    return float(squad_normalise(prediction) == squad_normalise(reference))


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the words that both have in common, each as often as in both, after `squad_normalise` (SQuAD, v2.0).

    Where one side has no word, 1.0 if both have none.
    """
    predicted, expected = squad_normalise(prediction).split(), squad_normalise(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2.0 * common / (len(predicted) + len(expected))


def rouge_l(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), as rouge-score 0.1.2 computes rougeL, no stemmer.

    Words are runs of a-z and 0-9 after lower-casing. 0.0 where one side has none.
    """
    predicted, expected = _rouge_words(prediction), _rouge_words(reference)
    if not predicted or not expected:
        return 0.0
    return 2.0 * longest_common_subsequence(predicted, expected) / (len(predicted) + len(expected))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest sequence that both contain in order, gaps allowed.

    One row of bits at a time (Hyyrö 2004): bit j of `row` is 0 where the table grows at column j.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(second)) - 1
    row = full
    for word in first:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(second) - row.bit_count()


def json_field_accuracy(prediction: str, reference: str) -> float:
    """Share of fields that the answer's JSON object has right, among the fields of the answer and of the reference.

    A field is right if both have it with equal values: texts after `normalise_answer`, numbers by value, lists in
    order, objects field by field. A missing field is wrong, an invented one too. Text around the first object of the
    answer (a code fence, a sentence) does no harm; an answer with no whole object gets 0.0.

    Raises:
        ValueError: if `reference` is no JSON object.
    """
    expected, found = json_object(reference), _first_object(prediction)
    if expected is None:
        raise ValueError("the reference answer is no JSON object")
    if found is None:
        return 0.0
    names = expected.keys() | found.keys()
    if not names:
        return 1.0
    right = sum(name in expected and name in found and _equal(expected[name], found[name]) for name in names)
    return right / len(names)


def json_object(text: str) -> dict[str, Any] | None:
    """Parse a text that is one JSON object and nothing else; None for any other text."""
    try:
        found = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _first_object(text: str) -> dict[str, Any] | None:
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = _DECODER.raw_decode(text, start)
        except RecursionError:
            return None
        except ValueError:
            start = text.find("{", start + 1)
        else:
            return found
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _equal(expected: Any, found: Any) -> bool:
    if isinstance(expected, str) and isinstance(found, str):
        return normalise_answer(expected) == normalise_answer(found)
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(_equal(expected[name], found[name]) for name in expected)
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_equal, expected, found))
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if expected is None or found is None:
        return expected is found
    return isinstance(expected, int | float) and isinstance(found, int | float) and expected == found


def _rouge_words(text: str) -> list[str]:
    return _NOT_ROUGE.sub(" ", text.lower()).split()
