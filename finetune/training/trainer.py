"""The one subclass of TRL's SFTTrainer: own rows and loss, checkpoints without pickle, exact validation loss.

Legend: B rows, T tokens, V vocabulary, P supervised positions.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from trl.trainer.sft_trainer import SFTTrainer

from finetune.config import AdapterConfig
from finetune.errors import TrainingError
from finetune.log import is_main_process
from finetune.model.adapter import save_adapter
from finetune.run import read_json
from finetune.training import checkpoints
from finetune.training.batches import IGNORED, MicroBatches


class AdapterTrainer(SFTTrainer):
    """Trains the adapter of a PeftModel on micro-batches that are already tokenised and masked."""

    def __init__(
        self, *, validation: MicroBatches, adapter: AdapterConfig, keep_checkpoints: int, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.validation = validation
        self.adapter_config = adapter
        self.keep_checkpoints = keep_checkpoints
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the whole step itself
        self.pending_tokens = 0
        self.before_save: Callable[[], None] = lambda: None
        """Called before a checkpoint is written: what the checkpoint's step logged must be on disk by then."""
        self.checkpoints_dir = Path(arguments["args"].output_dir)

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

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **named)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}; lower training.learning_rate "
                f"(now {self.args.learning_rate:g}). The last checkpoint is untouched"
            )
        return loss

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the mean validation loss per supervised token, over all processes."""
        if not len(self.validation):
            return {}
        model = self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=True)
        was_training = model.training
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        for index in range(self.args.process_index, len(self.validation), self.args.world_size):
            inputs = self._prepare_inputs(self.validation.collate([{"group": index}]))
            with self.compute_loss_context_manager():
                loss_sum, num_supervised = self._loss_sum(model, inputs)
            sums += torch.tensor([float(loss_sum), num_supervised], dtype=torch.float64)
        model.train(was_training)
        loss_sum, num_supervised = self._sum_over_processes(sums)
        metrics = {"eval_loss": float(loss_sum / max(num_supervised, 1))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

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
        self.count_tokens()
        self.before_save()
        states = gather_object([checkpoints.RandomState.capture().to_json()])
        if is_main_process():
            target = self.checkpoints_dir / checkpoints.checkpoint_name(self.state.global_step)
            checkpoints.write_folder(target, lambda folder: self._fill_checkpoint(folder, states))
            checkpoints.remove_old(self.checkpoints_dir, self.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _fill_checkpoint(self, folder: Path, states: list[dict[str, Any]]) -> None:
        save_adapter(self.model, folder)
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
