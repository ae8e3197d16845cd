"""The ledger: what became of every row. Filled by read.py and tokenize.py, written to `data/ledger.json` by jobs."""

import json
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.records import Rejection

REASONS = (
    "null",
    "wrong_type",
    "missing_column",
    "empty_answer",
    "all_masked",
    "too_long",
    "exact_duplicate",
    "near_duplicate",
    "encoding",
)
"""Why a row is not used; every dropped row is counted under exactly one of them."""

PHRASES = {
    "null": "have an empty cell where text is needed",
    "wrong_type": "have a value of the wrong type",
    "missing_column": "miss a column",
    "empty_answer": "have an empty answer",
    "all_masked": "have no token to learn from",
    "too_long": "are too long",
    "exact_duplicate": "repeat another row",
    "near_duplicate": "nearly repeat another row",
    "encoding": "are not text in UTF-8",
}
"""The reasons as predicates, for sentences such as "all 500 rows have an empty answer"."""

_EXAMPLES_KEPT = 3


@dataclass(kw_only=True, slots=True)
class TokenCounts:
    """What tokenising found: tokens of the examples, and what was shortened, continued or cut."""

    total: int = 0
    supervised: int = 0
    truncated: int = 0
    """Answer tokens cut off at `training.max_length`."""
    truncated_rows: int = 0
    """Rows whose answer was cut."""
    shortened_prompts: int = 0
    """Rows whose prompt lost the middle of its longest texts, so that the answer fits."""
    prompt_tokens_removed: int = 0
    continued_answers: int = 0
    """Rows whose answer was too long and goes on in further examples that repeat the prompt."""
    rows: int = 0
    """Rows that gave at least one example."""
    rows_with_end: int = 0
    """Of them, rows whose end token carries loss, so that the model learns to stop."""
    control_token_rows: int = 0
    """Chats whose texts write control tokens such as `<|im_end|>`, encoded as text."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Rows by tokens before anything was shortened or cut; the key is the bin's upper end, a power of two."""

    def add_length(self, num_tokens: int) -> None:
        """Count a row of so many tokens."""
        key = str(1 << max(num_tokens - 1, 1).bit_length())
        self.lengths[key] = self.lengths.get(key, 0) + 1

    def add(self, other: "TokenCounts") -> None:
        """Add what another split or batch counted."""
        for name in self.__slots__:
            if name != "lengths":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, count in other.lengths.items():
            self.lengths[key] = self.lengths.get(key, 0) + count

    @property
    def lost_share(self) -> float:
        """Answer tokens cut off, as a share of all answer tokens."""
        return self.truncated / max(self.truncated + self.supervised, 1)


