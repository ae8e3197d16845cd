"""The grammar of the code sample set: parts, shapes, and how a combination of parts becomes a sentence and a function.

`code_sequences.py` and `code_numbers.py` write down the parts by hand, `code_tasks.py` makes items of them.
"""

from __future__ import annotations

import builtins
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from string import Template
from textwrap import indent


@dataclass(frozen=True)
class Part:
    """One choice for one slot: how it reads in the specification and in the code, each a `string.Template`.

    A template may name the signature's words and the slots that stand before its own in `Shape.slots`.
    """

    key: str
    phrases: tuple[str, ...]
    code: str
    """Empty where only the second layout is natural."""
    loop: str = ""
    """The same in the shape's second layout (an explicit loop, or two steps); empty where it has none."""
    word: str = ""
    """What function names call it; empty where it is not worth a word."""
    kind: str = ""
    """"number" or "text" where it makes or takes only those; parts of two kinds do not combine."""
    kin: str = ""
    """Parts of one kin are easily mistaken for each other (`>` and `>=`, even and odd): the nearer distractors."""
    variable: str = ""
    """Sets $x for the other parts, where the loop variable depends on what is looped over."""


Combination = tuple[Part, ...]


@dataclass(frozen=True)
class Shape:
    """A skeleton with slots. The last slot's template is the whole function body and the whole specification."""

    key: str
    family: str
    slots: dict[str, tuple[Part, ...]]
    signatures: tuple[dict[str, str], ...]
    """Words for the templates; `$parameter` is the function's parameter."""
    name: str
    """Template of the function's name: slot names and `$noun`, separated by blanks."""
    draw_argument: Callable[[random.Random], object]
    """One argument to call the functions with."""
    num_items: tuple[int, int, int]
    """How many train, validation and test items are taken from it."""
    noun: str = ""
    noun_slot: str = ""
    """`$noun` stands in for this slot's word where a name lacks it; empty: `$noun` is always used."""
    loop_variables: tuple[str, ...] = ()
    """Signature words that every function must use, so that no loop unpacks a value it ignores."""

    def combinations(self) -> Iterator[Combination]:
        """All combinations of parts of one kind, those of the first parts first."""
        for combination in itertools.product(*self.slots.values()):
            if len({part.kind for part in combination} - {""}) <= 1:
                yield combination

    def group(self, combination: Combination) -> str:
        return ":".join([self.key, *(part.key for part in combination)])

    def specification(self, combination: Combination, words: dict[str, str], rng: random.Random) -> str:
        """What the function returns, in words, each part in one of its phrasings."""
        texts = dict(words)
        for slot, part in zip(self.slots, combination, strict=True):
            texts[slot] = Template(rng.choice(part.phrases)).substitute(texts)
        return texts[slot]

    def function(self, combination: Combination, words: dict[str, str], name: str, loop: bool = False) -> str:
        """The function's text, without a newline at the end."""
        variables = [part.variable for part in combination if part.variable]
        texts = words | ({"x": variables[0]} if variables else {})
        for slot, part in zip(self.slots, combination, strict=True):
            texts[slot] = Template((loop and part.loop) or part.code).substitute(texts)
        return f"def {name}({words['parameter']}):\n" + indent(texts[slot], "    ")

    def layouts(self, combinations: Iterable[Combination]) -> list[bool]:
        """The values of `function`'s argument `loop` that suit all of the combinations."""
        last = [combination[-1] for combination in combinations]
        return [loop for loop in (False, True) if all(part.loop if loop else part.code for part in last)]

    def function_name(self, combination: Combination, mentioned: set[str]) -> str:
        """A natural name that tells only the `mentioned` slots."""
        texts = {
            slot: part.word if slot in mentioned else "" for slot, part in zip(self.slots, combination, strict=True)
        }
        texts["noun"] = "" if texts.get(self.noun_slot) else self.noun
        spoken = Template(self.name).substitute(texts).split()
        name = "_".join(spoken if len(spoken) > 1 else ["find", *spoken])
        assert name.isidentifier() and not hasattr(builtins, name), name
        return name


def part(key: str, phrases: str, code: str, **rest: str) -> Part:
    """A part whose phrasings are separated by ` | `; the hand-written tables read better so."""
    return Part(key, tuple(phrases.split(" | ")), code, **rest)
