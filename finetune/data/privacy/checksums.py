"""Check digits of identification numbers; each function takes the written number and says whether it can be real.

Separators must be gone already (see `compact`). A number of the wrong length or alphabet is simply not valid.
"""

import re
from collections import Counter
from datetime import date

_DIHEDRAL_GROUP = tuple(
    tuple((a + b) % 5 + 5 * (b // 5) if a < 5 else (a - b) % 5 + 5 * (1 - b // 5) for b in range(10)) for a in range(10)
)
"""Multiplication in the dihedral group D5."""
_VERHOEFF_STEP = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
_FISCAL_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_NIF_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def compact(text: str) -> str:
    """Return the letters and digits of a written number, in upper case."""
    return re.sub(r"[^0-9A-Za-z]", "", text).upper()


def luhn(number: str) -> bool:
    """ISO/IEC 7812-1 annex B: payment cards, Canadian SIN, and many others."""
    if not _digits(number):
        return False
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def payment_card(number: str) -> bool:
    """A card number by issuer range, length and Luhn check digit; runs of one digit are no cards."""
    if not luhn(number) or len(set(number)) == 1:
        return False
    if re.match(r"3[47]", number):
        return len(number) == 15
    if re.match(r"3(?:0[0-5]|[689])", number):
        return len(number) in (14, 16)
    if re.match(r"5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|35(?:2[89]|[3-8])", number):
        return len(number) == 16
    if number[0] == "4":
        return len(number) in (13, 16, 19)
    return bool(re.match(r"6(?:011|4[4-9]|5|2|0|7)|5[06-9]|81", number)) and 16 <= len(number) <= 19


def uk_nhs(number: str) -> bool:
    """NHS number, modulus 11 (NHS Data Dictionary)."""
    if not _digits(number, 10) or len(set(number)) == 1:
        return False
    return sum(int(digit) * (10 - place) for place, digit in enumerate(number)) % 11 == 0


def us_npi(number: str) -> bool:
    """National Provider Identifier: Luhn over the prefix 80840 and the number (45 CFR 162.406)."""
    return _digits(number, 10) and number[0] in "12" and luhn("80840" + number)


def us_dea(number: str) -> bool:
    """DEA registration: two characters and seven digits, the last one from (d1+d3+d5) + 2 (d2+d4+d6)."""
    if not re.fullmatch(r"[ABCDEFGHJKLMPRSTUX][A-Z9]\d{7}", number):
        return False
    digits = [int(digit) for digit in number[2:]]
    return (sum(digits[0:6:2]) + 2 * sum(digits[1:6:2])) % 10 == digits[6]


def de_tax_id(number: str) -> bool:
    """Steuer-ID: ISO/IEC 7064 MOD 11,10, and at most one digit repeated among the first ten, two or three times."""
    if not _digits(number, 11) or number[0] == "0":
        return False
    repeated = [count for count in Counter(number[:10]).values() if count > 1]
    if len(repeated) != 1 or repeated[0] > 3:
        return False
    product = 10
    for digit in number[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(number[10])


def de_social_insurance(number: str) -> bool:
    """Versicherungsnummer of the German pension insurance (VKVV section 4): area, birth date, letter, serial, check."""
    if not re.fullmatch(r"\d{8}[A-Z]\d{3}", number):
        return False
    if not (1 <= int(number[2:4]) <= 31 and 1 <= int(number[4:6]) <= 12):
        return False
    digits = number[:8] + f"{ord(number[8]) - 64:02d}" + number[9:11]
    weights = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
    total = sum(sum(divmod(int(digit) * weight, 10)) for digit, weight in zip(digits, weights, strict=True))
    return total % 10 == int(number[11])


def de_health_insurance(number: str) -> bool:
    """Krankenversichertennummer: a letter, eight digits and a check digit (SGB V section 290)."""
    if not re.fullmatch(r"[A-Z]\d{9}", number):
        return False
    digits = f"{ord(number[0]) - 64:02d}" + number[1:9]
    total = sum(sum(divmod(int(digit) * (1 + place % 2), 10)) for place, digit in enumerate(digits))
    return total % 10 == int(number[9])


def travel_document(number: str) -> bool:
    """Document number with its check digit, weights 7 3 1 (ICAO 9303 part 3); German identity cards and passports.

    The check digit follows the nine characters of the serial number: it is the tenth, as in the machine-readable zone.
    """
    if not re.fullmatch(r"[CFGHJKLMNPRTVWXYZ0-9]{9}\d", number):
        return False
    return icao_check_digit(number[:9]) == int(number[9])


def icao_check_digit(field: str) -> int:
    """Check digit of a field of a machine-readable zone; `<` counts 0, A counts 10 (ICAO 9303 part 3)."""
    values = (0 if sign == "<" else int(sign, 36) for sign in field)
    return sum(value * (7, 3, 1)[place % 3] for place, value in enumerate(values)) % 10


def machine_readable_passport(line: str) -> bool:
    """Second line of a passport's machine-readable zone: number, birth date, expiry and their check digits."""
    if not re.fullmatch(r"[A-Z0-9<]{9}\d[A-Z<]{3}\d{7}[MFX<]\d{7}[A-Z0-9<]{14}[\d<]\d", line):
        return False
    fields = ((line[:9], line[9]), (line[13:19], line[19]), (line[21:27], line[27]))
    return all(icao_check_digit(field) == int(digit) for field, digit in fields)


def es_nif(number: str) -> bool:
    """Spanish DNI/NIF of a person, or NIE with X, Y, Z for 0, 1, 2: the letter is the number modulo 23."""
    found = re.fullmatch(r"([XYZ]?)(\d{7,8})([A-Z])", number)
    if not found or len(number) != 9:
        return False
    leading = str("XYZ".index(found[1])) if found[1] else ""
    return _NIF_LETTERS[int(leading + found[2]) % 23] == found[3]


def it_fiscal_code(number: str) -> bool:
    """Italian codice fiscale of a person: the last letter is the check character (decree 12.3.1974)."""
    if not re.fullmatch(
        r"[A-Z]{6}[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z]", number
    ):
        return False
    total = 0
    for place, sign in enumerate(number[:15]):
        value = int(sign) if sign.isdigit() else ord(sign) - 65
        total += value if place % 2 else _FISCAL_ODD[value]
    return chr(65 + total % 26) == number[15]


def fr_nir(number: str) -> bool:
    """French NIR: 13 signs and a key, 97 minus the number modulo 97; Corsica 2A counts 19, 2B counts 18 (INSEE)."""
    found = re.fullmatch(r"([1-478])(\d{2})(0[1-9]|1[0-2]|[2-9]\d)(\d[0-9AB]\d{3}\d{3})(\d{2})", number)
    if not found or (("A" in found[4] or "B" in found[4]) and found[4][0] != "2"):
        return False
    body = number[:13].replace("2A", "19").replace("2B", "18") if found[4][1] in "AB" else number[:13]
    return 97 - int(body) % 97 == int(found[5])


def in_aadhaar(number: str) -> bool:
    """Indian Aadhaar: twelve digits, not starting with 0 or 1, with a Verhoeff check digit."""
    return _digits(number, 12) and number[0] not in "01" and number != number[::-1] and verhoeff(number)


def verhoeff(number: str) -> bool:
    """Check digit in the dihedral group D5 (J. Verhoeff, Error Detecting Decimal Codes, 1969)."""
    if not _digits(number):
        return False
    check = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit)
        for _ in range(place % 8):
            value = _VERHOEFF_STEP[value]
        check = _DIHEDRAL_GROUP[check][value]
    return check == 0


def au_tax_file_number(number: str) -> bool:
    """Australian TFN of nine digits, modulus 11."""
    return _weighted(number, (1, 4, 3, 7, 5, 8, 6, 9, 10), modulus=11)


def au_medicare(number: str) -> bool:
    """Australian Medicare card: eight digits, a check digit modulo 10, an issue number."""
    if (not _digits(number, 10) and not _digits(number, 11)) or number[0] not in "23456":
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number, (1, 3, 7, 9, 1, 3, 7, 9), strict=False))
    return total % 10 == int(number[8])


