"""Is a data set large enough for the adapter and the schedule? Rules of thumb with their sources (docs/plan.md).

`inspect`, `plan` and the report ask. Everything is counted from the ledger and the configuration; no torch.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.config import AdapterConfig, ShapeConfig, TrainingConfig
from finetune.model.sizes import num_adapter_parameters

FEW_ROWS = 50
"""OpenAI, fine-tuning guide: improvements are usually clear from 50 to 100 examples on."""
FEW_STEPS = 100
"""Schulman et al. 2025, LoRA Without Regret: in runs of up to about 100 steps the best learning rate is 15 instead of
10 times that of full fine-tuning, because B starts at zero: short runs learn too little at the usual rate."""
MANY_EPOCHS, IDLE_EPOCHS = 4, 16
"""Muennighoff et al. 2023, Scaling Data-Constrained Language Models: up to 4 passes are almost as good as new data; the
value of further passes decays, to nothing by about 16."""
BITS_PER_WEIGHT, BITS_PER_TOKEN = 2.0, 1.0
"""Allen-Zhu and Li 2024: a weight stores about 2 bits. Schulman et al. 2025: an answer's token holds about 1 bit."""
MUCH_ROOM = 100
"""This project's choice: where rank 1 holds the answers so many times over, a higher rank is not needed for them."""
POINTS_OF_1000 = 3.0
"""A test of 1,000 items shows differences of about 3 percentage points; others by the square root of their number."""
FEW_TEST_ITEMS = 90
"""Below it only differences of more than about 10 points can be shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSize:
    """Counts of a training's rows, and what follows from them. Tokens are those of the training rows."""

    num_rows: int
    num_test_items: int
    num_tokens: int
    num_supervised_tokens: int
    num_steps: int
    num_epochs: float
    warmup_steps: int
    batch_tokens: int
    max_length: int
    max_steps: int | None
    rank: int
    num_trainable: int | None
    """Weights of the adapter; None where the model's sizes are not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeWarning:
    """What may be too little, and the source of the rule."""

    text: str
    source: str


def data_size(
    ledger: Mapping[str, Any],
    training: TrainingConfig,
    adapter: AdapterConfig,
    shape: ShapeConfig | None,
    *,
    max_test_items: int,
) -> DataSize | None:
    """Count from what `data/ledger.json` holds; None where that knows no training tokens."""
    tokens, splits = ledger.get("tokens", {}), ledger.get("splits", {})
    if not tokens.get("total") or not splits.get("train"):
        return None
    per_epoch = math.ceil(tokens["total"] / training.batch_tokens)
    steps = training.max_steps or max(1, math.ceil(training.num_epochs * per_epoch))
    return DataSize(
        num_rows=splits["train"],
        num_test_items=min(splits.get("test", 0), max_test_items),
        num_tokens=tokens["total"],
        num_supervised_tokens=tokens.get("supervised", 0),
        num_steps=steps,
        num_epochs=steps / per_epoch,
        warmup_steps=math.ceil(training.warmup_share * steps),
        batch_tokens=training.batch_tokens,
        max_length=training.max_length,
        max_steps=training.max_steps,
        rank=adapter.rank,
        num_trainable=None if shape is None else num_adapter_parameters(shape, adapter),
    )


def least_difference(num_items: int) -> float:
    """Return about the smallest difference in percentage points that a test of so many items can show."""
    return POINTS_OF_1000 * math.sqrt(1000 / max(1, num_items))


def size_facts(size: DataSize) -> list[tuple[str, str]]:
    """Name rows, tokens, steps and what the adapter could hold, as pairs of texts."""
    facts = [
        ("Training rows", f"{size.num_rows:,}"),
        ("Tokens", f"{size.num_tokens:,}, {size.num_supervised_tokens:,} of them with loss"),
        ("Passes over them", f"{size.num_epochs:.2g}"),
        (
            "Optimizer steps",
            f"about {size.num_steps:,} of {size.batch_tokens:,} tokens, {size.warmup_steps} of warm-up",
        ),
    ]
    if size.num_trainable is not None:
        room = BITS_PER_WEIGHT * size.num_trainable
        needed = BITS_PER_TOKEN * size.num_supervised_tokens
        facts.append(
            (
                f"Rank {size.rank}",
                f"{size.num_trainable:,} weights hold about {_bits(room)}; the answers {_bits(needed)}",
            )
        )
    if size.num_test_items:
        points = least_difference(size.num_test_items)
        facts.append(("Test items", f"{size.num_test_items:,} show differences of about {points:.0f} points and more"))
    return facts


def size_warnings(size: DataSize) -> Iterator[SizeWarning]:
    """Name what is too little or too much, by rules of thumb."""
    if size.num_rows < FEW_ROWS:
        yield SizeWarning(
            text=f"{size.num_rows} training rows are few: expect clear improvements from {FEW_ROWS} to 100 rows on.",
            source="OpenAI, fine-tuning guide",
        )
    yield from _steps(size)
    if size.num_epochs > MANY_EPOCHS:
        idle = f"; beyond {IDLE_EPOCHS} they are worth nothing" if size.num_epochs > IDLE_EPOCHS else ""
        yield SizeWarning(
            text=f"{size.num_epochs:.2g} passes over the same rows: beyond {MANY_EPOCHS} each is worth less than new "
            f"rows{idle}. Watch the validation loss, or lower training.num_epochs.",
            source="Muennighoff et al. 2023",
        )
    yield from _rank(size)
    if 0 < size.num_test_items < FEW_TEST_ITEMS:
        yield SizeWarning(
            text=f"{size.num_test_items} test items show only differences of about "
            f"{least_difference(size.num_test_items):.0f} percentage points and more.",
            source="docs/evaluation.md",
        )


def _steps(size: DataSize) -> Iterator[SizeWarning]:
    if size.num_steps < FEW_STEPS:
        cure = _more_steps(size)
        yield SizeWarning(
            text=f"{size.num_steps} optimizer steps are few: an adapter starts at zero and moves little at first. A "
            f"learning rate 1.5 times the usual makes up for it{f', or {cure}' if cure else ''}.",
            source="Schulman et al. 2025",
        )


def _more_steps(size: DataSize) -> str:
    """Name the option that gives enough steps and costs least; "" where none does alone."""
    if size.max_steps is not None:
        return f"training.max_steps={FEW_STEPS} instead"
    epochs = math.ceil(size.num_epochs * FEW_STEPS / size.num_steps)
    if epochs <= MANY_EPOCHS:
        return f"training.num_epochs={epochs} gives {FEW_STEPS} steps"
    smaller = size.batch_tokens * size.num_steps // FEW_STEPS
    return f"training.batch_tokens={smaller} gives {FEW_STEPS} steps" if smaller >= size.max_length else ""


def _rank(size: DataSize) -> Iterator[SizeWarning]:
    if size.num_trainable is None or not size.num_supervised_tokens:
        return
    room, needed = BITS_PER_WEIGHT * size.num_trainable, BITS_PER_TOKEN * size.num_supervised_tokens
    if needed > room:
        enough = math.ceil(size.rank * needed / room)
        yield SizeWarning(
            text=f"The answers hold about {_bits(needed)}, more than rank {size.rank} can store ({_bits(room)}): "
            f"adapter.rank={enough} would hold them.",
            source="Schulman et al. 2025; Allen-Zhu and Li 2024",
        )
    elif size.rank > 1 and room / size.rank > MUCH_ROOM * needed:
        yield SizeWarning(
            text=f"The set is small for rank {size.rank}: rank 1 could store its answers "
            f"{room / size.rank / needed:,.0f} times over. A lower adapter.rank takes less memory and forgets less of "
            "the base model.",
            source="Biderman et al. 2024; Schulman et al. 2025",
        )


def _bits(number: float) -> str:
    for size, unit in ((1e9, "gigabits"), (1e6, "megabits"), (1e3, "kilobits")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bits"
