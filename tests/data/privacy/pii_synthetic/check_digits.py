"""Check digits for made-up numbers, written from the published schemes and independent of the package's own checks.

Where a scheme has one check digit, the number is completed by trying all of them against the scheme's equation.
"""

from collections.abc import Callable

DIHEDRAL = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
"""Verhoeff's multiplication table as it is printed in textbooks."""
PERMUTED = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)
LUHN_DOUBLED = "0246813579"
ITALIAN_ODD = {
    **dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True)),
    **dict(
        zip(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
            strict=True,
        )
    ),
}
DNI_TABLE = "TRWAGMYFPDXBNJZSQVHLCKE"
FINNISH_TABLE = "0123456789ABCDEFHJKLMNPRSTUVWXY"


def complete(body: str, fits: Callable[[str], bool]) -> str | None:
    """Return body and the one digit with which it fits; None where no digit does."""
    return next((body + digit for digit in "0123456789" if fits(body + digit)), None)


def luhn_digit(body: str) -> str:
    """The last digit that makes the Luhn sum divisible by ten."""
    total = sum(int(LUHN_DOUBLED[int(d)]) if place % 2 == 0 else int(d) for place, d in enumerate(body[::-1]))
    return str(-total % 10)


def verhoeff_digit(body: str) -> str:
    """The digit that brings Verhoeff's product to zero, by the printed tables."""
    state = 0
    for place, digit in enumerate(body[::-1], start=1):
        state = int(DIHEDRAL[state][int(PERMUTED[place % 8][int(digit)])])
    return next(digit for digit in "0123456789" if DIHEDRAL[state][int(digit)] == "0")


def iban(country: str, account: str) -> str:
    """ISO 13616: 98 minus the number, rearranged and spelled in digits, modulo 97."""
    spelled = "".join(str(int(sign, 36)) for sign in account + country + "00")
    return f"{country}{98 - int(spelled) % 97:02d}{account}"


def mod_11_10(body: str) -> str:
    """ISO/IEC 7064 MOD 11,10, by trying each digit against the recursive definition."""

    def left_over(number: str) -> int:
        p = 10
        for digit in number[:-1]:
            s = (p + int(digit)) % 10
            p = (2 * (s if s else 10)) % 11
        return (p + int(number[-1])) % 10

    found = complete(body, lambda number: left_over(number) == 1)
    assert found is not None
    return found[-1]


def cross_sums(digits: str, weights: str) -> int:
    """Sum of the cross sums of the weighted digits."""
    return sum(sum(map(int, str(int(d) * int(w)))) for d, w in zip(digits, weights, strict=True))


def letter_number(letter: str) -> str:
    """A is 01, Z is 26."""
    return str("ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(letter) + 1).rjust(2, "0")


def icao(field: str) -> str:
    """Weights 7, 3, 1 over 0-9, A = 10 ... Z = 35, `<` = 0."""
    order = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    values = [order.find(sign) for sign in field.replace("<", "0")]
    return str((7 * sum(values[::3]) + 3 * sum(values[1::3]) + sum(values[2::3])) % 10)


def italian(body: str) -> str:
    """Check letter of a codice fiscale."""
    even = {sign: value for value, sign in enumerate("0123456789")} | {
        sign: value for value, sign in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    }
    total = sum(ITALIAN_ODD[s] for s in body[::2]) + sum(even[s] for s in body[1::2])
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[total % 26]


def cpf_digits(body: str) -> str:
    """Two digits, each 11 minus the weighted sum modulo 11, or 0 where that is above 9."""
    for _ in range(2):
        total = sum(int(d) * w for d, w in zip(body[::-1], range(2, 12), strict=False))
        rest = 11 - total % 11
        body += "0" if rest > 9 else str(rest)
    return body[-2:]
