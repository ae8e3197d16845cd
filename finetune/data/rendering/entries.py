"""Messages as the dictionaries that chat templates read. Used by template.py."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from finetune.data.convert.chats import REASONING_KEYS
from finetune.records import Message

_ID_CHARACTERS = 9
"""Templates of the Mistral kind refuse ids of any other length."""


def chat_entries(
    messages: Sequence[Message], *, arguments_as_text: bool = False, short_ids: bool = False
) -> list[dict[str, object]]:
    """Return one entry per message; thoughts stand under every name that templates know them by.

    `arguments_as_text` writes the arguments of calls as JSON text, `short_ids` gives calls and results new ids.
    """
    entries: list[dict[str, object]] = []
    waiting: list[str] = []
    for message in messages:
        entry: dict[str, object] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = _calls(message.tool_calls, arguments_as_text=arguments_as_text)
            if short_ids:
                waiting = _give_ids(calls, len(entries))
            entry["tool_calls"] = calls
        if message.reasoning_content:
            entry |= dict.fromkeys(REASONING_KEYS, message.reasoning_content)
        if message.name is not None:
            entry["name"] = message.name
        answered = message.tool_call_id
        if short_ids and message.role == "tool":
            answered = _short(answered) if answered is not None else waiting[0] if waiting else _short("")
            waiting = [known for known in waiting if known != answered]
        if answered is not None:
            entry["tool_call_id"] = answered
        entries.append(entry)
    return entries


def _calls(text: str, *, arguments_as_text: bool) -> list[dict[str, Any]]:
    calls = json.loads(text)
    for call in calls if arguments_as_text else ():
        function = call.get("function", call)
        if not isinstance(function.get("arguments"), str):
            function["arguments"] = json.dumps(function.get("arguments"), ensure_ascii=False)
    return calls


def _give_ids(calls: list[dict[str, Any]], turn: int) -> list[str]:
    """Put a short id into each call, made from its own id or from its place, and return them."""
    for number, call in enumerate(calls):
        call["id"] = _short(str(call.get("id") or f"{turn}/{number}"))
    return [call["id"] for call in calls]


def _short(name: str) -> str:
    return blake2b(name.encode(), digest_size=8).hexdigest()[:_ID_CHARACTERS]
