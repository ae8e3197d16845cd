"""Makes the code sample set: one-sentence specifications, four Python functions each, and tests that tell them apart.

The four options of an item are the corners of a square: two slots of one shape with two values each. So every wrong
option is a real function for another specification, and nothing but the wording marks the right one: each of its parts
stands in two of the four. `scripts/build_sample_data` calls `build`.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from code_dictionaries import GROUPING, MAPPING, SELECTION
from code_integers import FOLD_DIGITS, FOLD_RANGE, POWER, PREDICATE
from code_sequences import CHARACTERS, NUMBERS, TEXT_WORDS
from code_shapes import Combination, Part, Shape

SHAPES = (NUMBERS, TEXT_WORDS, CHARACTERS, SELECTION, MAPPING, GROUPING, FOLD_RANGE, FOLD_DIGITS, PREDICATE, POWER)
SPLITS = ("train", "validation", "test")
NUM_PROBES = 80
MAX_COMMONEST_RESULT_SHARE = 0.8
"""A function that gives one result more often on the probes is as good as constant, and is left out."""
MIN_DIFFERENT_SHARE = 0.08
"""On at least so many of the probes a wrong option gives another result than the right one."""
MIN_TRAIN_USES = 2
"""Every part stands in at least so many training answers."""
MAX_CUTS = 200
MAX_QUESTION_LENGTH = 200
MAX_OPTION_LENGTH = 220
MAX_LENGTH_DIFFERENCE = 28
MAX_TEST_LENGTH = 110
NEAR_SHARE = 0.3
"""How often the other value of a slot is one of the same kin."""

REQUESTS = (
    "Write a Python function `{call}` that returns {what}.",
    "Write a function `{call}` that returns {what}.",
    "Implement `{call}` so that it returns {what}.",
    "Define a Python function `{call}` which returns {what}.",
    "Complete `{call}`, a Python function that returns {what}.",
)

Row = dict[str, object]
Results = tuple[str, ...]
"""What a function returns for each probe, as literals: two functions with the same results do the same."""


@dataclass(frozen=True)
class Catalogue:
    """The combinations of one shape that make sense, no two of which do the same, with their results on the probes."""

    shape: Shape
    probes: list[object]
    results: dict[Combination, Results]


def build(seed: int) -> dict[str, list[Row]]:
    """The rows of all splits. Every combination makes at most one item, so splits share none."""
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for shape in SHAPES:
        for split, rows in shape_rows(catalogue(shape), seed).items():
            splits[split] += rows
    for split, rows in splits.items():
        random.Random(f"order:{seed}:{split}").shuffle(rows)
        splits[split] = [finish(row, split, number) for number, row in enumerate(rows)]
    return splits


def finish(row: Row, split: str, number: int) -> Row:
    """Give the row its id and put the right option in each of the four places equally often."""
    assert isinstance(row["options"], list)
    options = [option for option in row["options"] if option != row["answer"]]
    options.insert(number % 4, row["answer"])
    return {"id": f"code-{split}-{number + 1:04d}"} | row | {"options": options}


# --- combinations -----------------------------------------------------------------------------------------------------


def catalogue(shape: Shape) -> Catalogue:
    """Run every combination on the probes; keep the first of those that do the same, and none that is near constant."""
    rng = random.Random(f"probes:{shape.key}")
    probes = [shape.draw_argument(rng) for _ in range(NUM_PROBES)]
    results: dict[Combination, Results] = {}
    seen: set[Results] = set()
    for combination in shape.combinations():
        if not uses_all_variables(shape, combination):
            continue
        loop = shape.layouts([combination])[0]
        function = load(shape.function(combination, shape.signatures[0], "probe", loop), "probe")
        found = tuple(literal(function(probe)) for probe in probes)
        commonest = max(Counter(found).values())
        if found not in seen and commonest <= MAX_COMMONEST_RESULT_SHARE * NUM_PROBES:
            seen.add(found)
            results[combination] = found
    return Catalogue(shape, probes, results)


def uses_all_variables(shape: Shape, combination: Combination) -> bool:
    codes = " ".join(part.code + part.loop for part in combination)
    return all(f"${variable}" in codes for variable in shape.loop_variables)


def load(code: str, name: str) -> Callable[[object], object]:
    """The function that this project's own generated `code` defines."""
    namespace: dict[str, object] = {}
    exec(code, namespace)
    function = namespace[name]
    assert callable(function)
    return function


