"""A digest of rows, so that a resumed run can tell whether it learns from the same. Called by jobs."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from finetune.data.store import encode_conversation
from finetune.records import Conversation


def digest_rows(conversations: Sequence[Conversation]) -> str:
    """Return the number of rows and a BLAKE2 digest of all that a training takes from them, in their order.

    Where a row stood (its line) does not count, so that a file may get further rows that are rejected.
    """
    digest = hashlib.blake2b(digest_size=20)
    for conversation in conversations:
        record = encode_conversation(replace(conversation, source=""))
        digest.update(len(record).to_bytes(8, "little"))
        digest.update(record)
    return f"{len(conversations)} rows {digest.hexdigest()}"
