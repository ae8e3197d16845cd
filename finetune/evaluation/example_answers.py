"""Lets a contestant answer the report's examples in its own words; the evaluate and export jobs call it."""

from collections.abc import Sequence
from typing import Any

from finetune.config import EvaluationConfig
from finetune.data.tokenize import tokenize_conversation
from finetune.evaluation import scorers
from finetune.evaluation.examples import Example
from finetune.evaluation.fitting import prompt_ids
from finetune.records import Conversation


def add_answers(
    examples: Sequence[Example],
    name: str,
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    config: EvaluationConfig,
    *,
    max_length: int,
) -> None:
    """Let one contestant answer each example's question greedily, within `evaluation.max_new_tokens`."""
    found = {row.item_id: row for row in conversations}
    rows = [found[example.item_id] for example in examples if example.item_id in found]
    room = max(min(max_length, scorers.context_of(model) - config.max_new_tokens), max_length // 2)
    ends = scorers.end_of_turn_ids(
        model, tokenizer, [tokenize_conversation(row, tokenizer, last_turn_only=True) for row in rows]
    )
    answers = scorers.generate_greedy(
        model,
        tokenizer,
        [prompt_ids(row, tokenizer, int(room)) for row in rows],
        max_new_tokens=config.max_new_tokens,
        batch_tokens=config.batch_tokens,
        eos_token_ids=ends,
    )
    said = dict(zip((row.item_id for row in rows), answers, strict=True))
    for example in examples:
        if example.item_id in said:
            example.answers[name] = said[example.item_id]
