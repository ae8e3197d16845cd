"""Shapes over whole numbers: folds and predicates over ranges, digits and divisors; powers below or above a number."""

from __future__ import annotations

import random
from collections.abc import Callable

from code_shapes import Part, Shape, part


def fold(result: str, start: str, step: str) -> str:
    return f"{result} = {start}\n$source $filter:\n        {step}\nreturn {result}"


def draw_integer(rng: random.Random) -> object:
    return rng.choice(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 21, 24, 25, 27, 28, 30, 33, 35, 36)
    )


def draw_digits(rng: random.Random) -> object:
    """Small numbers with many divisors, and numbers of several digits."""
    return draw_integer(rng) if rng.random() < 0.4 else int("".join(rng.choices("0123456789", k=rng.randint(2, 4))))


Items = tuple[int, int, int]
INTEGER_SIGNATURES = ({"parameter": "n"}, {"parameter": "number"})

# `$source` opens the loop or the generator and ends with the `if` that the filter completes.
IN_RANGE = "for i in range(1, $parameter + 1)"
BELOW = "for i in range(1, $parameter)"
DIGITS = "for digit in map(int, str($parameter))"


def source(key: str, phrases: str, head: str, variable: str, word: str, condition: str = "") -> Part:
    """What is looped over; the condition picks the divisors out of a range."""
    test = f"if {condition} and" if condition else "if"
    return part(key, phrases, f"{head} {test}", loop=f"{head}:\n    {test}", word=word, variable=variable, kin=variable)


DIVIDES = "$parameter % d == 0"
DIVISOR_RANGE = "for d in range(1, $parameter + 1)"
PROPER_DIVISOR_RANGE = "for d in range(1, $parameter)"

SOURCES = (
    source("range", "numbers from 1 to `$parameter`", IN_RANGE, "i", "numbers"),
    source("below", "positive integers below `$parameter`", BELOW, "i", "numbers"),
    source("digits", "digits of `$parameter`", DIGITS, "digit", "digits"),
    source("divisors", "divisors of `$parameter`", DIVISOR_RANGE, "d", "divisors", DIVIDES),
    source("proper", "proper divisors of `$parameter`", PROPER_DIVISOR_RANGE, "d", "divisors", DIVIDES),
)

FOLD_SLOTS = {
    "filter": (
        part("even", "the even $source", "$x % 2 == 0", word="even", kin="parity"),
        part("odd", "the odd $source", "$x % 2 == 1", word="odd", kin="parity"),
        part("multiple_of_3", "the $source that are multiples of 3", "$x % 3 == 0", kin="multiple"),
        part("not_multiple_of_3", "the $source that are not divisible by 3", "$x % 3 != 0", kin="multiple"),
        part("above_5", "the $source that are greater than 5", "$x > 5", word="large", kin="bound"),
        part("from_5", "the $source that are at least 5", "$x >= 5", word="large", kin="bound"),
        part("below_7", "the $source that are less than 7", "$x < 7", word="small", kin="bound"),
        part("up_to_7", "the $source that are at most 7", "$x <= 7", word="small", kin="bound"),
    ),
    "transformation": (
        part("same", "$filter", "$x"),
        part("squares", "the squares of $filter", "$x * $x", kin="power"),
        part("cubes", "the cubes of $filter", "$x ** 3", kin="power"),
        part("doubles", "the doubles of $filter", "2 * $x", kin="power"),
        part("successors", "the successors of $filter", "$x + 1", kin="step"),
        part("predecessors", "the predecessors of $filter", "$x - 1", kin="step"),
    ),
    "operation": (
        part(
            "sum",
            "the sum of $transformation | the total of $transformation",
            "return sum($transformation $source $filter)",
            loop=fold("total", "0", "total += $transformation"),
            word="sum",
            kin="fold",
        ),
        part(
            "product",
            "the product of $transformation (1 if there are none)",
            "",
            loop=fold("product", "1", "product *= $transformation"),
            word="product",
            kin="fold",
        ),
        part(
            "count",
            "the count of $transformation",
            "return sum(1 $source $filter)",
            loop=fold("count", "0", "count += 1"),
            word="count",
            kin="fold",
        ),
        part(
            "list",
            "a list of $transformation",
            "return [$transformation $source $filter]",
            loop=fold("result", "[]", "result.append($transformation)"),
            word="collect",
            kin="collection",
        ),
        part(
            "largest",
            "the largest of $transformation (0 if there are none)",
            "return max(($transformation $source $filter), default=0)",
            word="largest",
            kin="extreme",
        ),
        part(
            "smallest",
            "the smallest of $transformation (0 if there are none)",
            "return min(($transformation $source $filter), default=0)",
            word="smallest",
            kin="extreme",
        ),
        part(
            "set",
            "the set of $transformation",
            "return {$transformation $source $filter}",
            word="distinct",
            kin="collection",
        ),
    ),
}


