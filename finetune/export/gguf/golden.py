"""Golden conversations: held-out chats as training rendered and tokenised them, which an exported file must repeat.

Stored in the run folder as JSON; checked by the export job through the runtime's own tokenizer.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.data.encode import encode, encode_texts
from finetune.data.rendering.render import RenderProblem, render_text, template_of
from finetune.records import Conversation, Message

Encode = Callable[[str], Sequence[int]]


def golden_items(conversations: Sequence[Conversation], tokenizer: Any, num: int) -> list[dict[str, Any]]:
    """Return up to `num` items, spread evenly over the conversations; plain texts and what cannot be rendered are
    passed over.

    Each item holds, ready for JSON: `item_id`; `messages` and `tools` as a chat endpoint takes them; `prompt` (all
    before the last answer, and its opening) and `whole`, each with `text` and `ids`; `bos_text`, the BOS token that
    both texts begin with, or ""; `num_bos`, how often it stands in `whole`; `end_id`, the token that ends an answer,
    or None where it is no special token.

    Raises:
        ModelError: the tokenizer has no chat template, or it leaves out what a message says.
    """
    chats = [row for row in conversations if row.messages and row.text is None]
    step = max(1, len(chats) / num) if num else 1
    wanted = [chats[int(place * step)] for place in range(min(num, len(chats)))]
    items = (_item(conversation, tokenizer) for conversation in wanted)
    return [item for item in items if item is not None]


def check_golden(
    items: Sequence[Mapping[str, Any]],
    encode_text: Encode,
    bos: int | None,
    is_end: Callable[[int], bool],
    render: Callable[[list[dict[str, Any]], Any], str] | None = None,
) -> list[str]:
    """Return what is wrong with a runtime's tokenizer, one sentence each; empty when it repeats every item.

    `encode_text` tokenises a prompt as the runtime does it for a chat: special tokens inside the text are recognised,
    BOS and EOS added as the file says. `bos` is the BOS token that it adds (None: none); the text comes without it, as
    chat front ends hand it over. `is_end` tells whether generation stops at a token. `render` writes messages (with
    tools) by the file's own chat template and opens the answer.
    """
    problems: list[str] = []
    for item in items:
        found = [_compare(item[part], part, item["bos_text"], encode_text, bos) for part in ("prompt", "whole")]
        found.append(_check_end(item["end_id"], is_end))
        found.append(_check_text(item, render))
        problems += [f"{item['item_id']}: {problem}" for problem in found if problem]
    return problems


def _item(conversation: Conversation, tokenizer: Any) -> dict[str, Any] | None:
    try:
        whole = encode([conversation], tokenizer)[0]
        if whole.chat is not None and whole.chat.encoded is not None:
            return None  # a runtime is told texts, in which it cannot tell a row's control tokens from the template's
        prompt = render_text(
            conversation.prompt, conversation.tools, template_of(tokenizer), add_generation_prompt=True
        )
    except RenderProblem:
        return None
    bos_text = tokenizer.bos_token or ""
    return {
        "item_id": conversation.item_id,
        "messages": [_message(message) for message in conversation.messages],
        "tools": json.loads(conversation.tools) if conversation.tools else None,
        "prompt": {"text": prompt, "ids": encode_texts([prompt], tokenizer, add_special_tokens=False)[0][0]},
        "whole": {"text": whole.text, "ids": whole.input_ids},
        "bos_text": bos_text if bos_text and whole.text.startswith(bos_text) else "",
        "num_bos": whole.input_ids.count(tokenizer.bos_token_id),
        "end_id": _end_id(whole.input_ids, whole.loss_mask, tokenizer),
    }


def _message(message: Message) -> dict[str, Any]:
    entry = {name: value for name, value in dataclasses.asdict(message).items() if value is not None}
    if message.tool_calls:
        entry["tool_calls"] = json.loads(message.tool_calls)
    return entry


def _end_id(ids: Sequence[int], loss_mask: Sequence[bool], tokenizer: Any) -> int | None:
    """The last token that was learned, if it is a special one; white space behind it is never learned."""
    last = next((token for token, loss in zip(reversed(ids), reversed(loss_mask), strict=True) if loss), None)
    return last if last in tokenizer.added_tokens_decoder else None


def _compare(part: Mapping[str, Any], name: str, bos_text: str, encode_text: Encode, bos: int | None) -> str | None:
    wanted = list(part["ids"])
    got = list(encode_text(part["text"].removeprefix(bos_text) if bos is not None else part["text"]))
    if got == wanted:
        return None
    if bos is not None and got.count(bos) != wanted.count(bos):
        return f"the {name} has {got.count(bos)} BOS tokens ({bos}), and was trained with {wanted.count(bos)}"
    pairs = enumerate(zip(got, wanted, strict=False))
    place = next((place for place, (one, other) in pairs if one != other), min(len(got), len(wanted)))
    return (
        f"the ids of the {name} differ at place {place}: {got[place : place + 4]} instead of "
        f"{wanted[place : place + 4]} ({len(got)} and {len(wanted)} tokens)"
    )


def _check_end(end: int | None, is_end: Callable[[int], bool]) -> str | None:
    if end is None or is_end(end):
        return None
    return f"generation does not stop at the token {end}, which was trained to end an answer"


def _check_text(item: Mapping[str, Any], render: Callable[[list[dict[str, Any]], Any], str] | None) -> str | None:
    if render is None:
        return None
    wanted = item["prompt"]["text"].removeprefix(item["bos_text"])
    got = render(item["messages"][:-1], item["tools"]).removeprefix(item["bos_text"])
    if got == wanted:
        return None
    pairs = enumerate(zip(got, wanted, strict=False))
    place = next((place for place, (one, other) in pairs if one != other), min(len(got), len(wanted)))
    return (
        f"the template writes {got[place : place + 30]!r} at character {place} of the prompt instead of "
        f"{wanted[place : place + 30]!r}"
    )
