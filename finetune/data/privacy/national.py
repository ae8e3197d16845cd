"""Rules for numbers that states give to persons, nearly all with check digits."""

import re

from finetune.data.privacy import checksums
from finetune.data.privacy.rules import LEFT, RIGHT, rule, words

_SSN_WORDS = words(
    "ssn", "ssns", "social security", "soc sec", "social is", "social number", "social #", "ss no", "ss #", "ss number"
)
_PASSPORT_WORDS = words(
    "passport", "passports", "passport no", "passeport", "pasaporte", "passaporto", "passaporte", "reisepass*",
    "passnummer", "pass nr", "paspoort*", "travel document", "护照", "旅券", "جواز السفر",
)  # fmt: skip
_ID_CARD_WORDS = words(
    "personalausweis*",
    "ausweis*",
    "ausweisnummer",
    "perso",
    "perso nr",
    "identity card",
    "id card",
    "national id",
    "seriennummer",
)
_LICENCE_WORDS = words(
    "driver's license", "drivers license", "driver license", "driver's licence", "driving licence", "driving license",
    "drivers licence", "driver lic", "operator's license", "operators license", "license no*", "license number",
    "licence no*", "licence number", "dl no", "dl number", "dl #", "führerschein*", "permis de conduire",
    "carnet de conducir",
    "permiso de conducir", "patente di guida",
)  # fmt: skip


def _has_six_digits(value: str) -> bool:
    return sum(sign.isdigit() for sign in value) >= 6


def _is_issued(number: str) -> bool:
    """Whether the Social Security Administration could have given it out; well-known samples were not."""
    area, group, serial = number[:3], number[3:5], number[5:]
    if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
        return False
    return number not in ("123456789", "078051120", "219099999") and len(set(number)) > 1


