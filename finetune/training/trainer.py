"""The one subclass of TRL's SFTTrainer: own rows and loss, checkpoints without pickle, exact validation loss.

Legend: B rows, T tokens, V vocabulary, P supervised positions.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from trl.trainer.sft_trainer import SFTTrainer

from finetune import interruption
from finetune.config import AUTO, AdapterConfig, OnLossSpike, OnSaveError, TrainingConfig
from finetune.data.examples import supervised_of
from finetune.errors import ResourceError, SaveError, TrainingError
from finetune.log import is_main_process
from finetune.model.adapter import restore_adapter_state, save_adapter
from finetune.model.free_memory import FreeMemory, reserve_bytes
from finetune.model.hardware import is_out_of_memory, release_memory
from finetune.records import Example
from finetune.run import read_json, write_json
from finetune.training import checkpoints, saving, states
from finetune.training.batches import IGNORED, make_micro_batches
from finetune.training.course import COURSE, Course, SpikeOfStep, StepSoFar, listed
from finetune.training.loss_watch import Spike
from finetune.training.shrinking import Generators, StartAgain, halved
from finetune.training.steps import SHARE, Share, Steps
from finetune.training.worst_step import Forecast, MicroBatch, optimizer_state, worst_of

logger = logging.getLogger(__name__)

_ELSEWHERE = "a signal to another process"


class AdapterTrainer(SFTTrainer):
    """Trains the adapter of a PeftModel on examples that are already tokenised and masked.

    To the library a step has one batch: a `Share`, which is cut into micro-batches here.
    """

    def __init__(
        self,
        *,
        rows: Steps,
        validation: Sequence[Example],
        micro_batch_tokens: int,
        forecast: Forecast,
        initial: dict[str, torch.Tensor],
        adapter: AdapterConfig,
        training: TrainingConfig,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.rows = rows
        self.validation_examples = validation
        self.asked_tokens = micro_batch_tokens
        self.forecast = forecast
        self.initial = initial
        """The untrained adapter."""
        self.adapter_config = adapter
        self.training_config = training
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the whole step itself
        self.pending_tokens = 0
        self.before_save: Callable[[], None] = lambda: None
        """Called on every process before a checkpoint is written: what its step logged must be on disk by then."""
        self.checkpoints_dir = Path(arguments["args"].output_dir)
        self.step = StepSoFar()
        self.spike: SpikeOfStep | None = None
        """Set where the last step's loss was one."""
        self.course = Course()
        self.has_checkpoint = False
        self.memory = FreeMemory()
        self.shortage = ""
        """What is said of the main memory where it is nearly used up on any of the processes."""
        self.wishes_stop = False
        """Whether a signal to any of the processes asked for an end; the same on all of them."""
        self.wishes_save = False
        self._take_size(None)

    def _take_size(self, micro_batch_tokens: int | None) -> None:
        """Cut steps and validation rows into micro-batches of this many tokens; None takes what was asked for."""
        self.course.micro_batch_tokens = micro_batch_tokens
        self.micro_batch_tokens = micro_batch_tokens or self.asked_tokens
        examples = self.validation_examples
        self.validation = make_micro_batches(examples, self.micro_batch_tokens, packed=self.rows.packed)

    def train(self, *arguments: Any, **named: Any) -> Any:
        """Train; from the start again where memory turned out too small before the first checkpoint."""
        before, scaler = Generators.capture(), self.accelerator.scaler
        scaling = {} if scaler is None else scaler.state_dict()
        while True:
            try:
                result = super().train(*arguments, **named)
                self.memory.close()
                return result
            except StartAgain:
                smaller = self.course.micro_batch_tokens
            restore_adapter_state(self.model, self.initial)
            self.optimizer: Any = None
            self.lr_scheduler: Any = None
            self.spike = None
            self.step, self.course, self.pending_tokens = StepSoFar(), Course(), 0
            if scaler is not None:
                scaler.load_state_dict(scaling)
            self._take_size(smaller)
            before.restore()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return this micro-batch's share of the step's mean loss per supervised token, in nats."""
        assert not return_outputs
        if model.training:
            mask_BT = inputs.get("attention_mask")
            self.pending_tokens += int(inputs["input_ids"].numel() if mask_BT is None else mask_BT.sum())
        loss_sum, num_supervised = self._loss_sum(model, inputs)
        total = num_supervised if num_items_in_batch is None else num_items_in_batch
        loss = loss_sum / torch.as_tensor(total, device=loss_sum.device).clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over the processes
        return loss

    def _loss_sum(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, int]:
        """Return the summed loss over supervised tokens, with logits for these positions alone."""
        labels_BT = inputs["labels"]
        targets = labels_BT[:, 1:]
        rows, positions = (targets != IGNORED).nonzero(as_tuple=True)
        kept, where = positions.unique(return_inverse=True)
        arguments = {name: value for name, value in inputs.items() if name != "labels"}
        logits_BKV = model(**arguments, logits_to_keep=kept, use_cache=False).logits
        logits_PV = logits_BKV[rows, where].float()
        return F.cross_entropy(logits_PV, targets[rows, positions], reduction="sum"), len(rows)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Count the supervised tokens of a step, over all processes."""
        count = torch.tensor([sum(inputs[SHARE].num_supervised() for inputs in batch_samples)], dtype=torch.float64)
        return self._sum_over_processes(count)[0].long().to(device)

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> torch.Tensor:
        """Compute a step's gradient in micro-batches; out of memory halves them, and the step is done again.

        Raises:
            ResourceError: a single row does not fit.
        """
        before, tokens = Generators.capture(), self.pending_tokens
        while not self._accumulate(model, inputs[SHARE], *arguments, **named):
            self.step, self.pending_tokens = StepSoFar(), tokens
            model.zero_grad(set_to_none=True)
            self._take_less(f"in step {self.state.global_step + 1}")
            before.restore()
        self._average_gradients()
        return torch.stack(self.step.losses).sum()

    def try_worst_step(self) -> None:
        """Do the worst micro-batches once before the first step, with gradients and optimizer state in place.

        Weights, random generators, counts and the order of the rows are as before; where memory is too small, the
        micro-batches are halved. Every process must call it.
        """
        worst = worst_of(self.rows, self.micro_batch_tokens, self.forecast.setting)
        self.forecast.predict(worst)
        is_over = self.state.global_step >= self.state.max_steps
        if is_over or self.is_fsdp_enabled or not self.forecast.is_worth_a_try():
            return
        before, tokens = Generators.capture(), self.pending_tokens
        while not self._everywhere(self._fits(worst)):
            self._take_less("in a trial of the worst step")
            worst = worst_of(self.rows, self.micro_batch_tokens, self.forecast.setting)
            self.forecast.predict(worst)
        before.restore()
        self.pending_tokens = tokens
        self.forecast.compare("in a trial of the worst step")

    def _fits(self, worst: MicroBatch) -> bool:
        """Whether this process has memory for a micro-batch of training and for the validation's largest one."""
        model: Any = self.model_wrapped
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        held: list[torch.Tensor] = []
        try:
            held += [] if self.optimizer.state else optimizer_state(weights)
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            share = Share([worst.numbers], {number: self.rows.examples[number] for number in worst.numbers})
            inputs = self._prepare_inputs(self.rows.collate(worst.numbers, share))
            model.train()
            with self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(model, inputs, num_items_in_batch=torch.tensor(max(worst.supervised, 1)))
                self.accelerator.backward(loss)
            del loss, inputs
            return not len(self.validation) or self._largest_measurement_fits(model)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            held.clear()
            model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _largest_measurement_fits(self, model: Any) -> bool:
        supervised = supervised_of(self.validation.examples)
        largest = max(
            range(len(self.validation)),
            key=lambda group: sum(supervised[number] for number in self.validation.groups[group]),
        )
        model = self.accelerator.unwrap_model(model, keep_fp32_wrapper=True)
        model.eval()
        fits = not self._measure_group(model, largest)[2]
        model.train()
        return fits

    def _accumulate(self, model: Any, share: Share, *arguments: Any, **named: Any) -> bool:
        """Whether all micro-batches of a step fit into the memory of all processes."""
        has_room = True
        try:
            for numbers in self.rows.micro_batches(share.rows, self.micro_batch_tokens):
                with self.accelerator.no_sync(model):
                    loss = super().training_step(model, self.rows.collate(numbers, share), *arguments, **named)
                self.step.losses.append(loss)
                self.step.examples.append(numbers)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            has_room = False
        return self._everywhere(has_room)

    def _everywhere(self, is_so: bool) -> bool:
        """Whether it is so on all processes; every process must call it."""
        return bool(self._sum_over_processes(torch.tensor([float(not is_so)]))[0] == 0)

    def _average_gradients(self) -> None:
        """Average the gradients of all processes, after the last micro-batch of each is known to have fitted."""
        if self.args.world_size == 1:
            return
        model: Any = self.model
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in weights:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        flat = torch.cat([weight.grad.flatten().float() for weight in weights])
        mean: Any = self.accelerator.reduce(flat, reduction="mean")
        for weight, part in zip(weights, mean.split([weight.numel() for weight in weights]), strict=True):
            weight.grad.copy_(part.view_as(weight))

    def _take_less(self, doing: str) -> None:
        """Recompute all layers from here on, where that is left to the run, or else halve the micro-batches.

        Recomputation changes no number, so that no step is done anew for it.

        Raises:
            StartAgain, ResourceError: see `_shrink`.
        """
        setting = self.forecast.setting
        if self.training_config.gradient_checkpointing != AUTO or setting.recomputes_all:
            self._shrink(doing)
            return
        logger.warning("out of memory %s: every layer is recomputed from here on, with the same numbers", doing)
        self.forecast.recompute_all(self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=True))
        release_memory()

    def _shrink(self, doing: str) -> None:
        """Halve the micro-batches from here on; the same on every process.

        Raises:
            StartAgain: steps were taken with the larger ones, and no checkpoint is there yet.
            ResourceError: they hold one row already.
        """
        longest = max(self.rows.longest(), max(map(len_of, self.validation_examples), default=0))
        smaller = halved(self.micro_batch_tokens, longest, doing, self.training_config, self.adapter_config)
        again = self.state.global_step > 0 and not self.has_checkpoint
        logger.warning(
            "out of memory %s: micro-batches of %d tokens instead of %d from here on, the same batch in each step%s",
            doing,
            smaller,
            self.micro_batch_tokens,
            "; from the first step again, since no checkpoint is there yet" if again else "",
        )
        self._take_size(smaller)
        release_memory()
        if again:
            raise StartAgain

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called by the library between the last backward pass of a step and its update."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._judge_step(model, norm)
        return norm

    def _judge_step(self, model: Any, norm: Any) -> None:
        """Look at a step's numbers while the weights are still those before it.

        Raises:
            TrainingError: loss or gradient norm is no number, or the loss is a spike and the run ends at spikes.
        """
        step, self.step = self.step, StepSoFar()
        share, norm = torch.stack([torch.stack(step.losses).sum(), torch.as_tensor(norm).to(step.losses[0])]).tolist()
        self.shortage = self._shortage()
        wishes = [bool(interruption.stop_wish()), interruption.take_save_wish(), bool(self.shortage)]
        sums = self._sum_over_processes(torch.tensor([share, *wishes], dtype=torch.float64))
        total, stops, saves, shortages = sums.tolist()
        loss = total / self.args.world_size
        self.wishes_stop, self.wishes_save = stops + shortages > 0, saves > 0
        if stops:
            interruption.wish_stop(_ELSEWHERE)
        if shortages:
            self.shortage = self.shortage or "another process has too little memory left"
        scaler = self.accelerator.scaler
        overflows = scaler is not None and scaler.get_scale() > 1  # float16: the scaler skips the step and scales less
        if not math.isfinite(loss) or not (math.isfinite(norm) or overflows):
            self._refuse_step(step, loss, norm)
        found = self.course.watch.add(loss)
        self.spike = None if found is None else self._on_spike(model, found, self._rows_of(step.examples))

    def _shortage(self) -> str:
        """Say how little main memory is left, where it is too little to go on; never after the last step."""
        room = self.memory.look()
        is_last = self.state.global_step + 1 >= self.state.max_steps
        return "" if room is None or is_last or room.free_bytes >= reserve_bytes(room) else str(room)

    def raise_if_short_of_memory(self) -> None:
        """End a run that stopped with a checkpoint because the kernel would soon have ended it.

        Raises:
            ResourceError: with the figures and what to change.
        """
        if self.shortage:
            raise ResourceError(
                f"step {self.state.global_step}: {self.shortage}; stopped with a checkpoint before the system ends "
                "this process. End other programs or raise the limit, then go on with resume=true; for less memory "
                f"start anew with a lower training.micro_batch_tokens (now {self.micro_batch_tokens}) or "
                f"training.max_length (now {self.training_config.max_length}), or with "
                "training.gradient_checkpointing=true"
            )

    def _refuse_step(self, step: StepSoFar, loss: float, norm: float) -> NoReturn:
        bad = [not math.isfinite(value) for value in torch.stack(step.losses).tolist()]
        is_loss = not math.isfinite(loss)
        named = [examples for examples, is_bad in zip(step.examples, bad, strict=True) if is_bad or not is_loss]
        what = f"the loss is {loss} in the micro-batch" if is_loss else f"the gradient norm is {norm} in the step"
        raise TrainingError(
            f"step {self.state.global_step + 1}: {what} of {listed(self._rows_of(named))}; the step was "
            "not taken and nothing of it is saved. Look at these rows, lower training.learning_rate (now "
            f"{self.training_config.learning_rate:g}), or set model.dtype=float32"
        )

    def _on_spike(self, model: Any, found: Spike, rows: list[str]) -> SpikeOfStep:
        policy = self.training_config.on_loss_spike
        what = (
            f"step {self.state.global_step + 1}: the loss is {found.loss:.4f}, above {found.limit:.4f} (mean + 6 sigma)"
        )
        if policy is OnLossSpike.stop:
            raise TrainingError(
                f"{what}, in {listed(rows)}; stopped before the update (training.on_loss_spike=stop). Look at these "
                "rows, or go on past them with training.on_loss_spike=skip"
            )
        skipped = policy is OnLossSpike.skip
        if skipped:
            model.zero_grad(set_to_none=True)  # the optimizer passes over parameters without gradients
        logger.warning("%s, in %s; %s", what, listed(rows), "step skipped" if skipped else "learned from all the same")
        return SpikeOfStep(found, skipped, rows)

    def _rows_of(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """Name the rows of micro-batches, over all processes; every process must call it."""
        own = self.rows.item_ids(number for group in groups for number in group)
        return own if self.args.world_size == 1 else list(dict.fromkeys(gather_object(own)))

    def _agree_to_stop(self) -> bool:
        """Whether any process was asked to end; every process must call it."""
        wish = torch.tensor([float(bool(interruption.stop_wish()))])
        asked = bool(self._sum_over_processes(wish)[0] > 0)
        self.wishes_stop = self.wishes_stop or asked
        if asked:
            interruption.wish_stop(_ELSEWHERE)
        return self.wishes_stop

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        """Take no step where none is left: a run may have been stopped after its last one, or before its first."""
        done = self.state.global_step >= self.state.max_steps or self.control.should_training_stop
        if done or self._agree_to_stop():
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **named)

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the mean validation loss per supervised token, over all processes.

        Where a signal asks for an end, the measurement is left to the run that goes on from the checkpoint.

        Raises:
            TrainingError: the loss of a micro-batch is no number.
        """
        if not len(self.validation_examples):
            return {}
        model = self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=True)
        was_training = model.training
        model.eval()
        total = self._measure(model)
        model.train(was_training)
        self.course.measurement_due = total is None
        if total is None:
            self.control.should_save = self.state.global_step > 0
            self.control.should_training_stop = True
            return {}
        metrics = {"eval_loss": total}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measure(self, model: Any) -> float | None:
        """Return the validation loss, or None where an end is asked for; out of memory halves the micro-batches."""
        while True:
            sums, bad = torch.zeros(3, dtype=torch.float64), []
            for first in range(0, len(self.validation), self.args.world_size):
                if self._agree_to_stop():
                    return None
                group = first + self.args.process_index
                if group < len(self.validation) and not sums[2]:
                    sums += self._measure_group(model, group)
                    bad = bad if bad or sums.isfinite().all() else list(self.validation.groups[group])
            loss_sum, num_supervised, num_failed = self._sum_over_processes(sums)
            if not num_failed:
                break
            self._shrink(f"measuring after step {self.state.global_step}")
        loss = float(loss_sum / max(num_supervised, 1))
        if not math.isfinite(loss):
            own = self.validation.item_ids(bad)
            rows = own if self.args.world_size == 1 else gather_object(own)
            raise TrainingError(
                f"step {self.state.global_step}: the validation loss is {loss} in the micro-batch of {listed(rows)}; "
                "nothing of this step is saved. Look at these rows, lower training.learning_rate (now "
                f"{self.training_config.learning_rate:g}), or set model.dtype=float32"
            )
        return loss

    def _measure_group(self, model: Any, group: int) -> torch.Tensor:
        """Return summed loss, supervised tokens, and 1 where memory was too small."""
        try:
            inputs = self._prepare_inputs(self.validation.collate(group))
            with self.compute_loss_context_manager():
                loss_sum, num_supervised = self._loss_sum(model, inputs)
            return torch.tensor([float(loss_sum), num_supervised, 0], dtype=torch.float64)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return torch.tensor([0, 0, 1], dtype=torch.float64)

    def _sum_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return values
        summed: Any = self.accelerator.reduce(values.double().to(self.args.device), reduction="sum")
        return summed.cpu()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.count_tokens()
        super().log(logs, start_time)

    def count_tokens(self) -> None:
        """Add the tokens of all processes since the last call to the run's total; every process must call it."""
        total = self._sum_over_processes(torch.tensor([self.pending_tokens]))
        self.state.num_input_tokens_seen += int(total[0])
        self.pending_tokens = 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_weights()
        self.count_tokens()
        random_states = gather_object([states.RandomState.capture().to_json()])
        self.course.unlogged_losses = gather_object([float(self._tr_loss)])
        self.course.logged_step = self._globalstep_last_logged
        if self._keep("checkpoint", lambda: self._write_checkpoint(random_states)):
            self.has_checkpoint = True
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, random_states: list[dict[str, Any]]) -> None:
        self.before_save()
        if is_main_process():
            saving.check_room_for_checkpoint(self.checkpoints_dir, self.model)
            target = self.checkpoints_dir / checkpoints.checkpoint_name(self.state.global_step)
            checkpoints.write_folder(target, lambda folder: self._fill_checkpoint(folder, random_states))
            checkpoints.remove_old(self.checkpoints_dir, self.training_config.keep_checkpoints)

    def _keep(self, what: str, write: Callable[[], None]) -> bool:
        """Write to the run folder and tell whether that went well, the same on every process.

        Raises:
            SaveError: it did not, and `training.on_save_error` is `stop`.
        """
        reason = ""
        try:
            write()
        except (*saving.WRITE_ERRORS, SaveError) as error:
            reason = saving.reason_of(error)
        if not self._sum_over_processes(torch.tensor([float(bool(reason))]))[0]:
            return True
        newest = max((path.name for path in self.checkpoints_dir.glob("step-*")), default="none")
        text = (
            f"step {self.state.global_step}: the {what} could not be saved ({reason}); last good checkpoint: {newest}"
        )
        if self.training_config.on_save_error is OnSaveError.stop:
            raise SaveError(f"{text}. Free some space; training.on_save_error=warn would go on without this save")
        logger.warning("%s; going on without it (training.on_save_error=warn)", text)
        return False

    def check_weights(self) -> None:
        """Refuse to save adapter weights or optimizer states that are no numbers; the same on every process.

        Raises:
            TrainingError: naming the first such tensor.
        """
        model: Any = self.model
        tensors = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        for index, state in enumerate(self.optimizer.state.values()):
            tensors |= {f"optimizer state {index}.{name}": v for name, v in state.items() if torch.is_tensor(v)}
        found = [torch.isfinite(tensor).all().to(self.args.device) for tensor in tensors.values()]
        bad = [name for name, is_finite in zip(tensors, torch.stack(found).tolist(), strict=True) if not is_finite]
        if bad:
            raise TrainingError(
                f"step {self.state.global_step}: {len(bad)} tensors hold values that are no numbers (first: {bad[0]}); "
                f"nothing was saved. Lower training.learning_rate (now {self.training_config.learning_rate:g}), or set "
                "model.dtype=float32"
            )

    def _fill_checkpoint(self, folder: Path, random_states: list[dict[str, Any]]) -> None:
        save_adapter(self.model, folder)
        write_json(folder / COURSE, self.course.to_json())
        states.save_optimizer(folder, self.optimizer, self.lr_scheduler)
        states.save_random_states(folder, random_states)
        scaler = self.accelerator.scaler
        if scaler is not None:
            write_json(folder / "scaler.json", scaler.state_dict())
        if self.state.best_global_step and self.state.best_global_step != self.state.global_step:
            checkpoints.keep_best(self.checkpoints_dir / checkpoints.BEST, folder)
        self.state.save_to_json(str(folder / checkpoints.TRAINER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        states.load_adapter_state(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            states.load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)
            self.course = Course.from_json(read_json(Path(checkpoint) / COURSE))
            self.args.eval_on_start = self.course.measurement_due
            self.has_checkpoint = True
            self._take_size(self.course.micro_batch_tokens)

    def _load_scaler(self, checkpoint: str | None) -> None:
        file = Path(checkpoint) / "scaler.json" if checkpoint else None
        if file is not None and file.is_file() and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(read_json(file))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            states.load_random_state(Path(checkpoint), self.args.process_index)

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimizer; LoRA+ gives the B matrices a rate of their own (Hayou et al. 2024)."""
        if self.optimizer is None and self.adapter_config.lora_plus_ratio is not None:
            from peft.optimizers import create_loraplus_optimizer

            peft_model: Any = self.model
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, peft_model)
            self.optimizer = create_loraplus_optimizer(
                peft_model,
                optimizer_class,
                loraplus_lr_ratio=self.adapter_config.lora_plus_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                **arguments,
            )
        return super().create_optimizer(model)

    def go_on_counting(self) -> None:
        """Take up the losses that were summed but not logged when the checkpoint was written."""
        if self.args.process_index < len(self.course.unlogged_losses):
            self._tr_loss += self.course.unlogged_losses[self.args.process_index]
            self._globalstep_last_logged = self.course.logged_step

    def save_best(self) -> bool:
        """Keep the present adapter as the best one so far; every process must call it."""
        best = self.checkpoints_dir / checkpoints.BEST

        def write() -> None:
            if is_main_process():
                checkpoints.write_folder(best, lambda folder: save_adapter(self.model, folder))

        return self._keep("best adapter so far", write)

    def load_best(self) -> None:
        """Put the best adapter so far back into the model, where one was measured.

        Raises:
            CheckpointError: it has been damaged since it was written.
        """
        best = self.checkpoints_dir / checkpoints.BEST
        if self.state.best_global_step:
            checkpoints.refuse_damaged_best(best)
            states.load_adapter_state(self.model, best)


def len_of(example: Example) -> int:
    return len(example.input_ids)


class Stopwatch:
    """Seconds spent between `start` and `stop`, summed up."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._since
