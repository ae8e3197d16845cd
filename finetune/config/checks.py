"""What sections say of a number that cannot work."""

from collections.abc import Iterator


def at_least(key: str, value: int, least: int) -> Iterator[str]:
    if value < least:
        yield f"{key}: {value} is less than {least}"


def positive(key: str, value: float, *, zero: bool = False) -> Iterator[str]:
    if not (0 < value < float("inf") or (zero and value == 0)):
        yield f"{key}: {value} is not a positive number"
