"""Builds the trainer from plain parts and runs it: examples and a PeftModel in, the best adapter on disk out."""

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.sft_config import SFTConfig

from finetune.config import AdapterConfig, AdapterMethod, TrackingConfig, TrainingConfig
from finetune.data.examples import lengths_of, num_supervised_of
from finetune.errors import SaveError, TrainingError
from finetune.interruption import deferred
from finetune.log import is_main_process, megabytes, num_processes
from finetune.model.adapter import (
    adapter_state,
    convert_pissa,
    restore_adapter_state,
    save_adapter,
    trainable_parameters,
)
from finetune.model.hardware import Hardware, peak_memory_bytes
from finetune.model.packed_attention import packed, supports_packing
from finetune.model.planning import Setting
from finetune.model.recompute import recompute_first
from finetune.placing import placed
from finetune.records import Example, TrainResult
from finetune.run import RunFolder
from finetune.training.callbacks import Flow, MetricsFile, ProgressDisplay
from finetune.training.checkpoints import newest_valid, restore_best, sha256
from finetune.training.saving import WRITE_ERRORS, check_room_for_run, reason_of
from finetune.training.steps import SHARE, Steps, plan_steps
from finetune.training.tracking import tracking_callbacks
from finetune.training.trainer import AdapterTrainer
from finetune.training.worst_step import Forecast

logger = logging.getLogger(__name__)

