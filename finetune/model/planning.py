"""Which settings of a training fit a device, which of them is fastest, and what would have to give where none does.

`plan` asks. Everything is computed from shapes; no torch.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finetune.config import (
    AUTO,
    AdapterMethod,
    EvaluationConfig,
    PlanConfig,
    QuantizationMethod,
    RunConfig,
    ShapeConfig,
)
from finetune.errors import ConfigError
from finetune.model.cards import Card, known_cards
from finetune.model.memory import Workload, evaluation_bytes, training_parts
from finetune.model.speed import Speed, training_speed

LEAST_LENGTH, LEAST_RANK = 512, 4
"""Shorter documents and lower ranks are not proposed."""
_LONGEST = 1 << 20
CPU_SHARE = 0.8
"""Share of a CPU's free memory that may be used: other programs want some of it, and glibc's heap is less exact."""
CPU_MICRO_BATCH = 2048
"""Larger micro-batches are no faster on a CPU: it has no kernels to launch, and large results are mapped afresh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One way to train: a workload, the longest document in it, and where it runs."""

    work: Workload
    document_tokens: int
    card: Card
    evaluation: EvaluationConfig
    plan: PlanConfig

    def moments(self) -> dict[str, float]:
        """Return the bytes that each part of a run takes at its peak."""
        return {
            "training": training_parts(self.work).total,
            "evaluation": evaluation_bytes(self.work, max(self.evaluation.batch_tokens, self.document_tokens)),
        }

    @property
    def peak(self) -> float:
        return max(self.moments().values())

    @property
    def room(self) -> float:
        """Bytes that may be used: all but the margin of what the device has free."""
        share = 1 - self.plan.margin
        return self.card.usable_bytes * (share if self.card.is_cuda else min(share, CPU_SHARE))

    @property
    def fits(self) -> bool:
        return self.peak <= self.room

    @property
    def recomputes(self) -> bool:
        return self.work.recomputed_layers > 0

    @property
    def recomputes_all(self) -> bool:
        return self.work.recomputed_layers >= self.work.shape.num_layers

    @property
    def checkpointing(self) -> bool | str:
        """The value of training.gradient_checkpointing that gives this."""
        return AUTO if self.recomputes and not self.recomputes_all else self.recomputes

    def speed(self) -> Speed | None:
        return training_speed(
            self.work, self.card, document_tokens=self.document_tokens, efficiency=self.plan.efficiency
        )

    def changed(
        self,
        *,
        method: QuantizationMethod | None = None,
        rank: int | None = None,
        length: int | None = None,
        recompute: bool | None = None,
        layers: int | None = None,
        micro: int | None = None,
    ) -> "Setting":
        """Return this setting with some values changed; a micro-batch holds at least one whole document."""
        work, length = self.work, length or self.document_tokens
        if method is not None:
            work = replace(work, quantization=replace(work.quantization, method=method))
        if rank is not None:
            work = replace(work, adapter=replace(work.adapter, rank=rank))
        if recompute is not None:
            layers = work.shape.num_layers if recompute else 0
        if layers is not None:
            work = replace(work, recomputed_layers=layers)
        work = replace(work, micro_batch_tokens=max(micro or work.micro_batch_tokens, length))
        return replace(self, work=work, document_tokens=length)


def methods_of(setting: Setting) -> list[QuantizationMethod]:
    """Return the quantisations that this model and adapter allow."""
    mixture, pissa = setting.work.shape.num_experts, setting.work.adapter.method is AdapterMethod.pissa
    return [QuantizationMethod.none] if mixture or pissa else list(QuantizationMethod)


def micro_batches(setting: Setting, batch_tokens: int) -> list[int]:
    """Return the micro-batches that divide a step evenly, largest first; each holds a whole document."""
    per_device, least = batch_tokens // setting.work.num_devices, setting.document_tokens
    shares = [per_device // parts for parts in range(1, 65) if per_device % parts == 0]
    shares = [share for share in shares if share >= least] or [least]
    return shares if setting.card.is_cuda else [share for share in shares if share <= CPU_MICRO_BATCH] or shares[-1:]


def largest_micro_batch(setting: Setting, batch_tokens: int) -> Setting | None:
    """Return the setting with the largest micro-batch that fits, None where not even one document does."""
    tried = (setting.changed(micro=micro) for micro in micro_batches(setting, batch_tokens))
    return next((found for found in tried if found.fits), None)


def longest_document(setting: Setting, context_length: int) -> int:
    """Return the longest document in tokens, up to the model's context, that fits as a micro-batch of its own; or 0."""
    low, high = 0, min(context_length, _LONGEST)
    while low < high:
        middle = (low + high + 1) // 2
        if setting.changed(length=middle, micro=middle).fits:
            low = middle
        else:
            high = middle - 1
    return low if low == context_length else low // 64 * 64


