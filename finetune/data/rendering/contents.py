"""Finds the contents in a rendered chat, and what the template left out. Used by render.py and prefixes.py."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.data.rendering.spans import Span
from finetune.data.rendering.template import WAY_OUT, RenderProblem
from finetune.data.rendering.turns import TurnMarks
from finetune.errors import ModelError
from finetune.records import Message

_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Places:
    """Where each content stands (None: it has none of its own), where its thoughts do (None: without any, or dropped by
    the template), and where the messages before the last answer end."""

    contents: tuple[Span | None, ...]
    thoughts: tuple[Span | None, ...]
    before_last_answer: int


def find_content(message: Message, text: str, marks: TurnMarks, start: int, stop: int | None = None) -> Span | None:
    """Find a message's content from `start` on: with the white space around it that the template keeps, or (thinking
    models) without its thoughts. None for one without visible characters."""
    thoughts = find_thoughts(message, text, marks, start, stop)
    if thoughts is not None:
        return _find_behind_thoughts(message.content, text, marks, thoughts[1], stop)
    for content in (message.content, message.content.rpartition("</think>")[2]):
        core = content.strip()
        if not core:
            continue
        place = _find_behind_lead(content, core, text, marks.leads.get(message.role, ()), start, stop)
        if place < 0:
            place = text.find(core, start, stop)
        if place >= 0:
            return _with_white_space(content, core, text, place, start, stop)
    return None


def find_thoughts(message: Message, text: str, marks: TurnMarks, start: int, stop: int | None = None) -> Span | None:
    """Find the thoughts of a turn whose answer begins at `start`, or behind whose question `start` stands."""
    core = (message.reasoning_content or "").strip()
    if not core:
        return None
    for cut in range(len(marks.before_thoughts) + 1):
        lead = marks.before_thoughts[cut:]
        if text.startswith(lead, start):
            place = _SPACE.match(text, start + len(lead)).end()  # pyright: ignore[reportOptionalMemberAccess]
            if text.startswith(core, place) and (stop is None or place + len(core) <= stop):
                return place, place + len(core)
    return None


def _find_behind_thoughts(content: str, text: str, marks: TurnMarks, start: int, stop: int | None) -> Span | None:
    core = content.strip()
    if not core:
        return None
    closing = marks.behind_thoughts.strip()
    place = text.find(closing, start, stop) + len(closing) if closing in text[start:stop] else start
    place = text.find(core, place, stop)
    return _with_white_space(content, core, text, place, start, stop) if place >= 0 else None


def _find_behind_lead(content: str, core: str, text: str, leads: Sequence[str], start: int, stop: int | None) -> int:
    """Find a content where its role is announced; a short one may stand in the announcement itself."""
    white = content[: len(content) - len(content.lstrip())]
    for lead in leads:
        for before in {lead + white, lead}:
            place = text.find(before + core, max(start - len(lead), 0), stop)
            if place >= 0 and place + len(before) >= start:
                return place + len(before)
    return -1


def _with_white_space(content: str, core: str, text: str, place: int, start: int, stop: int | None) -> Span:
    lead, trail = content[: len(content) - len(content.lstrip())], content[len(content.rstrip()) :]
    end = place + len(core)
    if lead and place - len(lead) >= start and text.endswith(lead, 0, place):
        place -= len(lead)
    if trail and text.startswith(trail, end) and (stop is None or end + len(trail) <= stop):
        end += len(trail)
    return place, end


def call_names(message: Message) -> list[str]:
    """The names of the functions that a turn calls."""
    if not message.tool_calls:
        return []
    return [str(call.get("function", call).get("name", "")) for call in json.loads(message.tool_calls)]


def locate(messages: Sequence[Message], text: str, spans: Sequence[Span], marks: TurnMarks) -> Places:
    """Find the contents one after the other: the assistant's in `spans`, others before the next of them.

    A system message may stand anywhere.

    Raises:
        ModelError: a content is not there.
        RenderProblem: a call or its result is not there, or a content of a chat with calls.
    """
    places: list[Span | None] = []
    thoughts: list[Span | None] = []
    cursor = before_last = 0
    for message in messages:
        span = next((span for span in spans if span[1] > cursor), None)
        if message.role == "assistant":
            before_last = cursor
            start, stop = (max(cursor, span[0]), span[1]) if span else (cursor, None)
            thoughts.append(find_thoughts(message, text, marks, start, stop))
            place = find_content(message, text, marks, start, stop)
            _check_calls(message, text, cursor, stop)
            if message is messages[-1]:
                _check_thoughts(message, text, cursor)
        elif message.role == "system":
            place = find_content(message, text, marks, 0)
        else:
            place = find_content(message, text, marks, cursor, span[0] if span and span[0] > cursor else None)
        if place is None and message.content.strip():
            _check_rewritten(message, text, cursor, has_calls=any(turn.tool_calls for turn in messages))
        places.append(place)
        thoughts += [None] * (len(places) - len(thoughts))
        if message.role == "assistant" and span is not None:
            cursor = max(place[1] if place else 0, span[1])
        elif message.role != "system" and place is not None:
            cursor = place[1]
    return Places(tuple(places), tuple(thoughts), before_last)


def _check_thoughts(message: Message, text: str, cursor: int) -> None:
    """The thoughts of the last answer must be there; those of earlier ones many templates drop on purpose."""
    core = (message.reasoning_content or "").strip()
    if core not in text[cursor:]:
        raise RenderProblem(
            f"the chat template leaves out the thoughts of the answer, reasoning_content ({_beginning(core)!r}). Use a "
            "template that writes them (model.chat_template), put them into the content, or take them out of the rows"
        )


def _check_rewritten(message: Message, text: str, cursor: int, *, has_calls: bool) -> None:
    """A tool's result may be written otherwise, as JSON; its longest word must be there. Others must be as they are.

    Many templates drop what is said beside a call; that costs the row, not the run.
    """
    if message.role == "tool":
        longest = max(_WORD.findall(message.content), key=len, default="")
        if longest not in text[cursor:]:
            raise RenderProblem(f"the chat template leaves out the result of a tool ({_beginning(message.content)!r})")
        return
    problem = f"the chat template leaves out what the {message.role} says ({_beginning(message.content)!r})"
    if has_calls:
        raise RenderProblem(f"{problem} in a chat with tool calls")
    raise ModelError(f"{problem}. {WAY_OUT}")


def _check_calls(message: Message, text: str, cursor: int, stop: int | None) -> None:
    for name in call_names(message):
        cursor = text.find(name, cursor, stop)
        if cursor < 0:
            raise RenderProblem(f"the chat template leaves out the call of {name!r}")
        cursor += len(name)


def check_tools(tools: str, text: str) -> None:
    """Check that the template names the tools that the chat may call.

    Raises:
        RenderProblem: it leaves one out.
    """
    for tool in json.loads(tools):
        name = str(tool.get("function", tool).get("name", "")) if isinstance(tool, dict) else ""
        if name not in text:
            raise RenderProblem(f"the chat template leaves out the tool {name!r}")


def _beginning(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 40 else words[:39] + "…"
