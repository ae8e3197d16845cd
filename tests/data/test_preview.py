"""What `inspect` shows of an example."""

from typing import Any

from finetune.data.preview import preview
from finetune.data.tokenize import tokenize_conversation
from finetune.records import Conversation, Message


def chat(question: str, answer: str) -> Conversation:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(item_id="item-1", source="f.jsonl:1", messages=messages)


def test_the_learned_part_stands_between_brackets_and_special_tokens_are_visible(chatml_tokenizer: Any) -> None:
    row = chat("which law?", "🦙 New York")
    shown = preview(tokenize_conversation(row, chatml_tokenizer), chatml_tokenizer, row)
    head, body = shown.split("\n", 1)
    assert head.startswith("item-1  f.jsonl:1  ")
    assert "(13 bytes)" in head
    assert body == "<|im_start|>user\nwhich law?<|im_end|>\n<|im_start|>assistant\n⟦🦙 New York<|im_end|>⟧\n"


def test_spaces_survive_at_the_borders(spaced_tokenizer: Any) -> None:
    spaced_tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    spaced_tokenizer.chat_template += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    row = chat("the law", "the state")
    shown = preview(tokenize_conversation(row, spaced_tokenizer), spaced_tokenizer, row)
    assert "assistant:⟦ the state</s>⟧" in shown or "assistant: ⟦the state</s>⟧" in shown


def test_colour_only_when_asked(chatml_tokenizer: Any) -> None:
    row = chat("Q", "A")
    example = tokenize_conversation(row, chatml_tokenizer)
    assert "\x1b" not in preview(example, chatml_tokenizer, row)
    assert "\x1b[32m⟦A<|im_end|>⟧\x1b[0m" in preview(example, chatml_tokenizer, row, colour=True)


def test_control_characters_of_the_data_are_shown_not_obeyed(chatml_tokenizer: Any) -> None:
    row = chat("\x1b[2J\x07\u202e", "A")
    shown = preview(tokenize_conversation(row, chatml_tokenizer), chatml_tokenizer, row)
    assert "\\x1b[2J\\x07\\x202e" in shown
    assert "\x1b" not in shown
