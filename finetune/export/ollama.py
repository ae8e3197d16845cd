"""Modelfiles for Ollama, and where LM Studio looks for a file. Called by the export job.

Ollama's templates are Go's (pkg.go.dev/text/template); the one written here is derived from the chat template that was
trained: a chat of marked messages is rendered, and what stands between the marks is cut out.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from finetune.data.rendering.render import RenderProblem, render_text, template_of
from finetune.data.rendering.spans import common_prefix
from finetune.errors import ExportError, ModelError
from finetune.records import Message

_SYSTEM = "Mark0system"
_TURNS = tuple(f"Mark{number}{role}" for number in range(1, 4) for role in ("user", "assistant"))[:-1]


@dataclass(frozen=True, slots=True)
class TurnTexts:
    """What a chat template writes around messages, for chats that begin and end with a user's turn.

    A chat is `opening`, or `before_system`, the system message and `behind_system`; then each turn with what stands
    before and behind it; then `closing`.
    """

    opening: str
    before_system: str | None
    """None: the template takes no system message, or it goes to the last turn."""
    behind_system: str
    before_user: str
    behind_user: str
    before_assistant: str
    behind_assistant: str
    closing: str
    last_before_system: str | None = None
    """Stands between `before_user` and the system message where that goes into the last turn (Mistral)."""
    last_behind_system: str = ""

    def write(self, system: str, turns: Sequence[str]) -> str:
        """Write a chat as Ollama does with `go_template`; the user speaks first."""
        text = self.opening
        if system and self.before_system is not None:
            text = self.before_system + system + self.behind_system
        for place, content in enumerate(turns):
            if place % 2:
                text += self.before_assistant + content + self.behind_assistant
                continue
            text += self.before_user
            if system and self.last_before_system is not None and place == len(turns) - 1:
                text += self.last_before_system + system + self.last_behind_system
            text += content + self.behind_user
        return text + self.closing

    def go_template(self) -> str:
        """The same as a Go template over `.System` and `.Messages`."""
        opening, loop, last = _go(self.opening), "{{ range .Messages }}", ""
        if self.before_system is not None:
            otherwise = f"{{{{ else }}}}{opening}" if opening else ""
            system = f"{_go(self.before_system)}{{{{ .System }}}}{_go(self.behind_system)}"
            opening = f"{{{{ if .System }}}}{system}{otherwise}{{{{ end }}}}"
        if self.last_before_system is not None:
            loop = "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            system = f"{_go(self.last_before_system)}{{{{ $.System }}}}{_go(self.last_behind_system)}"
            last = f"{{{{ if and $last $.System }}}}{system}{{{{ end }}}}"
        user = f"{_go(self.before_user)}{last}{{{{ .Content }}}}{_go(self.behind_user)}"
        assistant = f"{_go(self.before_assistant)}{{{{ .Content }}}}{_go(self.behind_assistant)}"
        turn = f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}'
        return f"{opening}{loop}{turn}{{{{ end }}}}{_go(self.closing)}"


def modelfile(
    gguf_file_name: str, tokenizer: Any, context_length: int, end_tokens: Sequence[str], system: str | None = None
) -> str:
    """Return the text of a Modelfile that stands beside the GGUF file.

    `context_length` is in tokens; `end_tokens` are the texts of the tokens that end an answer; `system` is the system
    message that Ollama uses unless a chat brings one. Where no template can be derived, a comment says why.

    Raises:
        ExportError: the file name, an end token or the system message cannot be written in a Modelfile.
    """
    lines = [f"FROM ./{_line(gguf_file_name)}"]
    texts, reason = _derived(tokenizer)
    if texts is None:
        lines.append(f"# No TEMPLATE: {reason}. Ollama looks for one of its own that is like the one inside the GGUF.")
    else:
        if texts.before_system is None and texts.last_before_system is None:
            lines.append("# The template takes no system message.")
        lines.append(f'TEMPLATE """{texts.go_template()}"""')
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    lines += [f"PARAMETER stop {_quoted(text)}" for text in _stops(tokenizer, end_tokens, texts)]
    lines.append(f"PARAMETER num_ctx {context_length}")
    return "\n".join(lines) + "\n"


def turn_texts(tokenizer: Any) -> TurnTexts | None:
    """Derive what the tokenizer's chat template writes around messages; None where it depends on more than the role
    and the place of the system message. A BOS token that llama.cpp adds by itself is left out.

    Go templates cannot trim: where the chat template does, a message's outer white space stays.
    """
    return _derived(tokenizer)[0]


def lm_studio_path(publisher: str, name: str, file: str) -> Path:
    """Where LM Studio looks for a GGUF file, below its own folder (~/.lmstudio).

    Raises:
        ExportError: one of the three is not the name of a folder or file.
    """
    for part in (publisher, name, file):
        if not part or part in (".", "..") or "/" in part or "\\" in part:
            raise ExportError(f"LM Studio's folders are publisher, name and file; {part!r} is not the name of one")
    return Path("models") / publisher / name / file


def link_for_lm_studio(file: Path, folder: Path, name: str, publisher: str = "finetune") -> Path | None:
    """Link a GGUF file below `folder` where LM Studio would look for it; takes no room on the disk.

    Returns the link, or None on file systems without hard links: then the file must be copied.
    """
    link = folder / lm_studio_path(publisher, name, file.name)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        os.link(file, link)
    except OSError:
        link.parent.rmdir()
        return None
    return link


def _derived(tokenizer: Any) -> tuple[TurnTexts | None, str]:
    """The texts, or why there are none."""
    if not tokenizer.chat_template:
        return None, "the model has no chat template"
    if "strftime_now" in str(tokenizer.chat_template):
        return None, "the chat template writes the date"
    try:
        plain, ruled = _render(tokenizer, "", _TURNS), _render(tokenizer, _SYSTEM, _TURNS)
    except ModelError as error:
        return None, " ".join(str(error).split())
    unknown = "what the chat template writes depends on more than the roles"
    if plain is None:
        return None, "the chat template refuses a chat of five turns"
    texts = _cut(plain, ruled)
    if texts is None or not _is_right(tokenizer, texts):
        return None, unknown
    if '"""' in texts.go_template():
        return None, "the chat template writes three quotation marks"
    return texts, ""


