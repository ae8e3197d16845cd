"""The legal sample set: kinds of clause, governing law and notice periods, from hand-written templates.

Called by scripts/build_sample_data. Whatever decides generalisation is divided by hand before anything is drawn: the
templates (legal_clauses_*.py) and the names, jurisdictions, amounts and years that fill them (legal_text.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from legal_clauses_answers import LAW_QUESTIONS, NOTICE_QUESTIONS
from legal_clauses_risk import CONFIDENTIALITY, FORCE_MAJEURE, INDEMNIFICATION, LIMITATION_OF_LIABILITY
from legal_clauses_terms import ASSIGNMENT, GOVERNING_LAW, NON_COMPETE, TERMINATION_FOR_CONVENIENCE
from legal_text import POOLS, Pool, common_fillings, fill, write_number

Row = dict[str, object]
Draw = Callable[[str, Pool, random.Random], tuple[str, str, list[str]]]
"""Fill one template: clause, answer, options."""

CLAUSE_TYPES = {
    "Assignment": ASSIGNMENT,
    "Confidentiality": CONFIDENTIALITY,
    "Force Majeure": FORCE_MAJEURE,
    "Governing Law": GOVERNING_LAW,
    "Indemnification": INDEMNIFICATION,
    "Limitation of Liability": LIMITATION_OF_LIABILITY,
    "Non-Compete": NON_COMPETE,
    "Termination for Convenience": TERMINATION_FOR_CONVENIENCE,
}
COUNTS = {
    "train": {"clause_type": 400, "governing_law": 176, "notice_period": 144},
    "validation": {"clause_type": 48, "governing_law": 22, "notice_period": 18},
    "test": {"clause_type": 120, "governing_law": 56, "notice_period": 44},
}
QUESTIONS = {
    "clause_type": "Which type of clause is this?",
    "governing_law": "Which jurisdiction's law governs?",
    "notice_period": "What notice period does this clause require?",
}
NOTICE_DAYS = (10, 15, 30, 45, 60, 90)
NUM_OPTIONS = 4


def build(seed: int) -> dict[str, list[Row]]:
    """Rows of the three splits; the same seed gives the same rows."""
    assert_templates_differ()
    splits: dict[str, list[Row]] = {}
    for split, counts in COUNTS.items():
        rows: list[Row] = []
        for task, count in counts.items():
            rng = random.Random(f"legal {split} {task} {seed}")
            rows += make_task(task, split, count, rng)
        random.Random(f"legal {split} order {seed}").shuffle(rows)
        splits[split] = [{"id": f"legal-{split}-{number:04}"} | row for number, row in enumerate(rows, start=1)]
    return splits


def make_task(task: str, split: str, count: int, rng: random.Random) -> list[Row]:
    """`count` different rows of one task, its templates used equally often (to within one)."""
    templates = list_templates(task, split)
    draw = drawer(task, POOLS[split], rng)
    rows: list[Row] = []
    seen: set[str] = set()
    for number in range(count):
        group, template = templates[number % len(templates)]
        clause, answer, options = draw_new(draw, template, group, POOLS[split], rng, seen)
        question = f"{QUESTIONS[task]}\n\n{clause}"
        rows.append({"task": task, "question": question, "options": options, "answer": answer, "group": group})
    return rows


def draw_new(
    draw: Draw, template: str, group: str, pool: Pool, rng: random.Random, seen: set[str]
) -> tuple[str, str, list[str]]:
    """A filling that has not been used; a template with too few placeholders is our mistake."""
    for _ in range(50):
        clause, answer, options = draw(template, pool, rng)
        if clause not in seen:
            seen.add(clause)
            rng.shuffle(options)
            return clause, answer, options
    raise AssertionError(f"{group} offers too few fillings")


def list_templates(task: str, split: str) -> list[tuple[str, str]]:
    """(group, template) of one task and split; for clause_type in an order that takes the types in turn."""
    if task == "clause_type":
        by_type = [kind.by_split[split] for kind in CLAUSE_TYPES.values()]
        return [
            (f"clause_type-{kind.lower().replace(' ', '-')}-{split}-{number:02}", texts[number - 1])
            for number in range(1, len(by_type[0]) + 1)
            for kind, texts in zip(CLAUSE_TYPES, by_type, strict=True)
        ]
    source = LAW_QUESTIONS if task == "governing_law" else NOTICE_QUESTIONS
    return [(f"{task}-{split}-{number:02}", text) for number, text in enumerate(source.by_split[split], start=1)]


def drawer(task: str, pool: Pool, rng: random.Random) -> Draw:
    """The function that fills templates of one task, with its own deck of answers so that they are balanced."""
    if task == "clause_type":
        return draw_clause
    if task == "governing_law":
        return law_drawer(deal(range(len(pool.jurisdictions)), rng))
    return notice_drawer(deal(NOTICE_DAYS, rng))


def deal(values: Sequence[int], rng: random.Random) -> Iterator[int]:
    """Every value once in random order, then again, without end."""
    while True:
        yield from rng.sample(values, len(values))


def draw_clause(template: str, pool: Pool, rng: random.Random) -> tuple[str, str, list[str]]:
    """A clause and its type among all eight."""
    kinds = [
        name for name, texts in CLAUSE_TYPES.items() if any(template in block for block in texts.by_split.values())
    ]
    return fill(template, common_fillings(pool, rng)), kinds[0], list(CLAUSE_TYPES)


def law_drawer(answers: Iterator[int]) -> Draw:
    """Clauses that name the governing law and one or two other places; all of those are options."""

    def draw(template: str, pool: Pool, rng: random.Random) -> tuple[str, str, list[str]]:
        law = pool.jurisdictions[next(answers)]
        others = rng.sample([place for place in pool.jurisdictions if place != law], NUM_OPTIONS - 1)
        fillings = common_fillings(pool, rng) | {
            "law": law.law,
            "other_law": others[0].law,
            "other_seat": others[0].seat,
            "third_seat": others[1].seat,
        }
        return fill(template, fillings), law.name, [law.name, *(place.name for place in others)]

    return draw


def notice_drawer(answers: Iterator[int]) -> Draw:
    """Clauses that name the notice period and another number of days; both are options."""

    def draw(template: str, pool: Pool, rng: random.Random) -> tuple[str, str, list[str]]:
        days = next(answers)
        others = rng.sample([other for other in NOTICE_DAYS if other != days], NUM_OPTIONS - 1)
        in_words = rng.random() < 0.5
        fillings = common_fillings(pool, rng) | {
            "days": write_number(days, in_words),
            "other_days": write_number(others[0], in_words),
        }
        return fill(template, fillings), f"{days} days", [f"{number} days" for number in (days, *others)]

    return draw


def assert_templates_differ() -> None:
    """No template stands twice, in whatever split or task."""
    sources = [*CLAUSE_TYPES.values(), LAW_QUESTIONS, NOTICE_QUESTIONS]
    texts = [text for source in sources for block in source.by_split.values() for text in block]
    repeated = {text for text in texts if texts.count(text) > 1}
    assert not repeated, f"templates stand twice: {repeated}"


CARD = """
# Legal sample set

