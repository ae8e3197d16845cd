"""Conversations to `Example`s of at most max_length tokens, every loss of text accounted for. Called by jobs.

`tokenize_conversation` and `render_prompt_ids` are passed on from encode.py.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finetune.data.check import PHRASES, Ledger
from finetune.data.encode import (
    Encoded,
    encode,
    render_all,
    render_prompt_ids,
    to_example,
    tokenize_conversation,
)
from finetune.data.render import RenderedChat, RenderProblem
from finetune.data.shorten import shorten_prompt
from finetune.data.spans import text_ends
from finetune.errors import DataError
from finetune.records import Conversation, Example, Rejection

__all__ = ["fit", "render_prompt_ids", "tokenize_conversation", "tokenize_split"]

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 256
_SECONDS_WORTH_A_LINE = 3.0


def fit(
    conversation: Conversation,
    tokenizer: Any,
    max_length: int,
    ledger: Ledger | None = None,
    *,
    last_turn_only: bool = False,
) -> list[Example]:
    """Tokenise a conversation into examples of at most `max_length` tokens.

    The prompt of a chat is shortened first, in the middle of its longest texts; an answer that still does not fit goes
    on in further examples (`item#2`, …) that repeat the prompt. A plain text gives as many as it needs (`item#1`, …):
    each begins with the last token of the one before, which carries no loss there, so that every token is predicted
    once. Nothing is returned where no token carries loss. Counts go to `ledger`, if given.

    Raises:
        ModelError: see `tokenize_conversation`.
        RenderProblem: the template refuses the messages.
    """
    encoded = encode([conversation], tokenizer, last_turn_only=last_turn_only)[0]
    return _fit(encoded, tokenizer, max_length, ledger or Ledger(), last_turn_only=last_turn_only)


def tokenize_split(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    max_length: int,
    ledger: Ledger,
    *,
    last_turn_only: bool = False,
) -> list[Example]:
    """Fit all conversations of a split, and account for them in `ledger`; call it once per split.

    A row that the template refuses, or that has no token to learn from, moves from used to rejected.

    Raises:
        DataError: no row is left, or of the answer tokens counted in `ledger` so far more are cut off than
            `data.max_answer_tokens_lost` allows (`ledger.max_answer_tokens_lost`).
        ModelError: see `tokenize_conversation`.
    """
    started = time.monotonic()
    examples: list[Example] = []
    rejections: list[Rejection] = []
    for start in range(0, len(conversations), _ROWS_AT_ONCE):
        rows = conversations[start : start + _ROWS_AT_ONCE]
        batch, chats = _render_batch(rows, tokenizer, rejections, ledger, last_turn_only=last_turn_only)
        for encoded in encode(batch, tokenizer, last_turn_only=last_turn_only, chats=chats):
            found = _fit(encoded, tokenizer, max_length, ledger, last_turn_only=last_turn_only)
            if not found:
                detail = f"none of its {len(encoded.input_ids)} tokens carries loss (training.max_length={max_length})"
                _reject(encoded.conversation, "all_masked", detail, rejections, ledger)
            examples += found
    seconds = time.monotonic() - started
    if seconds > _SECONDS_WORTH_A_LINE:
        logger.info("tokenised %d rows in %.1f s", len(conversations), seconds)
    if conversations and not examples:
        first = rejections[0]
        raise DataError(
            f"all {len(conversations)} rows {PHRASES[first.reason]} (first: {first.source}: {first.detail}). "
            "Choose another template (model.chat_template=…) or mend the rows"
        )
    _check_lost(ledger, max_length)
    return examples


def _render_batch(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    rejections: list[Rejection],
    ledger: Ledger,
    *,
    last_turn_only: bool,
) -> tuple[list[Conversation], list[RenderedChat | None]]:
    """Render chats; rows that the template refuses are rejected."""
    try:
        return list(conversations), render_all(conversations, tokenizer, last_turn_only=last_turn_only)
    except RenderProblem:
        logger.debug("the chat template refuses some rows; rendering them one by one")
    kept: list[Conversation] = []
    chats: list[RenderedChat | None] = []
    for conversation in conversations:
        try:
            chats += render_all([conversation], tokenizer, last_turn_only=last_turn_only)
        except RenderProblem as problem:
            _reject(conversation, "wrong_type", str(problem.__cause__ or problem), rejections, ledger)
        else:
            kept.append(conversation)
    return kept, chats


def _reject(conversation: Conversation, reason: str, detail: str, rejections: list[Rejection], ledger: Ledger) -> None:
    rejection = Rejection(source=conversation.source, reason=reason, detail=detail)
    rejections.append(rejection)
    ledger.move_to_rejected(rejection, conversation.item_id)


def _fit(encoded: Encoded, tokenizer: Any, max_length: int, ledger: Ledger, *, last_turn_only: bool) -> list[Example]:
    shorter = encoded
    if encoded.chat is None:
        examples = _chunks(encoded, max_length)
    else:
        if len(encoded.input_ids) > max_length:
            shorter = shorten_prompt(encoded, tokenizer, max_length, last_turn_only=last_turn_only)
        examples = _continued(shorter, max_length)
        ledger.continued_answers += len(examples) > 1
    examples = [example for example in examples if example.num_supervised > 0]
    lost = sum(shorter.loss_mask) - sum(example.num_supervised for example in examples)
    ledger.tokens["truncated"] += lost
    if not examples:
        return []
    if shorter is not encoded:
        ledger.shortened_prompts += 1
        ledger.prompt_tokens_removed += len(encoded.input_ids) - len(shorter.input_ids)
    ledger.truncated_rows += lost > 0
    ledger.tokens["total"] += sum(len(example.input_ids) for example in examples)
    ledger.tokens["supervised"] += sum(example.num_supervised for example in examples)
    return examples


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


def _check_lost(ledger: Ledger, max_length: int) -> None:
    share, lost = ledger.answer_tokens_lost_share, ledger.tokens["truncated"]
    if share > ledger.max_answer_tokens_lost:
        raise DataError(
            f"{100 * share:.1f} % of the answer tokens ({lost:,} of {lost + ledger.tokens['supervised']:,}) do not fit "
            f"training.max_length={max_length}, more than data.max_answer_tokens_lost="
            f"{ledger.max_answer_tokens_lost:g} allows. Raise training.max_length, shorten the rows, or raise "
            "data.max_answer_tokens_lost"
        )
