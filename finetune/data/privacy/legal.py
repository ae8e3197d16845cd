"""Rules for legal texts: docket numbers and the numbers under which lawyers are admitted."""

import re

from finetune.data.privacy.rules import rule, words

_COURT_WORDS = words(
    "docket", "case", "cause", "civil action", "criminal action", "civil", "criminal", "appeal", "index", "court*",
    "cir",
    "district", "v", "vs", "versus", "plaintiff*", "defendant*", "petition*", "lawsuit", "suit", "proceeding*",
    "matter",
    "tribunal", "ecf", "order", "court file", "claim",
)  # fmt: skip
_LABEL = (
    r"(?:docket|case|cause|civil\s+action|criminal\s+action|civil\s+case|criminal\s+case|appeal|index|court\s+file|claim"
    r"|petition|adversary(?:\s+proceeding)?)(?:\s*/\s*docket)?"
)
_NUMBER_WORD = r"(?:\s*(?:nos?\b\.?|number|num\.?|#|:|id|№)){1,3}\s*:?\s*"
_TOKEN = (
    r"(?P<value>(?=[^\s,;]*[0-9]{2})[0-9A-Z]{1,10}(?:[-:/.–][0-9A-Z]{1,10}){1,5}|[0-9]{2}[A-Z]{2,6}[0-9]{3,8}"
    r"|[IVX]{1,5}\s[A-Z]{1,3}\s[0-9]{1,6}/[0-9]{2,4})(?![0-9A-Za-z])"
)

RULES = (
    rule(
        "docket_number",
        r"(?<![0-9A-Za-z:])[0-9]{1,2}:[0-9]{2,4}-(?:cv|cr|bk|mc|mj|ap|md|po|sw|ml|misc|civ|crim|br|vv|cm)-[0-9]{2,6}(?:-[A-Z0-9]{1,5}){0,4}(?![0-9A-Za-z])",
        flags=re.IGNORECASE,
        score=0.97,
    ),
    rule(
        "docket_number",
        r"(?<![0-9A-Za-z:-])(?:[0-9]{2,4}[- ]?(?:cv|cr|bk|mc|mj|civ|crim|md)[- ]?[0-9]{3,6}"
        r"|(?:cv|cr|civ|crim|fa|dc|dr)-?[0-9]{2,4}-[0-9]{3,8}(?:-[A-Z0-9]{1,5}){0,3})(?![0-9A-Za-z])",
        flags=re.IGNORECASE,
        context=_COURT_WORDS,
        score=0.9,
    ),
    rule("docket_number", r"(?<![0-9A-Za-z])" + _LABEL + _NUMBER_WORD + _TOKEN, flags=re.IGNORECASE, score=0.88),
    rule(
        "docket_number",
        r"(?<![0-9A-Za-z])(?:docket|case|appeal|cause)\s?:?\s"
        r"(?P<value>[0-9]{5,7}/(?:19|20)[0-9]{2}|[0-9]{2}-[0-9]{3,6}|[IVX]{1,5}\s[A-Z]{1,3}\s[0-9]{1,6}/[0-9]{2,4})"
        r"(?![-/0-9A-Za-z])",
        flags=re.IGNORECASE,
        score=0.84,
    ),
    rule(
        "docket_number",
        r"(?<![0-9A-Za-z])nos?\.\s?(?P<value>[0-9]{2}[-–][0-9]{2,6}(?:[-–][A-Z]{2,4})?)(?![-0-9A-Za-z])",
        flags=re.IGNORECASE,
        context=_COURT_WORDS,
        score=0.86,
    ),
    rule(
        "docket_number",
        r"(?<![0-9A-Za-z])(?P<value>(?:[IVX]{1,5}\s)?[0-9]{0,3}\s?(?:[A-Z][A-Za-z]{0,3})(?:\s\([A-Za-z]{1,4}\))?\s[0-9]{1,6}/[0-9]{2,4}|[CTF]-[0-9]{1,4}/[0-9]{2})(?![0-9A-Za-z])",
        context=words(
            "az",
            "aktenzeichen",
            "geschäftszeichen",
            "gz",
            "urteil*",
            "beschluss*",
            "rechtssache",
            "case c",
            "affaire",
            "landgericht",
            "amtsgericht",
            "bgh",
        ),
        before=40,
        score=0.86,
    ),
    rule(
        "docket_number", r"(?<![0-9A-Za-z])[0-9]{2}[A-Z]{2,4}(?:CV|CP|PR|FL|UD|CR)[0-9]{5,6}(?![0-9A-Za-z])", score=0.88
    ),
    rule(
        "docket_number",
        r"(?<![0-9A-Za-z])(?:Az|Aktenzeichen|Gz|Geschäftszeichen)\b\.?\s?:?\s?" + _TOKEN,
        flags=re.IGNORECASE,
        score=0.88,
    ),
    rule(
        "bar_number",
        r"(?<![0-9A-Za-z])(?:(?:state\s+)?bar(?:\s+(?:card|roll|registration|membership|admission|license))?\s*(?:\(?(?:no\b\.?|number|num\.?|#|id\b|identification(?:\s+number)?))"
        r"|S\.?B\.?N\.?|attorney\s+(?:registration|id|identification|bar|license)\s*(?:no\b\.?|number|#)?|ARDC(?:\s*(?:no\b\.?|number|#))?"
        r"|roll\s+(?:of\s+attorneys\s+)?(?:no\b\.?|number)|SRA\s+(?:id|no\b\.?|number)|advocate\s+(?:code|enrol?ment)\s*(?:no\b\.?|number)?)"
        r"\)?[\s:.#]{0,4}(?:is\s|of\s)?(?P<value>[A-Z]{0,3}[-/]?[0-9]{3,9}(?:/[0-9]{2,4})?)(?![0-9A-Za-z])",
        flags=re.IGNORECASE,
        score=0.9,
    ),
)
