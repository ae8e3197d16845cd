"""Test rows as token ids that fit the model: cut as in training (`finetune.data`), the same for all contestants.

`evaluate` calls this.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finetune.data.check import TokenCounts
from finetune.data.rendering.render import RenderProblem
from finetune.data.tokenize import fit, render_prompt_ids, tokenize_conversation
from finetune.errors import DataError
from finetune.records import Conversation, Example

logger = logging.getLogger(__name__)


def fitting_rows(conversations: Sequence[Conversation], tokenizer: Any, max_length: int) -> list[Conversation]:
    """Leave out rows that the chat template refuses or that have nothing to predict, and log what was cut.

    Raises:
        DataError: if nothing is left.
    """
    counts, kept = TokenCounts(), list[Conversation]()
    for row in conversations:
        try:
            examples = fit(row, tokenizer, max_length, counts)
        except RenderProblem:
            examples = []
        if sum(example.num_supervised_bytes for example in examples) > 0:
            kept.append(row)
    if not kept:
        raise DataError(
            f"none of {len(conversations)} test rows has an answer token within {max_length} tokens; "
            "raise training.max_length, or look at the rows with inspect"
        )
    if len(kept) < len(conversations):
        logger.warning("%d of %d test rows have nothing to score", len(conversations) - len(kept), len(conversations))
    if counts.shortened_prompts or counts.truncated_rows:
        logger.info(
            "test rows longer than %d tokens: %d prompts shortened, %d answers cut",
            *(max_length, counts.shortened_prompts, counts.truncated_rows),
        )
    return kept


def option_examples(row: Conversation, tokenizer: Any, max_length: int) -> list[Example]:
    """One example per option of a choice item, the option in the place of the answer.

    All options follow the same prompt: where the longest does not fit, the prompt is shortened for all of them.
    """
    answered = [replace(row, messages=(*row.prompt, replace(row.messages[-1], content=text))) for text in row.options]
    examples = [tokenize_conversation(candidate, tokenizer, last_turn_only=True) for candidate in answered]
    longest = max(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    if len(examples[longest].input_ids) <= max_length:
        return examples
    prompt = _shortened_prompt(answered[longest], tokenizer, max_length)
    return [_after(prompt, example, max_length) for example in examples]


def prompt_ids(row: Conversation, tokenizer: Any, max_length: int) -> list[int]:
    """Token ids of the turns before the answer and its opening; shortened where prompt and answer do not fit."""
    if len(tokenize_conversation(row, tokenizer, last_turn_only=True).input_ids) <= max_length:
        return render_prompt_ids(row.prompt, row.tools, tokenizer)
    return _shortened_prompt(row, tokenizer, max_length)


def _shortened_prompt(row: Conversation, tokenizer: Any, max_length: int) -> list[int]:
    found = fit(row, tokenizer, max_length, last_turn_only=True)
    if not found:
        raise DataError(f"{row.source}: the chat template alone is longer than {max_length} tokens")
    return found[0].input_ids[: found[0].loss_mask.index(True)]


def _after(prompt: list[int], example: Example, max_length: int) -> Example:
    start = example.loss_mask.index(True)
    ids = [*prompt, *example.input_ids[start:]][:max_length]
    mask = [*[False] * len(prompt), *example.loss_mask[start:]][:max_length]
    return replace(example, input_ids=ids, loss_mask=mask)
