"""The ledger: what became of every row. Filled by read.py and tokenize.py, written to `data/ledger.json` by jobs."""

from dataclasses import dataclass, field

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
    "encoding": "are not UTF-8",
}
"""The reasons as predicates, for sentences such as "all 500 rows have an empty answer"."""

_EXAMPLES_KEPT = 3


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Counts of one data set; `rows_in == rows_used + sum(rejected)` at every moment after reading.

    A row that gives several items (a long text cut into passages) counts as one row; `splits` counts items.
    """

    rows_read: int = 0
    """Rows found in all files."""
    rows_not_drawn: int = 0
    """Usable rows left out by `data.max_rows`; not part of rows_in."""
    rows_used: int = 0
    rejected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    splits: dict[str, int] = field(default_factory=lambda: {"train": 0, "validation": 0, "test": 0})
    tokens: dict[str, int] = field(default_factory=lambda: {"total": 0, "supervised": 0, "truncated": 0})
    """Tokens of the examples; `truncated` are answer tokens cut off at `training.max_length`."""
    truncated_rows: int = 0
    """Rows whose answer was cut."""
    shortened_prompts: int = 0
    """Rows whose prompt lost the middle of its longest texts, so that the answer fits."""
    continued_answers: int = 0
    """Rows whose answer was too long and goes on in further examples that repeat the prompt."""
    prompt_tokens_removed: int = 0
    duplicates: dict[str, int] = field(default_factory=lambda: {"exact": 0, "near": 0, "across_splits": 0})
    """A view of rejected: `exact` inside one file, `across_splits` training rows that stand in another split's file."""
    pii: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, int | str]] = field(default_factory=dict)
    """By split, for each path given: path, rows, rejected, format."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """The first rejections of each reason: source and detail."""
    max_answer_tokens_lost: float = 1.0
    """Limit that tokenize.py enforces (`data.max_answer_tokens_lost`)."""
    split_of: dict[str, str] = field(default_factory=dict)
    """Split of each item by its id; not written."""
    passages: set[str] = field(default_factory=set)
    """Item ids that are a part of a row, cut from a long text; not written."""

    @property
    def rows_in(self) -> int:
        """Rows that were considered."""
        return self.rows_read - self.rows_not_drawn

    @property
    def answer_tokens_lost_share(self) -> float:
        """Answer tokens cut off, as a share of all answer tokens."""
        lost = self.tokens["truncated"]
        return lost / max(lost + self.tokens["supervised"], 1)

    def reject(self, rejection: Rejection) -> None:
        """Count a dropped row and keep the first few of each reason."""
        self.rejected[rejection.reason] += 1
        kept = self.examples.setdefault(rejection.reason, [])
        if len(kept) < _EXAMPLES_KEPT:
            kept.append({"source": rejection.source, "detail": rejection.detail})

    def move_to_rejected(self, rejection: Rejection, item_id: str) -> None:
        """Take back a row that counted as used; a passage is only taken from its split, its row stays used."""
        split = self.split_of.pop(item_id, None)
        if split is not None:
            self.splits[split] -= 1
        if item_id not in self.passages:
            self.rows_used -= 1
            self.reject(rejection)

    def close(self) -> None:
        """Assert the conservation law: rows in = rows used + rows rejected by reason."""
        rejected = sum(self.rejected.values())
        assert set(self.rejected) == set(REASONS), f"unknown reasons in {self.rejected}"
        assert self.rows_in == self.rows_used + rejected, f"{self.rows_in} rows in, {self.rows_used} + {rejected} out"

    def to_json(self) -> dict[str, object]:
        """Return what stands in `data/ledger.json`."""
        self.close()
        return {
            "rows_in": self.rows_in,
            "rows_used": self.rows_used,
            "rejected": dict(self.rejected),
            "splits": dict(self.splits),
            "tokens": dict(self.tokens),
            "truncated_rows": self.truncated_rows,
            "duplicates": dict(self.duplicates),
            "pii": dict(self.pii),
            "rows_read": self.rows_read,
            "rows_not_drawn": self.rows_not_drawn,
            "answer_tokens_lost_share": round(self.answer_tokens_lost_share, 6),
            "shortened_prompts": self.shortened_prompts,
            "continued_answers": self.continued_answers,
            "prompt_tokens_removed": self.prompt_tokens_removed,
            "sources": self.sources,
            "examples": self.examples,
        }

    def lines(self) -> list[str]:
        """Return a short table for the terminal."""
        self.close()
        table = [
            f"{entry['path']}: {entry['rows']:,} rows for {split}, format {entry['format']}"
            for split, entry in self.sources.items()
        ]
        table.append(
            f"rows      {self.rows_in:>9,} in  {self.rows_used:>9,} used  {sum(self.rejected.values()):>9,} rejected"
        )
        for reason, count in self.rejected.items():
            if count:
                first = self.examples[reason][0]
                table.append(f"  {reason:<16} {count:>9,}  first: {first['source']}: {first['detail']}")
        if self.rows_not_drawn:
            table.append(f"  {self.rows_not_drawn:,} more rows are left out by data.max_rows")
        table.append("items     " + "  ".join(f"{count:>9,} {name}" for name, count in self.splits.items()))
        if self.tokens["total"]:
            table.append(f"tokens    {self.tokens['total']:>9,} total  {self.tokens['supervised']:>9,} supervised")
        if self.shortened_prompts:
            table.append(
                f"  {self.shortened_prompts:,} prompts shortened by {self.prompt_tokens_removed:,} tokens in all"
            )
        if self.continued_answers:
            table.append(f"  {self.continued_answers:,} long answers go on in further examples that repeat the prompt")
        if self.truncated_rows:
            share = f"{100 * self.answer_tokens_lost_share:.1f} %"
            table.append(
                f"  {self.truncated_rows:,} answers cut, {self.tokens['truncated']:,} answer tokens ({share}) lost"
            )
        return table
