"""Shapes over sequences: reductions of lists of numbers, and functions of the words or the characters of a string."""

from __future__ import annotations

import random

from code_shapes import Shape, part

EMPTY_NONE = "(None if there are none)"
EMPTY_TEXT = "(empty string if there are none)"


def reduction(head: str, tail: str = ")") -> str:
    """One return statement around a generator expression over $items."""
    return f"return {head}$transformation for $x in $items if $filter{tail}"


def accumulation(result: str, start: str, step: str) -> str:
    """The same as a loop that builds `result`."""
    return f"{result} = {start}\nfor $x in $items:\n    if $filter:\n        {step}\nreturn {result}"


def draw_numbers(rng: random.Random) -> object:
    pool = (-12, -9, -8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 5, 6, 7, 9, 10, 10, 11, 12, 14, 15, 18, 20, 21, 25)
    return rng.choices(pool, k=rng.randint(2, 6))


NUMBERS = Shape(
    key="list",
    family="list_reduction",
    slots={
        "filter": (
            part("even", "the even $noun in `$items`", "$x % 2 == 0", word="even", kin="parity"),
            part("odd", "the odd $noun in `$items`", "$x % 2 == 1", word="odd", kin="parity"),
            part("positive", "the positive $noun in `$items`", "$x > 0", word="positive", kin="sign"),
            part("negative", "the negative $noun in `$items`", "$x < 0", word="negative", kin="sign"),
            part("nonzero", "the non-zero $noun in `$items`", "$x != 0", word="nonzero", kin="sign"),
            part(
                "multiple_of_3",
                "the multiples of 3 in `$items` | the $noun in `$items` that are divisible by 3",
                "$x % 3 == 0",
                kin="multiple",
            ),
            part(
                "multiple_of_5",
                "the multiples of 5 in `$items` | the $noun in `$items` that are divisible by 5",
                "$x % 5 == 0",
                kin="multiple",
            ),
            part("above_10", "the $noun in `$items` that are greater than 10", "$x > 10", word="large", kin="bound"),
            part("from_10", "the $noun in `$items` that are at least 10", "$x >= 10", word="large", kin="bound"),
            part("below_5", "the $noun in `$items` that are less than 5", "$x < 5", word="small", kin="bound"),
            part("up_to_5", "the $noun in `$items` that are at most 5", "$x <= 5", word="small", kin="bound"),
        ),
        "transformation": (
            part("same", "$filter", "$x"),
            part("squares", "the squares of $filter", "$x * $x", word="squares", kin="power"),
            part("cubes", "the cubes of $filter", "$x ** 3", word="cubes", kin="power"),
            part("doubles", "the doubles of $filter", "2 * $x", word="doubles", kin="power"),
            part("magnitudes", "the absolute values of $filter", "abs($x)", word="magnitudes", kin="sign"),
            part("negatives", "the negatives of $filter", "-$x", word="negatives", kin="sign"),
            part("successors", "the successors of $filter", "$x + 1", word="successors", kin="step"),
            part("predecessors", "the predecessors of $filter", "$x - 1", word="predecessors", kin="step"),
            part("last_digits", "the last digits of $filter", "abs($x) % 10", word="last_digits"),
        ),
        "operation": (
            part(
                "sum",
                "the sum of $transformation | the total of $transformation",
                reduction("sum("),
                loop=accumulation("total", "0", "total += $transformation"),
                word="sum",
                kin="fold",
            ),
            part(
                "product",
                "the product of $transformation (1 if there are none)",
                "",
                loop=accumulation("product", "1", "product *= $transformation"),
                word="product",
                kin="fold",
            ),
            part(
                "count",
                "the count of $transformation",
                "return sum(1 for $x in $items if $filter)",
                loop=accumulation("count", "0", "count += 1"),
                word="count",
                kin="fold",
            ),
            part(
                "largest",
                f"the largest of $transformation {EMPTY_NONE} | the maximum of $transformation {EMPTY_NONE}",
                reduction("max((", "), default=None)"),
                word="largest",
                kin="extreme",
            ),
            part(
                "smallest",
                f"the smallest of $transformation {EMPTY_NONE} | the minimum of $transformation {EMPTY_NONE}",
                reduction("min((", "), default=None)"),
                word="smallest",
                kin="extreme",
            ),
            part(
                "first",
                f"the first of $transformation {EMPTY_NONE}",
                reduction("next((", "), None)"),
                word="first",
                kin="extreme",
            ),
            part("list", "a list of $transformation", reduction("[", "]"), word="collect", kin="collection"),
            part("sorted", "a sorted list of $transformation", reduction("sorted("), word="sort", kin="order"),
            part(
                "descending",
                "a list, in descending order, of $transformation",
                reduction("sorted((", "), reverse=True)"),
                word="rank",
                kin="order",
            ),
            part("set", "the set of $transformation", reduction("{", "}"), word="distinct", kin="collection"),
            part(
                "num_distinct",
                "how many different values there are among $transformation",
                reduction("len({", "})"),
                word="count_distinct",
                kin="collection",
            ),
        ),
    },
    signatures=(
        {"parameter": "items", "items": "items", "x": "x", "noun": "numbers"},
        {"parameter": "numbers", "items": "numbers", "x": "number", "noun": "integers"},
        {"parameter": "values", "items": "values", "x": "value", "noun": "values"},
        {"parameter": "data", "items": "data", "x": "x", "noun": "numbers"},
    ),
    name="$operation $filter $transformation $noun",
    noun="numbers",
    noun_slot="transformation",
    draw_argument=draw_numbers,
    num_items=(180, 24, 56),
)


