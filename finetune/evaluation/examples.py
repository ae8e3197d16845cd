"""What the contestants write to a few test questions, side by side: `evaluation/examples.jsonl`, for the report.

Items are chosen by their scores on the main metric: those that tuning won, those that it lost, and some where nothing
changed. Each contestant then answers them greedily in its own words, whatever the metric measured (`example_answers`).
"""

import json
import statistics as averages
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from finetune.errors import DataError
from finetune.evaluation.metrics import BASE, HIGHER_IS_BETTER, TUNED
from finetune.records import Conversation, ItemScore
from finetune.run import write_text

CHOSEN = {"lost": 4, "won": 4, "both right": 2, "neither right": 2, "unchanged": 2}
"""Kinds of examples in the order of the report, and how many of each are shown at most."""


@dataclass(kw_only=True, slots=True)
class Example:
    """One test question with what each contestant wrote; all texts are the user's or a model's."""

    item_id: str
    kind: str
    """A key of `CHOSEN`."""
    question: str
    reference: str
    answers: dict[str, str] = field(default_factory=dict)
    """By contestant."""


def choose_examples(items: Sequence[ItemScore], main_metric: str) -> dict[str, str]:
    """Return item ids with their kinds: by 0 and 1 what changed, else where the difference is largest either way."""
    values: dict[str, dict[str, float]] = {BASE: {}, TUNED: {}}
    for item in items:
        if item.metric == main_metric and item.model in values:
            values[item.model][item.item_id] = item.value
    sign = 1 if HIGHER_IS_BETTER.get(main_metric, True) else -1
    pairs = {name: (value, values[TUNED][name]) for name, value in values[BASE].items() if name in values[TUNED]}
    gains = {name: sign * (tuned - base) for name, (base, tuned) in pairs.items()}
    is_binary = all(value in (0.0, 1.0) for pair in pairs.values() for value in pair)
    kinds: dict[str, list[str]] = {kind: [] for kind in CHOSEN}
    for name in sorted(gains, key=lambda name: -abs(gains[name])):
        if gains[name]:
            kinds["won" if gains[name] > 0 else "lost"].append(name)
        elif is_binary:
            kinds["both right" if pairs[name][0] == 1 else "neither right"].append(name)
    if not is_binary and gains:
        middle = averages.median(gains.values())
        kinds["unchanged"] = sorted(gains, key=lambda name: abs(gains[name] - middle))
    chosen: dict[str, str] = {}
    for kind, names in kinds.items():
        fresh = [name for name in names if name not in chosen]
        chosen |= dict.fromkeys(fresh[: CHOSEN[kind]], kind)
    return chosen


def new_examples(chosen: Mapping[str, str], conversations: Sequence[Conversation]) -> list[Example]:
    """Make the examples of the chosen rows, without answers; plain texts ask nothing and are left out."""
    rows = {row.item_id: row for row in conversations if row.item_id in chosen and row.messages}
    return [
        Example(item_id=name, kind=kind, question=_question(rows[name]), reference=rows[name].answer)
        for name, kind in chosen.items()
        if name in rows
    ]


def _question(row: Conversation) -> str:
    if len(row.prompt) == 1:
        return row.prompt[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in row.prompt)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in examples))


def read_examples(path: Path) -> list[Example]:
    """Read what `write_examples` wrote.

    Raises:
        DataError: a line is no example, with its number.
    """
    examples: list[Example] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            examples.append(Example(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number}: no example; run evaluate again") from error
    return examples