Short contract clauses with three kinds of question, each with one checkable answer. Small enough to fine-tune the
embedded model on a laptop in minutes; meant for trying the package and for its tests, not as a benchmark.

- **Source**: written by this project. No contract was copied; parties are invented, any likeness is chance.
- **Licence**: Apache-2.0, as the rest of the repository.
- **Language**: English, mostly in the style of US commercial contracts.

{counts}

## Tasks

- `clause_type`: a clause, to be named as one of eight types. Options are always all eight.
- `governing_law`: a clause that names the governing law and at least one other place (seat of a company, place of
  arbitration or delivery, …). Options are the right jurisdiction, the places that are mentioned, and others.
- `notice_period`: a clause that names a notice period and a number of days for something else. Options are both and two
  more of 10, 15, 30, 45, 60 and 90 days.

## Fields

| Field | Meaning |
|---|---|
| `id` | `legal-<split>-<number>` |
| `task` | one of the three above |
| `question` | the full text that the model is asked |
| `options` | candidate answers, order drawn by seed |
| `answer` | exactly one of `options` |
| `group` | the template; items of one group are alike, so count groups, not items, when you compute an error |

## How it was made

`scripts/build_sample_data` fills hand-written clause templates (`scripts/sample_data/legal_clauses_*.py`) from lists of
parties, jurisdictions, amounts, periods and dates (`legal_text.py`) with a fixed seed. Answers are dealt evenly, so no
answer of a task is common. About half of the templates name the distractor before the answer.

**Disjoint between train, validation and test**: templates (and so `group`), party names, jurisdictions (a governing law
asked for in test was never seen in training), money amounts, years of dates. **Shared**: the eight labels of
`clause_type`, the six periods of `notice_period`, numbers of months, years, miles and per cent, the vocabulary of the
trade ("indemnify", "hold harmless"), and the wording of the three questions.

## How to check

`scripts/build_sample_data --check legal` makes the files again and compares them byte by byte;
`pytest tests/test_sample_data.py` checks counts, schema, duplicates, groups and balance.

## Limits

Not legal advice. Clauses are one to three sentences, each of one type; real clauses are longer, cross-refer, and mix
types. Whether a clause would be valid or enforceable under the law it names is not considered. Names of parties are
drawn at random, so business and clause need not fit together. High scores here say that a model has learned this
wording, not that it can review a contract.
"""
