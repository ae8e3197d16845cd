"""Modelfiles: their templates, run by a small renderer of Go's templates, write what the trained template writes."""

import re
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rendering.chat_template import ensure_chat_template
from finetune.errors import ExportError
from finetune.export.ollama import lm_studio_path, modelfile, turn_texts

from .gguf import made_tokenizers as made

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are {{ kind }}.<|im_end|>\n' }}{% endif %}"
    + CHATML
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' "
    "+ message.content | trim + '<|eot_id|>' %}{% if loop.first %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' "
    "+ (first if loop.first else '') + message.content + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if message.role == 'user' %}{% if loop.last and system is defined %}"
    "{{ '[INST] ' + system + '\n\n' + message.content + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + message.content + '[/INST]' }}{% endif %}{% else %}{{ ' ' + message.content + eos_token }}"
    "{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LAST_DIFFERS = "{% for message in messages %}{{ message.role + loop.index | string + message.content }}{% endfor %}ok"

TOKENS = [
    "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]",
    "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
]  # fmt: skip

CHATS = [
    ["What is it?"],
    ["What is it?", "That.", "And {this}?"],
    ["a\nb", "1. c\n2. d", "e", "<b>f</b>", 'g "h" \\n'],
]


def chat_tokenizer(template: str, *, bos: bool) -> Any:
    """A tokenizer with a template, which puts a BOS token before text where asked."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = made.make(special=TOKENS)
    tokenizer.eos_token = "</s>"
    if bos:
        tokenizer.bos_token = "<s>"
        special = ("<s>", tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[special])
    tokenizer.chat_template = template
    return tokenizer


def trained_text(tokenizer: Any, system: str, turns: list[str]) -> str:
    """What the chat template writes, with the answer opened."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def field(text: str, name: str) -> str:
    """The value of a Modelfile's instruction, as Ollama reads it."""
    found = re.search(rf'^{name} (?:"""(.*?)"""|"(.*?)")$', text, re.DOTALL | re.MULTILINE)
    assert found is not None, text
    return found[1] if found[1] is not None else found[2]


def go(template: str, system: str, turns: list[str]) -> str:
    """Run the part of Go's templates that modelfile() writes; `.Messages` holds the system message too."""
    messages = [{"Role": "system", "Content": system}] if system else []
    messages += [{"Role": ("user", "assistant")[place % 2], "Content": text} for place, text in enumerate(turns)]
    parts = re.split(r"\{\{ (.*?) \}\}", template, flags=re.DOTALL)
    tokens = [(place % 2 == 1, part) for place, part in enumerate(parts)]
    out: list[str] = []
    end = _block(tokens, 0, {"System": system, "Messages": messages}, out, run=True)
    assert end == len(tokens)
    return "".join(out)


def _block(tokens: list[tuple[bool, str]], place: int, names: dict[str, Any], out: list[str], *, run: bool) -> int:
    """Run up to the end, or to the `else` or `end` that closes this block; returns its place."""
    while place < len(tokens):
        is_action, text = tokens[place]
        if not is_action:
            out += [text] if run else []
        elif text == "end" or text.startswith("else"):
            return place
        elif text.startswith("if "):
            place = _branches(tokens, place, names, out, run=run)
        elif text.startswith("range "):
            start = place + 1
            for number, message in enumerate(names["Messages"]):
                place = _block(tokens, start, names | message | {"number": number}, out, run=run)
        elif text == "$last := eq (len (slice $.Messages $i)) 1":
            names = names | {"last": len(names["Messages"][names["number"] :]) == 1}
        elif run:
            out.append(text[1:-1] if text.startswith('"') else names[text.removeprefix("$").removeprefix(".")])
        place += 1
    return place


def _branches(tokens: list[tuple[bool, str]], place: int, names: dict[str, Any], out: list[str], *, run: bool) -> int:
    is_done = False
    while tokens[place][1] != "end":
        condition = tokens[place][1].removeprefix("else").strip().removeprefix("if ").strip()
        is_taken = run and not is_done and (not condition or _holds(condition, names))
        is_done = is_done or is_taken
        place = _block(tokens, place + 1, names, out, run=is_taken)
    return place


def _holds(condition: str, names: dict[str, Any]) -> bool:
    role = re.fullmatch(r'eq \.Role "(\w+)"', condition)
    if role:
        return names["Role"] == role[1]
    return {".System": bool(names["System"]), "and $last $.System": names.get("last") and bool(names["System"])}[
        condition
    ]


