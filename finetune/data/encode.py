"""Token ids and loss masks of whole conversations, one tokenisation each. Used by tokenize.py and preview.py.

Offsets are half-open character ranges of the text that was tokenised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from finetune.config import ControlTokens
from finetune.data.align import has_gaps, realign
from finetune.data.rendering.control_tokens import Guard, guard_of, policy_of
from finetune.data.rendering.render import RenderedChat, RenderProblem, Template, render_chat, render_text, template_of
from finetune.data.rendering.spans import Span, mask_of, text_ends
from finetune.data.turn_text import calls_text
from finetune.data.words import word_encoder
from finetune.errors import ModelError
from finetune.records import Conversation, Example, Message


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation in tokens, whatever its length. `chat` is None for plain text."""

    conversation: Conversation
    text: str
    input_ids: list[int]
    offsets: Sequence[Span]
    loss_mask: list[bool]
    chat: RenderedChat | None


class LateOffsets(Sequence[Span]):
    """The offsets of a text's tokens, found when one of them is asked for: few rows need them."""

    def __init__(self, text: str, num_tokens: int, tokenizer: Any) -> None:
        self._text, self._num_tokens, self._tokenizer = text, num_tokens, tokenizer
        self._spans: list[Span] | None = None

    def __len__(self) -> int:
        return self._num_tokens

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> list[Span]: ...
    def __getitem__(self, index: int | slice) -> Span | list[Span]:
        return self._found()[index]

    def __iter__(self) -> Iterator[Span]:
        return iter(self._found())

    def _found(self) -> list[Span]:
        if self._spans is None:
            self._spans = encode_texts([self._text], self._tokenizer, add_special_tokens=False)[0][1]
        return self._spans


def tokenize_conversation(conversation: Conversation, tokenizer: Any, *, last_turn_only: bool = False) -> Example:
    """Tokenise a conversation, however long, and mark the tokens that carry loss.

    Chat: the assistant's turns with their end-of-turn tokens, or the last one only; special tokens come from the
    template alone. Plain text: every token, an EOS token put at the end; BOS as the tokenizer adds it. The very first
    token carries no loss, since nothing comes before it.

    Raises:
        ModelError: the tokenizer is not a fast one or has no template, or the template leaves a message out.
        RenderProblem: the template refuses the messages.
    """
    encoded = encode([conversation], tokenizer, last_turn_only=last_turn_only)[0]
    return to_example(encoded, len(encoded.input_ids))


def render_prompt_ids(messages: Sequence[Message], tools: str | None, tokenizer: Any) -> list[int]:
    """Token ids of the messages and the opening of the assistant's answer.

    A prefix of the ids of the whole conversation, where template and tokenizer allow: no token may span the opening
    and the answer (with the templates of this package none does, unless the answer begins with white space).
    """
    guard = guard_of(tokenizer)
    if guard is not None and guard.found_in_chat(messages, tools):
        messages, tools = _shielded(messages, tools, guard, tokenizer)
        return guard.encode(render_text(messages, tools, template_of(tokenizer), add_generation_prompt=True))[0]
    text = render_text(messages, tools, template_of(tokenizer), add_generation_prompt=True)
    return encode_texts([text], tokenizer, add_special_tokens=False)[0][0]


def encode(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    *,
    last_turn_only: bool = False,
    chats: Sequence[RenderedChat | None] | None = None,
) -> list[Encoded]:
    """Tokenise conversations together; `chats` are their rendered texts, where the caller has them."""
    if chats is None:
        chats = render_all(conversations, tokenizer, last_turn_only=last_turn_only)
    result: dict[int, Encoded] = {}
    for number, chat in enumerate(chats):
        if chat is not None and chat.encoded is not None:
            ids, offsets = chat.encoded
            mask = mask_of(offsets, chat.answers)
            mask[:1] = [False] * len(mask[:1])
            result[number] = Encoded(conversations[number], chat.text, ids, offsets, mask, chat)
    written = {number: chat for number, chat in enumerate(chats) if chat is not None and number not in result}
    words = word_encoder(tokenizer) if written and getattr(tokenizer, "is_fast", False) else None
    if words is not None:
        found = words.encode([chat.text for chat in written.values()], [chat.answers for chat in written.values()])
        for (number, chat), pair in zip(written.items(), found, strict=True):
            if pair is not None:
                ids, mask = pair
                mask[:1] = [False] * len(mask[:1])
                offsets = LateOffsets(chat.text, len(ids), tokenizer)
                result[number] = Encoded(conversations[number], chat.text, ids, offsets, mask, chat)
    for is_chat in (True, False):
        numbers = [
            number for number, chat in enumerate(chats) if (chat is not None) == is_chat and number not in result
        ]
        rows = [(conversations[number], chats[number]) for number in numbers]
        result |= dict(zip(numbers, _encode_whole(rows, tokenizer, is_chat=is_chat), strict=True))
    return [result[number] for number in range(len(conversations))]


