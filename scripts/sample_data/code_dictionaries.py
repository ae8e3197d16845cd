"""Shapes over dictionaries: selecting from one, mapping one to another, grouping words in one."""

from __future__ import annotations

import random

from code_sequences import WORD_FILTERS, draw_words
from code_shapes import Shape, part

ARTICLES = ("pen", "Ink", "lamp", "Chair", "desk", "cup", "Oven", "sofa", "rug", "Table", "fan", "Mat")


def draw_articles(rng: random.Random) -> object:
    pool = (-1, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 11, 12, 15, 20, 21)
    return {article: rng.choice(pool) for article in rng.sample(ARTICLES, rng.randint(2, 5))}


def article_signature(parameter: str, key: str, value: str, values: str) -> dict[str, str]:
    """$k and $v name the loop's variables and the things in the text, $keys and $values are their plurals."""
    return {
        "parameter": parameter,
        "k": key,
        "v": value,
        "keys": f"{key}s in `{parameter}`",
        "values": values,
        "items": f"{key}, {value} in {parameter}.items()",
    }


ARTICLE_SIGNATURES = (
    article_signature("prices", "product", "price", "prices"),
    article_signature("stock", "item", "quantity", "quantities"),
    article_signature("weights", "part", "weight", "weights"),
    article_signature("orders", "article", "amount", "amounts"),
)

ARTICLE_FILTERS = (
    part("even", "the $keys whose $v is even", "$v % 2 == 0", word="even", kin="parity"),
    part("odd", "the $keys whose $v is odd", "$v % 2 == 1", word="odd", kin="parity"),
    part("multiple_of_5", "the $keys whose $v is a multiple of 5", "$v % 5 == 0", kin="parity"),
    part("above_10", "the $keys whose $v is greater than 10", "$v > 10", word="high", kin="bound"),
    part("from_10", "the $keys whose $v is at least 10", "$v >= 10", word="high", kin="bound"),
    part("below_5", "the $keys whose $v is less than 5", "$v < 5", word="low", kin="bound"),
    part("up_to_5", "the $keys whose $v is at most 5", "$v <= 5", word="low", kin="bound"),
    part("long", "the $keys whose name has more than three letters", "len($k) > 3", word="long", kin="length"),
    part("short", "the $keys whose name has at most three letters", "len($k) <= 3", word="short", kin="length"),
    part("capital", "the $keys whose name starts with a capital", "$k[0].isupper()", word="capital", kin="case"),
    part("lower", "the $keys whose name is in lower case", "$k.islower()", word="lower", kin="case"),
    part("with_a", 'the $keys whose name contains an "a"', '"a" in $k', kin="letter"),
    part("with_e", 'the $keys whose name contains an "e"', '"e" in $k', kin="letter"),
)


def selection(head: str, tail: str = ")") -> str:
    """One return statement around a generator expression over the entries."""
    return f"return {head}$taken for $items if $filter{tail}"


SELECTION = Shape(
    key="select",
    family="dictionary_function",
    slots={
        "filter": ARTICLE_FILTERS,
        "taken": (
            part("values", "the $values of $filter", "$v", word="values", kind="number", kin="value"),
            part("doubled", "the doubled $values of $filter", "2 * $v", word="doubles", kind="number", kin="value"),
            part("squared", "the squared $values of $filter", "$v * $v", word="squares", kind="number", kin="value"),
            part("name_lengths", "the name lengths of $filter", "len($k)", word="name_lengths", kind="number"),
            part("names", "the names of $filter", "$k", word="names", kind="text", kin="name"),
            part(
                "upper_names",
                "the upper-case names of $filter",
                "$k.upper()",
                word="upper_names",
                kind="text",
                kin="name",
            ),
            part(
                "reversed_names",
                "the reversed names of $filter",
                "$k[::-1]",
                word="reversed_names",
                kind="text",
                kin="name",
            ),
            part("initials", "the first letters of $filter", "$k[0]", word="initials", kind="text", kin="name"),
        ),
        "operation": (
            part("sum", "the sum of $taken", selection("sum("), word="sum", kind="number", kin="fold"),
            part(
                "largest",
                "the largest of $taken (0 if there are none)",
                selection("max((", "), default=0)"),
                word="largest",
                kind="number",
                kin="fold",
            ),
            part(
                "smallest",
                "the smallest of $taken (0 if there are none)",
                selection("min((", "), default=0)"),
                word="smallest",
                kind="number",
                kin="fold",
            ),
            part("commas", "$taken, joined by commas", selection('",".join('), word="join", kind="text", kin="join"),
            part("spaces", "$taken, joined by spaces", selection('" ".join('), word="join", kind="text", kin="join"),
            part("list", "a list of $taken", selection("[", "]"), word="collect", kin="collection"),
            part("sorted", "a sorted list of $taken", selection("sorted("), word="sort", kin="order"),
            part(
                "backwards",
                "a list, in reverse order, of $taken",
                selection("[", "][::-1]"),
                word="reverse",
                kin="order",
            ),
            part("set", "the set of $taken", selection("{", "}"), word="distinct", kin="collection"),
        ),
    },
    signatures=ARTICLE_SIGNATURES,
    name="$operation $filter $taken $noun",
    noun="entries",
    noun_slot="taken",
    draw_argument=draw_articles,
    num_items=(60, 8, 18),
    loop_variables=("k", "v"),
)


