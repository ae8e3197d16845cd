"""What happens between steps: when to log, measure, save and stop; `metrics.jsonl`; the progress display."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from finetune.config import OnSaveError, TrainingConfig
from finetune.errors import SaveError
from finetune.log import duration, is_main_process, megabytes
from finetune.model.hardware import peak_memory_bytes
from finetune.run import write_text
from finetune.training.saving import append, reason_of
from finetune.training.trainer import Stopwatch

if TYPE_CHECKING:
    import torch

    from finetune.training.trainer import AdapterTrainer

logger = logging.getLogger(__name__)


class Flow(TrainerCallback):
    """Decides after each step what is due, keeps the best adapter, and stops early."""

    def __init__(self, training: TrainingConfig, *, eval_steps: int, save_steps: int) -> None:
        self.training = training
        self.eval_steps = eval_steps
        self.save_steps = save_steps
        self.trainer: AdapterTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer is not None:
            self.trainer.go_on_counting()
            self.trainer.try_worst_step()
        if state.global_step and self._is_patience_over(state):
            control.should_training_stop = True  # stopped early, but the run was ended before its adapter was written

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        trainer = self.trainer
        is_stopping = trainer is not None and trainer.wishes_stop
        control.should_evaluate = last or step % self.eval_steps == 0
        control.should_save = last or step % self.save_steps == 0 or is_stopping
        control.should_log = control.should_evaluate or step == 1 or step % self.training.logging_steps == 0
        if trainer is not None and trainer.spike is not None:
            control.should_log = True
        if trainer is not None and trainer.wishes_save:
            control.should_save = True
        if is_stopping:
            control.should_training_stop = True

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        loss = (metrics or {}).get("eval_loss")
        if loss is None or not math.isfinite(loss) or state.global_step == 0:
            return  # the untrained model is what the best checkpoint is compared with, not a checkpoint
        if state.best_metric is None or loss < state.best_metric:
            if self.trainer is not None:
                self.trainer.check_weights()
            if self.trainer is None or self.trainer.save_best():
                state.best_metric, state.best_global_step = loss, state.global_step
        if self._is_patience_over(state) and state.global_step < state.max_steps:
            patience = self.training.early_stopping_patience
            logger.info("early stop: no better validation loss in the last %d measurements", patience)
            control.should_training_stop = True
            control.should_save = True

    def _is_patience_over(self, state: Any) -> bool:
        patience = self.training.early_stopping_patience
        measured = [entry["step"] for entry in state.log_history if "eval_loss" in entry]
        return patience is not None and sum(step > (state.best_global_step or 0) for step in measured) >= patience


class MetricsFile(TrainerCallback):
    """Writes one JSON object per logged step to `metrics.jsonl`; the first is step 0, before any update."""

    def __init__(self, path: Path, device: "torch.device", on_save_error: OnSaveError = OnSaveError.stop) -> None:
        self.path = path
        self.device = device
        self.on_save_error = on_save_error
        self.watch = Stopwatch()
        self.row: dict[str, Any] = {}
        self.trainer: AdapterTrainer | None = None
        self._earlier: str | None = None
        """Lines before the pending row, where that row stands in the file already."""
        self._pending = ""
        """Lines that are not on the disk yet."""
        self._tokens_before = 0
        self._seconds_before = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tokens_before, self._seconds_before = state.num_input_tokens_seen, self.watch.seconds
        self.row, self._earlier, self._pending = {}, None, ""
        if not is_main_process():
            return
        kept: list[str] = []
        if state.global_step > 0 and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= state.global_step]
        if kept and _step_of(kept[-1]) == state.global_step:  # its validation loss may still have to be measured
            self.row = json.loads(kept[-1])
            self._earlier = "".join(line + "\n" for line in kept[:-1])
        write_text(self.path, "".join(line + "\n" for line in kept))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.flush()
        self.watch.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "train_runtime" in logs:
            return
        self.row |= {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)}
        for name in ("loss", "learning_rate", "grad_norm"):
            if name in logs and math.isfinite(logs[name]):  # a norm may overflow in float16
                self.row[name] = logs[name]
        if self.trainer is not None and self.trainer.spike is not None and "loss" in logs:
            self.row |= self.trainer.spike.to_json()
        if "eval_loss" in logs:
            self.row["validation_loss"] = logs["eval_loss"]
        if self.trainer is not None and self.trainer.course.micro_batch_tokens is not None:
            self.row["micro_batch_tokens"] = self.trainer.course.micro_batch_tokens
        tokens, seconds = state.num_input_tokens_seen, self.watch.seconds
        if seconds > self._seconds_before:
            self.row["tokens_per_second"] = round((tokens - self._tokens_before) / (seconds - self._seconds_before), 1)
            self._tokens_before, self._seconds_before = tokens, seconds
        self.row |= {"tokens": tokens, "peak_memory_bytes": peak_memory_bytes(self.device)}

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.flush()

    def flush(self) -> None:
        """Append the pending row, if there is one; where that fails it is tried again with the next one.

        Raises:
            SaveError: the file cannot be written to, and `training.on_save_error` is `stop`.
        """
        if self.row and is_main_process():
            self._pending += json.dumps(self.row) + "\n"
        self.row = {}
        if not self._pending:
            return
        try:
            if self._earlier is not None:
                write_text(self.path, self._earlier + self._pending)
            else:
                append(self.path, self._pending)
        except OSError as error:
            text = f"{self.path.name}: {reason_of(error)}"
            if self.on_save_error is OnSaveError.stop:
                raise SaveError(f"{text}. Free some space") from error
            logger.warning("%s; tried again later (training.on_save_error=warn)", text)
            return
        self._pending, self._earlier = "", None


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


class ProgressDisplay(TrainerCallback):
    """A bar with rate and time left on a terminal, a line per logged step elsewhere."""

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics = metrics
        self.bar: Any = None
        self.task: Any = None
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first_step = state.global_step
        self.on_train_end(args, state, control)  # the training may start again
        if not (is_main_process() and sys.stderr.isatty()):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step)
        self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        text = self._describe(state)
        if not text or "train_runtime" in (logs or {}):
            return
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        elif "eval_loss" in (logs or {}) or not self._measures_now(control):
            logger.info("step %d/%d  %s%s", state.global_step, state.max_steps, text, self._time_left(state))

    @staticmethod
    def _measures_now(control: Any) -> bool:
        return bool(control.should_evaluate)

    def _describe(self, state: Any) -> str:
        row = self.metrics.row
        parts = []
        if "loss" in row:
            parts.append(f"loss {row['loss']:.4f}")
        if "validation_loss" in row:
            parts.append(f"validation {row['validation_loss']:.4f}")
        if "tokens_per_second" in row:
            parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
        if "peak_memory_bytes" in row:
            parts.append(megabytes(row["peak_memory_bytes"]))
        return "  ".join(parts)

    def _time_left(self, state: Any) -> str:
        done = state.global_step - self.first_step
        if not done or state.global_step >= state.max_steps:
            return ""
        return f"  {duration(self.metrics.watch.seconds / done * (state.max_steps - state.global_step))} left"

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