# Some with capitals, digits, vowels in front, an "s" at the end, and palindromes, so that every filter finds some.
WORDS = (
    "apple", "Otto", "tree", "42", "Anna", "IBM", "bus", "eye", "level", "Kiwi", "sees", "NASA", "glass", "7",
    "orange", "Lens", "a", "Ibis", "noon", "1999", "Ernst", "tea", "USA", "is", "Oslo", "deed", "pens", "Bob", "x2",
    "radar", "Emma", "keys", "under",
)  # fmt: skip


def draw_text(rng: random.Random) -> object:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 6)))


def draw_words(rng: random.Random) -> object:
    return rng.choices(WORDS, k=rng.randint(2, 6))


WORD_FILTERS = (
    part("long", "the $noun with more than four characters", "len($x) > 4", word="long", kin="length"),
    part("from_4", "the $noun with at least four characters", "len($x) >= 4", word="long", kin="length"),
    part("short", "the $noun with at most three characters", "len($x) <= 3", word="short", kin="length"),
    part("vowel", "the $noun that start with a vowel", '$x[0].lower() in "aeiou"', kin="start"),
    part("capital", "the $noun that start with a capital", "$x[0].isupper()", word="capital", kin="start"),
    part("digits", "the $noun that consist of digits", "$x.isdigit()", word="numeric", kin="class"),
    part("capitals", "the $noun written in capitals", "$x.isupper()", word="upper_case", kin="class"),
    part("lower", "the $noun written in lower case", "$x.islower()", word="lower_case", kin="class"),
    part("final_s", 'the $noun that end with "s"', '$x.endswith("s")', kin="affix"),
    part("with_e", 'the $noun that contain an "e"', '"e" in $x', kin="affix"),
    part("palindromes", "the $noun that are palindromes", "$x == $x[::-1]", word="palindromic"),
)


def word_signature(parameter: str) -> dict[str, str]:
    return {
        "parameter": parameter,
        "items": parameter + ".split()",
        "x": "word",
        "noun": f"words of `{parameter}`",
    }


def in_two_steps(result: str) -> str:
    return f"words = [$transformation for $x in $items if $filter]\nreturn {result}"


TEXT_WORDS = Shape(
    key="words",
    family="string_function",
    slots={
        "filter": WORD_FILTERS,
        "transformation": (
            part("same", "$filter", "$x", kind="text"),
            part("upper", "the upper-case forms of $filter", "$x.upper()", word="upper_words", kind="text", kin="case"),
            part(
                "swapped",
                "the swapped-case forms of $filter",
                "$x.swapcase()",
                word="swapped_words",
                kind="text",
                kin="case",
            ),
            part("reversed", "the reversals of $filter", "$x[::-1]", word="reversed_words", kind="text"),
            part("first", "the first characters of $filter", "$x[0]", word="initials", kind="text", kin="end"),
            part("last", "the last characters of $filter", "$x[-1]", word="endings", kind="text", kin="end"),
            part("lengths", "the lengths of $filter", "len($x)", word="lengths", kind="number"),
        ),
        "operation": (
            part(
                "spaces",
                "$transformation, joined by spaces",
                reduction('" ".join('),
                loop=in_two_steps('" ".join(words)'),
                word="join",
                kind="text",
                kin="join",
            ),
            part(
                "hyphens",
                "$transformation, joined by hyphens",
                reduction('"-".join('),
                loop=in_two_steps('"-".join(words)'),
                word="join",
                kind="text",
                kin="join",
            ),
            part(
                "commas",
                "$transformation, joined by commas",
                reduction('",".join('),
                loop=in_two_steps('",".join(words)'),
                word="join",
                kind="text",
                kin="join",
            ),
            part(
                "first",
                f"the first of $transformation {EMPTY_TEXT}",
                reduction("next((", '), "")'),
                word="first",
                kind="text",
                kin="pick",
            ),
            part(
                "longest",
                f"the longest of $transformation {EMPTY_TEXT}",
                reduction("max((", '), key=len, default="")'),
                word="longest",
                kind="text",
                kin="pick",
            ),
            part("sum", "the sum of $transformation", reduction("sum("), word="total", kind="number", kin="fold"),
            part(
                "largest",
                "the largest of $transformation (0 if there are none)",
                reduction("max((", "), default=0)"),
                word="largest",
                kind="number",
                kin="fold",
            ),
            part("list", "a list of $transformation", reduction("[", "]"), word="collect", kin="collection"),
            part("sorted", "a sorted list of $transformation", reduction("sorted("), word="sort", kin="order"),
            part(
                "backwards",
                "a list, in reverse order, of $transformation",
                reduction("[", "][::-1]"),
                word="reverse",
                kin="order",
            ),
            part("set", "the set of $transformation", reduction("{", "}"), word="distinct", kin="collection"),
        ),
    },
    signatures=tuple(word_signature(parameter) for parameter in ("text", "sentence", "line", "title")),
    name="$operation $filter $transformation $noun",
    noun="words",
    noun_slot="transformation",
    draw_argument=draw_text,
    num_items=(110, 14, 34),
)


