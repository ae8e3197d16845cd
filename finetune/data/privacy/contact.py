"""Rules for what reaches a person or a machine: mail, phone numbers, addresses on the internet, payment."""

import ipaddress
import re

from finetune.data.privacy.checksums import payment_card
from finetune.data.privacy.rules import LEFT, RIGHT, near, rule, words

PHONE_WORDS = words(
    "tel*", "phone*", "fax*", "mobile", "cell", "cellphone", "call*", "dial*", "ring", "text", "sms", "whatsapp",
    "reach* at", "contact number", "pager", "voicemail", "hotline", "landline",
    "rufnummer", "handy*", "mobil*", "festnetz", "anruf*", "erreichbar", "durchwahl",
    "tél*", "portable", "appel*", "joindre", "joignable", "my number", "contact", "rufen*", "móvil", "llam*",
    "cellulare", "chiam*", "celular", "ligar",
    "电话", "手机", "联系", "電話", "携帯", "هاتف", "جوال", "اتصل",
)  # fmt: skip
_ADDRESS_WORDS = words(
    "ip", "ipv4", "ipv6", "host*", "server", "address*", "adresse", "subnet", "network", "ping", "ssh"
)
_NUMBERED_WORDS = re.compile(
    r"(?:section|sections|clause|article|paragraph|para|schedule|exhibit|item|version|release|v|ver|chapter|figure|table"
    r"|§|abschnitt|ziffer|artikel)\.?\s*$",
    re.IGNORECASE,
)
_CARD_GROUPED = r"[0-9]{4}(?P<gap>[ -])[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{1,4}(?:(?P=gap)[0-9]{1,3})?"
_AMEX_GROUPED = r"3[0-9]{3}(?P<gap>[ -])[0-9]{6}(?P=gap)[0-9]{4,5}"


def _is_public_notation(value: str) -> bool:
    """Whether it is an address that may belong to somebody; masks and loopback addresses do not."""
    try:
        address = ipaddress.ip_address(value.split("%")[0].split("/")[0])
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified or value.startswith("255."):
        return False
    if address.version == 6:
        groups = [group for group in value.split("%")[0].split(":") if group]
        return len(groups) >= 3 and any(sign.isdigit() for sign in value)
    return True


def _is_no_section(text: str, start: int, end: int) -> bool:
    """Tell an address from the number of a section or a version, which look alike, by what stands near."""
    if near(_ADDRESS_WORDS, text, start, end, before=40, after=20):
        return True
    if _NUMBERED_WORDS.search(text[max(start - 16, 0) : start]):
        return False
    return max(int(part) for part in text[start:end].split(".")) > 40


RULES = (
    rule(
        "email",
        r"(?<![\w.+-])[\w][\w.+'-]{0,63}@(?P<domain>(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24})(?![\w@])",
        score=0.95,
    ),
    rule(
        "email",
        r"(?<![\w.+-])\w[\w.+-]{0,63}(?:\s?[\[({]\s?(?:dot|punkt|point)\s?[\])}]\s?[\w+-]{1,63}){0,3}\s?[\[({]\s?at\s?[\])}]\s?[\w-]{1,63}"
        r"(?:(?:\s?[\[({]\s?(?:dot|punkt|point)\s?[\])}]\s?|\.)[\w-]{2,63}){1,4}",
        flags=re.IGNORECASE,
        score=0.9,
    ),
    rule(
        "url_credentials",
        r"(?<![\w.+-])[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s/@:\"'<>]{0,128}:[^\s/@\"'<>]{1,256}@[^\s\"'<>]{1,512}",
        score=1.0,
    ),
    rule(
        "url_credentials",
        r"https?://[^\s\"'<>?]{1,512}\?[^\s\"'<>]{0,512}?(?:access_token|auth_token|api_?key|apikey|password|passwd|pwd|secret"
        r"|client_secret|sig|signature)=[^\s\"'<>&#{}$]{6,512}[^\s\"'<>]{0,512}",
        flags=re.IGNORECASE,
        score=1.0,
    ),
    rule("credit_card", LEFT + _CARD_GROUPED + RIGHT, valid=payment_card, score=0.9),
    rule("credit_card", LEFT + _AMEX_GROUPED + RIGHT, valid=payment_card, score=0.9),
    rule("credit_card", LEFT + r"[2-6][0-9]{12,18}" + RIGHT, valid=payment_card, score=0.85),
    rule("crypto_address", r"(?<![0-9A-Za-z])0x[0-9a-fA-F]{40}(?![0-9A-Za-z])", score=0.95),
    rule(
        "ip_address",
        r"(?<![\w.-])(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(?![\w-]|\.[0-9])",
        check=_is_public_notation,
        fits=_is_no_section,
        score=0.7,
    ),
    rule(
        "ip_address",
        r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:%[0-9A-Za-z]{1,16})?(?![\w:])",
        check=_is_public_notation,
        score=0.75,
    ),
    rule(
        "mac_address",
        r"(?<![\w:-])[0-9A-Fa-f]{2}(?P<gap>[:-])(?:[0-9A-Fa-f]{2}(?P=gap)){4}[0-9A-Fa-f]{2}(?![\w:-])",
        score=0.8,
    ),
)
