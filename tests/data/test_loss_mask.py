"""Token by token: what carries loss, in templates with and without generation markers."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from finetune.data.rendering.chat_template import ensure_chat_template
from finetune.data.rendering.render import RenderProblem
from finetune.data.rendering.spans import mask_of
from finetune.data.tokenize import render_prompt_ids, tokenize_conversation
from finetune.errors import ModelError
from finetune.records import Conversation, Example, Message

USER = Message(role="user", content="which law governs?")
ASSISTANT = Message(role="assistant", content="the law of New York")
SYSTEM = Message(role="system", content="be brief")
MORE = (Message(role="user", content="and here?"), Message(role="assistant", content="none"))


def chat(*messages: Message, tools: str | None = None) -> Conversation:
    return Conversation(item_id="1", source="f:1", messages=messages, tools=tools)


def learned(example: Example, tokenizer: Any) -> list[str]:
    """The texts of the runs of tokens that carry loss."""
    runs: list[list[int]] = []
    before = False
    for token, is_learned in zip(example.input_ids, example.loss_mask, strict=True):
        if is_learned and not before:
            runs.append([])
        if is_learned:
            runs[-1].append(token)
        before = is_learned
    return [tokenizer.decode(run, skip_special_tokens=False).strip() for run in runs]


def without_markers(tokenizer: Any) -> Any:
    tokenizer.chat_template = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", tokenizer.chat_template)
    return tokenizer


@pytest.fixture(params=["markers", "prefixes"])
def chatml(request: pytest.FixtureRequest, tiny_tokenizer_dir: Any) -> Any:
    """The same ChatML template with generation markers, and with its answers found by rendering prefixes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    return tokenizer if request.param == "markers" else without_markers(tokenizer)


def test_answer_and_end_of_turn_carry_loss_and_nothing_else(chatml: Any) -> None:
    example = tokenize_conversation(chat(SYSTEM, USER, ASSISTANT), chatml)
    assert learned(example, chatml) == ["the law of New York<|im_end|>"]
    marked = [chatml.decode([token]) for token, m in zip(example.input_ids, example.loss_mask, strict=True) if m]
    assert marked[-1] == "<|im_end|>"
    newline = chatml("\n", add_special_tokens=False)["input_ids"]
    assert example.input_ids[-1:] == newline
    assert example.loss_mask[-1] is False
    assert example.num_supervised_bytes == len("the law of New York")
    assert example.num_supervised == sum(example.loss_mask) == len(marked)


def test_all_answers_or_only_the_last(chatml: Any) -> None:
    conversation = chat(USER, ASSISTANT, *MORE)
    both = tokenize_conversation(conversation, chatml)
    last = tokenize_conversation(conversation, chatml, last_turn_only=True)
    assert learned(both, chatml) == ["the law of New York<|im_end|>", "none<|im_end|>"]
    assert learned(last, chatml) == ["none<|im_end|>"]
    assert (both.num_supervised_bytes, last.num_supervised_bytes) == (23, 4)
    assert both.input_ids == last.input_ids


def test_ids_are_those_of_the_tokenizer_itself(chatml: Any) -> None:
    messages = [{"role": m.role, "content": m.content} for m in (SYSTEM, USER, ASSISTANT)]
    expected = chatml.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert tokenize_conversation(chat(SYSTEM, USER, ASSISTANT), chatml).input_ids == expected
    prompt = chatml.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert render_prompt_ids((SYSTEM, USER), None, chatml) == prompt == expected[: len(prompt)]


def test_answers_that_repeat_the_prompt_are_not_confused_with_it(chatml: Any) -> None:
    conversation = chat(
        Message(role="user", content="yes"),
        Message(role="assistant", content="yes"),
        Message(role="user", content="assistant"),
        Message(role="assistant", content="assistant"),
    )
    example = tokenize_conversation(conversation, chatml)
    assert learned(example, chatml) == ["yes<|im_end|>", "assistant<|im_end|>"]
    first = example.loss_mask.index(True)
    assert chatml.decode(example.input_ids[:first]).endswith("<|im_start|>assistant\n")


