"""Keeps control tokens that a row merely writes, such as `<|im_end|>` in a question, apart from those of the template.

A tokenizer cannot tell them apart in a rendered chat, so a row could end its turn and speak as somebody else. In such
rows each control token is exchanged for private characters before the template sees it (same length, so that every
place in the text stays), and for the tokenizer the other way round: the private characters then mean the template's
tokens, and what the row wrote is encoded as plain text. Rows without control tokens are not touched. Used by encode.py.
"""

import json
import re
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finetune.config import ControlTokens
from finetune.data.align import has_gaps
from finetune.data.rendering.spans import Span
from finetune.data.rendering.template import RenderProblem
from finetune.records import Message

_FIRST_PRIVATE = 0xF0000
"""Of Unicode's supplementary private use area, which stands for nothing in any text."""
_ESCAPED = re.compile(r"\\U000[fF]|\\u[dD][bB][89a-fA-F]")
_guards: "weakref.WeakKeyDictionary[Any, tuple[int, Guard]]" = weakref.WeakKeyDictionary()
_policies: "weakref.WeakKeyDictionary[Any, ControlTokens]" = weakref.WeakKeyDictionary()


class Guard:
    """The control tokens of one tokenizer. Made by `guard_of`."""

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder.values()
        self.tokens = sorted(
            {str(token) for token in added if token.special and str(token).strip()}, key=len, reverse=True
        )
        self._tokenizer = tokenizer
        self._private = {token: chr(_FIRST_PRIVATE + number) * len(token) for number, token in enumerate(self.tokens)}
        self._public = {private: token for token, private in self._private.items()}
        self._find = re.compile("|".join(map(re.escape, self.tokens)) or r"(?!)")
        self._firsts = {token[0] for token in self.tokens}
        self._hidden = re.compile(f"[{chr(_FIRST_PRIVATE)}-{chr(0xFFFFD)}]")
        self._either = re.compile("|".join(map(re.escape, [*self.tokens, *self._public])) or r"(?!)")
        self._backend: Any = None
        self._ids: dict[Any, int] = {}
        self._mistaken: set[str] = set()

    def found_in(self, text: str) -> bool:
        """Whether a text writes a control token."""
        return any(first in text for first in self._firsts) and self._find.search(text) is not None

    def found_in_chat(self, messages: Sequence[Message], tools: str | None) -> bool:
        """Whether any text of a chat does; calls and tools are JSON, which may write it in escapes."""
        for message in messages:
            if self.found_in(message.content) or (
                message.reasoning_content and self.found_in(message.reasoning_content)
            ):
                return True
            if message.tool_calls and self.found_in(_unescaped(message.tool_calls)):
                return True
        return bool(tools) and self.found_in(_unescaped(tools or ""))

    def shield(self, messages: Sequence[Message], tools: str | None) -> tuple[tuple[Message, ...], str | None]:
        """Exchange what the chat writes for private characters.

        Raises:
            RenderProblem: the tokenizer cannot read a control token as text, or the row has private characters.
        """
        self._prepare()

        def hide(text: str) -> str:
            if self._hidden.search(text):
                raise RenderProblem("the row writes control tokens and characters of Unicode's private area")
            mistaken = next((found[0] for found in self._find.finditer(text) if found[0] in self._mistaken), None)
            if mistaken is not None:
                raise RenderProblem(
                    f"the row writes the control token {mistaken!r}, which this tokenizer cannot read as text; take it "
                    "out, or use data.control_tokens=allow"
                )
            return self._find.sub(lambda found: self._private[found[0]], text)

        def hide_json(text: str | None) -> str | None:
            return hide(_unescaped(text)) if text else text

        hidden = [
            replace(
                message,
                content=hide(message.content),
                reasoning_content=message.reasoning_content and hide(message.reasoning_content),
                tool_calls=hide_json(message.tool_calls),
            )
            for message in messages
        ]
        return tuple(hidden), hide_json(tools)

    def unshield(self, text: str) -> str:
        """Write a rendered text as a reader sees it."""
        return self._exchange(text, self._public)

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Tokenise a rendered text whose own control tokens are shielded; offsets count as in `unshield`'s text.

        Raises:
            RenderProblem: the template wrote the private characters otherwise, or the tokenizer drops characters.
        """
        if _ESCAPED.search(text):
            raise RenderProblem("the chat template writes control tokens of the row in a way that cannot be undone")
        swapped = self._exchange(text, self._private | self._public)
        encoding: Any = self._backend.encode(swapped, add_special_tokens=False)
        if has_gaps(encoding.offsets, len(swapped)):
            raise RenderProblem("the row writes control tokens and characters that the tokenizer drops")
        ids: list[int] = encoding.ids
        return [self._ids.get(number, number) for number in ids], list(encoding.offsets)

    def _exchange(self, text: str, known: dict[str, str]) -> str:
        return self._either.sub(lambda found: known.get(found[0], found[0]), text)

    def _prepare(self) -> None:
        """Make a copy of the tokenizer that knows the control tokens by their private characters alone."""
        if self._backend is not None:
            return
        from tokenizers import Tokenizer

        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        ids: dict[str, int] = {}
        for token in state["added_tokens"]:
            token["content"] = self._private.get(token["content"], token["content"])
            ids[token["content"]] = token["id"]
        state["truncation"] = state["padding"] = None
        backend = Tokenizer.from_str(json.dumps(state))
        self._ids = {backend.token_to_id(content): number for content, number in ids.items()}
        control = {ids[private] for private in self._public if private in ids}
        for token in self.tokens:
            if control & set(backend.encode(f"a{token}b", add_special_tokens=False).ids):
                self._mistaken.add(token)
        self._backend = backend


def guard_of(tokenizer: Any) -> Guard | None:
    """Return the tokenizer's guard, kept while it lives; None where control tokens of rows are to be taken as such."""
    if policy_of(tokenizer) is ControlTokens.allow or not getattr(tokenizer, "is_fast", False):
        return None
    known = _guards.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = _guards[tokenizer] = len(tokenizer), Guard(tokenizer)
    return known[1]


def set_policy(tokenizer: Any, policy: ControlTokens) -> None:
    """Say what becomes of control tokens in the rows that this tokenizer encodes (`data.control_tokens`)."""
    _policies[tokenizer] = policy


def policy_of(tokenizer: Any) -> ControlTokens:
    """Return what `set_policy` said; text by default."""
    return _policies.get(tokenizer, ControlTokens.text)


def _unescaped(text: str) -> str:
    """JSON whose characters stand for themselves."""
    if "\\u" not in text:
        return text
    return json.dumps(json.loads(text), ensure_ascii=False)