def _encode_whole(
    rows: Sequence[tuple[Conversation, RenderedChat | None]], tokenizer: Any, *, is_chat: bool
) -> Iterator[Encoded]:
    """Tokenise chats, or plain texts, by the tokenizer's own offsets."""
    texts = [chat.text if chat else str(row.text) for row, chat in rows]
    encodings = encode_texts(texts, tokenizer, add_special_tokens=not is_chat)
    for (row, chat), text, (ids, offsets) in zip(rows, texts, encodings, strict=True):
        if chat is None:
            _trim_ends(ids, offsets, len(text), tokenizer)
            mask = [True] * len(ids)
        else:
            mask = mask_of(offsets, chat.answers)
        mask[:1] = [False] * len(mask[:1])
        yield Encoded(row, text, ids, offsets, mask, chat)


def render_all(
    conversations: Sequence[Conversation], tokenizer: Any, *, last_turn_only: bool = False
) -> list[RenderedChat | None]:
    """Render the chats among the conversations; None for a plain text.

    Raises:
        ModelError, RenderProblem: see `render_chat`; the message names the row.
    """
    template: Template | None = None
    guard = guard_of(tokenizer)
    rendered: list[RenderedChat | None] = []
    for row in conversations:
        if row.text is not None:
            rendered.append(None)
            continue
        template = template or template_of(tokenizer)
        try:
            if guard is not None and guard.found_in_chat(row.messages, row.tools):
                rendered.append(_render_guarded(row, template, guard, last_turn_only=last_turn_only))
            else:
                rendered.append(render_chat(row.messages, row.tools, template, last_turn_only=last_turn_only))
        except (ModelError, RenderProblem) as problem:
            raise type(problem)(f"{row.source}: {problem}") from problem
    return rendered


def _render_guarded(row: Conversation, template: Template, guard: Guard, *, last_turn_only: bool) -> RenderedChat:
    """Render and tokenise a chat that writes control tokens in its texts."""
    messages, tools = _shielded(row.messages, row.tools, guard, template.tokenizer)
    chat = render_chat(messages, tools, template, last_turn_only=last_turn_only)
    return replace(chat, text=guard.unshield(chat.text), encoded=guard.encode(chat.text))


def _shielded(
    messages: Sequence[Message], tools: str | None, guard: Guard, tokenizer: Any
) -> tuple[tuple[Message, ...], str | None]:
    if policy_of(tokenizer) is ControlTokens.reject:
        raise RenderProblem("the row writes control tokens of the model (data.control_tokens=reject)")
    return guard.shield(messages, tools)


def encode_texts(
    texts: Sequence[str], tokenizer: Any, *, add_special_tokens: bool
) -> list[tuple[list[int], list[Span]]]:
    """Tokenise texts with offsets.

    Raises:
        ModelError: the tokenizer cannot tell offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer ({type(tokenizer).__name__}) gives no character offsets, which the loss mask needs. Use a "
            "model folder with a tokenizer.json, or write one: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    result: list[tuple[list[int], list[Span]]] = []
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        pair = realign(text, tokenizer, add_special_tokens=add_special_tokens) if has_gaps(offsets, len(text)) else None
        result.append(pair or (list(ids), list(offsets)))
    return result


def _trim_ends(ids: list[int], offsets: list[Span], length: int, tokenizer: Any) -> None:
    """Keep one BOS where text and tokenizer both write it, and put one EOS at the end. Changes both lists."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        del ids[0], offsets[0]
    if eos is not None and (not ids or ids[-1] != eos):
        ids.append(eos)
        offsets.append((length, length))


def to_example(encoded: Encoded, num_tokens: int) -> Example:
    """Make the first `num_tokens` tokens an `Example`, its supervised bytes counted up to there."""
    return Example(
        item_id=encoded.conversation.item_id,
        input_ids=encoded.input_ids[:num_tokens],
        loss_mask=encoded.loss_mask[:num_tokens],
        num_supervised_bytes=_supervised_bytes(encoded, num_tokens),
    )


def _supervised_bytes(encoded: Encoded, num_tokens: int) -> int:
    """UTF-8 bytes of the text that carries loss: the assistant's thoughts, contents and calls, or the plain text."""
    if num_tokens == 0:
        return 0
    if encoded.chat is None:
        ends = text_ends(encoded.offsets)
        return len(encoded.text[ends[0] : ends[num_tokens - 1]].encode())
    cut = encoded.offsets[num_tokens - 1][1] if num_tokens < len(encoded.input_ids) else len(encoded.text)
    total = 0
    chat = encoded.chat
    for message, *places in zip(encoded.conversation.messages, chat.contents, chat.thoughts, strict=True):
        if message.role != "assistant" or not _in_spans(places[0], chat.answers, message, encoded):
            continue
        for place in places:
            if place is not None:
                total += len(encoded.text[place[0] : max(place[0], min(place[1], cut))].encode())
        if num_tokens == len(encoded.input_ids):
            total += len(calls_text(message).encode())
    return total


def _in_spans(place: Span | None, spans: Sequence[Span], message: Message, encoded: Encoded) -> bool:
    """Whether a turn carries loss; one without content does if it is the last, or if all turns do."""
    if place is not None:
        return any(start < place[1] and place[0] < end for start, end in spans)
    num_turns = sum(turn.role == "assistant" for turn in encoded.conversation.messages)
    return message is encoded.conversation.messages[-1] or len(spans) >= num_turns
