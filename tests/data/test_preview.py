"""What `inspect` shows of an example."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from finetune.data.rendering.preview import preview
from finetune.data.rendering.preview_html import PREVIEW_CSS, preview_html
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


def test_what_the_template_writes_is_dim_and_what_the_data_says_is_not(chatml_tokenizer: Any) -> None:
    row = chat("which law?", "New York")
    shown = preview(tokenize_conversation(row, chatml_tokenizer), chatml_tokenizer, row, colour=True)
    assert "\x1b[2m<|im_start|>user\n\x1b[0mwhich law?\x1b[2m<|im_end|>\n<|im_start|>assistant\n\x1b[0m" in shown


class Page(HTMLParser):
    """The tags and the text of a fragment."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(fragment)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(dict(attrs).get("class") or tag)
        assert all(name in ("class", "title") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1], data))


def html_of(row: Conversation, tokenizer: Any, **options: Any) -> str:
    return preview_html(tokenize_conversation(row, tokenizer), tokenizer, row, **options)


def test_html_marks_tokens_special_tokens_and_what_the_template_writes(chatml_tokenizer: Any) -> None:
    row = chat("which law?", "🦙 New York")
    fragment = html_of(row, chatml_tokenizer)
    page = Page(fragment)
    text: dict[str, str] = {}
    for kind, data in page.words:
        text[kind] = text.get(kind, "") + data
    assert text["t l"] == "🦙 New York"
    assert text["t s l"] == "<|im_end|>"
    assert text["t s"] == "<|im_start|><|im_end|><|im_start|>"
    assert "".join(text["t m"].split()) == "userassistant"
    assert text["t"] == "which law?"
    assert fragment.count('class="t') < len(tokenize_conversation(row, chatml_tokenizer).input_ids), "an emoji is one"
    assert re.search(r'<mark><span class="t l" title="token \d+: id [\d, ]+, learned">🦙</span>', fragment)
    assert "(13 bytes)" in fragment


def test_html_shows_hostile_text_and_does_not_obey_it(chatml_tokenizer: Any) -> None:
    row = chat("<script>alert(1)</script>\u202e\u200b\x1b", "</pre></figure><img src=x onerror=alert(1)> \" '")
    fragment = html_of(replace(row, item_id="<b>", source='"><i>'), chatml_tokenizer)
    page = Page(fragment)
    assert set(page.tags) == {"figure", "figcaption", "b", "span", "pre", "mark", "i"}
    assert "<script" not in fragment
    for shown in ("U+202E", "U+200B", "U+001B"):
        assert f'<i class="c">{shown}</i>' in fragment
    assert not set("\u202e\u200b\x1b") & set(fragment)
    assert "".join(data for _, data in page.words).count("<script>alert(1)</script>") == 1


def test_html_leaves_out_the_middle_of_a_long_example(chatml_tokenizer: Any) -> None:
    fragment = html_of(chat("Q", "the law " * 300), chatml_tokenizer, most_tokens=40)
    assert fragment.count('<span class="t') == 40
    assert re.search(r"… [\d,]+ tokens left out here …", fragment)


def test_css_names_every_class_and_serves_light_and_dark(chatml_tokenizer: Any) -> None:
    fragment = html_of(chat("\x07 Q" * 30, "A\n"), chatml_tokenizer, most_tokens=30)
    for name in {name for names in re.findall(r'class="([^"]+)"', fragment) for name in names.split()} - {"ft-example"}:
        assert f".{name} " in PREVIEW_CSS or f".{name}:" in PREVIEW_CSS
    assert "prefers-color-scheme: dark" in PREVIEW_CSS
    assert "url(" not in PREVIEW_CSS
    assert "style=" not in fragment


def test_text_and_shortened_chats_are_shown_whole(spaced_tokenizer: Any, chatml_tokenizer: Any) -> None:
    text = Conversation(item_id="t", source="t", text="the law of the state")
    shown = preview(tokenize_conversation(text, spaced_tokenizer), spaced_tokenizer, text)
    assert shown.endswith(("<s>⟦the law of the state</s>⟧", "<s>⟦ the law of the state</s>⟧"))
    example = tokenize_conversation(chat("the head ... the tail", "A"), chatml_tokenizer)
    row = chat("the head " + "x" * 100 + " the tail", "A")
    assert "the head ... the tail<|im_end|>" in preview(example, chatml_tokenizer, row)
