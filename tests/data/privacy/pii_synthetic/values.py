"""Makers of made-up values: one function per kind, from a seeded random source; none belongs to anybody on purpose."""

import base64
import hashlib
from collections.abc import Callable
from random import Random

from . import check_digits as check

Maker = Callable[[Random], str]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
SURNAMES = (
    "Okafor",
    "Lindqvist",
    "Marchetti",
    "Nguyen",
    "Hoffmann",
    "Dubois",
    "Garcia",
    "Kowalski",
    "O'Neill",
    "Banerjee",
)
GIVEN = ("amara", "jonas", "chiara", "minh", "greta", "luc", "ines", "piotr", "siobhan", "ravi")


def digits(random: Random, length: int, *, first: str = "0123456789") -> str:
    return random.choice(first) + "".join(random.choice("0123456789") for _ in range(length - 1))


def letters(random: Random, length: int, alphabet: str = LETTERS) -> str:
    return "".join(random.choice(alphabet) for _ in range(length))


def two(random: Random, most: int) -> str:
    """A number from 1 to `most` in two digits: a day or a month."""
    return f"{random.randint(1, most):02d}"


def grouped(text: str, sizes: tuple[int, ...], gap: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    return gap.join(part for part in (*parts, text[at:]) if part)


def email(random: Random) -> str:
    given, family = random.choice(GIVEN), random.choice(SURNAMES).lower()
    name = random.choice(
        (f"{given}.{family}", f"{given[0]}{family}", f"{given}_{random.randint(1, 99)}", f"{given}+news")
    )
    host = random.choice(
        ("example.com", "mail.example.org", "st-anna-klinik.de", "law-firm.co.uk", "uni.edu", "lab.io")
    )
    written = f"{name}@{host}"
    return random.choice(
        (
            written,
            written,
            written,
            written.upper(),
            written.replace("@", " [at] ").replace(".", " [dot] ") if "+" not in name and "'" not in name else written,
        )
    )


def url_credentials(random: Random) -> str:
    secret = letters(random, 10, LETTERS + "abcdefgh0123456789")
    return random.choice(
        (
            f"postgres://{random.choice(GIVEN)}:{secret}@db{random.randint(1, 9)}.internal:5432/records",
            f"https://{random.choice(GIVEN)}:{secret}@intranet.example.com/files",
            f"https://api.example.com/v1/report?access_token={secret}{secret}",
            f"redis://:{secret}@10.0.0.{random.randint(2, 250)}:6379/0",
        )
    )


def credit_card(random: Random) -> str:
    issuer = random.choice(("visa", "mastercard", "two series", "amex", "discover"))
    if issuer == "amex":
        body = random.choice(("34", "37")) + digits(random, 12)
        number, sizes = body + check.luhn_digit(body), (4, 6)
    else:
        start = {"visa": "4", "mastercard": "5" + random.choice("12345"), "two series": "23", "discover": "6011"}[
            issuer
        ]
        body = start + digits(random, 15 - len(start))
        number, sizes = body + check.luhn_digit(body), (4, 4, 4)
    return random.choice((number, grouped(number, sizes, " "), grouped(number, sizes, "-")))


def crypto_address(random: Random) -> str:
    if random.random() < 0.4:
        return "0x" + letters(random, 40, "0123456789abcdefABCDEF")
    payload = b"\x00" + random.randbytes(20)
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    alphabet, number, written = (
        "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
        int.from_bytes(payload),
        "",
    )
    while number:
        number, rest = divmod(number, 58)
        written = alphabet[rest] + written
    return "1" + written


def ip_address(random: Random) -> str:
    if random.random() < 0.3:
        groups = [f"{random.randrange(1, 65536):x}" for _ in range(8)]
        return random.choice((":".join(groups), "2001:db8::" + ":".join(groups[:3]), "fe80::" + ":".join(groups[:4])))
    return ".".join(str(random.randint(1, 254)) for _ in range(4))


def mac_address(random: Random) -> str:
    gap = random.choice(":-")
    return gap.join(f"{random.randrange(256):02X}" for _ in range(6))


def phone(random: Random) -> str:
    area, exchange, line = (
        random.choice(("212", "415", "617", "312", "713")),
        digits(random, 3, first="23456789"),
        digits(random, 4),
    )
    exchange = exchange if exchange[1:] != "11" else "234"
    return random.choice(
        (
            f"({area}) {exchange}-{line}",
            f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}",
            f"+1 {area} {exchange} {line}",
            f"1-{area}-{exchange}-{line}",
            f"{area}{exchange}{line}",
            f"({area}) {exchange}-{line} ext. {random.randint(10, 999)}",
            f"+44 20 7946 0{digits(random, 3)}",
            f"020 7946 0{digits(random, 3)}",
            f"07{digits(random, 3, first='7')} {digits(random, 6)}",
            f"+49 30 {digits(random, 7, first='23456789')}",
            f"030 / {digits(random, 7, first='23456789')}",
            f"0171 {digits(random, 7, first='23456789')}",
            "01 " + " ".join((digits(random, 2, first="4"), digits(random, 2), digits(random, 2), digits(random, 2))),
            "+33 6 "
            + " ".join((digits(random, 2, first="12345"), digits(random, 2), digits(random, 2), digits(random, 2))),
            f"+91 98{digits(random, 3)} {digits(random, 5)}",
            f"+34 6{digits(random, 2, first='12')} {digits(random, 3)} {digits(random, 3)}",
        )
    )


