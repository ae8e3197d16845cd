"""What became of the rows of one source while it was read, and the limit on what is unusable. For origins.py and
preferences.py."""

from collections import Counter
from dataclasses import dataclass, field

from finetune.data.check import PHRASES
from finetune.errors import DataError
from finetune.records import Rejection


@dataclass(slots=True)
class Tally:
    """Rows of one source so far: how many, how many of them were rejected, and the first rejection of each reason."""

    num_rows: int = 0
    num_alternatives: int = 0
    """Rows with several right answers, of which the first is used."""
    counts: Counter[str] = field(default_factory=Counter)
    """Rejected rows by reason."""
    first: dict[str, Rejection] = field(default_factory=dict)

    def reject(self, rejection: Rejection) -> None:
        """Count a rejected row."""
        self.counts[rejection.reason] += 1
        self.first.setdefault(rejection.reason, rejection)

    def check_share(self, path: str, limit: float, *, mend: str) -> None:
        """Check that not all rows, nor a larger share than `limit` (`data.max_rejected_share`), were rejected.

        `path` names the source; `mend` says what to do where no row is usable.

        Raises:
            DataError: they were; names the figures, the reasons and the first row of the most common one.
        """
        num_rejected = self.counts.total()
        if not num_rejected or (num_rejected < self.num_rows and num_rejected <= limit * self.num_rows):
            return
        reason, count = self.counts.most_common(1)[0]
        first = self.first[reason]
        where = f"first: {first.source}: {first.detail}"
        if len(self.counts) == 1 and count == self.num_rows:
            raise DataError(f"{path}: all {self.num_rows} rows {PHRASES[reason]} ({where}). {mend}")
        reasons = ", ".join(f"{number} {PHRASES[other]}" for other, number in self.counts.most_common())
        if num_rejected == self.num_rows:
            raise DataError(f"{path}: all {self.num_rows} rows are unusable: {reasons} ({where}). {mend}")
        share = 100 * num_rejected / self.num_rows
        raise DataError(
            f"{path}: {num_rejected} of {self.num_rows} rows ({share:.1f} %) are unusable, more than "
            f"data.max_rejected_share={limit:g} allows: {reasons} ({where}). Mend the rows or raise the limit"
        )
