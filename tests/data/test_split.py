"""Splits by group, and passages of long texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.split import cut_passages, cut_text, split_clusters
from finetune.errors import DataError
from finetune.records import Conversation


def rows(*groups: str | None) -> list[int]:
    """Number the clusters of rows in these groups; None is a group of its own."""
    names = [group if group is not None else f"row {number}" for number, group in enumerate(groups)]
    return [names.index(name) for name in names]


def split(clusters: list[int], seed: int = 0, validation: float = 0.1, test: float = 0.1) -> dict[str, list[int]]:
    """Row numbers by split."""
    side = split_clusters(clusters, {"test": test, "validation": validation}, seed=seed)
    return {name: [row for row, own in enumerate(side) if own == name] for name in ("train", "validation", "test")}


def test_shares_are_met() -> None:
    parts = split(rows(*[None] * 100))
    assert {name: len(part) for name, part in parts.items()} == {"train": 80, "validation": 10, "test": 10}


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
    wanted = 1 + (validation > 0) + (test > 0)
    if len(set(groups)) < wanted:
        with pytest.raises(DataError):
            split(groups, seed, validation, test)
        return
    parts = split(groups, seed, validation, test)
    assert sorted(row for part in parts.values() for row in part) == list(range(len(groups)))
    found = [{groups[row] for row in part} for part in parts.values()]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    assert parts["train"]
    assert bool(parts["validation"]) == (validation > 0)
    assert bool(parts["test"]) == (test > 0)


def test_a_giant_group_stays_in_training() -> None:
    parts = split([0] * 90 + list(range(1, 11)))
    assert set(range(90)) <= set(parts["train"])


def test_own_files_need_no_share() -> None:
    assert split_clusters([0, 1], {"test": 0.0, "validation": 0.0}, seed=0) == ["train", "train"]


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
