"""Masks by generation markers and by rendered prefixes are the same, for the templates that ship with trl."""

import re
from pathlib import Path
from typing import Any

import pytest
import trl

from finetune.config import ControlTokens
from finetune.data.encode import Encoded, encode
from finetune.data.rendering.chat_template import ensure_chat_template
from finetune.data.rendering.control_tokens import set_policy
from finetune.data.rendering.render import RenderProblem
from finetune.errors import FinetuneError, ModelError
from finetune.records import Conversation

from .conversations import conversations, tokenizer_for

FOLDER = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
MARKER = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
MARKED = [name for name in NAMES if MARKER.search((FOLDER / f"{name}.jinja").read_text())]
TRAINED = [name for name in NAMES if f"{name}_training" in NAMES]
WRITES_NO_TEXT = ("idefics3", "llava_next", "smolvlm")
"""Their contents are lists of parts, of text and images; a text is left out or refused."""
QUICK = ("cohere2_training", "gemma_training", "gptoss_training", "llama3_training", "qwen3_5_nothink_training")


def without_markers(template: str) -> str:
    """Put blocks in place of the markers that do nothing, but treat white space alike."""
    return MARKER.sub(lambda m: f"{{%{m[1]} {'endif' if m[2] else 'if true'} {m[3]}%}}", template)


def outcome(conversation: Conversation, tokenizer: Any) -> Encoded | type[FinetuneError]:
    try:
        return encode([conversation], tokenizer)[0]
    except (ModelError, RenderProblem) as problem:
        return type(problem)


def compare(marked: Any, other: Any, count: int, *, only_same_text: bool = False) -> tuple[int, int]:
    """Check `count` conversations; returns how many were written, and how many have the same text."""
    written = compared = 0
    for conversation in conversations(count):
        left, right = outcome(conversation, marked), outcome(conversation, other)
        written += isinstance(left, Encoded)
        if not isinstance(left, Encoded) or not isinstance(right, Encoded):
            assert only_same_text or left == right, conversation
            continue
        if only_same_text and left.text != right.text:
            continue
        compared += 1
        assert left.input_ids == right.input_ids
        assert list(left.loss_mask) == list(right.loss_mask), shown(left) + "\n" + shown(right)
    return written, compared


def shown(encoded: Encoded) -> str:
    """The text with the learned tokens between brackets, for the message of a failure."""
    parts: list[str] = []
    for (start, end), learned in zip(encoded.offsets, encoded.loss_mask, strict=True):
        parts.append(f"⟦{encoded.text[start:end]}⟧" if learned else encoded.text[start:end])
    return "".join(parts).replace("⟧⟦", "")


def pair(template: str) -> tuple[Any, Any]:
    marked, stripped = tokenizer_for(template), tokenizer_for(template)
    stripped.chat_template = without_markers(template)
    assert "generation" not in re.sub(
        "add_generation_prompt", "", " ".join(re.findall("{%.*?%}", stripped.chat_template))
    )
    return marked, stripped


@pytest.mark.parametrize("name", [name for name in MARKED if name in QUICK])
def test_markers_and_prefixes_mask_the_same_tokens_quick(name: str) -> None:
    written, _ = compare(*pair((FOLDER / f"{name}.jinja").read_text()), count=16)
    assert written >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKED)
def test_markers_and_prefixes_mask_the_same_tokens(name: str) -> None:
    written, _ = compare(*pair((FOLDER / f"{name}.jinja").read_text()), count=200)
    assert written >= 100 or name.startswith(WRITES_NO_TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_template_without_markers_masks_what_its_training_twin_does(name: str) -> None:
    own, twin = (FOLDER / f"{name}.jinja").read_text(), (FOLDER / f"{name}_training.jinja").read_text()
    left, right = tokenizer_for(own + twin), tokenizer_for(own + twin)
    left.chat_template, right.chat_template = own, twin
    written, compared = compare(left, right, count=200, only_same_text=True)
    assert written >= 100 or name.startswith(WRITES_NO_TEXT)
    writes_otherwise = name == "glm4moe"  # its twin ends each answer with <|user|>
    assert compared >= 0.35 * written or writes_otherwise


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MARKED if not name.startswith(WRITES_NO_TEXT)])
def test_the_markers_own_mask_differs_by_what_is_given_and_by_the_stop_token_only(name: str) -> None:
    """transformers' mask of the same markers also has openings and the newline behind, and not every stop."""
    tokenizer = tokenizer_for((FOLDER / f"{name}.jinja").read_text())
    set_policy(tokenizer, ControlTokens.allow)  # as transformers does with those that a text holds
    opened = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q"}], tokenize=False, add_generation_prompt=True
    )
    for conversation in conversations(40):
        if conversation.tools is not None:
            continue
        encoded = outcome(conversation, tokenizer)
        if not isinstance(encoded, Encoded):
            continue
        chat = [{"role": message.role, "content": message.content} for message in conversation.messages]
        theirs = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        assert theirs["input_ids"] == encoded.input_ids
        masks = list(zip(encoded.offsets, encoded.loss_mask, theirs["assistant_masks"], strict=True))
        only_ours = [encoded.text[start:end] for (start, end), own, their in masks if own and not their]
        only_theirs = [encoded.text[start:end] for (start, end), own, their in masks if their and not own]
        assert all(not text.isascii() for text in only_ours)  # later pieces of a last character, which they miss
        assert all(not text.strip() or text in opened for text in only_theirs), only_theirs


@pytest.mark.parametrize("name", WRITES_NO_TEXT)
def test_templates_of_pictures_are_refused_before_the_run(name: str) -> None:
    tokenizer = tokenizer_for((FOLDER / f"{name}.jinja").read_text())
    with pytest.raises(ModelError, match="chat template"):
        ensure_chat_template(tokenizer, "auto")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(WRITES_NO_TEXT)])
def test_each_template_is_taken_or_refused_for_a_reason(name: str) -> None:
    tokenizer = tokenizer_for((FOLDER / f"{name}.jinja").read_text())
    if name == "glm4moe":
        with pytest.raises(ModelError, match="writes nothing behind an answer"):
            ensure_chat_template(tokenizer, "auto")
    else:
        assert ensure_chat_template(tokenizer, "auto") == "own"
