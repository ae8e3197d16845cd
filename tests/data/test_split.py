"""Splits by group, and passages of long texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.split import cut_passages, cut_text, split_conversations
from finetune.errors import DataError
from finetune.records import Conversation, Message, Splits


def rows(*groups: str | None) -> list[Conversation]:
    messages = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    return [
        Conversation(item_id=str(number), source=f"f:{number}", messages=messages, group=group)
        for number, group in enumerate(groups)
    ]


def split(items: list[Conversation], seed: int = 0, validation: float = 0.1, test: float = 0.1) -> Splits:
    return split_conversations(items, validation_share=validation, test_share=test, seed=seed)


def ids(items: list[Conversation]) -> list[int]:
    return [int(item.item_id) for item in items]


def test_shares_are_met_and_file_order_is_kept() -> None:
    parts = split(rows(*[None] * 100))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [80, 10, 10]
    for part in (parts.train, parts.validation, parts.test):
        assert ids(part) == sorted(ids(part))


def test_the_seed_decides() -> None:
    items = rows(*[None] * 50)
    assert split(items, seed=3) == split(items, seed=3)
    assert split(items, seed=3) != split(items, seed=4)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 8), min_size=3, max_size=60),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.integers(0, 2**32 - 1),
)
def test_groups_never_cross_and_nothing_is_lost(groups: list[int], validation: float, test: float, seed: int) -> None:
    items = rows(*[f"g{group}" for group in groups])
    wanted = 1 + (validation > 0) + (test > 0)
    if len(set(groups)) < wanted:
        with pytest.raises(DataError):
            split(items, seed, validation, test)
        return
    parts = split(items, seed, validation, test)
    sides = [parts.train, parts.validation, parts.test]
    assert sorted(number for side in sides for number in ids(side)) == list(range(len(items)))
    found = [{item.group for item in side} for side in sides]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    assert bool(parts.train)
    assert bool(parts.validation) == (validation > 0)
    assert bool(parts.test) == (test > 0)


def test_a_giant_group_stays_in_training() -> None:
    parts = split(rows(*["giant"] * 90, *[f"g{number}" for number in range(10)]))
    assert {item.group for item in parts.train} >= {"giant"}


def test_own_files_need_no_share() -> None:
    items = rows(None, None)
    parts = split_conversations(
        items, validation_share=0.5, test_share=0.5, seed=0, need_validation=False, need_test=False
    )
    assert (len(parts.train), parts.validation, parts.test) == (2, [], [])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((None, None), "2 usable rows cannot be divided into train, validation and test: at least 3 rows"),
        (("a", "a", "b", "b"), "4 usable rows in 2 groups cannot be divided .* at least 3 groups"),
    ],
)
def test_too_few_rows(groups: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        split(rows(*groups))
    for option in ("data.validation_path=…", "data.test_path=…", "data.validation_share=0", "data.test_share=0"):
        assert option in str(caught.value)


def test_passages_break_at_paragraphs_lines_sentences_and_words() -> None:
    for mark in ("\n\n", "\n", ". ", " "):
        text = mark.join("word" * 3 for _ in range(40))
        pieces = cut_text(text, 100)
        assert all(len(piece) <= 100 for piece in pieces)
        assert all(piece.startswith("word") and piece.rstrip(".").endswith("word") for piece in pieces)


@given(st.text(alphabet="ab .\n", max_size=400), st.integers(1, 50))
def test_passages_lose_nothing_but_white_space(text: str, size: int) -> None:
    pieces = cut_text(text, size)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= size and piece.strip() for piece in pieces)


def test_passages_are_numbered_and_leave_their_group() -> None:
    document = Conversation(item_id="a.txt", source="a.txt", text="one two three. " * 400, group="a.txt")
    passages = cut_passages([document])
    assert len(passages) >= 20
    assert [passage.source for passage in passages[:2]] == ["a.txt#1", "a.txt#2"]
    assert {passage.group for passage in passages} == {None}
