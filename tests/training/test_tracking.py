"""Trackers get scalars and nothing else, and write to the run folder unless asked otherwise."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from finetune import load_config
from finetune.config import Tracker, TrackingConfig
from finetune.errors import ConfigError
from finetune.jobs.steps import check_tracker
from finetune.jobs.train import train
from finetune.training.tracking import WandbScalars


def test_tracking_is_off_by_default() -> None:
    assert load_config("quickstart").tracking.tracker is Tracker.none


def test_a_missing_tracker_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"finetune\[wandb\]"):
        check_tracker(TrackingConfig(tracker=Tracker.wandb))


class Recorder:
    """Stands for a wandb run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append(row)

    def finish(self) -> None: ...


def test_only_numbers_are_sent(tmp_path: Path) -> None:
    class Metrics:
        row = {"step": 1, "loss": 2.0, "path": "/home/me", "note": "secret"}  # noqa: RUF012

    class State:
        global_step = 1

    tracker = WandbScalars(TrackingConfig(tracker=Tracker.wandb), Metrics(), None)  # type: ignore[arg-type]
    tracker.run = Recorder()
    tracker.on_log(None, State(), None, {})
    assert tracker.run.rows == [{"step": 1, "loss": 2.0}]


@pytest.mark.slow
@pytest.mark.enable_socket
def test_wandb_writes_offline_into_the_run_folder(tiny_model_dir: Path, choice_rows: Path, tmp_path: Path) -> None:
    words = ["model=local", f"model.path={tiny_model_dir}", f"data.path={choice_rows}", "training.max_steps=2"]
    folder = train(load_config(None, *words, "tracking=wandb", f"output_dir={tmp_path / 'run'}"))
    files = [path for path in (folder.path / "tracking").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    content = b"".join(path.read_bytes() for path in files)
    assert b"Which law governs" not in content and str(choice_rows).encode() not in content
