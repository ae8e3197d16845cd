"""A seeded set of sentences with planted, made-up personal data, and of sentences that only look like it.

Used by the tests of `finetune.data.privacy` and by `benchmarks/bench_pii.py`.
"""

from dataclasses import dataclass
from random import Random

from . import values
from .carriers import CARRIERS, DECOYS
from .held_out import HELD_OUT

SEED = 20260101
PER_KIND = 120

__all__ = ["DECOYS", "PER_KIND", "SEED", "Sample", "samples"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sentence with one planted value at `text[start:end]`."""

    kind: str
    text: str
    start: int
    end: int


def samples(*, seed: int = SEED, per_kind: int = PER_KIND, held_out: bool = True) -> list[Sample]:
    """Return `per_kind` sentences of every kind; the same seed gives the same set.

    `held_out` takes the sentences for which no pattern was changed, else those that the patterns were improved on.
    """
    made: list[Sample] = []
    for kind, carriers in (HELD_OUT if held_out else CARRIERS).items():
        random = Random(f"{seed}/{kind}/{held_out}")
        make = getattr(values, kind)
        for number in range(per_kind):
            value = make(random)
            before, _, after = carriers[number % len(carriers)].partition("{x}")
            made.append(Sample(kind=kind, text=before + value + after, start=len(before), end=len(before) + len(value)))
    return made