_MEASUREMENTS = 10
"""Validation measurements per run where training.eval_steps is not set."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How many tokens, micro-batches and steps a run has; the same on every process."""

    micro_batch_tokens: int
    """Most tokens of a micro-batch."""
    num_micro_batches: int
    """Of an epoch, over all processes."""
    steps_per_epoch: int
    tokens_per_step: float
    num_steps: int
    eval_steps: int
    save_steps: int
    warmup_steps: int

    @classmethod
    def of(
        cls,
        steps: Steps,
        validation: Sequence[Example],
        training: TrainingConfig,
        *,
        micro_batch_tokens: int,
        num_processes: int,
    ) -> "Arithmetic":
        """Derive the course of a run from its steps and its validation rows; no micro-batch is shorter than a row."""
        lengths = lengths_of(validation)
        micro_batch_tokens = max(micro_batch_tokens, steps.longest(), *lengths)
        per_epoch = max(1, math.ceil(len(steps) / num_processes))
        num_steps = training.max_steps or max(1, math.ceil(training.num_epochs * per_epoch))
        tokens_per_step = steps.num_tokens() / per_epoch
        at_least = math.ceil(sum(lengths) / tokens_per_step)  # measuring takes a quarter of the time at most
        eval_steps = training.eval_steps or max(1, num_steps // _MEASUREMENTS, at_least)
        return cls(
            micro_batch_tokens=micro_batch_tokens,
            num_micro_batches=steps.num_micro_batches(micro_batch_tokens),
            steps_per_epoch=per_epoch,
            tokens_per_step=tokens_per_step,
            num_steps=num_steps,
            eval_steps=eval_steps,
            save_steps=training.save_steps or eval_steps,
            warmup_steps=math.ceil(training.warmup_share * num_steps),
        )


def train_adapter(
    model: Any,
    tokenizer: Any,
    train: Sequence[Example],
    validation: Sequence[Example],
    *,
    training: TrainingConfig,
    setting: Setting,
    adapter: AdapterConfig,
    tracking: TrackingConfig,
    hardware: Hardware,
    folder: RunFolder,
    seed: int,
    resume: bool,
) -> TrainResult | None:
    """Train the adapter of a PeftModel and write the best one to the run folder; `model` then holds it.

    `setting` says what `auto` has chosen: tokens of a micro-batch, and how many layers are recomputed.

    Every process of a distributed run calls this; all but the main one get None.

    Raises:
        TrainingError: loss, gradient or weights became no numbers, or the loss jumped (training.on_loss_spike=stop).
        CheckpointError: a checkpoint does not fit this run.
        SaveError: the disk has no room (training.on_save_error=stop).
        ResourceError: not even a single row fits into memory, or the main memory is nearly used up.
        Interrupted: a signal asked for an end; a checkpoint of the last step is there.
    """
    is_packed = training.packing and _packing_works(model)
    arguments_of = _arguments(training, hardware, folder, seed)
    steps = plan_steps(
        train,
        batch_tokens=training.batch_tokens,
        max_length=training.max_length,
        num_processes=arguments_of.world_size,
        packed=is_packed,
        seed=seed,
    )
    measured = _first(validation, training.max_validation_tokens)
    asked = training.micro_batch_tokens
    arithmetic = Arithmetic.of(
        steps,
        measured,
        training,
        micro_batch_tokens=setting.work.micro_batch_tokens if isinstance(asked, str) else asked,
        num_processes=arguments_of.world_size,
    )
    _apply(arguments_of, arithmetic)
    _announce(model, train, arithmetic, arguments_of.world_size, is_packed)

    if is_main_process():
        check_room_for_run(folder.checkpoints, model, training.keep_checkpoints)

    forecast = Forecast.now(setting, hardware.device, folder)
    recompute_first(model.get_base_model(), setting.work.recomputed_layers)
    initial = adapter_state(model)
    flow = Flow(training, eval_steps=arithmetic.eval_steps, save_steps=arithmetic.save_steps)
    metrics = MetricsFile(folder.metrics, hardware.device, training.on_save_error)
    trainer = AdapterTrainer(
        rows=steps,
        validation=measured,
        micro_batch_tokens=arithmetic.micro_batch_tokens,
        forecast=forecast,
        initial=initial,
        adapter=adapter,
        training=training,
        model=model,
        args=arguments_of,
        train_dataset=Dataset.from_dict({SHARE: list(range(len(steps)))}),
        data_collator=steps.read,
        processing_class=tokenizer,
        callbacks=[flow, metrics, ProgressDisplay(metrics), *tracking_callbacks(tracking, metrics, folder)],
    )
    _drop_default_displays(trainer)
    restore_adapter_state(model, initial)  # SFTTrainer rounds fp32 adapters to bfloat16
    flow.trainer = metrics.trainer = trainer
    trainer.before_save = metrics.flush

    checkpoint = _checkpoint_to_resume(folder) if resume and is_main_process() else None
    checkpoint = _same_everywhere(checkpoint, arguments_of.world_size)
    if checkpoint is not None:
        logger.info("resume: going on from %s", checkpoint.name)
        trainer.args.eval_on_start = False
    with deferred(), packed(model.get_base_model()) if is_packed else contextlib.nullcontext():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    forecast.compare("at the peak of the training")
    trainer.raise_if_short_of_memory()
    trainer.load_best()
    _unwrap(trainer, model)
    if not is_main_process():
        return None
    _write_adapter(model, folder, initial if adapter.method is AdapterMethod.pissa else None)
    return _result(trainer, metrics, folder, hardware)


def _packing_works(model: Any) -> bool:
    if supports_packing(model.get_base_model()):
        return True
    logger.info("packing: this architecture's attention cannot be packed exactly; training on padded rows instead")
    return False


def _first(examples: Sequence[Example], max_tokens: int) -> list[Example]:
    kept: list[Example] = []
    total = 0
    for example in examples:
        total += len(example.input_ids)
        if kept and total > max_tokens:
            logger.info("validation: measured on the first %d of %d rows", len(kept), len(examples))
            break
        kept.append(example)
    return kept


def _arguments(training: TrainingConfig, hardware: Hardware, folder: RunFolder, seed: int) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder.checkpoints),
        per_device_train_batch_size=1,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        adam_beta2=training.adam_beta2,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(training.schedule.name, training.schedule.name),
        optim="adamw_torch_fused" if hardware.is_cuda else "adamw_torch",
        bf16=hardware.dtype == torch.bfloat16,
        fp16=hardware.is_cuda and hardware.dtype == torch.float16,
        use_cpu=not hardware.is_cuda,
        gradient_checkpointing=False,  # `recompute_first` switches it on, layer by layer
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        eval_on_start=True,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=hardware.is_cuda,
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if not hardware.is_cuda and num_processes() > 1 else None,
        remove_unused_columns=False,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        router_aux_loss_coef=0.0,  # our own loss has none; on, a mixture of experts cannot generate afterwards
    )


