"""The texts of a conversation, taken out to be searched together and put back after they were changed.

JSON (tool calls, tools, and contents that are JSON) is taken apart to its strings and numbers and stays valid JSON.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from finetune.records import Conversation, Message

Change = Callable[[str, str], str]
"""Takes a text and its label (the JSON key it stands under, or "") and returns what stands there instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One text; `label` is context for it, but no part of the data."""

    label: str
    text: str


def fields_of(conversation: Conversation) -> list[Field]:
    """List every text of a conversation in a fixed order."""
    found: list[Field] = []

    def collect(text: str, label: str) -> str:
        found.append(Field(label=label, text=text))
        return text

    _visit(conversation, collect)
    return found


def with_fields(conversation: Conversation, texts: list[str]) -> Conversation:
    """Return the conversation with its texts, in the order of `fields_of`, replaced by `texts`."""
    remaining = iter(texts)
    return _visit(conversation, lambda _text, _label: next(remaining))


def _visit(conversation: Conversation, change: Change) -> Conversation:
    return replace(
        conversation,
        messages=tuple(_visit_message(message, change) for message in conversation.messages),
        text=None if conversation.text is None else change(conversation.text, ""),
        tools=None if conversation.tools is None else _visit_json(conversation.tools, change),
        options=tuple(change(option, "") for option in conversation.options),
    )


def _visit_message(message: Message, change: Change) -> Message:
    calls, thoughts = message.tool_calls, message.reasoning_content
    return replace(
        message,
        content=_visit_json(message.content, change),
        tool_calls=None if calls is None else _visit_json(calls, change),
        reasoning_content=None if thoughts is None else _visit_json(thoughts, change),
    )


def _visit_json(text: str, change: Change, label: str = "") -> str:
    """Visit the strings and numbers of a JSON text, or the text itself where it is no JSON object or list."""
    value = _parsed(text)
    if value is None:
        return change(text, label)
    changed = _visit_value(value, change, label)
    if changed == value:
        return text
    return json.dumps(changed, ensure_ascii=False, indent=2 if "\n" in text.strip() else None)


def _parsed(text: str) -> dict[str, object] | list[object] | None:
    stripped = text.strip()
    if not stripped or (stripped[0], stripped[-1]) not in (("{", "}"), ("[", "]")):
        return None
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _visit_value(value: object, change: Change, label: str) -> object:
    if isinstance(value, dict):
        return {change(str(key), ""): _visit_value(inner, change, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_visit_value(inner, change, label) for inner in value]
    if isinstance(value, str):
        return _visit_json(value, change, label)
    if isinstance(value, int) and not isinstance(value, bool):
        changed = change(str(value), label)
        return value if changed == str(value) else changed
    return value
