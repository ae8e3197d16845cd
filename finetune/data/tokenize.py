"""Conversations to `Example`s of at most max_length tokens, every loss of text accounted for. Called by jobs.

`fit`, `tokenize_conversation` and `render_prompt_ids` are passed on from fit.py and encode.py.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.config import LongRows
from finetune.data.cache import cache_key, keep_entry, open_entry, stage_entry
from finetune.data.check import PHRASES, Ledger, TokenCounts
from finetune.data.encode import encode, render_all, render_prompt_ids, tokenize_conversation
from finetune.data.examples import Examples, ExampleWriter
from finetune.data.fit import fit, fit_encoded
from finetune.data.rendering.control_tokens import policy_of
from finetune.data.rendering.render import RenderedChat, RenderProblem
from finetune.data.rows import rejection_of
from finetune.data.store import Conversations, in_chunks
from finetune.errors import DataError
from finetune.log import is_main_process
from finetune.progress import track
from finetune.records import Conversation, Rejection

__all__ = ["fit", "render_prompt_ids", "tokenize_conversation", "tokenize_split"]

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 512
_SECONDS_WORTH_A_LINE = 3.0


@dataclass(slots=True)
class _Outcome:
    """What tokenising a split found, as it is kept with the examples: counts and rejected rows."""

    counts: TokenCounts = field(default_factory=TokenCounts)
    rejected: list[dict[str, str]] = field(default_factory=list)
    """item_id, label, source, reason, detail and content of each."""

    def reject(self, row: Conversation, reason: str, detail: str, label: str) -> None:
        rejection = rejection_of(row, reason, detail)
        self.rejected.append({"item_id": row.item_id, "label": label, **asdict(rejection)})


def tokenize_split(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    max_length: int,
    ledger: Ledger,
    *,
    split: str | None = None,
    last_turn_only: bool = False,
    long: LongRows = LongRows.split,
    cache_dir: Path | None = None,
) -> Examples:
    """Fit all conversations of a split, and account for them in `ledger`; call it once per split.

    A row that the template refuses, that is too long (`LongRows.drop`), or that has no token to learn from, moves from
    used to rejected in the `split`. The examples lie on disk: in `cache_dir` for later runs, else in a temporary
    folder.

    Raises:
        DataError: no row is left, more answer tokens are cut off than `data.max_answer_tokens_lost` allows, or more
            rows are unusable than `data.max_rejected_share` allows.
        ModelError: see `tokenize_conversation`.
    """
    options = {
        "max_length": max_length,
        "last_turn_only": last_turn_only,
        "long": long.name,
        "control_tokens": policy_of(tokenizer).name,
    }
    key = cache_key(conversations, tokenizer, options) if cache_dir is not None else ""
    stored = open_entry(cache_dir, key) if cache_dir is not None else None
    if cache_dir is not None and stored is not None:
        logger.info("tokenised %s rows are taken from %s", split or "the", cache_dir)
        outcome = _Outcome(TokenCounts(**stored["counts"]), stored["rejected"])
        _account(outcome, conversations, ledger, split, max_length)
        return Examples(cache_dir / key)
    started = time.monotonic()
    temporary = None
    if cache_dir is not None and is_main_process():
        folder = stage_entry(cache_dir)
    else:
        temporary = tempfile.TemporaryDirectory(prefix="finetune-")
        folder = Path(temporary.name)
    try:
        outcome = _tokenize(conversations, tokenizer, folder, options, long, split)
        _account(outcome, conversations, ledger, split, max_length)
        kept = (
            folder
            if temporary is not None or cache_dir is None
            else keep_entry(folder, cache_dir, key, asdict(outcome))
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    seconds = time.monotonic() - started
    if seconds > _SECONDS_WORTH_A_LINE:
        logger.info("tokenised %s rows in %.1f s", f"{len(conversations):,}", seconds)
    return Examples(kept, temporary)


def _tokenize(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    folder: Path,
    options: dict[str, Any],
    long: LongRows,
    split: str | None,
) -> _Outcome:
    """Write the examples of all conversations into the folder."""
    max_length, last_turn_only = options["max_length"], options["last_turn_only"]
    outcome = _Outcome()
    writer = ExampleWriter(folder)
    chunks = in_chunks(conversations, _ROWS_AT_ONCE)
    bar = track(chunks, f"tokenising {split or 'rows'}", total=len(conversations), unit="rows", size=len)
    for number, chunk in enumerate(bar):
        labels = list(_labels(conversations, number * _ROWS_AT_ONCE, len(chunk)))
        rows, chats, kept = _render_batch(chunk, labels, tokenizer, outcome, last_turn_only=last_turn_only)
        for encoded, label in zip(
            encode(rows, tokenizer, last_turn_only=last_turn_only, chats=chats), kept, strict=True
        ):
            found = fit_encoded(
                encoded, tokenizer, max_length, outcome.counts, last_turn_only=last_turn_only, long=long
            )
            num_tokens = len(encoded.input_ids)
            outcome.counts.control_token_rows += encoded.chat is not None and encoded.chat.encoded is not None
            if not found and long is LongRows.drop and num_tokens > max_length:
                detail = f"{num_tokens:,} tokens, more than training.max_length={max_length} (data.long=drop)"
                outcome.reject(encoded.conversation, "too_long", detail, label)
            elif not found:
                detail = f"none of its {num_tokens} tokens carries loss (training.max_length={max_length})"
                outcome.reject(encoded.conversation, "all_masked", detail, label)
            for example in found:
                writer.add(example)
    writer.close()
    return outcome


def _labels(conversations: Sequence[Conversation], start: int, count: int) -> Iterator[str]:
    known = conversations.label if isinstance(conversations, Conversations) else None
    return (known(start + number) if known else "" for number in range(count))


def _render_batch(
    conversations: list[Conversation], labels: list[str], tokenizer: Any, outcome: _Outcome, *, last_turn_only: bool
) -> tuple[list[Conversation], list[RenderedChat | None], list[str]]:
    """Render chats; rows that the template refuses are rejected."""
    try:
        return conversations, render_all(conversations, tokenizer, last_turn_only=last_turn_only), labels
    except RenderProblem:
        logger.debug("the chat template refuses some rows; rendering them one by one")
    kept: list[Conversation] = []
    chats: list[RenderedChat | None] = []
    kept_labels: list[str] = []
    for conversation, label in zip(conversations, labels, strict=True):
        try:
            chats += render_all([conversation], tokenizer, last_turn_only=last_turn_only)
        except RenderProblem as problem:
            outcome.reject(conversation, "wrong_type", str(problem.__cause__ or problem), label)
        else:
            kept.append(conversation)
            kept_labels.append(label)
    return kept, chats, kept_labels


def _account(
    outcome: _Outcome, conversations: Sequence[Conversation], ledger: Ledger, split: str | None, max_length: int
) -> None:
    """Enter counts and rejections into the ledger, and stop where too little is left to learn from."""
    ledger.counts.add(outcome.counts)
    for entry in outcome.rejected:
        fields = {name: entry[name] for name in ("source", "reason", "detail", "content")}
        ledger.move_to_rejected(Rejection(**fields), entry["item_id"], split, entry["label"])
    if len(conversations) and len(outcome.rejected) == len(conversations):
        first = outcome.rejected[0]
        cure = (
            "Raise training.max_length or choose data.long=split"
            if first["reason"] == "too_long"
            else "Choose another template (model.chat_template=…) or mend the rows"
        )
        raise DataError(
            f"all {len(conversations)} rows {PHRASES[first['reason']]} (first: {first['source']}: {first['detail']}). "
            f"{cure}"
        )
    _check_lost(ledger, max_length)
    _check_rejected(ledger, outcome)


def _check_lost(ledger: Ledger, max_length: int) -> None:
    counts = ledger.counts
    if counts.lost_share > ledger.max_answer_tokens_lost:
        raise DataError(
            f"{100 * counts.lost_share:.1f} % of the answer tokens ({counts.truncated:,} of "
            f"{counts.truncated + counts.supervised:,}) do not fit training.max_length={max_length}, more than "
            f"data.max_answer_tokens_lost={ledger.max_answer_tokens_lost:g} allows. Raise training.max_length, keep "
            "long answers with data.long=split, shorten the rows, or raise data.max_answer_tokens_lost"
        )


def _check_rejected(ledger: Ledger, outcome: _Outcome) -> None:
    share = ledger.rejected_share
    if outcome.rejected and share > ledger.max_rejected_share:
        first = outcome.rejected[0]
        raise DataError(
            f"{100 * share:.1f} % of the rows are unusable, more than data.max_rejected_share="
            f"{ledger.max_rejected_share:g} allows; the last {len(outcome.rejected)} {PHRASES[first['reason']]} "
            f"(first: {first['source']}: {first['detail']}). Mend the rows or raise the limit"
        )