def test_emoji_and_other_scripts_are_learned_whole(chatml: Any) -> None:
    answer = "🦙 größer 法律"
    example = tokenize_conversation(chat(USER, Message(role="assistant", content=answer)), chatml)
    assert learned(example, chatml) == [answer + "<|im_end|>"]
    assert example.num_supervised_bytes == len(answer.encode())


CALL = json.dumps([{"type": "function", "function": {"name": "law", "arguments": {"state": "NY"}}}])


@pytest.mark.parametrize("name", ["chatml", "plain"])
@pytest.mark.parametrize("markers", [True, False])
def test_shipped_templates_write_tools_calls_and_results(name: str, markers: bool, tiny_tokenizer_dir: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    ensure_chat_template(tokenizer, name)
    if not markers:
        without_markers(tokenizer)
    conversation = chat(
        SYSTEM,
        USER,
        Message(role="assistant", content="", tool_calls=CALL),
        Message(role="tool", content='{"law": "NY"}'),
        ASSISTANT,
        tools='[{"name": "law"}]',
    )
    example = tokenize_conversation(conversation, tokenizer)
    call, answer = learned(example, tokenizer)
    assert '"name": "law", "arguments": {"state": "NY"}' in call
    assert call.endswith("<|im_end|>")
    assert answer == "the law of New York<|im_end|>"
    whole = tokenizer.decode(example.input_ids)
    for text in ('{"name": "law"}', "be brief", '{"law": "NY"}'):
        assert text in whole
        assert text not in call + answer
    assert example.num_supervised_bytes == len(ASSISTANT.content) + len(CALL)
    last = tokenize_conversation(conversation, tokenizer, last_turn_only=True)
    assert last.num_supervised_bytes == len(ASSISTANT.content)
    assert learned(last, tokenizer) == [answer]


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_prompt_ids_are_a_prefix_of_the_conversations_ids(name: str, tiny_tokenizer_dir: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    ensure_chat_template(tokenizer, name)
    for messages in ((USER, ASSISTANT), (SYSTEM, USER, ASSISTANT), (USER, ASSISTANT, *MORE)):
        for tools in (None, '[{"name": "law"}]'):
            prompt = render_prompt_ids(messages[:-1], tools, tokenizer)
            example = tokenize_conversation(chat(*messages, tools=tools), tokenizer, last_turn_only=True)
            assert example.input_ids[: len(prompt)] == prompt
            assert example.loss_mask.index(True) == len(prompt)


def test_plain_template_on_a_spaced_tokenizer_has_one_bos_and_learns_eos(spaced_tokenizer: Any) -> None:
    assert ensure_chat_template(spaced_tokenizer, "auto") == "plain"
    example = tokenize_conversation(chat(SYSTEM, USER, ASSISTANT, *MORE), spaced_tokenizer)
    assert example.input_ids.count(spaced_tokenizer.bos_token_id) == 1
    assert example.input_ids[0] == spaced_tokenizer.bos_token_id
    assert learned(example, spaced_tokenizer) == ["the law of New York</s>", "none</s>"]
    assert example.input_ids[-1] == spaced_tokenizer.eos_token_id
    assert example.loss_mask[-1]


def test_a_tokenizer_that_drops_characters_still_marks_the_right_tokens(dropping_tokenizer: Any) -> None:
    ensure_chat_template(dropping_tokenizer, "auto")
    user = Message(role="user", content="{{{ the é }}} law")
    answer = Message(role="assistant", content="the {law} of é states")
    example = tokenize_conversation(chat(user, answer, *MORE), dropping_tokenizer)
    assert learned(example, dropping_tokenizer) == ["the law of  states</s>", "none</s>"]
    text = dropping_tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in (user, answer, *MORE)], tokenize=False
    )
    assert example.input_ids == dropping_tokenizer(text, add_special_tokens=False)["input_ids"]


def test_plain_text_learns_every_token_but_the_first_and_ends_with_eos(spaced_tokenizer: Any) -> None:
    example = tokenize_conversation(Conversation(item_id="t", source="t", text="the law"), spaced_tokenizer)
    assert example.input_ids[0] == spaced_tokenizer.bos_token_id
    assert example.input_ids[-1] == spaced_tokenizer.eos_token_id
    assert example.loss_mask == [False] + [True] * (len(example.input_ids) - 1)
    assert example.num_supervised_bytes == 7


