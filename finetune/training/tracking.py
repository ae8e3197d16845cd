"""Scalars to a tracker besides `metrics.jsonl`; off by default, offline unless the user asks otherwise."""

import logging
from typing import Any

from transformers import TrainerCallback

from finetune.config import Tracker, TrackingConfig
from finetune.log import is_main_process
from finetune.run import RunFolder
from finetune.training.callbacks import MetricsFile

logger = logging.getLogger(__name__)


class WandbScalars(TrainerCallback):
    """Sends the scalars of each logged step to Weights & Biases: no data, paths, configuration or machine facts."""

    def __init__(self, tracking: TrackingConfig, metrics: MetricsFile, folder: RunFolder) -> None:
        self.tracking = tracking
        self.metrics = metrics
        self.folder = folder
        self.run: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not is_main_process() or self.run is not None:
            return
        import wandb

        target = self.folder.path / "tracking"
        target.mkdir(exist_ok=True)
        settings = wandb.Settings(
            mode=self.tracking.mode.name,
            disable_git=True,
            disable_code=True,
            console="off",
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        # Without a name of ours: the folder's name would tell what the run is about.
        self.run = wandb.init(project=self.tracking.project, dir=str(target), settings=settings)
        logger.info("tracking: wandb run %s, %s", self.run.name or self.run.id, self.tracking.mode.name)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.run is not None and self.metrics.row:
            scalars = {name: value for name, value in self.metrics.row.items() if isinstance(value, int | float)}
            self.run.log(scalars, step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.run is not None:
            self.run.finish()


def tracking_callbacks(tracking: TrackingConfig, metrics: MetricsFile, folder: RunFolder) -> list[TrainerCallback]:
    """Return the callback of the chosen tracker, or none."""
    return [WandbScalars(tracking, metrics, folder)] if tracking.tracker is Tracker.wandb else []