def literal(value: object) -> str:
    """Python source of the value; sets in order, so that rebuilding gives the same bytes."""
    if isinstance(value, set):
        return "{" + ", ".join(map(literal, sorted(value))) + "}" if value else "set()"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and '"' not in value and "\\" not in value:
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def shape_rows(found: Catalogue, seed: int) -> dict[str, list[Row]]:
    """As many items of one shape as it asks for, cut into the splits at random."""
    shape = found.shape
    rng = random.Random(f"split:{seed}:{shape.key}")
    pairs = choose_items(found, seed, rng)
    for _ in range(MAX_CUTS):
        rng.shuffle(pairs)
        uses = Counter(use for combination, _ in pairs[: shape.num_items[0]] for use in part_uses(shape, combination))
        if all(uses[use] >= MIN_TRAIN_USES for combination, _ in pairs for use in part_uses(shape, combination)):
            rows = iter([row for _, row in pairs])
            return {
                split: list(itertools.islice(rows, count)) for split, count in zip(SPLITS, shape.num_items, strict=True)
            }
    raise ValueError(f"{shape.key}: no cut of {MAX_CUTS} has every part {MIN_TRAIN_USES} times in training; add items")


def choose_items(found: Catalogue, seed: int, rng: random.Random) -> list[tuple[Combination, Row]]:
    """Combinations with their rows, always next the one whose parts were used least: parts come about equally often."""
    shape = found.shape
    left = sorted(found.results, key=shape.group)
    rng.shuffle(left)
    uses: Counter[tuple[str, str]] = Counter()
    pairs: list[tuple[Combination, Row]] = []
    while len(pairs) < sum(shape.num_items):
        assert left, f"{shape.key}: only {len(pairs)} items of {shape.num_items}"
        combination = min(left, key=lambda one: sum(uses[use] for use in part_uses(shape, one)))
        left.remove(combination)
        row = make_row(found, combination, seed)
        if row is not None:
            uses.update(part_uses(shape, combination))
            pairs.append((combination, row))
    return pairs


def part_uses(shape: Shape, combination: Combination) -> list[tuple[str, str]]:
    return [(slot, part.key) for slot, part in zip(shape.slots, combination, strict=True)]


# --- items ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Square:
    """The answer's combination first, then three others, and the two slots in which they differ."""

    corners: tuple[Combination, ...]
    varied: tuple[str, str]


def make_row(found: Catalogue, combination: Combination, seed: int) -> Row | None:
    """An item without id, or None where no square around the combination keeps the rules."""
    shape = found.shape
    group = shape.group(combination)
    rng = random.Random(f"item:{seed}:{group}")
    words = rng.choice(shape.signatures)
    for square in squares(found, combination, rng):
        name = shape.function_name(combination, mentioned_slots(shape, square, rng))
        call = f"{name}({words['parameter']})"
        codes = option_codes(shape, square, words, name, rng)
        tests = choose_tests(found, square, name, rng)
        if codes is None or tests is None:
            continue
        check_options(codes, tests)
        question = make_question(shape.specification(combination, words, rng), call, rng)
        if question is None:
            continue
        return {
            "task": shape.family,
            "question": question,
            "options": [codes[0], *rng.sample(codes[1:], 3)],
            "answer": codes[0],
            "group": group,
            "tests": tests,
            "entry_point": name,
        }
    return None


def make_question(what: str, call: str, rng: random.Random) -> str | None:
    """The request for a function that returns `what`, in one of the phrasings that are short enough, if any is."""
    questions = [request.format(call=call, what=what) for request in REQUESTS]
    short = [question for question in questions if len(question) <= MAX_QUESTION_LENGTH]
    return rng.choice(short) if short else None


