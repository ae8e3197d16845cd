"""Rules for what opens a door: API keys by their published prefixes, private keys, passwords in assignments."""

import re

from finetune.data.privacy.rules import rule, words

_KEY_PREFIXES = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    r"gh[pousr]_[A-Za-z0-9]{36,255}",
    r"github_pat_[A-Za-z0-9_]{22,255}",
    r"glpat-[A-Za-z0-9_-]{20,64}",
    r"xox[abposr]-[A-Za-z0-9-]{10,128}",
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,128}",
    r"AIza[A-Za-z0-9_-]{35}",
    r"sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,256}",
    r"hf_[A-Za-z0-9]{30,64}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,256}",
    r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    r"eyJ[A-Za-z0-9_-]{10,2048}\.eyJ[A-Za-z0-9_-]{10,4096}\.[A-Za-z0-9_-]{10,1024}",
)
PRIVATE_KEY = (
    r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----)){0,12000}-----END (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|[A-Za-z0-9+/=\s\\]{0,12000})"
)


def _is_mixed(value: str) -> bool:
    """Letters and digits, and many different ones: a word or a placeholder is no secret."""
    return any(sign.isdigit() for sign in value) and any(sign.isalpha() for sign in value) and len(set(value)) >= 8


RULES = (
    rule("private_key", PRIVATE_KEY, flags=re.DOTALL, score=1.0),
    rule("api_key", r"(?<![0-9A-Za-z_-])(?:" + "|".join(_KEY_PREFIXES) + r")(?![0-9A-Za-z_])", score=1.0),
    rule(
        "api_key",
        r"(?<![0-9A-Za-z/+])[A-Za-z0-9/+]{40}(?![0-9A-Za-z/+=])",
        context=words("aws secret*", "secret access key", "secretaccesskey", "aws_secret_access_key"),
        check=_is_mixed,
        before=40,
        after=0,
        score=0.98,
    ),
    rule(
        "api_key",
        r"(?:api[_-]?key|apikey|secret(?:[_-]?key)?|auth[_-]?token|access[_-]?token|client[_-]?secret|passw(?:or)?d|pwd)[\"']?\s{0,3}"
        r"(?:=|:|=>|:=)\s{0,3}[\"'](?P<value>[^\s\"'<>{}$]{12,256})[\"']",
        flags=re.IGNORECASE,
        check=_is_mixed,
        score=0.96,
    ),
    rule(
        "api_key",
        r"(?<![0-9A-Za-z])(?:Bearer|Basic)\s(?P<value>[A-Za-z0-9_~+/.-]{20,2048}={0,2})(?![0-9A-Za-z])",
        check=_is_mixed,
        score=0.96,
    ),
)
