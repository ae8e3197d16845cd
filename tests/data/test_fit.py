"""What happens to text that is longer than max_length: nothing is lost without being counted."""

from typing import Any

import pytest

from finetune.data.check import Ledger
from finetune.data.rendering.chat_template import ensure_chat_template
from finetune.data.shorten import GAP
from finetune.data.tokenize import fit, tokenize_conversation, tokenize_split
from finetune.errors import DataError
from finetune.records import Conversation, Message


def qa(question: str, answer: str, name: str = "1") -> Conversation:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(item_id=name, source=f"f:{name}", messages=messages)


def ledger_for(rows: list[Conversation], limit: float = 1.0) -> Ledger:
    ledger = Ledger(rows_read=len(rows), rows_used=len(rows), max_answer_tokens_lost=limit)
    ledger.splits["train"] = len(rows)
    return ledger


def words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


def test_what_fits_is_left_alone(chatml_tokenizer: Any) -> None:
    row = qa("which law?", "New York")
    whole = tokenize_conversation(row, chatml_tokenizer)
    ledger = Ledger()
    assert fit(row, chatml_tokenizer, len(whole.input_ids), ledger.counts) == [whole]
    assert (ledger.counts.truncated_rows, ledger.counts.shortened_prompts, ledger.counts.truncated) == (0, 0, 0)


def test_a_long_prompt_loses_its_middle_and_the_answer_stays_whole(chatml_tokenizer: Any) -> None:
    row = qa(words(400), "the law of New York")
    whole = tokenize_conversation(row, chatml_tokenizer)
    ledger = Ledger()
    (example,) = fit(row, chatml_tokenizer, 200, ledger.counts)
    text = chatml_tokenizer.decode(example.input_ids)
    assert 180 <= len(example.input_ids) <= 200
    assert "user\nword0 word1 " in text
    assert " word399<|im_end|>" in text
    assert GAP in text
    assert text.endswith("assistant\nthe law of New York<|im_end|>\n")
    assert example.num_supervised == whole.num_supervised
    assert example.num_supervised_bytes == whole.num_supervised_bytes
    assert ledger.counts.shortened_prompts == 1
    assert ledger.counts.prompt_tokens_removed == len(whole.input_ids) - len(example.input_ids)
    assert (ledger.counts.truncated_rows, ledger.counts.truncated) == (0, 0)


def test_the_longest_prompt_texts_are_shortened_first(chatml_tokenizer: Any) -> None:
    messages = (
        Message(role="system", content="be brief and exact"),
        Message(role="user", content=words(300)),
        Message(role="assistant", content="first answer"),
        Message(role="user", content="a short question?"),
        Message(role="assistant", content="second answer"),
    )
    (example,) = fit(Conversation(item_id="1", source="f:1", messages=messages), chatml_tokenizer, 220)
    text = chatml_tokenizer.decode(example.input_ids)
    for kept in ("be brief and exact", "first answer<|im_end|>", "a short question?", "second answer<|im_end|>"):
        assert kept in text


def test_an_answer_that_does_not_fit_goes_on_behind_its_prompt(chatml_tokenizer: Any) -> None:
    row = qa("which law?", words(300))
    whole = tokenize_conversation(row, chatml_tokenizer)
    ledger = ledger_for([row])
    examples = tokenize_split([row], chatml_tokenizer, 100, ledger, split="train")
    prompt = whole.input_ids[: whole.loss_mask.index(True)]
    assert len(examples) > 3 and all(len(example.input_ids) <= 100 for example in examples)
    assert all(example.input_ids[: len(prompt)] == prompt for example in examples)
    learned = [
        token
        for example in examples
        for token, supervised in zip(example.input_ids, example.loss_mask, strict=True)
        if supervised
    ]
    assert learned == [token for token, on in zip(whole.input_ids, whole.loss_mask, strict=True) if on]
    assert sum(example.num_supervised_bytes for example in examples) == whole.num_supervised_bytes
    assert [example.item_id for example in examples[:3]] == ["1", "1#2", "1#3"]
    assert (ledger.counts.truncated_rows, ledger.counts.truncated, ledger.counts.continued_answers) == (0, 0, 1)
    assert ledger.counts.supervised == whole.num_supervised
    assert "long answers go on" in "\n".join(ledger.lines())


def test_a_long_chat_loses_no_answer_token(chatml_tokenizer: Any) -> None:
    turns = [(role, words(60)) for _ in range(4) for role in ("user", "assistant")]
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    row = Conversation(item_id="1", source="f:1", messages=messages)
    whole = tokenize_conversation(row, chatml_tokenizer)
    ledger = ledger_for([row])
    examples = tokenize_split([row], chatml_tokenizer, 150, ledger, split="train")
    assert len(examples) > 1 and all(len(example.input_ids) <= 150 for example in examples)
    assert ledger.counts.supervised == whole.num_supervised and ledger.counts.truncated == 0


def test_a_prompt_keeps_a_quarter_even_where_the_answer_is_long(chatml_tokenizer: Any) -> None:
    example, *_ = fit(qa(words(300), words(300)), chatml_tokenizer, 200)
    first = example.loss_mask.index(True)
    assert 40 <= first <= 75
    assert len(example.input_ids) == 200