CHARACTERS = Shape(
    key="characters",
    family="string_function",
    slots={
        "filter": (
            part("vowels", "the vowels in `$items`", '$x.lower() in "aeiou"', word="vowels", kin="letter"),
            part("letters", "the letters in `$items`", "$x.isalpha()", word="letters", kin="letter"),
            part("digits", "the digits in `$items`", "$x.isdigit()", word="digits", kin="class"),
            part("capitals", "the capital letters in `$items`", "$x.isupper()", word="capitals", kin="case"),
            part("lower", "the lower-case letters in `$items`", "$x.islower()", kin="case"),
            part("alphanumeric", "the letters and digits in `$items`", "$x.isalnum()", kin="class"),
            part("no_spaces", "the characters in `$items` other than spaces", '$x != " "', kin="class"),
            part(
                "symbols",
                "the characters in `$items` that are neither letters nor digits",
                "not $x.isalnum()",
                kin="class",
            ),
        ),
        "transformation": (
            part("same", "$filter", "$x", kind="text"),
            part("upper", "the upper-case forms of $filter", "$x.upper()", word="upper", kind="text", kin="case"),
            part(
                "swapped", "the swapped-case forms of $filter", "$x.swapcase()", word="swapped", kind="text", kin="case"
            ),
            part("doubled", "the doubled forms of $filter", "$x * 2", word="doubled", kind="text"),
            part("code_points", "the code points of $filter", "ord($x)", word="code_points", kind="number"),
        ),
        "operation": (
            part(
                "string",
                "a string of $transformation | $transformation as one string",
                reduction('"".join('),
                word="keep",
                kind="text",
                kin="join",
            ),
            part(
                "hyphens",
                "$transformation, joined by hyphens",
                reduction('"-".join('),
                word="join",
                kind="text",
                kin="join",
            ),
            part(
                "backwards",
                "a string, in reverse order, of $transformation",
                reduction('"".join(', ")[::-1]"),
                word="reverse",
                kind="text",
                kin="join",
            ),
            part(
                "first",
                f"the first of $transformation {EMPTY_NONE}",
                reduction("next((", "), None)"),
                word="first",
                kin="pick",
            ),
            part(
                "largest",
                f"the largest of $transformation {EMPTY_NONE}",
                reduction("max((", "), default=None)"),
                word="largest",
                kind="number",
                kin="pick",
            ),
            part("sum", "the sum of $transformation", reduction("sum("), word="total", kind="number", kin="fold"),
            part("list", "a list of $transformation", reduction("[", "]"), word="collect", kin="collection"),
            part("sorted", "a sorted list of $transformation", reduction("sorted("), word="sort", kin="order"),
            part("set", "the set of $transformation", reduction("{", "}"), word="distinct", kin="collection"),
            part(
                "num_distinct",
                "how many different values there are among $transformation",
                reduction("len({", "})"),
                word="count_distinct",
                kin="collection",
            ),
        ),
    },
    signatures=tuple(
        {"parameter": name, "items": name, "x": x} for name, x in (("text", "c"), ("line", "char"), ("code", "c"))
    ),
    name="$operation $transformation $filter $noun",
    noun="characters",
    noun_slot="filter",
    draw_argument=lambda rng: "".join(rng.choices("aeiouAEbcdxyzBKZ0379 -_!.  ", k=rng.randint(3, 7))),
    num_items=(70, 10, 22),
)
