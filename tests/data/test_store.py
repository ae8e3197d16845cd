"""Rows on disk: what goes in comes out, and nothing is left behind."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.store import Conversations, ConversationStore, in_chunks
from finetune.errors import ResourceError
from finetune.records import Conversation, Message

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
optional = st.none() | texts
turns = st.builds(
    Message,
    role=texts,
    content=texts,
    tool_calls=optional,
    reasoning_content=optional,
    tool_call_id=optional,
    name=optional,
)
conversations = st.builds(
    Conversation,
    item_id=texts,
    source=texts,
    messages=st.lists(turns, max_size=3).map(tuple),
    text=optional,
    tools=optional,
    options=st.lists(texts, max_size=3).map(tuple),
    group=optional,
)


@given(st.lists(conversations, max_size=8))
def test_rows_come_back_as_they_were(rows: list[Conversation]) -> None:
    store = ConversationStore()
    for number, row in enumerate(rows):
        assert store.add(row) == number
        assert store.read(number) == row
    view = Conversations(store, range(len(rows)), {}, {}, lambda row: "train")
    assert view == rows and list(view) == rows and view[:2] == rows[:2]
    assert [row for chunk in in_chunks(view, 3) for row in chunk] == rows


def test_names_and_groups_are_replaced_row_by_row() -> None:
    store = ConversationStore()
    for number in range(3):
        store.add(Conversation(item_id="same", source=f"f:{number}", text=str(number)))
    view = Conversations(store, [2, 0], {0: "first"}, {2: "contract"}, lambda row: f"train[{row}]")
    assert [(row.text, row.item_id, row.group) for row in view] == [("2", "same", "contract"), ("0", "first", None)]
    assert view.label(0) == "train[2]"


def test_the_store_has_no_name_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = ConversationStore()
    store.add(Conversation(item_id="1", source="f:1", text="a private row"))
    store.read(0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ConversationStore()

    class Full:
        def write(self, record: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_file", Full())
    with pytest.raises(ResourceError, match=r"folder for temporary files .* is full; .*TMPDIR"):
        store.add(Conversation(item_id="1", source="f:1", text="x"))