def fastest(
    setting: Setting, batch_tokens: int, *, micros: Sequence[int] = (), layers: Sequence[int] = ()
) -> Setting | None:
    """Return the fastest setting that fits with the same model, method, lengths and tokens per step.

    Of each micro-batch (all that divide a step, or those given) the one with the fewest recomputed layers (any number,
    or one of those given in ascending order) stands for election; of equally fast ones the largest micro-batch wins.
    """
    layers = layers or range(setting.work.shape.num_layers + 1)
    micros = micros or micro_batches(setting, batch_tokens)
    tried = (_least_recomputed(setting.changed(micro=micro), layers) for micro in micros)
    fitting = [found for found in tried if found is not None]
    return max(fitting, key=lambda found: (_pace(found), found.work.micro_batch_tokens), default=None)


def _least_recomputed(setting: Setting, layers: Sequence[int]) -> Setting | None:
    """Return the setting with as few recomputed layers as it fits with."""
    tried = (setting.changed(layers=number) for number in layers)
    return next((found for found in tried if found.fits), None)


def _pace(setting: Setting) -> float:
    """Return tokens per second, to six digits; those of a known card where this one's figures are not known."""
    speed = setting.speed() or replace(setting, card=known_cards()["a100_80"]).speed()
    assert speed is not None
    return float(f"{speed.tokens_per_second:.6g}")


def cures(setting: Setting) -> list[Setting]:
    """Return the nearest settings that fit, the least harmful first; at most one for each kind of harm.

    Harm rises from a smaller micro-batch over recomputation, shorter documents and a lower rank to 4 bits. Of all
    combinations that fit, one that spares the worse harm wins.
    """
    ladders = _ladders(setting)
    best: dict[int, tuple[tuple[int, ...], Setting]] = {}
    for places in itertools.product(*(range(len(ladder)) for ladder in ladders)):
        if not any(places):
            continue
        values = [ladder[place] for ladder, place in zip(ladders, places, strict=True)]
        found = _apply(setting, values)
        worst = max(number for number, place in enumerate(places) if place)
        harm = tuple(reversed(places))
        if found.fits and (worst not in best or harm < best[worst][0]):
            best[worst] = (harm, found)
    chosen: list[tuple[tuple[int, ...], Setting]] = []
    for worst in sorted(best):
        harm, found = best[worst]
        # One that gives up all that a milder one gives up, and more, helps nobody.
        if not any(all(mild <= new for mild, new in zip(milder, harm, strict=True)) for milder, _ in chosen):
            chosen.append((harm, found))
    return [found for _, found in chosen]


def _ladders(setting: Setting) -> tuple[list[int], list[bool], list[int], list[int], list[QuantizationMethod]]:
    work = setting.work
    methods = [work.quantization.method]
    if QuantizationMethod.nf4 in methods_of(setting) and QuantizationMethod.nf4 not in methods:
        methods.append(QuantizationMethod.nf4)
    return (
        list(_halves(work.micro_batch_tokens, LEAST_LENGTH)),
        [setting.recomputes] if setting.recomputes else [False, True],
        list(_halves(setting.document_tokens, LEAST_LENGTH)),
        list(_halves(work.adapter.rank, LEAST_RANK)),
        methods,
    )


def _apply(setting: Setting, values: Sequence[object]) -> Setting:
    micro, recompute, length, rank, method = values
    assert isinstance(micro, int) and isinstance(length, int) and isinstance(rank, int)
    assert isinstance(method, QuantizationMethod)
    return setting.changed(micro=micro, recompute=bool(recompute), length=length, rank=rank, method=method)


def _halves(value: int, least: int) -> Iterator[int]:
    yield value
    while value // 2 >= least:
        value //= 2
        yield value


def differences(before: Setting, after: Setting) -> list[str]:
    """Write what turns one setting into the other as words of the command line."""
    old, new = before.work, after.work
    words = {
        "quantization": (old.quantization.method.name, new.quantization.method.name),
        "adapter.rank": (old.adapter.rank, new.adapter.rank),
        "training.max_length": (before.document_tokens, after.document_tokens),
        "training.micro_batch_tokens": (old.micro_batch_tokens, new.micro_batch_tokens),
        "training.gradient_checkpointing": (before.checkpointing, after.checkpointing),
    }
    return [f"{key}={str(value).lower()}" for key, (was, value) in words.items() if was != value]


def shape_for_plan(config: RunConfig) -> ShapeConfig:
    """Return the model's shape, from its YAML or its config.json.

    Raises:
        ConfigError: neither says it.
    """
    if config.model.shape is None:
        raise ConfigError(f"model={config.model.name} names no sizes (model.shape); give its folder as model.path=…")
    return config.model.shape
