"""Chats written as one text, `\\n\\nHuman: … \\n\\nAssistant: …`, as hh-rlhf has them. Called by preference_rows.py."""

import re

from finetune.records import Message

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def looks_like_transcript(value: object) -> bool:
    """Whether a cell is a text that opens with a turn of the human and has one of the assistant."""
    if not isinstance(value, str):
        return False
    first = _TURN.match(value)
    return first is not None and first[1] == "Human" and "\n\nAssistant:" in value


def read_transcript(text: str, *, is_prompt: bool = False) -> list[Message]:
    """Return the turns without the white space around them; of a prompt, the answer that it opens is no turn."""
    _, *parts = _TURN.split(text)
    turns = [
        Message(role=_ROLES[name], content=said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns[:-1] if is_prompt and turns[-1] == Message(role="assistant", content="") else turns