def ca_sin(number: str) -> bool:
    """Canadian Social Insurance Number: nine digits, Luhn; none starts with 0 or 8."""
    return _digits(number, 9) and number[0] not in "08" and luhn(number)


def nl_bsn(number: str) -> bool:
    """Dutch burgerservicenummer: the eleven test, last weight minus one."""
    return len(set(number)) > 1 and _weighted(number, (9, 8, 7, 6, 5, 4, 3, 2, -1), modulus=11)


def pl_pesel(number: str) -> bool:
    """Polish PESEL: birth date with the century in the month, serial, check digit."""
    if not _digits(number, 11):
        return False
    month = int(number[2:4])
    year = (1900, 2000, 2100, 2200, 1800)[month // 20] + int(number[:2])
    return _is_date(year, month % 20, int(number[4:6])) and _weighted(
        number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), modulus=10
    )


def br_cpf(number: str) -> bool:
    """Brazilian CPF: nine digits and two check digits modulo 11."""
    if not _digits(number, 11) or len(set(number)) == 1:
        return False
    for length in (9, 10):
        total = sum(int(number[place]) * (length + 1 - place) for place in range(length))
        if total * 10 % 11 % 10 != int(number[length]):
            return False
    return True


def _digits(number: str, length: int | None = None) -> bool:
    return number.isascii() and number.isdigit() and (length is None or len(number) == length)


def _weighted(number: str, weights: tuple[int, ...], *, modulus: int) -> bool:
    if not _digits(number, len(weights)):
        return False
    return sum(int(digit) * weight for digit, weight in zip(number, weights, strict=True)) % modulus == 0


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
