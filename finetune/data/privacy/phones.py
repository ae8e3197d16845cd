"""Phone numbers: written forms that speak for themselves, and any valid number beside a word such as "phone"."""

import re
from collections.abc import Iterator

from finetune.data.privacy.contact import PHONE_WORDS
from finetune.data.privacy.rules import near

REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "AU", "BR", "CH", "AT", "NL", "PL", "CN", "JP", "MX", "SE", "ZA")
"""Countries whose national notation is understood beside a context word; `+` and a country code need none."""

SCORE_BARE, SCORE_WITH_CONTEXT = 0.65, 0.74
_CANDIDATE = re.compile(
    r"(?<![0-9A-Za-z$€£#§_])(?<![0-9][-.,/:])(?<![0-9] )"
    r"(?:\+|\(\+|\()?[0-9](?:[ \t\u00a0.()/\u2010-\u2013-]{0,3}[0-9]){6,15}"
    r"(?:,?\s?(?:x|ext\.?|extension)\s?[0-9]{1,6})?"
    r"(?![0-9A-Za-z_%]|[-.,/:][0-9])"
)
_BARE_FORMS = (
    (re.compile(r"(?:1[-. ]|\+?1 ?)?\([2-9][0-9]{2}\)[-. ]{0,2}[2-9][0-9]{2}[-. ][0-9]{4}(?!\d)"), "US"),
    (re.compile(r"(?:1[-. ])?[2-9][0-9]{2}(?P<gap>[-.])[2-9][0-9]{2}(?P=gap)[0-9]{4}(?!\d)"), "US"),
    (re.compile(r"(?:1 )?[2-9][0-9]{2}[ /] ?[2-9][0-9]{2}-[0-9]{4}(?!\d)"), "US"),
    (re.compile(r"0[1-79](?P<gap>[ .])[0-9]{2}(?:(?P=gap)[0-9]{2}){3}$"), "FR"),
    (re.compile(r"\(?0(?:20|1[0-9]1|11[0-9])\)? [0-9]{3,4} [0-9]{4}$|\(?0[17][0-9]{3}\)? [0-9]{3} ?[0-9]{3}$"), "GB"),
    (re.compile(r"\(0[0-9]{2,4}\) ?[0-9][0-9 -]{4,10}$|0[0-9]{2,4} ?/ ?[0-9][0-9 -]{4,9}$"), "DE"),
    (re.compile(r"0(?:15[0-9]{1,2}|16[0-9]|17[0-9])[ /-]{1,3}[0-9]{7,8}$"), "DE"),
)
_DATE = re.compile(r"[0-9]{1,2}([-./])[0-9]{1,2}\1(?:[0-9]{2}){1,2}|[0-9]{4}([-./])[0-9]{1,2}\2[0-9]{1,2}")
_LOCAL = re.compile(r"[2-9][0-9]{2}[-.][0-9]{4}")


def find_phones(text: str) -> Iterator[tuple[int, int, float]]:
    """Yield start, end and score of each phone number in the text."""
    for found in _CANDIDATE.finditer(text):
        start, end = found.span()
        written = found[0]
        if written.startswith("(") and ")" not in written:
            start, written = start + 1, written[1:]
        if _DATE.fullmatch(written):
            continue
        nearness = near(PHONE_WORDS, text, start, end, before=48, after=16)
        if nearness:
            if _is_local(written) or any(_is_valid(written, region) for region in REGIONS):
                yield start, end, SCORE_WITH_CONTEXT + 0.1 * nearness
        elif _speaks_for_itself(written):
            yield start, end, SCORE_BARE


def _speaks_for_itself(written: str) -> bool:
    if written.lstrip("(").startswith("+"):
        return _is_valid(written, None)
    return any(form.match(written) and _is_valid(written, region) for form, region in _BARE_FORMS)


def _is_local(written: str) -> bool:
    return bool(_LOCAL.fullmatch(written))


def _is_valid(written: str, region: str | None) -> bool:
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, region))
    except phonenumbers.NumberParseException:
        return False
