"""What a turn says, for all that compares rows. Used by rows.py, leaks.py, encode.py and the search for duplicates."""

import json

from finetune.records import Message


def turn_text(message: Message) -> str:
    """A turn's thoughts, content and calls, one after the other; ids of calls are names without a meaning."""
    thoughts = f"{message.reasoning_content}\n\n" if message.reasoning_content else ""
    return thoughts + message.content + calls_text(message)


def calls_text(message: Message) -> str:
    """The calls of a turn as JSON text without their ids; "" where it makes none."""
    if not message.tool_calls or '"id"' not in message.tool_calls:
        return message.tool_calls or ""
    calls = json.loads(message.tool_calls)
    return json.dumps([{key: call[key] for key in call if key != "id"} for call in calls], ensure_ascii=False)
