"""Values between judge and candidate as JSON: numbers, texts and containers of Python by value, all else by number.

The judge never unpickles what foreign code sends. What arrives is of exactly Python's own types, so that `==` in a test
is Python's own and not a method that foreign code wrote.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import itertools
from collections.abc import Callable, Iterable
from typing import Any, cast

MAX_ITERATED = 100_000
"""Values taken from a generator at most."""
_PLAIN_INT = 2**53

_SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    collections.deque: "deque",
}
_BUILD: dict[str, Callable[[Any], object]] = {
    **{name: kind for kind, name in _SEQUENCES.items()},
    "iterator": iter,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "range": lambda ends: range(*ends),
    "fraction": lambda parts: fractions.Fraction(*parts),
    "complex": lambda parts: complex(*parts),
}
_FROM_TEXT: dict[str, Callable[[str], object]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "decimal": decimal.Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
}


def encode(value: object, number_of: Callable[[object], list[object]]) -> object:
    """Return what JSON can hold; `number_of` gives what stands for an object that cannot be sent."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _PLAIN_INT else ["int", hex(value)]
    if isinstance(value, type) and value is getattr(builtins, value.__name__, None):
        return ["type", value.__name__]
    text = _as_text(value)
    if text is not None:
        return text
    if isinstance(value, dict):
        kind = "Counter" if isinstance(value, collections.Counter) else "dict"
        return [kind, [[encode(key, number_of), encode(item, number_of)] for key, item in dict.items(value)]]
    parts = _parts(value)
    if parts is None:
        return number_of(value)
    return [parts[0], [encode(item, number_of) for item in parts[1]]]


def _as_text(value: object) -> list[object] | None:
    if isinstance(value, bytes | bytearray):
        return ["bytes" if isinstance(value, bytes) else "bytearray", value.hex()]
    if isinstance(value, decimal.Decimal):
        return ["decimal", str(value)]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        kinds = {datetime.datetime: "datetime", datetime.date: "date", datetime.time: "time"}
        return [next(name for kind, name in kinds.items() if isinstance(value, kind)), value.isoformat()]
    return None


def _parts(value: object) -> tuple[str, Iterable[object]] | None:
    for kind, name in _SEQUENCES.items():
        if isinstance(value, kind):
            return name, cast(Iterable[object], value)
    if isinstance(value, range):
        return "range", (value.start, value.stop, value.step)
    if isinstance(value, complex):
        return "complex", (value.real, value.imag)
    if isinstance(value, fractions.Fraction):
        return "fraction", (value.numerator, value.denominator)
    if isinstance(value, type({}.keys())):
        return "keys", value
    if isinstance(value, type({}.values()) | type({}.items())):
        return "values", value
    if hasattr(value, "__next__") and hasattr(value, "__iter__"):
        items = list(itertools.islice(value, MAX_ITERATED + 1))  # pyright: ignore[reportArgumentType]
        if len(items) > MAX_ITERATED:
            raise ValueError(f"the generator gives more than {MAX_ITERATED} values")
        return "iterator", items
    return None


def decode(value: object, object_of: Callable[[int, str], object]) -> object:
    """Undo `encode`; `object_of` gives the object for a number and the name of its type.

    Raises:
        ValueError: it is nothing that `encode` makes.
    """
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise ValueError("an object stands where a value belongs")  # noqa: TRY004
        return value
    kind, *rest = value
    if kind == "object":
        return object_of(int(rest[0]), str(rest[1]))
    [content] = rest
    if kind == "type":
        found = getattr(builtins, content)
        if not isinstance(found, type):
            raise ValueError(f"{content!r} is no type")
        return found
    if kind in ("dict", "Counter"):
        pairs = [(decode(key, object_of), decode(item, object_of)) for key, item in content]
        return dict(pairs) if kind == "dict" else collections.Counter(dict(pairs))
    if kind in _FROM_TEXT:
        return _FROM_TEXT[kind](content)
    if kind not in _BUILD:
        raise ValueError(f"{kind!r} is no kind of value")
    return _BUILD[kind]([decode(item, object_of) for item in content])