def iban(random: Random) -> str:
    country, account = random.choice(
        (
            ("DE", digits(random, 18)),
            ("GB", random.choice(("NWBK", "BARC", "LOYD")) + digits(random, 14)),
            ("NL", "ABNA" + digits(random, 10)),
            ("FR", digits(random, 10) + letters(random, 1) + digits(random, 12)),
            ("ES", digits(random, 20)),
            ("CH", digits(random, 17)),
            ("AT", digits(random, 16)),
        )
    )
    number = check.iban(country, account)
    return random.choice((number, grouped(number, (4,) * 8, " ")))


def date_of_birth(random: Random) -> str:
    year, month, day = random.randint(1928, 2015), random.randint(1, 12), random.randint(1, 28)
    english = MONTHS[month - 1]
    return random.choice(
        (
            f"{year}-{month:02d}-{day:02d}",
            f"{month:02d}/{day:02d}/{year}",
            f"{month}/{day}/{year % 100:02d}",
            f"{day:02d}.{month:02d}.{year}",
            f"{day}.{month}.{year}",
            f"{english} {day}, {year}",
            f"{day} {english} {year}",
            f"{day:02d}-{english[:3]}-{year}",
            f"{english[:3]}. {day}, {year}",
            f"{day}th of {english} {year}",
        )
    )


def medical_record_number(random: Random) -> str:
    return random.choice(
        (
            digits(random, 7),
            digits(random, 8),
            digits(random, 10),
            "00" + digits(random, 6),
            f"{letters(random, 1)}{digits(random, 7)}",
            f"{digits(random, 3)}-{digits(random, 2)}-{digits(random, 2)}",
            f"{letters(random, 2)}-{digits(random, 6)}",
        )
    )


def health_plan_id(random: Random) -> str:
    return random.choice(
        (
            letters(random, 3) + digits(random, 9),
            digits(random, 10),
            f"{letters(random, 1)}{digits(random, 8)}",
            f"{digits(random, 9)}-{digits(random, 2)}",
            letters(random, 3) + digits(random, 3) + letters(random, 1) + digits(random, 5),
            f"{digits(random, 4)} {digits(random, 4)} {digits(random, 2)}",
        )
    )


def dea_number(random: Random) -> str:
    body = digits(random, 6)
    total = int(body[0]) + int(body[2]) + int(body[4]) + 2 * (int(body[1]) + int(body[3]) + int(body[5]))
    return random.choice("ABFGM") + random.choice(LETTERS) + body + str(total)[-1]


def uk_nhs_number(random: Random) -> str:
    while True:
        body = digits(random, 9, first="4679")
        number = check.complete(
            body, lambda n: sum(int(d) * w for d, w in zip(n, range(10, 0, -1), strict=True)) % 11 == 0
        )
        if number:
            return random.choice((number, grouped(number, (3, 3), " "), grouped(number, (3, 3), "-")))


def de_health_insurance(random: Random) -> str:
    letter, body = random.choice(LETTERS), digits(random, 8)
    return letter + body + str(check.cross_sums(check.letter_number(letter) + body, "1212121212") % 10)


def au_medicare(random: Random) -> str:
    body = digits(random, 8, first="23456")
    number = (
        body + str(sum(int(d) * w for d, w in zip(body, (1, 3, 7, 9) * 2, strict=True)) % 10) + random.choice("123")
    )
    return random.choice((number, grouped(number, (4, 5), " ")))


def docket_number(random: Random) -> str:
    year, number = random.randint(3, 25), random.randint(1, 9999)
    return random.choice(
        (
            f"{random.randint(1, 8)}:{year:02d}-cv-{number:05d}",
            f"{random.randint(1, 8)}:{year:02d}-cr-{number:05d}-{letters(random, 3)}",
            f"{year:02d}-{number:04d}",
            f"20{year:02d}-CV-{number:06d}",
            f"{year:02d}STCV{number:05d}",
            f"{random.randint(100000, 799999)}/20{year:02d}",
            f"CV-20{year:02d}-{number:06d}",
            f"{random.choice(('II', 'VI', 'XII'))} ZR {number % 400 + 1}/{year:02d}",
        )
    )


