"""Which template is taken, and which ones are refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rendering.chat_template import end_of_turn, ensure_chat_template
from finetune.errors import ModelError


@pytest.fixture
def tokenizer(chatml_tokenizer: Any) -> Any:
    return chatml_tokenizer


def test_auto_keeps_the_own_template(tokenizer: Any) -> None:
    own = tokenizer.chat_template
    assert ensure_chat_template(tokenizer, "auto") == "own"
    assert tokenizer.chat_template == own
    assert end_of_turn(tokenizer) == "<|im_end|>"


def test_auto_without_own_template_is_plain(spaced_tokenizer: Any) -> None:
    assert ensure_chat_template(spaced_tokenizer, "auto") == "plain"
    text = spaced_tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], tokenize=False
    )
    assert text == "<s>User:\nhi\n\nAssistant:\nho</s>"
    assert end_of_turn(spaced_tokenizer) == "</s>"


def test_plain_writes_no_bos_where_the_tokenizer_adds_none(tokenizer: Any) -> None:
    tokenizer.bos_token = "<|endoftext|>"
    assert ensure_chat_template(tokenizer, "plain") == "plain"
    text = tokenizer.apply_chat_template([{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}],
                                         tokenize=False, add_generation_prompt=True)  # fmt: skip
    assert text == "S\n\nUser:\nhi\n\nAssistant:\n"


def test_a_file(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(LOOP)
    assert ensure_chat_template(tokenizer, str(path)) == str(path)
    assert tokenizer.chat_template == path.read_text()


OPENING = "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
LOOP = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}" + OPENING


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}", "cannot write it .*endfor"),
        ("{{ messages[0].content + nothing.at_all }}", "cannot write it .*undefined"),
        ("{{ messages[-1].content + eos_token }}", "leaves out what the user says"),
        (LOOP.replace("messages %}", "messages[:2] %}"), "leaves out what the user says .'second question'"),
        (LOOP.replace("messages %}", "messages if m.role != 'system' %}"), "leaves out what the system says"),
        (LOOP.replace(" + eos_token", " + '\\n'"), "writes nothing behind an answer: the model would never stop"),
        (LOOP.replace(OPENING, ""), "opens an answer with 'assistant:', but not when an answer is to be generated"),
        ("{% generation %}{% endgeneration %}" + LOOP, "marks no answer of the assistant"),
    ],
)
def test_bad_templates_are_refused_with_the_way_out(tokenizer: Any, template: str, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=f"^the tokenizer's own chat template: .*{message}") as caught:
        ensure_chat_template(tokenizer, "auto")
    assert "model.chat_template=plain" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_may_refuse_a_system_message_aloud(tokenizer: Any) -> None:
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refuse + LOOP
    assert ensure_chat_template(tokenizer, "auto") == "own"


def test_names_that_are_no_template(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"'chatlm' is neither auto, chatml, plain nor a file that exists"):
        ensure_chat_template(tokenizer, "chatlm")


def test_chatml_needs_its_tokens(spaced_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer has no token <\|im_start\|>. Use model.chat_template=plain"):
        ensure_chat_template(spaced_tokenizer, "chatml")


def test_plain_needs_an_eos(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="plain: the tokenizer has no EOS token"):
        ensure_chat_template(tokenizer, "plain")


def test_a_file_that_is_not_utf8(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"own.jinja cannot be read .*Save it as UTF-8"):
        ensure_chat_template(tokenizer, str(path))


def turns(system: str, loop: str = "messages") -> str:
    """A template that does `system` with the system message, and writes the turns of `loop`."""
    return (
        "{% set lead = '' %}{% if messages[0].role == 'system' %}" + system + "{% endif %}{% for m in " + loop + " %}"
        "{% if m.role != 'system' %}{{ m.role + ':' + (lead if loop.first or loop.index0 == 1 else '') }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endif %}{% endfor %}" + OPENING
    )


@pytest.mark.parametrize("markers", [True, False])
@pytest.mark.parametrize(
    ("template", "message"),
    [
        (turns(""), "leaves out what the system says"),
        (turns("{{ messages[0].content }}", "messages[-4:]"), "leaves out what the (user|assistant) says"),
        (turns("{{ messages[0].content }}", "messages[-14:]"), "leaves out what the (user|assistant) says"),
        (
            turns("{{ messages[0].content }}", "messages[:2] + messages[-2:]"),
            "leaves out what the (user|assistant) says",
        ),
        (turns("{{ messages[0].content[:5] }}"), "leaves out what the system says"),
    ],
)
def test_a_template_that_drops_something_silently(template: str, message: str, markers: bool, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    if not markers:
        tokenizer.chat_template = re.sub(r"\{% (end)?generation %\}", "", template)
    with pytest.raises(ModelError, match=f"^the tokenizer's own chat template: the chat template {message}.*plain"):
        ensure_chat_template(tokenizer, "auto")


@pytest.mark.parametrize("markers", [True, False])
def test_a_template_may_write_the_system_message_into_the_first_question(markers: bool, tokenizer: Any) -> None:
    template = turns("{% set lead = messages[0].content + '; ' %}")
    tokenizer.chat_template = template if markers else re.sub(r"\{% (end)?generation %\}", "", template)
    assert ensure_chat_template(tokenizer, "auto") == "own"


def test_a_changed_template_is_seen_at_once(tokenizer: Any) -> None:
    assert end_of_turn(tokenizer) == "<|im_end|>"
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|endoftext|>")
    assert end_of_turn(tokenizer) == "<|endoftext|>"
