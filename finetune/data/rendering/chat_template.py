"""Gives a tokenizer its chat template: its own, one that ships here (templates/), or a file. Called by jobs."""

import logging
from pathlib import Path
from typing import Any

from finetune.data.encode import encode_texts
from finetune.data.rendering.render import WAY_OUT, RenderProblem, Template, render_chat, render_text, template_of
from finetune.errors import ModelError
from finetune.records import Message

logger = logging.getLogger(__name__)

NAMED_TEMPLATES = ("chatml", "plain")
_FOLDER = Path(__file__).parent / "templates"

_NUMBERS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_PROBE = tuple(
    Message(role=role, content=f"{number} {'question' if role == 'user' else 'answer'}")
    for number in _NUMBERS
    for role in ("user", "assistant")
)
"""Long enough to see that a template keeps the last few turns only."""
_SYSTEM = Message(role="system", content="probe of the system message")


def ensure_chat_template(tokenizer: Any, spec: str) -> str:
    """Set `tokenizer.chat_template` as `model.chat_template` asks, and return the name of what is used.

    `auto` keeps the tokenizer's own template and takes `plain` where there is none; `chatml` and `plain` ship with the
    package; anything else is the path of a Jinja file. The template is tried out on a small chat.

    Raises:
        ModelError: no such template or file, the tokenizer lacks the tokens it needs, or the template fails, leaves
            out a turn or the system message, or ends no answer.
    """
    name = spec
    if spec == "auto":
        name = "own" if tokenizer.chat_template else "plain"
    if name in NAMED_TEMPLATES:
        tokenizer.chat_template = _named(name, tokenizer)
    elif name != "own":
        tokenizer.chat_template = _from_file(spec)
    _try_out(tokenizer, name)
    return name


def end_of_turn(tokenizer: Any) -> str:
    """Return what the template writes behind an answer, such as `<|im_end|>`; generation must stop at it.

    Raises:
        ModelError: nothing, so that a trained model would never stop.
    """
    template = template_of(tokenizer)
    rendered = render_chat(_PROBE[:2], None, template)
    content = rendered.contents[1]
    ending = rendered.text[content[1] : rendered.answers[-1][1]].strip() if content else ""
    if not ending:
        raise ModelError(f"the chat template writes nothing behind an answer: the model would never stop. {WAY_OUT}")
    return ending


def _named(name: str, tokenizer: Any) -> str:
    text = (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    if name == "plain" and tokenizer.eos_token is None:
        raise ModelError(
            "model.chat_template=plain: the tokenizer has no EOS token to end answers with. Give a .jinja file"
        )
    if name == "chatml":
        absent = [token for token in ("<|im_start|>", "<|im_end|>") if token not in tokenizer.get_vocab()]
        if absent:
            raise ModelError(
                f"model.chat_template=chatml: the tokenizer has no token {absent[0]}. Use model.chat_template=plain"
            )
    return ("{{- bos_token }}\n" if _adds_bos(tokenizer) else "") + text


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS before plain text; a template must then write it, for nobody else does."""
    ids = encode_texts(["a"], tokenizer, add_special_tokens=True)[0][0]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _from_file(spec: str) -> str:
    path = Path(spec).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model.chat_template: {spec!r} is neither auto, {', '.join(NAMED_TEMPLATES)} nor a file that exists. "
            f"{WAY_OUT}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model.chat_template: {spec} cannot be read ({error}). Save it as UTF-8 text") from None


def _try_out(tokenizer: Any, name: str) -> None:
    template = template_of(tokenizer)
    shown = "the tokenizer's own chat template" if name == "own" else f"model.chat_template={name}"
    try:
        for num_messages in (2, 4, len(_PROBE)):
            render_chat(_PROBE[:num_messages], None, template)
        end_of_turn(tokenizer)
        _try_opening(template)
    except RenderProblem as problem:
        raise ModelError(f"{shown}: {problem}. {WAY_OUT}") from problem
    except ModelError as problem:
        raise ModelError(f"{shown}: {problem}") from problem
    _try_system(template, shown)


def _try_opening(template: Template) -> None:
    """Check that the words before an answer, such as "Assistant:", are written for generation too, not learned."""
    before = render_text(_PROBE[:1], None, template)
    opened = render_text(_PROBE[:1], None, template, add_generation_prompt=True)
    rendered = render_chat(_PROBE[:2], None, template)
    content = rendered.contents[1]
    opening = rendered.text[len(before) : content[0]].strip() if content else ""
    if opened == before and opening:
        raise ModelError(
            f"the chat template opens an answer with {opening!r}, but not when an answer is to be generated "
            f"(add_generation_prompt). {WAY_OUT}"
        )


def _try_system(template: Template, shown: str) -> None:
    """A template may refuse a system message aloud (rows with one are then rejected), but not drop it silently."""
    try:
        for num_messages in (2, len(_PROBE)):
            render_chat((_SYSTEM, *_PROBE[:num_messages]), None, template)
    except RenderProblem:
        logger.info("%s takes no system message; rows that have one cannot be used", shown)
    except ModelError as problem:
        raise ModelError(f"{shown}: {problem}") from problem
