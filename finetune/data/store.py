"""Conversations on disk: rows of any number in an anonymous temporary file, read one at a time. Used by read.py."""

import errno
import itertools
import marshal
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn, overload

from finetune.errors import ResourceError
from finetune.records import Conversation, Message

_BUFFER_BYTES = 1 << 20
_TURN_FIELDS = tuple(field.name for field in fields(Message))


class ConversationStore:
    """Conversations numbered in the order in which they were added; eight bytes of memory each.

    The file has no name and is gone when the process ends, so that no copy of private rows stays behind. It lies in the
    system's folder for temporary files (`TMPDIR`).
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=_BUFFER_BYTES)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends = array("Q")
        self._flushed = 0

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, conversation: Conversation) -> int:
        """Append a conversation and return its number.

        Raises:
            ResourceError: the temporary folder is full.
        """
        record = encode_conversation(conversation)
        try:
            self._file.write(record)
        except OSError as error:
            raise_disk_full(error)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(record))
        return len(self._ends) - 1

    def read(self, number: int) -> Conversation:
        """Read the conversation of a number."""
        return decode_conversation(self.read_record(number))

    def read_record(self, number: int) -> bytes:
        """Read a conversation as the bytes that stand for it; equal conversations have equal bytes."""
        end = self._ends[number]
        start = self._ends[number - 1] if number else 0
        if end > self._flushed:
            try:
                self._file.flush()
            except OSError as error:
                raise_disk_full(error)
            self._flushed = self._ends[-1]
        return os.pread(self._file.fileno(), end - start, start)


def encode_conversation(conversation: Conversation) -> bytes:
    """Return bytes that depend on every field; for files of this process only."""
    messages = tuple(tuple(getattr(turn, name) for name in _TURN_FIELDS) for turn in conversation.messages)
    row = conversation
    record = (row.item_id, row.source, messages, row.text, row.tools, row.options, row.group)
    return marshal.dumps((*record, row.tests, row.entry_point) if row.tests else record, 2)


def decode_conversation(record: bytes) -> Conversation:
    """Undo `encode_conversation`."""
    item_id, source, messages, text, tools, options, group, *tests = marshal.loads(record)
    return Conversation(
        item_id=item_id,
        source=source,
        messages=tuple(Message(**dict(zip(_TURN_FIELDS, turn, strict=True))) for turn in messages),
        text=text,
        tools=tools,
        options=options,
        group=group,
        tests=tests[0] if tests else (),
        entry_point=tests[1] if tests else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Conversations(Sequence[Conversation]):
    """Some rows of a store in a given order, as a sequence that reads each row when it is asked for.

    `names` and `groups` replace `item_id` and `group` of single rows, by row number.
    """

    store: ConversationStore
    rows: Sequence[int]
    names: Mapping[int, str]
    groups: Mapping[int, str]
    label_of: Callable[[int], str]
    """Source of a row by its number, such as `train[2]`."""

    def label(self, index: int) -> str:
        """Name the source of the conversation at this place."""
        return self.label_of(int(self.rows[index]))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Conversation]:
        return map(self._read, self.rows)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        if isinstance(index, slice):
            return [self._read(row) for row in self.rows[index]]
        return self._read(self.rows[index])

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def _read(self, row: int) -> Conversation:
        row = int(row)
        conversation = self.store.read(row)
        name, group = self.names.get(row), self.groups.get(row)
        if name is None and group is None:
            return conversation
        return replace(conversation, item_id=name or conversation.item_id, group=group or conversation.group)


def raise_disk_full(error: OSError) -> NoReturn:
    """Raise a failed write as what it means to the user.

    Raises:
        ResourceError: always.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ResourceError(
            f"the folder for temporary files ({tempfile.gettempdir()}) is full; free some space, or set TMPDIR to a "
            "folder with more"
        ) from error
    raise ResourceError(f"cannot write to the folder for temporary files ({tempfile.gettempdir()}): {error}") from error


def in_chunks(conversations: Sequence[Conversation], size: int) -> Iterator[list[Conversation]]:
    """Yield the conversations in lists of `size`."""
    rows = iter(conversations)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