def _apply(arguments: SFTConfig, arithmetic: Arithmetic) -> None:
    arguments.max_steps = arithmetic.num_steps
    arguments.warmup_steps = arithmetic.warmup_steps


def _announce(
    model: Any, train: Sequence[Example], arithmetic: Arithmetic, num_processes: int, is_packed: bool
) -> None:
    trainable, total = trainable_parameters(model)
    supervised = num_supervised_of(train)
    logger.info(
        "training %s of %s parameters (%.2f %%); adapter and optimizer state %s",
        f"{trainable:,}",
        f"{total:,}",
        100 * trainable / total,
        megabytes(16 * trainable),
    )
    logger.info(
        "%d steps of about %s tokens on %d process%s, %d steps an epoch in %d micro-batches of at most %s tokens (%s); "
        "%s supervised tokens an epoch; measured every %d steps, saved every %d",
        arithmetic.num_steps,
        f"{arithmetic.tokens_per_step:,.0f}",
        num_processes,
        "" if num_processes == 1 else "es",
        arithmetic.steps_per_epoch,
        arithmetic.num_micro_batches,
        f"{arithmetic.micro_batch_tokens:,}",
        "packed, attention within each document" if is_packed else "padded",
        f"{supervised:,}",
        arithmetic.eval_steps,
        arithmetic.save_steps,
    )


def _drop_default_displays(trainer: AdapterTrainer) -> None:
    from transformers import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


def _checkpoint_to_resume(folder: RunFolder) -> Path | None:
    """Return the newest valid checkpoint, with the best adapter as it was then in its place."""
    checkpoint = newest_valid(folder.checkpoints)
    if checkpoint is not None:
        restore_best(checkpoint)
    elif folder.checkpoints.is_dir():
        logger.warning("resume: there is no valid checkpoint; starting at step 0")
    return checkpoint


def _same_everywhere(checkpoint: Path | None, num_processes: int) -> Path | None:
    if num_processes == 1:
        return checkpoint
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([checkpoint])[0]


def _unwrap(trainer: AdapterTrainer, model: Any) -> None:
    """Take off what the trainer put around the model's forward functions."""
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    for module in (model, model.get_base_model()):
        module.__dict__.pop("forward", None)
    recompute_first(model.get_base_model(), 0)
    model.eval()


def _write_adapter(model: Any, folder: RunFolder, initial: dict[str, Any] | None) -> None:
    """Write `adapter/` in one step: its presence says that the training has ended."""
    for name, tensor in model.named_parameters():
        if tensor.requires_grad and not torch.isfinite(tensor).all():
            raise TrainingError(f"the adapter tensor {name} holds values that are no numbers; nothing was saved")
    try:
        with placed(folder.adapter) as staged:
            save_adapter(model, staged)
            if initial is not None:
                convert_pissa(staged, initial)
    except WRITE_ERRORS as error:
        raise SaveError(f"{folder.adapter}: the trained adapter could not be written ({reason_of(error)})") from error
    logger.info("adapter: %s (sha256 %s…)", folder.adapter, sha256(folder.adapter / "adapter_model.safetensors")[:12])


def _result(trainer: AdapterTrainer, metrics: MetricsFile, folder: RunFolder, hardware: Hardware) -> TrainResult:
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    seconds = metrics.watch.seconds
    tokens = trainer.state.num_input_tokens_seen
    return TrainResult(
        adapter_dir=folder.adapter,
        num_steps=trainer.state.global_step,
        best_step=trainer.state.best_global_step or 0,
        first_validation_loss=losses[0] if losses else None,
        best_validation_loss=trainer.state.best_metric,
        num_tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        peak_memory_bytes=peak_memory_bytes(hardware.device),
    )
