"""Golden conversations: what a right runtime repeats, and what a sabotaged one betrays."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.data.tokenize import tokenize_conversation
from finetune.export.gguf.golden import check_golden, golden_items
from finetune.export.gguf.vocabulary import read_vocabulary
from finetune.records import Conversation, Message

from . import llama_vocab
from .test_vocabulary import write_vocabulary

ROOT = Path(__file__).resolve().parents[3]


def chats(num: int) -> list[Conversation]:
    """Conversations of two to six turns."""
    rows = []
    for number in range(num):
        turns = [Message(role="system", content="Be brief.")] if number % 3 == 0 else []
        for turn in range(number % 3 + 1):
            turns.append(Message(role="user", content=f"Question {number}.{turn}: which  law?\n"))
            turns.append(Message(role="assistant", content=f"The law of state №{number} – café."))
        rows.append(Conversation(item_id=f"item-{number}", source=f"rows.jsonl:{number}", messages=tuple(turns)))
    return rows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "models" / "embedded")


def encoder(tokenizer: Any) -> Any:
    """A runtime that does as the tokenizer does."""
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def test_items_are_what_was_trained(tokenizer: Any) -> None:
    rows = chats(10)
    items = golden_items([Conversation(item_id="t", source="t:1", text="plain"), *rows], tokenizer, 4)
    assert [item["item_id"] for item in items] == ["item-0", "item-2", "item-5", "item-7"]
    assert json.loads(json.dumps(items)) == items
    for item in items:
        row = next(row for row in rows if row.item_id == item["item_id"])
        assert item["whole"]["ids"] == tokenize_conversation(row, tokenizer).input_ids
        assert item["whole"]["text"].startswith(item["prompt"]["text"])
        assert item["whole"]["ids"][: len(item["prompt"]["ids"])] == item["prompt"]["ids"]
        assert item["prompt"]["text"].endswith("<|im_start|>assistant\n")
        assert tokenizer.convert_ids_to_tokens(item["end_id"]) == "<|im_end|>"
        assert item["messages"][-1] == {"role": "assistant", "content": row.answer}
        assert (item["bos_text"], item["num_bos"]) == ("", 0)


def test_fewer_conversations_than_asked_for(tokenizer: Any) -> None:
    assert len(golden_items(chats(2), tokenizer, 8)) == 2
    assert golden_items([], tokenizer, 8) == []
    assert golden_items(chats(2), tokenizer, 0) == []


def test_a_right_runtime_has_no_problem(tokenizer: Any) -> None:
    items = golden_items(chats(5), tokenizer, 5)

    def render(messages: list[dict[str, Any]], tools: Any) -> str:
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)

    is_end = {tokenizer.eos_token_id}.__contains__
    assert check_golden(items, encoder(tokenizer), None, is_end, render) == []


def test_wrong_ids_ends_and_templates_are_named(tokenizer: Any) -> None:
    [item] = golden_items(chats(1), tokenizer, 1)
    right = encoder(tokenizer)

    def swapped(text: str) -> list[int]:
        ids = right(text)
        ids[3] = 7
        return ids

    problems = check_golden([item], swapped, None, lambda token: False, lambda messages, tools: "<|im_start|>SYSTEM")
    assert len(problems) == 4
    assert problems[0].startswith("item-0: the ids of the prompt differ at place 3: [7, ")
    assert "of the whole differ at place 3" in problems[1]
    assert problems[2].endswith(f"does not stop at the token {item['end_id']}, which was trained to end an answer")
    assert "writes 'SYSTEM' at character 12 of the prompt instead of 'system\\nBe brief." in problems[3]
    short = check_golden([item], lambda text: right(text)[:5], None, lambda token: True)
    assert "differ at place 5: [] instead of" in short[0]


def test_the_number_of_bos_tokens_is_kept(tokenizer: Any) -> None:
    """Trained with one, added by the runtime: the text comes without it, and one is there. Trained without: none."""
    import copy

    with_bos = copy.deepcopy(tokenizer)
    with_bos.bos_token = "<|endoftext|>"
    bos = with_bos.bos_token_id
    without_text = golden_items(chats(1), with_bos, 1)
    with_bos.chat_template = "{{- bos_token }}" + with_bos.chat_template
    items = golden_items(chats(1), with_bos, 1)
    assert (items[0]["bos_text"], items[0]["num_bos"]) == ("<|endoftext|>", 1)
    right = encoder(with_bos)

    def adding(text: str) -> list[int]:
        return [bos, *right(text)]

    assert check_golden(items, adding, bos, lambda token: True) == []
    assert check_golden(items, right, None, lambda token: True) == []
    twice = check_golden(items, lambda text: [bos, bos, *right(text)], bos, lambda token: True)
    assert "the prompt has 2 BOS tokens (4092), and was trained with 1" in twice[0]
    assert (
        "has 1 BOS tokens (4092), and was trained with 0" in check_golden(without_text, adding, bos, lambda _: True)[0]
    )


def test_llama_cpp_repeats_them(tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    items = golden_items(chats(6), tokenizer, 6)
    texts = [item[part]["text"] for item in items for part in ("prompt", "whole")]
    path = write_vocabulary(tmp_path / "v.gguf", read_vocabulary(tmp_path, tokenizer, 4096))
    answers = llama_vocab.ask(path, texts)
    ids = dict(zip(texts, answers.ids_added, strict=True))
    assert check_golden(items, ids.__getitem__, None, answers.ends.__contains__) == []