def fold_shape(key: str, sources: tuple[Part, ...], draw: Callable[[random.Random], object], num_items: Items) -> Shape:
    """Folds over these sources; ranges and digits want arguments of different sizes."""
    return Shape(
        key=key,
        family="number_loop",
        slots={"source": sources} | FOLD_SLOTS,
        signatures=INTEGER_SIGNATURES,
        name="$operation $filter $source $noun",
        noun="numbers",
        noun_slot="source",
        draw_argument=draw,
        num_items=num_items,
    )


FOLD_RANGE = fold_shape("range", tuple(entry for entry in SOURCES if entry.key != "digits"), draw_integer, (80, 10, 24))
FOLD_DIGITS = fold_shape("digits", tuple(entry for entry in SOURCES if entry.key == "digits"), draw_digits, (36, 5, 12))


def over_all(head: str, tail: str = "") -> str:
    return f"return {head}($condition $source){tail}"


PREDICATE = Shape(
    key="predicate",
    family="number_loop",
    slots={
        "source": (
            part("digits", "digits of `$parameter`", DIGITS, word="digits", variable="digit"),
            part(
                "divisors", "divisors of `$parameter`", f"{DIVISOR_RANGE} if {DIVIDES}", word="divisors", variable="d"
            ),
            part(
                "proper",
                "proper divisors of `$parameter`",
                f"{PROPER_DIVISOR_RANGE} if {DIVIDES}",
                word="divisors",
                variable="d",
            ),
        ),
        "condition": (
            part("even", "even", "$x % 2 == 0", word="even", kin="parity"),
            part("odd", "odd", "$x % 2 == 1", word="odd", kin="parity"),
            part("multiple_of_3", "divisible by 3", "$x % 3 == 0", kin="multiple"),
            part("not_multiple_of_3", "not divisible by 3", "$x % 3 != 0", kin="multiple"),
            part("multiple_of_5", "divisible by 5", "$x % 5 == 0", kin="multiple"),
            part("above_5", "greater than 5", "$x > 5", word="large", kin="bound"),
            part("from_5", "at least 5", "$x >= 5", word="large", kin="bound"),
            part("below_7", "less than 7", "$x < 7", word="small", kin="bound"),
            part("up_to_7", "at most 7", "$x <= 7", word="small", kin="bound"),
        ),
        "quantifier": (
            part("all", "whether all of the $source are $condition", over_all("all"), kin="all"),
            part(
                "any",
                "whether at least one of the $source is $condition | whether any of the $source is $condition",
                over_all("any"),
                kin="any",
            ),
            part("none", "whether none of the $source is $condition", over_all("not any"), kin="any"),
            part("not_all", "whether not all of the $source are $condition", over_all("not all"), kin="all"),
            part("one", "whether exactly one of the $source is $condition", over_all("sum", " == 1"), kin="count"),
            part("two", "whether at least two of the $source are $condition", over_all("sum", " >= 2"), kin="count"),
            part(
                "at_most_one", "whether at most one of the $source is $condition", over_all("sum", " <= 1"), kin="count"
            ),
        ),
    },
    signatures=INTEGER_SIGNATURES,
    name="check $condition $source $noun",
    noun="numbers",
    noun_slot="source",
    draw_argument=draw_digits,
    num_items=(42, 6, 12),
)


def around(key: str, phrase: str, result: str, start: str, term: str, following: str, step: str) -> tuple[Part, ...]:
    """Four loops to a power of a base next to a number: `term` is the power reached, `following` the next one."""
    return tuple(
        part(
            f"{key}_{relation}",
            phrase % f"{which} power of $base that is {words} `$parameter`",
            f"{result} = {start}\nwhile {compared} $parameter:\n    {result} {step}\nreturn {result}",
            word=f"{name}_{result}",
            kin=which,
        )
        for relation, which, words, compared, name in (
            ("from", "smallest", "at least", f"{term} <", "next"),
            ("above", "smallest", "greater than", f"{term} <=", "next"),
            ("up_to", "largest", "at most", f"{following} <=", "last"),
            ("below", "largest", "less than", f"{following} <", "last"),
        )
    )


POWER = Shape(
    key="power",
    family="number_loop",
    slots={
        "base": tuple(part(str(base), str(base), str(base)) for base in (2, 3, 5, 7, 10)),
        "wanted": (
            *around("power", "the %s (`$parameter` > 1)", "power", "1", "power", "power * $base", "*= $base"),
            *around(
                "exponent",
                "the exponent of the %s (`$parameter` > 1)",
                "exponent",
                "0",
                "$base ** exponent",
                "$base ** (exponent + 1)",
                "+= 1",
            ),
        ),
    },
    signatures=INTEGER_SIGNATURES,
    name="$wanted $noun",
    noun="power_bound",
    noun_slot="wanted",
    draw_argument=lambda rng: rng.choice(
        (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 20, 25, 27, 32, 36, 40, 49, 50, 64, 81, 99, 100, 101)
    ),
    num_items=(22, 3, 7),
)