def squares(found: Catalogue, combination: Combination, rng: random.Random) -> Iterator[Square]:
    """Squares around the combination in random order, a share of them with near values."""
    slots = list(found.shape.slots)
    choices = []
    for first, second in itertools.combinations(range(len(slots)), 2):
        for one, other in itertools.product(found.shape.slots[slots[first]], found.shape.slots[slots[second]]):
            if one is not combination[first] and other is not combination[second]:
                choices.append((first, second, one, other))
    rng.shuffle(choices)
    if rng.random() < NEAR_SHARE:
        choices.sort(
            key=lambda choice: count_near(combination, {choice[0]: choice[2], choice[1]: choice[3]}), reverse=True
        )
    for first, second, one, other in choices:
        corners = tuple(
            replaced(combination, changes)
            for changes in ({}, {first: one}, {second: other}, {first: one, second: other})
        )
        if all(corner in found.results for corner in corners) and are_alike(corners):
            answer, *others = (found.results[corner] for corner in corners)
            if all(share_different(answer, results) >= MIN_DIFFERENT_SHARE for results in others):
                yield Square(corners, (slots[first], slots[second]))


def count_near(combination: Combination, changes: dict[int, Part]) -> int:
    return sum(bool(part.kin) and part.kin == combination[place].kin for place, part in changes.items())


def replaced(combination: Combination, changes: dict[int, Part]) -> Combination:
    return tuple(changes.get(place, part) for place, part in enumerate(combination))


def are_alike(corners: tuple[Combination, ...]) -> bool:
    """Whether all four name their loop variable alike: a digit and a divisor in one item would tell them apart."""
    return len({tuple(part.variable for part in corner) for corner in corners}) == 1


def share_different(first: Results, second: Results) -> float:
    return sum(one != other for one, other in zip(first, second, strict=True)) / len(first)


def mentioned_slots(shape: Shape, square: Square, rng: random.Random) -> set[str]:
    """All slots but one of the two that vary, so that the name alone never decides between the options."""
    mentioned = set(shape.slots) - {rng.choice(square.varied)}
    if len(mentioned) > 1 and rng.random() < 0.4:
        mentioned.remove(rng.choice(sorted(mentioned)))
    return mentioned


def option_codes(
    shape: Shape, square: Square, words: dict[str, str], name: str, rng: random.Random
) -> list[str] | None:
    """The four functions, written alike: all in one layout, of equally many lines and similar length."""
    layouts = shape.layouts(square.corners)
    for loop in rng.sample(layouts, len(layouts)):
        codes = [shape.function(corner, words, name, loop) for corner in square.corners]
        lengths = [len(code) for code in codes]
        if (
            len({code.count("\n") for code in codes}) == 1
            and max(lengths) <= MAX_OPTION_LENGTH
            and max(lengths) - min(lengths) <= MAX_LENGTH_DIFFERENCE
        ):
            return codes
    return None


def choose_tests(found: Catalogue, square: Square, name: str, rng: random.Random) -> list[str] | None:
    """Three to five calls: probes that tell the most wrong options apart, then more with other results."""
    answer, *others = (found.results[corner] for corner in square.corners)
    asserts = [assertion(name, probe, result) for probe, result in zip(found.probes, answer, strict=True)]
    order = [place for place, text in enumerate(asserts) if len(text) <= MAX_TEST_LENGTH]
    rng.shuffle(order)
    chosen: list[int] = []
    left = others
    while left:
        best = max(order, key=lambda place: sum(results[place] != answer[place] for results in left), default=None)
        if best is None or all(results[best] == answer[best] for results in left):
            return None
        chosen.append(best)
        left = [results for results in left if results[best] == answer[best]]
    wanted = rng.choice((3, 4))
    for place in order:
        if len(chosen) < wanted and place not in chosen and answer[place] not in {answer[done] for done in chosen}:
            chosen.append(place)
    for place in order:
        if len(chosen) < 3 and literal(found.probes[place]) not in {literal(found.probes[done]) for done in chosen}:
            chosen.append(place)
    if not 3 <= len(chosen) <= 5:
        return None
    return [asserts[place] for place in chosen]