class _RejectionLog:
    """Rejected rows as lines of JSON in an anonymous temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, entry: dict[str, str]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def copy_to(self, path: Path) -> None:
        self._file.seek(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.new")
        with staged.open("w", encoding="utf-8", errors="backslashreplace") as file:
            shutil.copyfileobj(self._file, file)
        staged.replace(path)
        self._file.seek(0, 2)


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Counts of one data set; `rows_in == rows_used + sum(rejected)` at every moment after reading.

    A row that gives several items (a long text cut into passages) counts as one row; `splits` counts items.
    """

    rows_read: int = 0
    """Rows found in all files."""
    rows_not_drawn: int = 0
    """Usable rows left out by `data.max_rows` or by the weights of `data.sources`; not part of rows_in."""
    rows_used: int = 0
    rejected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    splits: dict[str, int] = field(default_factory=lambda: {"train": 0, "validation": 0, "test": 0})
    counts: TokenCounts = field(default_factory=TokenCounts)
    duplicates: dict[str, int] = field(default_factory=lambda: {"exact": 0, "near": 0, "across_splits": 0})
    """A view of rejected: `exact` and `near` inside one split's files, `across_splits` rows that (nearly) stand in
    another split's file. With `data.near_duplicates=report`, `near` rows are counted and kept."""
    related_rows: int = 0
    """Rows that share most of their text with another, but not question and answer; kept on one side of the split."""
    contamination: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By set of items (`test`, or a benchmark file): items, contaminated, share, longest_match_words, examples."""
    pii: dict[str, int] = field(default_factory=dict)
    """Personal data found, by kind."""
    pii_rows: int = 0
    """Rows that hold any of it."""
    pii_policy: str = "off"
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By split (`train`, or `train[2]` for the second source): path, rows, used, rejected by reason, format."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """The first rejections of each reason: source and detail."""
    max_answer_tokens_lost: float = 1.0
    """Limit that tokenize.py enforces (`data.max_answer_tokens_lost`)."""
    max_rejected_share: float = 1.0
    """Limit that tokenize.py enforces again over all rows but duplicates (`data.max_rejected_share`)."""
    keep_contents: bool = True
    """Whether rejected.jsonl may hold the rows themselves; not where personal data is to be removed."""
    passages: set[str] = field(default_factory=set)
    """Item ids that are a part of a row, cut from a long text; not written."""
    _log: _RejectionLog | None = None

    @property
    def rows_in(self) -> int:
        """Rows that were considered."""
        return self.rows_read - self.rows_not_drawn

    def reject(self, rejection: Rejection, label: str | None = None) -> None:
        """Count a dropped row, keep the first few of each reason, and note it for `rejected.jsonl`.

        `label` names its source, for a row that is rejected after its source was read.
        """
        self.rejected[rejection.reason] += 1
        if label in self.sources:
            counts = self.sources[label].setdefault("rejected", {})
            counts[rejection.reason] = counts.get(rejection.reason, 0) + 1
        kept = self.examples.setdefault(rejection.reason, [])
        if len(kept) < _EXAMPLES_KEPT:
            kept.append({"source": rejection.source, "detail": rejection.detail})
        if self._log is None:
            self._log = _RejectionLog()
        entry = {"source": rejection.source, "reason": rejection.reason, "detail": rejection.detail}
        if self.keep_contents and rejection.content:
            entry["content"] = rejection.content
        self._log.add(entry)

    def move_to_rejected(self, rejection: Rejection, item_id: str, split: str | None, label: str | None = None) -> None:
        """Take back a row that counted as used; a passage is only taken from its split, its row stays used."""
        if split is not None:
            self.splits[split] -= 1
        if item_id not in self.passages:
            self.rows_used -= 1
            self.reject(rejection, label)
            if label in self.sources and "used" in self.sources[label]:
                self.sources[label]["used"] -= 1

    @property
    def rejected_share(self) -> float:
        """Unusable rows as a share of all but duplicates."""
        duplicates = self.rejected["exact_duplicate"] + self.rejected["near_duplicate"]
        return (sum(self.rejected.values()) - duplicates) / max(self.rows_in - duplicates, 1)

    def close(self) -> None:
        """Assert the conservation law: rows in = rows used + rows rejected by reason."""
        rejected = sum(self.rejected.values())
        assert set(self.rejected) == set(REASONS), f"unknown reasons in {self.rejected}"
        assert self.rows_in == self.rows_used + rejected, f"{self.rows_in} rows in, {self.rows_used} + {rejected} out"

    def write_rejected(self, path: Path) -> None:
        """Write every rejected row as a line of JSON: source, reason, detail and, where it may be kept, content."""
        if self._log is None:
            path.unlink(missing_ok=True)
        else:
            self._log.copy_to(path)

    def to_json(self) -> dict[str, object]:
        """Return what stands in `data/ledger.json`."""
        self.close()
        counts = self.counts
        return {
            "rows_in": self.rows_in,
            "rows_used": self.rows_used,
            "rejected": dict(self.rejected),
            "splits": dict(self.splits),
            "tokens": {"total": counts.total, "supervised": counts.supervised, "truncated": counts.truncated},
            "truncated_rows": counts.truncated_rows,
            "duplicates": dict(self.duplicates),
            "pii": dict(self.pii),
            "pii_rows": self.pii_rows,
            "pii_policy": self.pii_policy,
            "related_rows": self.related_rows,
            "contamination": self.contamination,
            "rows_read": self.rows_read,
            "rows_not_drawn": self.rows_not_drawn,
            "answer_tokens_lost_share": round(counts.lost_share, 6),
            "shortened_prompts": counts.shortened_prompts,
            "continued_answers": counts.continued_answers,
            "control_token_rows": counts.control_token_rows,
            "prompt_tokens_removed": counts.prompt_tokens_removed,
            "end_token_supervised_share": round(counts.rows_with_end / counts.rows, 6) if counts.rows else None,
            "lengths": {key: counts.lengths[key] for key in sorted(counts.lengths, key=int)},
            "sources": self.sources,
            "examples": self.examples,
        }

    def lines(self) -> list[str]:
        """Return a short table for the terminal."""
        from finetune.data.ledger_table import ledger_lines

        return ledger_lines(self.to_json())