RULES = (
    rule(
        "us_ssn",
        LEFT + r"[0-9]{3}(?P<gap>[-\u2010\u2011\u2013])[0-9]{2}(?P=gap)[0-9]{4}" + RIGHT,
        valid=_is_issued,
        score=0.85,
    ),
    rule(
        "us_ssn",
        LEFT + r"[0-9]{3}(?P<gap>[- .]?)[0-9]{2}(?P=gap)[0-9]{4}" + RIGHT,
        valid=_is_issued,
        context=_SSN_WORDS,
        before=40,
        score=0.84,
    ),
    rule(
        "us_itin",
        LEFT + r"9[0-9]{2}(?:5[0-9]|6[0-5]|7[0-9]|8[0-8]|9[0-24-9])[0-9]{4}" + RIGHT,
        context=words("itin", "itins", "taxpayer identification", "taxpayer id"),
        score=0.85,
    ),
    rule(
        "de_tax_id",
        LEFT + r"[1-9][0-9](?P<gap>[ ]?)[0-9]{3}(?P=gap)[0-9]{3}(?P=gap)[0-9]{3}" + RIGHT,
        valid=checksums.de_tax_id,
        context=words(
            "steuer*",
            "idnr",
            "identifikationsnummer",
            "id nr",
            "tin",
            "tax id",
            "tax identification",
            "tax number",
            "bzst",
            "finanzamt",
        ),
        score=0.92,
    ),
    rule(
        "de_social_insurance",
        r"(?<![0-9A-Za-z])[0-9]{2}[ ]?[0-3][0-9][01][0-9]{3}[ ]?[A-Z][ ]?[0-9]{2}[ ]?[0-9](?![0-9A-Za-z])",
        valid=checksums.de_social_insurance,
        score=0.95,
    ),
    rule(
        "de_id_card",
        r"(?<![0-9A-Za-z])[CFGHJKLMNPRTVWXYZ0-9]{9}[ ]?[0-9](?=D?(?![0-9A-Za-z]))",
        valid=checksums.travel_document,
        context=_ID_CARD_WORDS,
        score=0.9,
    ),
    rule(
        "de_id_card",
        r"(?<![0-9A-Za-z])[LMNPRTVWXY](?=[A-Z0-9]{1,8}[0-9])[CFGHJKLMNPRTVWXYZ0-9]{8}(?![0-9A-Za-z])",
        context=_ID_CARD_WORDS,
        before=40,
        score=0.82,
    ),
    rule(
        "passport",
        r"(?<![0-9A-Za-z])[CFGHJK][CFGHJKLMNPRTVWXYZ0-9]{8}[0-9]?(?![0-9A-Za-z])",
        check=lambda value: any(sign.isdigit() for sign in value),
        context=_PASSPORT_WORDS,
        before=44,
        score=0.83,
    ),
    rule(
        "passport",
        r"(?<![0-9A-Za-z])[A-Z]{0,2}-?[0-9]{6,9}[A-Z]?(?![0-9A-Za-z])",
        check=_has_six_digits,
        context=_PASSPORT_WORDS,
        before=44,
        after=12,
        score=0.8,
    ),
    rule(
        "passport",
        r"(?<![0-9A-Z<])[A-Z0-9<]{9}[0-9][A-Z<]{3}[0-9]{7}[MFX<][0-9]{7}[A-Z0-9<]{14}[0-9<][0-9](?![0-9A-Z<])",
        check=checksums.machine_readable_passport,
        score=0.98,
    ),
    rule(
        "driving_licence",
        r"(?<![0-9A-Za-z])[A-Z]{0,3}-?[0-9]{1,4}(?:[ -]?[0-9A-Z]{2,8}){1,4}(?![0-9A-Za-z])",
        check=_has_six_digits,
        context=_LICENCE_WORDS,
        before=40,
        after=12,
        score=0.72,
    ),
    rule(
        "es_nif",
        r"(?<![0-9A-Za-z])(?:[XYZ][ -]?[0-9]{7}|[0-9]{2}\.?[0-9]{3}\.?[0-9]{3})[ -]?[A-Z](?![0-9A-Za-z])",
        valid=checksums.es_nif,
        score=0.85,
    ),
    rule(
        "it_fiscal_code",
        r"(?<![0-9A-Za-z])[A-Z]{3}[ ]?[A-Z]{3}[ ]?[0-9LMNPQRSTUV]{2}[A-EHLMPRST][0-9LMNPQRSTUV]{2}"
        r"[ ]?[A-Z][0-9LMNPQRSTUV]{3}[A-Z](?![0-9A-Za-z])",
        flags=re.IGNORECASE,
        valid=checksums.it_fiscal_code,
        score=0.97,
    ),
    rule(
        "fr_nir",
        r"(?<![0-9A-Za-z])(?<![0-9][-.,/ ])[1-478][ .-]?[0-9]{2}[ .-]?[0-9]{2}"
        r"[ .-]?[0-9][0-9AB][ .-]?[0-9]{3}[ .-]?[0-9]{3}[ .|/-]{0,3}[0-9]{2}" + RIGHT,
        valid=checksums.fr_nir,
        score=0.95,
    ),
    rule(
        "in_aadhaar",
        LEFT + r"(?<![0-9] )[2-9][0-9]{3}(?P<gap>[ -])[0-9]{4}(?P=gap)[0-9]{4}(?![ -][0-9])" + RIGHT,
        valid=checksums.in_aadhaar,
        score=0.8,
    ),
    rule(
        "in_aadhaar",
        LEFT + r"[2-9][0-9]{11}" + RIGHT,
        valid=checksums.in_aadhaar,
        context=words("aadhaar", "aadhar", "adhaar", "uidai", "uid", "आधार"),
        score=0.9,
    ),
    rule("in_pan", r"(?<![0-9A-Za-z])[A-Z]{3}P[A-Z][0-9]{4}[A-Z](?![0-9A-Za-z])", score=0.85),
    rule(
        "au_tfn",
        LEFT + r"[0-9]{3}(?P<gap>[ -]?)[0-9]{3}(?P=gap)[0-9]{3}" + RIGHT,
        valid=checksums.au_tax_file_number,
        context=words("tfn", "tax file"),
        score=0.92,
    ),
    rule(
        "ca_sin",
        LEFT + r"[1-79][0-9]{2}(?P<gap>[ -]?)[0-9]{3}(?P=gap)[0-9]{3}" + RIGHT,
        valid=checksums.ca_sin,
        context=words("sin", "s.i.n.", "social insurance", "nas", "assurance sociale"),
        score=0.91,
    ),
    rule(
        "nl_bsn",
        LEFT + r"[0-9]{4}[ .]?[0-9]{2}[ .]?[0-9]{3}" + RIGHT,
        valid=checksums.nl_bsn,
        context=words("bsn", "burgerservicenummer", "sofinummer", "citizen service number"),
        score=0.91,
    ),
    rule(
        "pl_pesel",
        LEFT + r"[0-9]{11}" + RIGHT,
        valid=checksums.pl_pesel,
        context=words("pesel*", "numer ewidencyjny"),
        score=0.93,
    ),
    rule(
        "br_cpf",
        r"(?<![0-9A-Za-z])[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![0-9A-Za-z])",
        valid=checksums.br_cpf,
        score=0.95,
    ),
    rule(
        "br_cpf",
        LEFT + r"[0-9]{11}" + RIGHT,
        valid=checksums.br_cpf,
        context=words("cpf", "cadastro de pessoas"),
        score=0.9,
    ),
)
