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
from peft import set_peft_model_state_dict
from trl.trainer.sft_trainer import SFTTrainer

from finetune import interruption
from finetune.config import AdapterConfig, OnLossSpike, TrainingConfig
from finetune.errors import TrainingError
from finetune.headers.safetensors import load_file
from finetune.log import is_main_process
from finetune.model.adapter import save_adapter
from finetune.run import read_json, write_json
from finetune.training import checkpoints
from finetune.training.batches import EXAMPLES, IGNORED, MicroBatches
from finetune.training.course import COURSE, Course, SpikeOfStep, StepSoFar, listed
from finetune.training.loss_watch import Spike

logger = logging.getLogger(__name__)

_ELSEWHERE = "a signal to another process"


class AdapterTrainer(SFTTrainer):
    """Trains the adapter of a PeftModel on micro-batches that are already tokenised and masked."""

    def __init__(
        self,
        *,
        rows: MicroBatches,
        validation: MicroBatches,
        adapter: AdapterConfig,
        training: TrainingConfig,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.rows = rows
        self.validation = validation
        self.adapter_config = adapter
        self.training_config = training
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the whole step itself
        self.pending_tokens = 0
        self.before_save: Callable[[], None] = lambda: None
        """Called before a checkpoint is written: what the checkpoint's step logged must be on disk by then."""
        self.checkpoints_dir = Path(arguments["args"].output_dir)
        self.step = StepSoFar()
        self.spike: SpikeOfStep | None = None
        """Set where the last step's loss was one."""
        self.course = Course()
        self.wishes_stop = False
        """Whether a signal to any of the processes asked for an end; the same on all of them."""
        self.wishes_save = False

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
        arguments = {name: value for name, value in inputs.items() if name not in ("labels", EXAMPLES)}
        logits_BKV = model(**arguments, logits_to_keep=kept, use_cache=False).logits
        logits_PV = logits_BKV[rows, where].float()
        return F.cross_entropy(logits_PV, targets[rows, positions], reduction="sum"), len(rows)

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(model, inputs, *arguments, **named)
        self.step.losses.append(loss)
        self.step.examples.append(inputs[EXAMPLES])
        return loss

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
        wishes = [float(bool(interruption.stop_wish())), float(interruption.take_save_wish())]
        total, stops, saves = self._sum_over_processes(torch.tensor([share, *wishes], dtype=torch.float64)).tolist()
        loss = total / self.args.world_size
        self.wishes_stop, self.wishes_save = stops > 0, saves > 0
        if self.wishes_stop:
            interruption.wish_stop(_ELSEWHERE)
        scaler = self.accelerator.scaler
        overflows = scaler is not None and scaler.get_scale() > 1  # float16: the scaler skips the step and scales less
        if not math.isfinite(loss) or not (math.isfinite(norm) or overflows):
            self._refuse_step(step, loss, norm)
        found = self.course.watch.add(loss)
        self.spike = None if found is None else self._on_spike(model, found, self._rows_of(step.examples))

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
        self.wishes_stop = self.wishes_stop or bool(self._sum_over_processes(wish)[0] > 0)
        if self.wishes_stop:
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
        if not len(self.validation):
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
        sums = torch.zeros(2, dtype=torch.float64)
        bad: list[int] = []
        for first in range(0, len(self.validation), self.args.world_size):
            if self._agree_to_stop():
                return None
            group = first + self.args.process_index
            if group >= len(self.validation):
                continue
            inputs = self._prepare_inputs(self.validation.collate([{"group": group}]))
            with self.compute_loss_context_manager():
                loss_sum, num_supervised = self._loss_sum(model, inputs)
            sums += torch.tensor([float(loss_sum), num_supervised], dtype=torch.float64)
            if not bad and not torch.isfinite(loss_sum):
                bad = list(self.validation.groups[group])
        loss_sum, num_supervised = self._sum_over_processes(sums)
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
        self.before_save()
        states = gather_object([checkpoints.RandomState.capture().to_json()])
        self.course.unlogged_losses = gather_object([float(self._tr_loss)])
        self.course.logged_step = self._globalstep_last_logged
        if is_main_process():
            target = self.checkpoints_dir / checkpoints.checkpoint_name(self.state.global_step)
            checkpoints.write_folder(target, lambda folder: self._fill_checkpoint(folder, states))
            checkpoints.remove_old(self.checkpoints_dir, self.training_config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

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

    def _fill_checkpoint(self, folder: Path, states: list[dict[str, Any]]) -> None:
        save_adapter(self.model, folder)
        write_json(folder / COURSE, self.course.to_json())
        checkpoints.save_optimizer(folder, self.optimizer, self.lr_scheduler)
        checkpoints.save_random_states(folder, states)
        scaler = self.accelerator.scaler
        if scaler is not None:
            checkpoints.write_json(folder / "scaler.json", scaler.state_dict())
        self.state.save_to_json(str(folder / checkpoints.TRAINER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_adapter_state(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)
            self.course = Course.from_json(read_json(Path(checkpoint) / COURSE))
            self.args.eval_on_start = self.course.measurement_due

    def _load_scaler(self, checkpoint: str | None) -> None:
        file = Path(checkpoint) / "scaler.json" if checkpoint else None
        if file is not None and file.is_file() and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(read_json(file))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_random_state(Path(checkpoint), self.args.process_index)

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
        if self.course.unlogged_losses:
            self._tr_loss += self.course.unlogged_losses[self.args.process_index]
            self._globalstep_last_logged = self.course.logged_step

    def save_best(self) -> None:
        """Keep the present adapter as the best one so far; called on the main process."""
        checkpoints.write_folder(
            self.checkpoints_dir / checkpoints.BEST, lambda folder: save_adapter(self.model, folder)
        )

    def load_best(self) -> None:
        """Put the best adapter so far back into the model, where one was measured."""
        best = self.checkpoints_dir / checkpoints.BEST
        if self.state.best_global_step and checkpoints.damage(best) is None:
            load_adapter_state(self.model, best)


def load_adapter_state(model: Any, folder: Path) -> None:
    """Put the adapter tensors of a checkpoint folder into a PeftModel of the same shape."""
    tensors = load_file(folder / "adapter_model.safetensors")
    result = set_peft_model_state_dict(model, tensors)
    assert not getattr(result, "unexpected_keys", None), "the checkpoint's adapter has other tensors"


class Stopwatch:
    """Seconds spent between `start` and `stop`, summed up."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._since