MAPPING = Shape(
    key="mapping",
    family="dictionary_function",
    slots={
        "filter": ARTICLE_FILTERS,
        "from": (
            part("names", "names", "$k", kin="name"),
            part("upper_names", "upper-case names", "$k.upper()", word="upper", kin="name"),
            part("lower_names", "lower-case names", "$k.lower()", word="lower", kin="name"),
            part("reversed_names", "reversed names", "$k[::-1]", word="reversed", kin="name"),
        ),
        "to": (
            part("values", "$values", "$v", word="to_values"),
            part("doubled", "doubled $values", "2 * $v", word="to_doubles", kin="factor"),
            part("squared", "squared $values", "$v * $v", word="to_squares", kin="factor"),
            part("plus_one", "$values plus one", "$v + 1", word="to_successors", kin="step"),
            part("minus_one", "$values minus one", "$v - 1", word="to_predecessors", kin="step"),
            part("text", "$values as strings", "str($v)", word="to_strings"),
            part("name_lengths", "name lengths", "len($k)", word="to_lengths"),
        ),
        "operation": (
            part(
                "dictionary",
                "a dictionary from $from to $to for $filter | a dictionary that maps $from to $to for $filter",
                "return {$from: $to for $items if $filter}",
            ),
        ),
    },
    signatures=ARTICLE_SIGNATURES,
    name="map $filter $from $noun $to",
    noun="names",
    draw_argument=draw_articles,
    num_items=(60, 8, 19),
    loop_variables=("k", "v"),
)


def group_words(step: str) -> str:
    return f"result = {{}}\nfor $x in $items:\n    if $filter:\n        {step}\nreturn result"


GROUPING = Shape(
    key="grouping",
    family="dictionary_function",
    slots={
        "filter": WORD_FILTERS,
        "by": (
            part("first", "first character", "$x[0]", word="by_initial", kin="end"),
            part("last", "last character", "$x[-1]", word="by_ending", kin="end"),
            part("length", "length", "len($x)", word="by_length"),
            part("lower", "lower-case form", "$x.lower()", word="by_lower_case", kin="case"),
            part("upper", "upper-case form", "$x.upper()", word="by_upper_case", kin="case"),
        ),
        "collect": (
            part(
                "count",
                "a dictionary from each $by to the number of its words, for $filter",
                group_words("result[$by] = result.get($by, 0) + 1"),
                word="count",
                kin="number",
            ),
            part(
                "characters",
                "a dictionary from each $by to the total length of its words, for $filter",
                group_words("result[$by] = result.get($by, 0) + len($x)"),
                word="measure",
                kin="number",
            ),
            part(
                "list",
                "a dictionary from each $by to the list of its words, for $filter",
                group_words("result.setdefault($by, []).append($x)"),
                word="group",
                kin="group",
            ),
            part(
                "set",
                "a dictionary from each $by to the set of its words, for $filter",
                group_words("result.setdefault($by, set()).add($x)"),
                word="distinct",
                kin="group",
            ),
            part(
                "first",
                "a dictionary from each $by to the first of its words, for $filter",
                group_words("result.setdefault($by, $x)"),
                word="first",
                kin="one",
            ),
            part(
                "last",
                "a dictionary from each $by to the last of its words, for $filter",
                group_words("result[$by] = $x"),
                word="last",
                kin="one",
            ),
        ),
    },
    signatures=tuple(
        {"parameter": name, "items": name, "x": "word", "noun": f"words in `{name}`"}
        for name in ("words", "tokens", "terms", "names")
    ),
    name="$collect $filter $noun $by",
    noun="words",
    draw_argument=draw_words,
    num_items=(60, 8, 18),
)