def _render(tokenizer: Any, system: str, turns: Sequence[str]) -> str | None:
    """The chat with its answer opened; None where the template refuses it."""
    messages = [Message(role="system", content=system)] if system else []
    messages += [Message(role=("user", "assistant")[place % 2], content=text) for place, text in enumerate(turns)]
    try:
        text = render_text(messages, None, template_of(tokenizer), add_generation_prompt=True)
    except RenderProblem:
        return None
    return text.removeprefix(tokenizer.bos_token) if _adds_bos(tokenizer) else text


def _adds_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("x")["input_ids"])[:1] == [bos]


def _cut(plain: str, ruled: str | None) -> TurnTexts | None:
    """Split a chat without and one with a system message (None: refused) at their marks."""
    gaps = _gaps(plain, _TURNS)
    if gaps is None or gaps[1] != gaps[3] or gaps[2] != gaps[4]:
        return None
    start, asked, answered, end = gaps[0], gaps[1], gaps[2], gaps[5]
    with_system = None if ruled is None else _gaps(ruled, (_SYSTEM, *_TURNS))
    last = None
    if ruled is not None and with_system is None:
        last = _last_turn_system(ruled, plain)
        if last is None:
            return None
    befores = [start, answered, *([] if with_system is None else [with_system[1]])]
    before_user = _common_suffix(befores)
    behind_user = common_prefix(asked, end)
    return TurnTexts(
        opening=start.removesuffix(before_user),
        before_system=None if with_system is None else with_system[0],
        behind_system="" if with_system is None else with_system[1].removesuffix(before_user),
        before_user=before_user,
        behind_user=behind_user,
        before_assistant=asked.removeprefix(behind_user),
        behind_assistant=answered.removesuffix(before_user),
        closing=end.removeprefix(behind_user),
        last_before_system=None if last is None else last[0],
        last_behind_system="" if last is None else last[1],
    )


def _gaps(text: str, marks: Sequence[str]) -> list[str] | None:
    """What stands before, between and behind the marks; None unless each stands there once, in this order."""
    places = [text.find(mark) for mark in marks]
    if min(places) < 0 or places != sorted(places) or any(text.count(mark) != 1 for mark in marks):
        return None
    ends = [0, *(place + len(mark) for place, mark in zip(places, marks, strict=True))]
    return [text[end:place] for end, place in zip(ends, [*places, len(text)], strict=True)]


def _last_turn_system(ruled: str, plain: str) -> tuple[str, str] | None:
    """What stands around the system message before the last turn's content; None where it stands elsewhere."""
    before, _, behind = plain.partition(_TURNS[-1])
    if not ruled.startswith(before) or not ruled.endswith(_TURNS[-1] + behind):
        return None
    inserted = ruled[len(before) : len(ruled) - len(_TURNS[-1] + behind)]
    left, mark, right = inserted.partition(_SYSTEM)
    return (left, right) if mark else None


def _is_right(tokenizer: Any, texts: TurnTexts) -> bool:
    """Whether chats of other lengths and contents come out as the chat template writes them."""
    contents = ("Hi", "Yes: {no}", "a b\nc", "1. x\n\n2. y", "<b>&</b>")
    takes_system = texts.before_system is not None or texts.last_before_system is not None
    for system in ("", "Be brief.") if takes_system else ("",):
        for num_turns in (1, 3, 5):
            if _render(tokenizer, system, contents[:num_turns]) != texts.write(system, contents[:num_turns]):
                return False
    return True


def _stops(tokenizer: Any, end_tokens: Sequence[str], texts: TurnTexts | None) -> list[str]:
    """The end tokens, and the special tokens that begin a turn."""
    stops = dict.fromkeys(text for text in end_tokens if text)
    if texts is not None:
        written = texts.opening + texts.before_user + texts.behind_user + texts.before_assistant + texts.closing
        openers = sorted(template_of(tokenizer).marks.openers, key=lambda token: (written.find(token), token))
        stops |= dict.fromkeys(token for token in openers if token in written and token != tokenizer.bos_token)
    return list(stops)


def _common_suffix(texts: Sequence[str]) -> str:
    shared = texts[0]
    for _, text in pairwise(texts):
        shared = common_prefix(shared[::-1], text[::-1])[::-1]
    return shared


def _go(text: str) -> str:
    """Text as it stands in a Go template."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    """A value in a Modelfile, which has no escapes."""
    if '"""' in text or text.endswith('"'):
        raise ExportError(f"{text!r} cannot be written in a Modelfile: three quotation marks, or one at the end")
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'


def _line(name: str) -> str:
    if not name or "\n" in name or '"' in name:
        raise ExportError(f"{name!r} cannot be written in a Modelfile: rename the file")
    return name