@pytest.mark.parametrize(
    ("template", "bos", "takes_system"),
    [
        pytest.param(CHATML, False, True, id="chatml"),
        pytest.param("{{ bos_token }}" + CHATML, True, True, id="chatml with BOS"),
        pytest.param(DEFAULT_SYSTEM, False, True, id="default system message"),
        pytest.param(LLAMA3, True, True, id="llama 3"),
        pytest.param(GEMMA, True, True, id="gemma 3: system in the first turn"),
        pytest.param(MISTRAL, True, True, id="mistral: system in the last turn"),
        pytest.param(NO_SYSTEM, True, False, id="mistral 0.1: no system"),
        pytest.param(PHI3, False, True, id="phi 3"),
        pytest.param(ZEPHYR, True, True, id="zephyr"),
        pytest.param("plain", False, True, id="plain"),
        pytest.param("plain", True, True, id="plain with BOS"),
    ],
)
def test_the_template_writes_what_was_trained(template: str, bos: bool, takes_system: bool) -> None:
    tokenizer = chat_tokenizer(template, bos=bos)
    if template == "plain":
        ensure_chat_template(tokenizer, "plain")
    text = modelfile("model-Q8_0.gguf", tokenizer, 4096, ["</s>"])
    derived = field(text, "TEMPLATE")
    for system in ("", "Be brief.\nAnswer.") if takes_system else ("",):
        for turns in CHATS:
            whole = trained_text(tokenizer, system, turns)
            assert go(derived, system, turns) == (whole.removeprefix("<s>") if bos else whole)
    assert ("takes no system message" in text) == (not takes_system)
    assert not (bos and "<s>" in derived)


def test_the_embedded_models_modelfile() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).resolve().parents[2] / "models" / "embedded")
    text = modelfile("embedded-F16.gguf", tokenizer, 2048, ["<|im_end|>"], 'Be "brief".')
    assert text.startswith("FROM ./embedded-F16.gguf\nTEMPLATE ")
    assert text.endswith(
        'SYSTEM """Be "brief"."""\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "<|im_start|>"\nPARAMETER num_ctx 2048\n'
    )
    for turns in CHATS:
        assert go(field(text, "TEMPLATE"), "S", turns) == trained_text(tokenizer, "S", turns)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "the model has no chat template"),
        (LAST_DIFFERS, "depends on more than the roles"),
        ("{% if messages | length == 1 %}Hello{% endif %}" + CHATML, "depends on more than the roles"),
        ("{{ strftime_now('%d') }}" + CHATML, "writes the date"),
        ("{{ raise_exception('never') }}", "refuses a chat of five turns"),
        ('{{ \'"""\' }}' + CHATML, "three quotation marks"),
    ],
)
def test_what_cannot_be_derived_is_left_out(template: str | None, reason: str) -> None:
    tokenizer = chat_tokenizer(CHATML, bos=False)
    tokenizer.chat_template = template
    text = modelfile("m.gguf", tokenizer, 512, ["</s>"])
    assert 'TEMPLATE "' not in text
    assert f"# No TEMPLATE: {reason}" in text or (
        f"{reason}. Ollama looks for one" in text and "# No TEMPLATE: " in text
    )
    assert 'PARAMETER stop "</s>"\nPARAMETER num_ctx 512\n' in text
    assert turn_texts(tokenizer) is None


def test_stops_are_the_end_tokens_and_what_begins_a_turn() -> None:
    tokenizer = chat_tokenizer(LLAMA3, bos=True)
    text = modelfile("m.gguf", tokenizer, 512, ["<|eot_id|>", "</s>"])
    stops = re.findall('PARAMETER stop "(.*)"', text)
    assert stops == ["<|eot_id|>", "</s>", "<|start_header_id|>", "<|end_header_id|>"]


def test_what_a_modelfile_cannot_hold_is_refused() -> None:
    tokenizer = chat_tokenizer(CHATML, bos=False)
    with pytest.raises(ExportError, match="rename the file"):
        modelfile("a\nb.gguf", tokenizer, 512, [])
    with pytest.raises(ExportError, match="three quotation marks, or one at the end"):
        modelfile("a.gguf", tokenizer, 512, [], 'Say "yes"')


def test_lm_studios_folders() -> None:
    assert lm_studio_path("me", "contracts", "contracts-Q4_K_M.gguf") == Path(
        "models/me/contracts/contracts-Q4_K_M.gguf"
    )
    for wrong in ("", "..", "a/b", "a\\b"):
        with pytest.raises(ExportError, match="is not the name of one"):
            lm_studio_path("me", wrong, "a.gguf")
