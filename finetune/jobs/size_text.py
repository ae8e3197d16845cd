"""The size of a data set against adapter and schedule, as text for a terminal; `inspect` and `plan` print it."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune.config import RunConfig
from finetune.model.data_size import data_size, size_facts, size_warnings


def size_lines(config: RunConfig, ledger: Mapping[str, Any]) -> Iterator[str]:
    """Write what is counted, what follows, and a line for each rule of thumb that speaks against it."""
    size = data_size(
        ledger,
        config.training,
        config.adapter,
        config.model.shape,
        max_test_items=config.evaluation.max_items,
    )
    if size is None:
        return
    facts = size_facts(size)
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        yield f"{name:{width}}  {text}"
    for warning in size_warnings(size):
        yield f"! {warning.text} (rule of thumb: {warning.source})"