def test_plain_text_that_writes_its_own_bos_and_eos_gets_no_second_one(spaced_tokenizer: Any) -> None:
    example = tokenize_conversation(Conversation(item_id="t", source="t", text="<s>the law</s>"), spaced_tokenizer)
    assert example.input_ids.count(spaced_tokenizer.bos_token_id) == 1
    assert example.input_ids.count(spaced_tokenizer.eos_token_id) == 1


def test_plain_text_without_bos_does_not_count_the_first_token(chatml_tokenizer: Any) -> None:
    text = "größer als alle"
    example = tokenize_conversation(Conversation(item_id="t", source="t", text=text), chatml_tokenizer)
    first = chatml_tokenizer.decode(example.input_ids[:1])
    assert example.num_supervised_bytes == len(text.encode()) - len(first.encode())


TEMPLATES = {
    "llama2": "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ '<<SYS>>' + m.content + '<</SYS>>' }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
    "thinking": "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'A: ' }}"
    "{% if loop.last %}{{ 'hmm ' }}{% endif %}{{ m.content.split('</think>')[-1] | trim }}{{ eos_token }}"
    "{% else %}{{ 'U: ' + m.content }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}",
    "eos outside the markers": "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'A: ' }}"
    "{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}"
    "{% else %}{{ 'U: ' + m.content }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_other_makers(name: str, spaced_tokenizer: Any) -> None:
    spaced_tokenizer.chat_template = TEMPLATES[name]
    assert ensure_chat_template(spaced_tokenizer, "auto") == "own"
    thinking = Message(role="assistant", content="<think>long</think>the law of New York")
    conversation = chat(USER, thinking if name == "thinking" else ASSISTANT, *MORE)
    first, last = learned(tokenize_conversation(conversation, spaced_tokenizer), spaced_tokenizer)
    assert re.sub(" +", " ", first).replace(" </s>", "</s>") == "the law of New York</s>"
    assert re.sub("hmm| ", "", last) == "none</s>"


def test_a_template_that_leaves_out_a_message_is_an_error_that_names_the_row(chatml_tokenizer: Any) -> None:
    keeps = chatml_tokenizer.chat_template
    chatml_tokenizer.chat_template = keeps.replace("message['content'] + '<|im_end|>' -}}{%- endif", "''}}{%- endif")
    with pytest.raises(
        ModelError, match=r"^f:1: the chat template leaves out what the user says \('which law governs\?'\)"
    ):
        tokenize_conversation(chat(USER, ASSISTANT), chatml_tokenizer)


def test_a_template_that_refuses_the_messages_names_the_row(spaced_tokenizer: Any) -> None:
    spaced_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RenderProblem, match=r"^f:1: the chat template cannot write it \(roles must alternate\)"):
        tokenize_conversation(chat(USER, ASSISTANT), spaced_tokenizer)


def test_no_template_is_an_error(spaced_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"has no chat template. Choose one: model.chat_template=plain"):
        tokenize_conversation(chat(USER, ASSISTANT), spaced_tokenizer)


def test_a_slow_tokenizer_is_an_error() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"the tokenizer \(Slow\) gives no character offsets.*tokenizer.json"):
        tokenize_conversation(Conversation(item_id="t", source="t", text="x"), Slow())


def test_mask_of_marks_tokens_that_share_a_character() -> None:
    offsets = [(0, 2), (2, 4), (4, 4), (4, 6), (4, 6), (6, 9)]
    assert mask_of(offsets, [(3, 5)]) == [False, True, True, True, True, False]
    assert mask_of(offsets, [(0, 2), (6, 7)]) == [True, False, False, False, False, True]
    assert mask_of(offsets, []) == [False] * 6
    assert all(a <= b for a, b in pairwise(start for start, _ in offsets))


def test_content_that_ends_like_a_turn_still_learns_its_own_ending(chatml: Any) -> None:
    answer = Message(role="assistant", content="it ends with <|im_end|>")
    example = tokenize_conversation(chat(USER, answer, *MORE), chatml)
    assert learned(example, chatml) == ["it ends with <|im_end|><|im_end|>", "none<|im_end|>"]


