"""Tokenised rows on disk: equal to what was written, used again only where nothing has changed."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.config import LongRows
from finetune.data import cache
from finetune.data.check import Ledger
from finetune.data.examples import Examples, ExampleWriter, lengths_of, num_supervised_of
from finetune.data.tokenize import tokenize_split
from finetune.errors import DataError
from finetune.records import Conversation, Example, Message


def qa(number: int, answer: str = "New York") -> Conversation:
    messages = (Message(role="user", content=f"question {number}?"), Message(role="assistant", content=answer))
    return Conversation(item_id=str(number), source=f"f:{number}", messages=messages)


def ledger_for(rows: list[Conversation]) -> Ledger:
    ledger = Ledger(rows_read=len(rows), rows_used=len(rows))
    ledger.splits["train"] = len(rows)
    return ledger


examples = st.builds(
    lambda name, tokens, num_bytes: Example(
        item_id=name,
        input_ids=[token for token, _ in tokens],
        loss_mask=[learned and place > 0 for place, (_, learned) in enumerate(tokens)],
        num_supervised_bytes=num_bytes,
    ),
    st.text(max_size=5),
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.booleans()), max_size=6),
    st.integers(0, 2**40),
)


@given(st.lists(examples, max_size=6))
def test_examples_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, rows: list[Example]) -> None:
    folder = tmp_path_factory.mktemp("examples")
    writer = ExampleWriter(folder)
    for row in rows:
        writer.add(row)
    writer.close()
    found = Examples(folder)
    assert found == rows and found[:2] == rows[:2]
    assert lengths_of(found) == lengths_of(rows)
    assert num_supervised_of(found) == num_supervised_of(rows)
    if rows:
        assert found[-1] == rows[-1]
    with pytest.raises(IndexError):
        found[len(rows)]


def test_the_second_run_takes_the_rows_of_the_first(
    chatml_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [qa(number) for number in range(5)]
    first_ledger, second_ledger = ledger_for(rows), ledger_for(rows)
    first = tokenize_split(rows, chatml_tokenizer, 100, first_ledger, split="train", cache_dir=tmp_path / "c")
    monkeypatch.setattr("finetune.data.tokenize.encode", lambda *_, **__: pytest.fail("tokenised again"))
    second = tokenize_split(rows, chatml_tokenizer, 100, second_ledger, split="train", cache_dir=tmp_path / "c")
    assert second == first and len(second) == 5
    assert second_ledger.to_json() == first_ledger.to_json()
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


def test_rejections_are_told_again(chatml_tokenizer: Any, tmp_path: Path) -> None:
    rows = [qa(1), qa(2, "many words " * 60)]
    ledgers = [ledger_for(rows), ledger_for(rows)]
    for ledger in ledgers:
        found = tokenize_split(
            rows, chatml_tokenizer, 100, ledger, split="train", long=LongRows.drop, cache_dir=tmp_path / "c"
        )
        assert [example.item_id for example in found] == ["1"]
        assert ledger.rejected["too_long"] == 1 and ledger.splits["train"] == 1
    assert ledgers[0].to_json() == ledgers[1].to_json()
    ledgers[1].write_rejected(tmp_path / "rejected.jsonl")
    assert "many words" in (tmp_path / "rejected.jsonl").read_text()


@pytest.mark.parametrize("change", ["row", "order", "length", "template", "long", "last_turn", "token", "code"])
def test_a_change_makes_the_rows_anew(
    change: str, chatml_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [qa(number) for number in range(3)]
    options: dict[str, Any] = {"cache_dir": tmp_path / "c", "split": "train"}
    tokenize_split(rows, chatml_tokenizer, 100, ledger_for(rows), **options)
    length = 101 if change == "length" else 100
    if change == "row":
        rows[1] = qa(1, "New york")
    elif change == "order":
        rows.reverse()
    elif change == "template":
        chatml_tokenizer.chat_template = chatml_tokenizer.chat_template.replace("'\\n'", "'\\n\\n'", 1)
    elif change == "long":
        options["long"] = LongRows.truncate
    elif change == "last_turn":
        options["last_turn_only"] = True
    elif change == "token":
        chatml_tokenizer.add_tokens(["New York"])
    elif change == "code":
        monkeypatch.setattr(cache, "_code_digest", lambda: "another version")
    found = tokenize_split(rows, chatml_tokenizer, length, ledger_for(rows), **options)
    fresh = tokenize_split(rows, chatml_tokenizer, length, ledger_for(rows), **(options | {"cache_dir": None}))
    assert found == fresh
    assert len(list((tmp_path / "c").iterdir())) == 2


@pytest.mark.parametrize("name", ["ids.uint32", "mask.uint8", "lengths.uint32", "manifest.json"])
def test_a_damaged_entry_is_thrown_away(
    name: str, chatml_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [qa(number) for number in range(3)]
    first = list(tokenize_split(rows, chatml_tokenizer, 100, ledger_for(rows), cache_dir=tmp_path))
    (entry,) = tmp_path.iterdir()
    content = bytearray((entry / name).read_bytes())
    content[len(content) // 2] ^= 1
    (entry / name).write_bytes(content)
    with caplog.at_level(logging.WARNING, "finetune"):
        second = tokenize_split(rows, chatml_tokenizer, 100, ledger_for(rows), cache_dir=tmp_path)
    assert second == first
    if name != "manifest.json":
        assert "damaged tokenised rows are thrown away" in caplog.text


def test_a_stop_while_tokenising_leaves_no_entry(
    chatml_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.data.tokenize.fit_encoded", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenize_split([qa(1)], chatml_tokenizer, 100, ledger_for([qa(1)]), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_entries_stay(chatml_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_ENTRIES_KEPT", 2)
    for number in range(4):
        tokenize_split([qa(number)], chatml_tokenizer, 100, ledger_for([qa(number)]), cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_dropping_all_rows_names_the_option(chatml_tokenizer: Any) -> None:
    rows = [qa(number, "many words " * 60) for number in range(3)]
    with pytest.raises(DataError, match=r"all 3 rows are too long .*data.long=drop.*data.long=split"):
        tokenize_split(rows, chatml_tokenizer, 100, ledger_for(rows), split="train", long=LongRows.drop)


def test_truncate_counts_what_it_cuts(chatml_tokenizer: Any) -> None:
    rows = [qa(1), qa(2, "many words " * 60)]
    ledger = ledger_for(rows)
    ledger.max_answer_tokens_lost = 1.0
    found = tokenize_split(rows, chatml_tokenizer, 100, ledger, split="train", long=LongRows.truncate)
    assert [example.item_id for example in found] == ["1", "2"]
    assert ledger.counts.truncated_rows == 1 and ledger.counts.truncated > 100
    assert ledger.to_json()["end_token_supervised_share"] == 0.5
    ledger = ledger_for(rows)
    ledger.max_answer_tokens_lost = 0.05
    with pytest.raises(DataError, match=r"% of the answer tokens .*data.long=split"):
        tokenize_split(rows, chatml_tokenizer, 100, ledger, split="train", long=LongRows.truncate)