def assertion(name: str, argument: object, expected: str) -> str:
    call = f"{name}({literal(argument)})"
    match expected:
        case "True":
            return f"assert {call}"
        case "False":
            return f"assert not {call}"
        case "None":
            return f"assert {call} is None"
        case _:
            return f"assert {call} == {expected}"


def check_options(codes: list[str], tests: list[str]) -> None:
    """The first function passes all tests, every other fails at least one."""
    passed = [passes(code, tests) for code in codes]
    assert passed == [True, False, False, False], f"{passed} for\n{codes[0]}\n{tests}"
    assert len(set(codes)) == 4


def passes(code: str, tests: list[str]) -> bool:
    """Run the tests on this project's own generated code. A function that raises is a fault in the shapes: let it."""
    namespace: dict[str, object] = {}
    exec(code, namespace)
    try:
        for test in tests:
            exec(test, namespace)
    except AssertionError:
        return False
    return True


CARD = """# Code sample set

One-sentence specifications of short Python functions, each with four implementations of which one is right, and the
unit tests that tell them apart. Small enough to fine-tune the embedded model on a laptop in minutes; meant for trying
the package and for its tests, not as a benchmark.

- **Source**: written by this project, code and specifications alike; nothing was copied or generated by a model.
- **Licence**: Apache-2.0, as the rest of the repository.
- **Language**: English; Python 3, no imports.

{counts}

## Tasks

The four families ask the same kind of question and differ in what the function works on:

- `list_reduction`: sums, extremes, selections and orderings of the numbers in a list.
- `string_function`: the same for the words or the characters of a string.
- `dictionary_function`: selecting from a dictionary, mapping one to another, grouping and counting words in one.
- `number_loop`: ranges, digits and divisors of a number, predicates about them, powers next to it.

## Fields

| Field | Meaning |
|---|---|
| `id` | `code-<split>-<number>` |
| `task` | one of the four families |
| `question` | the specification with the function's signature, at most 200 characters |
| `options` | four complete functions of the same name, 2 to 6 lines, at most 220 characters |
| `answer` | the one of `options` that does what is asked |
| `group` | the shape and the combination of parts that make the answer, such as `list:even:squares:sum` |
| `tests` | three to five assert statements: the answer passes all, every other option fails at least one |
| `entry_point` | the function's name |

## How it was made

`scripts/build_sample_data` combines hand-written parts (`scripts/sample_data/code_*.py`) with a fixed seed. A shape,
say reductions of a list, has slots (filter, transformation, operation), and every part has its wording and its code.
All combinations are run on 80 inputs. Those that do the same as an earlier one (the absolute values of positive
numbers) or nearly always return the same are left out.

The wrong options change one of two slots, or both: with the answer they make a square, in which every value stands in
two options. So nothing but the specification marks the answer. It is neither the one that shares most with the others,
nor of another layout; lengths differ by at most 28 characters, and the right option stands equally often in each of the
four places. Other values are drawn at random, in about three items of ten from those that are easily confused (`>`
and `>=`, even and odd). The function's name leaves out one of the two slots in question, so it never decides alone.

**Disjoint between train, validation and test**: combinations of parts (and so `group`); on the 80 inputs no answer in
one split does the same as an answer of its shape in another. **Shared**: every single part stands in training answers
(so do many pairs), the phrasings, names of parameters, and test inputs. A wrong option may be a combination that is
right for another specification, in any split; where that was trained, it may look the more familiar.

## How to check

`scripts/build_sample_data --check code` makes the files again, runs every option against its tests, and compares the
files byte by byte; `pytest tests/test_sample_data.py` checks counts, schema, duplicates, groups and balance.
Running the tests executes code: it is this project's own, but run a model's own answers in a sandbox only.

## Limits

The functions are one comprehension or one loop and call nothing but built-ins; no errors, classes, input, output or
efficiency. Combinations are systematic, so some specifications are ones that nobody needs. Tests tell the four options
apart; they do not prove a fifth function right. High scores here say that a model connects these words with
these expressions, not that it can program.
"""