def test_an_answer_that_opens_a_turn_is_learned_whole(chatml: Any) -> None:
    answer = Message(role="assistant", content="<|im_start|>assistant\nfaked<|im_end|>")
    example = tokenize_conversation(chat(USER, answer, *MORE), chatml)
    assert learned(example, chatml) == ["<|im_start|>assistant\nfaked<|im_end|><|im_end|>", "none<|im_end|>"]


def test_white_space_of_an_answer_is_learned_but_not_what_the_template_writes_behind(chatml: Any) -> None:
    answer = Message(role="assistant", content="\n two \n")
    example = tokenize_conversation(chat(USER, answer), chatml)
    texts = [chatml.decode([token]) for token, m in zip(example.input_ids, example.loss_mask, strict=True) if m]
    assert "".join(texts) == "\n two \n<|im_end|>"


def test_what_the_generation_prompt_gives_is_not_learned_even_if_it_is_marked(chatml_tokenizer: Any) -> None:
    chatml_tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ '<|im_start|>assistant\n' + m.content "
        "+ '<|im_end|>\n' }}{% endgeneration %}{% else %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    example = tokenize_conversation(chat(USER, ASSISTANT), chatml_tokenizer)
    assert learned(example, chatml_tokenizer) == ["the law of New York<|im_end|>"]
    assert example.loss_mask[-1] is False


@pytest.mark.parametrize("markers", [True, False])
def test_calls_tools_and_results_that_a_template_drops_cost_the_row(markers: bool, chatml_tokenizer: Any) -> None:
    tokenizer = chatml_tokenizer if markers else without_markers(chatml_tokenizer)
    call = Message(role="assistant", content="", tool_calls=CALL)
    result = Message(role="tool", content='{"law": "NY"}')
    with pytest.raises(RenderProblem, match=r"^f:1: the chat template leaves out the call of 'law'"):
        tokenize_conversation(chat(USER, call, result, ASSISTANT), tokenizer)
    with pytest.raises(RenderProblem, match=r"^f:1: the chat template leaves out the tool 'law'"):
        tokenize_conversation(chat(*MORE, tools='[{"name": "law"}]'), tokenizer)


def test_arguments_are_given_as_text_to_a_template_that_takes_no_others(spaced_tokenizer: Any) -> None:
    spaced_tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + c.function.arguments }}{% endfor %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    call = Message(role="assistant", content="", tool_calls=CALL)
    result = Message(role="tool", content="NY")
    first, last = learned(
        tokenize_conversation(chat(USER, call, result, ASSISTANT), spaced_tokenizer), spaced_tokenizer
    )
    assert first.startswith("law")
    assert "state" in first
    assert last.endswith("New York</s>")


def test_the_last_turn_is_the_last_even_where_a_result_is_rewritten(chatml_tokenizer: Any) -> None:
    ensure_chat_template(chatml_tokenizer, "chatml")
    chatml_tokenizer.chat_template = chatml_tokenizer.chat_template.replace(
        "message.role + '\\n' + message.content", "message.role + '\\n' + (message.content | tojson)"
    )
    call = Message(role="assistant", content="", tool_calls=CALL)
    result = Message(role="tool", content='{"law": "NY"}')
    user = Message(role="user", content="which law")
    example = tokenize_conversation(chat(user, call, result, ASSISTANT), chatml_tokenizer, last_turn_only=True)
    assert learned(example, chatml_tokenizer) == ["the law of New York<|im_end|>"]


@pytest.mark.parametrize("markers", [True, False])
def test_an_ending_of_several_tokens_outside_the_markers_is_learned_whole(markers: bool, chatml_tokenizer: Any) -> None:
    chatml_tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
        "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|endoftext|><|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = chatml_tokenizer if markers else without_markers(chatml_tokenizer)
    example = tokenize_conversation(chat(USER, ASSISTANT, *MORE), tokenizer)
    assert learned(example, tokenizer) == ["the law of New York<|endoftext|><|im_end|>", "none<|endoftext|><|im_end|>"]
