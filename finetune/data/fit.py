"""Fits a conversation into examples of at most max_length tokens. Used by tokenize.py and by the evaluation."""

from dataclasses import replace
from typing import Any

from finetune.config import LongRows
from finetune.data.check import TokenCounts
from finetune.data.encode import Encoded, encode, to_example
from finetune.data.rendering.spans import text_ends
from finetune.data.shorten import shorten_prompt
from finetune.records import Conversation, Example


def fit(
    conversation: Conversation,
    tokenizer: Any,
    max_length: int,
    counts: TokenCounts | None = None,
    *,
    last_turn_only: bool = False,
    long: LongRows = LongRows.split,
) -> list[Example]:
    """Tokenise a conversation into examples of at most `max_length` tokens.

    The prompt of a chat is shortened first, in the middle of its longest texts; an answer that still does not fit goes
    on in further examples (`item#2`, …) that repeat the prompt. A plain text gives as many as it needs (`item#1`, …):
    each begins with the last token of the one before, which carries no loss there, so that every token is predicted
    once. With `LongRows.truncate` the first example alone is returned, and what it leaves out counts as truncated; with
    `LongRows.drop` a row that is too long gives none. Nothing is returned where no token carries loss.

    Raises:
        ModelError: see `tokenize_conversation`.
        RenderProblem: the template refuses the messages.
    """
    encoded = encode([conversation], tokenizer, last_turn_only=last_turn_only)[0]
    return fit_encoded(
        encoded, tokenizer, max_length, counts or TokenCounts(), last_turn_only=last_turn_only, long=long
    )


def fit_encoded(
    encoded: Encoded,
    tokenizer: Any,
    max_length: int,
    counts: TokenCounts,
    *,
    last_turn_only: bool = False,
    long: LongRows = LongRows.split,
) -> list[Example]:
    """Do what `fit` does, for a conversation that is tokenised already."""
    counts.add_length(len(encoded.input_ids))
    if long is LongRows.drop and len(encoded.input_ids) > max_length:
        return []
    shorter = encoded
    if encoded.chat is None:
        examples = _chunks(encoded, max_length)
    else:
        if len(encoded.input_ids) > max_length:
            shorter = shorten_prompt(encoded, tokenizer, max_length, last_turn_only=last_turn_only)
        examples = _continued(shorter, max_length)
    if long is LongRows.truncate:
        examples = examples[:1]
    examples = [example for example in examples if example.num_supervised > 0]
    lost = sum(shorter.loss_mask[1:]) - sum(example.num_supervised for example in examples)
    counts.truncated += lost
    if not examples:
        return []
    if shorter is not encoded:
        counts.shortened_prompts += 1
        counts.prompt_tokens_removed += len(encoded.input_ids) - len(shorter.input_ids)
    counts.continued_answers += encoded.chat is not None and len(examples) > 1
    counts.truncated_rows += lost > 0
    counts.total += sum(len(example.input_ids) for example in examples)
    counts.supervised += sum(example.num_supervised for example in examples)
    counts.rows += 1
    counts.rows_with_end += lost == 0 and _ends_supervised(encoded, tokenizer)
    return examples


def _ends_supervised(encoded: Encoded, tokenizer: Any) -> bool:
    """Whether the token that ends the last answer (or the text) carries loss, so that the model learns to stop."""
    if encoded.chat is None:
        return encoded.loss_mask[-1] and encoded.input_ids[-1] == tokenizer.eos_token_id
    content = encoded.chat.contents[-1]
    return bool(encoded.chat.answers) and (content is None or encoded.chat.answers[-1][1] > content[1])


def _chunks(encoded: Encoded, max_length: int) -> list[Example]:
    """Cut a plain text into consecutive examples; every token but the first carries loss in exactly one of them."""
    num_tokens = len(encoded.input_ids)
    if num_tokens <= max_length:
        return [to_example(encoded, num_tokens)]
    ends = text_ends(encoded.offsets)
    chunks: list[Example] = []
    for number, start in enumerate(range(0, num_tokens - 1, max_length - 1), start=1):
        stop = min(start + max_length, num_tokens)
        chunks.append(
            replace(
                to_example(encoded, 0),
                item_id=f"{encoded.conversation.item_id}#{number}",
                input_ids=encoded.input_ids[start:stop],
                loss_mask=[False, *encoded.loss_mask[start + 1 : stop]],
                num_supervised_bytes=len(encoded.text[ends[start] : ends[stop - 1]].encode()),
            )
        )
    return chunks


def _continued(encoded: Encoded, max_length: int) -> list[Example]:
    """Cut a chat into rows of at most `max_length` tokens: the first, then the rest of the answer behind its prompt.

    The prompt is repeated (its last half of `max_length` tokens where it is longer), so that no answer token is lost;
    only the last row ends the turn. A prompt that leaves no room for an answer gives one row without loss.
    """
    num_tokens = len(encoded.input_ids)
    rows = [to_example(encoded, min(num_tokens, max_length))]
    if num_tokens <= max_length or not rows[0].num_supervised:
        return rows
    prompt_end = max_length
    while prompt_end > 0 and encoded.loss_mask[prompt_end - 1]:
        prompt_end -= 1
    prompt = encoded.input_ids[max(0, prompt_end - max_length // 2) : prompt_end]
    room = max_length - len(prompt)
    for number, start in enumerate(range(max_length, num_tokens, room), start=2):
        stop = min(start + room, num_tokens)
        known, reached = to_example(encoded, start), to_example(encoded, stop)
        rows.append(
            replace(
                reached,
                item_id=f"{encoded.conversation.item_id}#{number}",
                input_ids=[*prompt, *encoded.input_ids[start:stop]],
                loss_mask=[*(False for _ in prompt), *encoded.loss_mask[start:stop]],
                num_supervised_bytes=reached.num_supervised_bytes - known.num_supervised_bytes,
            )
        )
    return rows