def test_too_many_lost_answer_tokens_stop_the_run(chatml_tokenizer: Any) -> None:
    tools = '[{"name": "' + words(100) + '"}]'
    ensure_chat_template(chatml_tokenizer, "chatml")
    fitting = [qa("which law?", "New York", str(number)) for number in range(3)]
    hopeless = [
        Conversation(item_id=f"h{n}", source=f"f:{n}", messages=qa("Q", words(9)).messages, tools=tools)
        for n in range(3)
    ]
    with pytest.raises(DataError, match=r"\d+\.\d % of the answer tokens \([\d,]+ of [\d,]+\) do not fit") as caught:
        tokenize_split([*fitting, *hopeless], chatml_tokenizer, 100, ledger_for([*fitting, *hopeless], limit=0.05))
    for option in ("training.max_length=100", "data.max_answer_tokens_lost=0.05", "Raise training.max_length"):
        assert option in str(caught.value)


def test_a_row_without_a_token_to_learn_moves_to_rejected(chatml_tokenizer: Any) -> None:
    tools = '[{"name": "' + words(100) + '"}]'
    hopeless = Conversation(item_id="2", source="f:2", messages=qa("Q", "A").messages, tools=tools)
    rows = [qa("which law?", "New York"), hopeless]
    ensure_chat_template(chatml_tokenizer, "chatml")
    ledger = ledger_for(rows)
    examples = tokenize_split(rows, chatml_tokenizer, 100, ledger, split="train")
    assert [example.item_id for example in examples] == ["1"]
    found: Any = ledger.to_json()
    assert (found["rows_in"], found["rows_used"], found["rejected"]["all_masked"]) == (2, 1, 1)
    assert found["splits"]["train"] == 1
    assert found["tokens"]["truncated"] > 0
    assert found["examples"]["all_masked"][0]["source"] == "f:2"


def test_rows_that_the_template_refuses_move_to_rejected(spaced_tokenizer: Any) -> None:
    spaced_tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    )
    rows = [qa("good", "A", "1"), qa("bad", "A", "2")]
    ledger = ledger_for(rows)
    assert len(tokenize_split(rows, spaced_tokenizer, 100, ledger, split="train")) == 1
    assert ledger.rejected["wrong_type"] == 1
    assert ledger.examples["wrong_type"] == [{"source": "f:2", "detail": "the chat template cannot write it (no)"}]
    ledger.close()
    with pytest.raises(DataError, match=r"^all 1 rows have a value of the wrong type \(first: f:2: .*chat_template"):
        tokenize_split(rows[1:], spaced_tokenizer, 100, ledger_for(rows[1:]))


@pytest.mark.parametrize("max_length", [8, 9, 50, 10_000])
def test_a_long_text_becomes_chunks_that_predict_every_token_once(spaced_tokenizer: Any, max_length: int) -> None:
    row = Conversation(item_id="t", source="t.txt", text="the law of the state. " * 20)
    whole = tokenize_conversation(row, spaced_tokenizer)
    ledger = ledger_for([row])
    chunks = tokenize_split([row], spaced_tokenizer, max_length, ledger, split="train")
    assert all(len(chunk.input_ids) <= max_length for chunk in chunks)
    assert all(chunk.loss_mask[0] is False and all(chunk.loss_mask[1:]) for chunk in chunks)
    predicted = [token for chunk in chunks for token in chunk.input_ids[1:]]
    assert predicted == whole.input_ids[1:]
    assert sum(chunk.num_supervised_bytes for chunk in chunks) == whole.num_supervised_bytes
    assert [chunk.input_ids.count(spaced_tokenizer.eos_token_id) for chunk in chunks[:-1]] == [0] * (len(chunks) - 1)
    assert chunks[-1].input_ids[-1] == spaced_tokenizer.eos_token_id
    names = [chunk.item_id for chunk in chunks]
    assert names == (["t"] if len(chunks) == 1 else [f"t#{number}" for number in range(1, len(chunks) + 1)])
    assert (ledger.rows_used, ledger.counts.truncated) == (1, 0)
    assert ledger.counts.supervised == whole.num_supervised


def test_batches_give_what_single_rows_give(chatml_tokenizer: Any) -> None:
    rows: list[Conversation] = []
    for number in range(300):
        text = Conversation(item_id=str(number), source="t", text=words(number % 7 + 1))
        rows.append(text if number % 3 == 0 else qa(words(number % 40), words(number % 11 + 1), str(number)))
    expected = [example for row in rows for example in fit(row, chatml_tokenizer, 80)]
    assert tokenize_split(rows, chatml_tokenizer, 80, ledger_for(rows)) == expected


def test_only_the_last_answer_of_a_split(chatml_tokenizer: Any) -> None:
    messages = (*qa("Q1", "first").messages, *qa("Q2", "second").messages)
    row = Conversation(item_id="1", source="f:1", messages=messages)
    (example,) = tokenize_split([row], chatml_tokenizer, 100, ledger_for([row]), last_turn_only=True)
    assert example == tokenize_conversation(row, chatml_tokenizer, last_turn_only=True)
