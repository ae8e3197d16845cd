"""Lets an exported file answer test items in its own runtime, for the evaluation's table; called by the export job."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import EvaluationConfig
from finetune.data.tokenize import fit
from finetune.evaluation.evaluate import score_contestant
from finetune.evaluation.example_answers import add_answers
from finetune.evaluation.examples import read_examples, write_examples
from finetune.evaluation.fitting import fitting_rows, option_examples, prompt_ids
from finetune.evaluation.metrics import CODE_METRICS, TUNED
from finetune.evaluation.selection import choose_items, main_metric, metrics_of
from finetune.evaluation.summary import read_items, summarise, write_items
from finetune.model.llama_cpp import LlamaCpp
from finetune.records import Conversation, EvaluationResult, ItemScore

logger = logging.getLogger(__name__)


def score_exports(
    files: dict[str, Path],
    table: Path,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    config: EvaluationConfig,
    seed: int,
    *,
    num_items: int,
    max_length: int,
    examples: Path | None = None,
) -> EvaluationResult:
    """Score files, by the name of their format, on the first `num_items` rows that the tuned model was scored on.

    The scores go into the item table, which is written anew, and so do the files' answers into the report's `examples`.

    Raises:
        ExportError: llama.cpp cannot run a file.
    """
    items = [item for item in read_items(table) if item.model not in files]
    measured = metrics_of([item for item in items if item.model == TUNED])
    metrics = _measurable(measured, config)
    asked = {item.item_id for item in items if item.model == TUNED}
    rows = [row for row in choose_items(conversations, config.max_items, seed) if row.item_id in asked][:num_items]
    rows = fitting_rows(rows, tokenizer, max_length)
    shown = read_examples(examples) if examples is not None and examples.is_file() else []
    named = {example.item_id for example in shown}
    asked_rows = [*rows, *(row for row in conversations if row.item_id in named)]
    context = _longest(asked_rows, tokenizer, max_length) + _answer_tokens(metrics, config)
    for name, path in files.items() if metrics else ():
        with LlamaCpp(path, context=context) as runtime:
            items += score_contestant(name, runtime, tokenizer, rows, config, metrics, max_length=max_length)
            add_answers(shown, name, runtime, tokenizer, conversations, config, max_length=max_length)
    write_items(table, items)
    if examples is not None and shown:
        write_examples(examples, shown)
    scored: list[ItemScore] = items
    every_row = [row for row in choose_items(conversations, config.max_items, seed) if row.item_id in asked]
    return summarise(scored, config, seed=seed, main_metric=main_metric(measured, every_row))


def _measurable(metrics: Sequence[str], config: EvaluationConfig) -> list[str]:
    """Leave out what runs code, unless that is allowed now and needs one answer: llama.cpp draws no others here."""
    if config.run_code and config.code_samples == 1:
        return list(metrics)
    return [metric for metric in metrics if metric not in CODE_METRICS]


def _answer_tokens(metrics: Sequence[str], config: EvaluationConfig) -> int:
    """Tokens of the longest answer that is asked for."""
    if set(metrics).isdisjoint(CODE_METRICS):
        return config.max_new_tokens
    return max(config.max_new_tokens, config.max_code_tokens)


def _longest(rows: Sequence[Conversation], tokenizer: Any, max_length: int) -> int:
    """Tokens of the longest sequence that scoring these rows needs."""
    lengths = [1]
    for row in rows:
        if row.messages:
            lengths.append(len(prompt_ids(row, tokenizer, max_length)))
            lengths += [len(example.input_ids) for example in fit(row, tokenizer, max_length)]
        if row.options:
            lengths += [len(example.input_ids) for example in option_examples(row, tokenizer, max_length)]
    texts = [len(tokenizer(row.text)["input_ids"]) for row in rows if row.text is not None]
    return min(max_length, max(lengths + texts))