def bar_number(random: Random) -> str:
    return random.choice(
        (
            digits(random, 6, first="123456789"),
            digits(random, 8, first="2"),
            digits(random, 5, first="123456789"),
            digits(random, 7, first="456"),
        )
    )


def private_key(random: Random) -> str:
    kind = random.choice(("RSA ", "", "EC ", "OPENSSH "))
    body = base64.b64encode(random.randbytes(random.choice((120, 600, 1190)))).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def api_key(random: Random) -> str:
    word = LETTERS + LETTERS.lower() + "0123456789"
    return random.choice(
        (
            "AKIA" + letters(random, 16, LETTERS + "234567"),
            "ghp_" + letters(random, 36, word),
            "sk_live_" + letters(random, 24, word),
            "xoxb-" + digits(random, 12) + "-" + letters(random, 24, word),
            "AIza" + letters(random, 35, word),
            "hf_" + letters(random, 34, word),
            "sk-proj-" + letters(random, 48, word),
            "glpat-" + letters(random, 20, word),
            "github_pat_" + letters(random, 60, word),
        )
    )


def us_ssn(random: Random) -> str:
    area = f"{random.choice([n for n in range(1, 899) if n != 666]):03d}"
    parts = (area, f"{random.randint(1, 99):02d}", f"{random.randint(1, 9999):04d}")
    return random.choice(("-", "-", "", " ")).join(parts)


def us_itin(random: Random) -> str:
    group = random.choice((*range(50, 66), *range(70, 89), 90, 91, 92, 94, 97))
    return f"9{digits(random, 2)}-{group}-{digits(random, 4)}"


def de_tax_id(random: Random) -> str:
    pool = random.sample("0123456789", 9)
    while pool[0] == "0":
        random.shuffle(pool)
    pool.insert(random.randint(1, 9), random.choice(pool))
    body = "".join(pool)
    number = body + check.mod_11_10(body)
    return random.choice((number, grouped(number, (2, 3, 3), " ")))


def de_social_insurance(random: Random) -> str:
    letter = random.choice(LETTERS)
    head = f"{random.choice((4, 12, 13, 15, 38, 53, 65)):02d}{two(random, 28)}{two(random, 12)}{digits(random, 2)}"
    serial = f"{random.randint(0, 99):02d}"
    last = str(check.cross_sums(head + check.letter_number(letter) + serial, "212571212121") % 10)
    return random.choice((f"{head}{letter}{serial}{last}", f"{head[:2]} {head[2:]} {letter} {serial}{last}"))


def de_id_card(random: Random) -> str:
    serial = (
        random.choice("LMNPRTVWXY") + letters(random, 7, "CFGHJKLMNPRTVWXYZ0123456789") + random.choice("0123456789")
    )
    return random.choice((serial, serial + check.icao(serial)))


def passport(random: Random) -> str:
    serial = random.choice("CFGHJK") + letters(random, 7, "CFGHJKLMNPRTVWXYZ0123456789") + random.choice("0123456789")
    birth, expiry = (
        f"{random.randint(40, 99)}{random.randint(1, 12):02d}{random.randint(1, 28):02d}",
        f"{random.randint(26, 34)}{random.randint(1, 12):02d}{random.randint(1, 28):02d}",
    )
    zone = f"{serial}{check.icao(serial)}D<<{birth}{check.icao(birth)}F{expiry}{check.icao(expiry)}<<<<<<<<<<<<<<<"
    zone += check.icao(zone[:10] + zone[13:20] + zone[21:43])
    return random.choice(
        (
            serial,
            digits(random, 9),
            letters(random, 1) + digits(random, 8),
            letters(random, 2) + digits(random, 7),
            zone,
        )
    )


def driving_licence(random: Random) -> str:
    surname = (letters(random, random.randint(3, 5)) + "9999")[:5]
    british = f"{surname}{digits(random, 1, first='3456789')}{two(random, 12)}{two(random, 28)}{digits(random, 1)}"
    british += f"{letters(random, 1)}9{digits(random, 1, first='23456789')}{letters(random, 2)}"
    return random.choice(
        (
            british,
            letters(random, 1) + digits(random, 7),
            letters(random, 1) + "-".join((digits(random, 3), digits(random, 3), digits(random, 2), digits(random, 3))),
            digits(random, 9),
        )
    )


