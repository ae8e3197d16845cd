"""What a run does with the memory that it finds: `training.micro_batch_tokens=auto`, `gradient_checkpointing=auto`.

`plan` asks it for what it prints, and a training for what it does; no torch. Docs: docs/plan.md.
"""

from collections.abc import Sequence

from finetune.config import AUTO, Dtype, RunConfig, ShapeConfig, TrainingConfig
from finetune.model.cards import Card
from finetune.model.memory import Workload
from finetune.model.planning import Setting, fastest, micro_batches


def setting_of(
    config: RunConfig, shape: ShapeConfig, card: Card, *, num_devices: int, supervised_share: float
) -> Setting:
    """Return the setting that a run with this configuration has on this device.

    `auto` becomes the fastest setting that fits; where none does, the one that takes least.
    """
    training = config.training
    dtype = card.dtype if config.model.dtype is Dtype.auto else config.model.dtype
    setting = Setting(
        work=Workload(
            shape=shape,
            adapter=config.adapter,
            quantization=config.quantization,
            micro_batch_tokens=training.max_length,
            recomputed_layers=0,
            supervised_share=supervised_share,
            number_bytes=4 if dtype is Dtype.float32 else 2,
            is_cuda=card.is_cuda,
            num_devices=num_devices,
            sharding=config.plan.sharding,
        ),
        document_tokens=training.max_length,
        card=card,
        evaluation=config.evaluation,
        plan=config.plan,
    )
    asked, wish = training.micro_batch_tokens, training.gradient_checkpointing
    micros = micro_batches(setting, training.batch_tokens) if isinstance(asked, str) else [_capacity(setting, training)]
    layers: Sequence[int] = range(shape.num_layers + 1) if isinstance(wish, str) else [shape.num_layers if wish else 0]
    found = fastest(setting, training.batch_tokens, micros=micros, layers=layers)
    return found or setting.changed(micro=min(micros), layers=layers[-1])


def _capacity(setting: Setting, training: TrainingConfig) -> int:
    """Return the most tokens that a micro-batch can have: no more than a process's part of a step, or one document."""
    assert isinstance(training.micro_batch_tokens, int)
    share = training.batch_tokens // setting.work.num_devices
    return max(min(training.micro_batch_tokens, share), training.max_length)


def is_chosen(training: TrainingConfig) -> bool:
    """Whether anything is left to the run."""
    return AUTO in (training.micro_batch_tokens, training.gradient_checkpointing)


def choice_line(setting: Setting, training: TrainingConfig) -> str:
    """Say in one line what `auto` has chosen, and why."""
    work, chosen = setting.work, []
    if training.micro_batch_tokens == AUTO:
        parts = max(1, round(training.batch_tokens / work.num_devices / work.micro_batch_tokens))
        chosen.append(f"micro-batches of {work.micro_batch_tokens:,} tokens ({parts} a step)")
    if training.gradient_checkpointing == AUTO:
        layers = f"{work.recomputed_layers} of {work.shape.num_layers} layers" if setting.recomputes else "no layer"
        chosen.append(f"{layers} recomputed")
    why = "the fastest that fits" if setting.fits else "takes least but may not fit"
    needs, has = setting.peak / 1e9, setting.room / 1e9
    return f"auto: {', '.join(chosen)}: {why} ({needs:.1f} of {has:.1f} GB)"