def es_nif(random: Random) -> str:
    if random.random() < 0.3:
        lead, body = random.choice("XYZ"), digits(random, 7)
        return lead + body + check.DNI_TABLE[int("012"["XYZ".index(lead)] + body) % 23]
    body = digits(random, 8)
    letter = check.DNI_TABLE[int(body) % 23]
    return random.choice((body + letter, f"{body}-{letter}", f"{body[:2]}.{body[2:5]}.{body[5:]}-{letter}"))


def it_fiscal_code(random: Random) -> str:
    consonants = "BCDFGLMNPRSTVZ"
    body = (
        letters(random, 6, consonants)
        + digits(random, 2)
        + random.choice("ABCDEHLMPRST")
        + f"{random.randint(1, 28):02d}"
        + random.choice("ABCDEFGHIL")
        + digits(random, 3, first="123456789")
    )
    number = body + check.italian(body)
    return random.choice((number, number, number.lower(), grouped(number, (3, 3, 5), " ")))


def fr_nir(random: Random) -> str:
    place = random.choice((f"{random.randint(1, 95):02d}", "2A", "2B"))
    place = "75" if place == "20" else place
    body = f"{random.choice('12')}{digits(random, 2)}{two(random, 12)}{place}{digits(random, 6)}"
    number = (
        body + f"{97 - int(body.replace('2A', '19').replace('2B', '18')) % 97:02d}"
        if place in ("2A", "2B")
        else body + f"{97 - int(body) % 97:02d}"
    )
    return random.choice((number, grouped(number, (1, 2, 2, 2, 3, 3), " ")))


def in_aadhaar(random: Random) -> str:
    body = digits(random, 11, first="23456789")
    number = body + check.verhoeff_digit(body)
    return random.choice((number, grouped(number, (4, 4), " "), grouped(number, (4, 4), "-")))


def in_pan(random: Random) -> str:
    return f"{letters(random, 3)}P{letters(random, 1)}{digits(random, 4)}{letters(random, 1)}"


def _complete_weighted(random: Random, length: int, weights: tuple[int, ...], modulus: int, first: str) -> str:
    while True:
        number = check.complete(
            digits(random, length - 1, first=first),
            lambda n: sum(int(d) * w for d, w in zip(n, weights, strict=True)) % modulus == 0,
        )
        if number:
            return number


def au_tfn(random: Random) -> str:
    number = _complete_weighted(random, 9, (1, 4, 3, 7, 5, 8, 6, 9, 10), 11, "123456789")
    return random.choice((number, grouped(number, (3, 3), " ")))


def ca_sin(random: Random) -> str:
    body = digits(random, 8, first="1245679")
    return random.choice(("", " ", "-")).join((body[:3], body[3:6], body[6:] + check.luhn_digit(body)))


def nl_bsn(random: Random) -> str:
    return _complete_weighted(random, 9, (9, 8, 7, 6, 5, 4, 3, 2, -1), 11, "123")


def pl_pesel(random: Random) -> str:
    body = f"{random.randint(30, 99)}{random.randint(1, 12):02d}{random.randint(1, 28):02d}{digits(random, 4)}"
    found = check.complete(
        body, lambda n: sum(int(d) * w for d, w in zip(n, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True)) % 10 == 0
    )
    assert found
    return found


def br_cpf(random: Random) -> str:
    body = digits(random, 9)
    number = body + check.cpf_digits(body)
    return random.choice((number, f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"))


def us_medicare_id(random: Random) -> str:
    alphabet = "ACDEFGHJKMNPQRTUVWXY"
    parts = [
        random.choice("123456789"),
        *(random.choice(alphabet) for _ in range(2)),
        digits(random, 1),
        *(random.choice(alphabet) for _ in range(2)),
        digits(random, 1),
        letters(random, 2, alphabet),
        digits(random, 2),
    ]
    number = "".join(parts)
    return random.choice((number, grouped(number, (4, 3), "-")))


def npi(random: Random) -> str:
    body = digits(random, 9, first="12")
    return body + check.luhn_digit("80840" + body)


def uk_nino(random: Random) -> str:
    prefix = random.choice(("AB", "CE", "JK", "PW", "SR", "TY", "NM"))
    number = prefix + digits(random, 6) + random.choice("ABCD")
    return random.choice((number, grouped(number, (2, 2, 2, 2), " ")))


def fi_hetu(random: Random) -> str:
    birth, serial = (
        f"{random.randint(1, 28):02d}{random.randint(1, 12):02d}{random.randint(30, 99)}",
        digits(random, 3, first="0123"),
    )
    return f"{birth}-{serial}{check.FINNISH_TABLE[int(birth + serial) % 31]}"
