"""Training on a tiny model: metrics, resume, packing, early stop, seeds. Seconds on a CPU."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import load_config
from finetune.config import AdapterConfig, RunConfig
from finetune.errors import TrainingError
from finetune.jobs.train import train
from finetune.run import RunFolder
from finetune.training.checkpoints import newest_valid, sha256

pytestmark = pytest.mark.slow


def config_of(model: Path, rows: Path, out: Path, *overrides: str) -> RunConfig:
    defaults = {
        "training.max_steps": "6",
        "training.micro_batch_tokens": "512",
        "training.batch_tokens": "1024",
        "training.learning_rate": "0.01",
        "adapter.rank": "4",
        "model.dtype": "float32",
    }
    given = {word.partition("=")[0] for word in overrides}
    words = [f"{key}={value}" for key, value in defaults.items() if key not in given]
    local = ("model=local", f"model.path={model}", f"data.path={rows}", f"output_dir={out}")
    return load_config(None, *local, *words, *overrides)


def metrics_of(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def adapter_hash(folder: RunFolder) -> str:
    return sha256(folder.adapter / "adapter_model.safetensors")


@pytest.fixture
def straight(tiny_model_dir: Path, choice_rows: Path, tmp_path: Path) -> RunFolder:
    """A training that was not interrupted."""
    return train(config_of(tiny_model_dir, choice_rows, tmp_path / "straight", "training.save_steps=2"))


def test_metrics_keep_the_contract(straight: RunFolder) -> None:
    rows = metrics_of(straight)
    assert rows[0]["step"] == 0 and rows[0]["validation_loss"] > 0 and "loss" not in rows[0]
    assert rows[-1]["step"] == 6 and rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    needed = {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "peak_memory_bytes"}
    assert all(needed <= row.keys() for row in rows[1:])
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert all(row["peak_memory_bytes"] > 1e6 for row in rows)


def test_the_run_folder_is_complete_and_holds_no_pickle(straight: RunFolder) -> None:
    assert straight.config.is_file() and straight.versions.is_file() and straight.ledger.is_file()
    assert (straight.adapter / "adapter_config.json").is_file()
    assert not [p for p in straight.path.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    versions = json.loads(straight.versions.read_text())
    assert versions["packages"]["torch"] == torch.__version__ and versions["dtype"] == "float32"


@pytest.mark.bar("R10")
def test_the_same_seed_gives_the_same_adapter_and_another_one_does_not(
    straight: RunFolder, tiny_model_dir: Path, choice_rows: Path, tmp_path: Path
) -> None:
    same = train(config_of(tiny_model_dir, choice_rows, tmp_path / "same", "training.save_steps=2"))
    other = train(config_of(tiny_model_dir, choice_rows, tmp_path / "other", "seed=3"))
    assert adapter_hash(same) == adapter_hash(straight) != adapter_hash(other)


@pytest.mark.parametrize("stop_after", [2, 4])
def test_resume_equals_uninterrupted_bit_for_bit(
    stop_after: int,
    straight: RunFolder,
    tiny_model_dir: Path,
    choice_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from finetune.training.trainer import AdapterTrainer

    original = AdapterTrainer._save_checkpoint

    def save_then_die(self: AdapterTrainer, *arguments: Any) -> None:
        original(self, *arguments)
        if self.state.global_step == stop_after:
            raise KeyboardInterrupt

    config = config_of(tiny_model_dir, choice_rows, tmp_path / "stopped", "training.save_steps=2")
    monkeypatch.setattr(AdapterTrainer, "_save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    folder = train(dataclasses.replace(config, resume=True))
    assert adapter_hash(folder) == adapter_hash(straight)
    fields = ("step", "loss", "validation_loss", "learning_rate", "tokens")
    resumed, whole = ([[row.get(f) for f in fields] for row in metrics_of(run)] for run in (folder, straight))
    assert resumed == whole


def test_resume_of_a_finished_training_changes_nothing(
    straight: RunFolder, tiny_model_dir: Path, choice_rows: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.path.rglob("*")}
    train(config_of(tiny_model_dir, choice_rows, straight.path, "training.save_steps=2", "resume=true"))
    assert before == {path: path.stat().st_mtime_ns for path in straight.path.rglob("*")}


def test_packed_and_padded_rows_give_the_same_validation_loss(
    straight: RunFolder, tiny_model_dir: Path, choice_rows: Path, tmp_path: Path
) -> None:
    padded = train(config_of(tiny_model_dir, choice_rows, tmp_path / "padded", "training.packing=false"))
    one, other = (metrics_of(folder)[0]["validation_loss"] for folder in (straight, padded))
    assert abs(one - other) < 1e-5 * one


def test_packing_changes_speed_only_not_the_steps_gradient(
    tiny_model_dir: Path, choice_rows: Path, tmp_path: Path
) -> None:
    """One step over all rows: the effective batch is the same, however it is cut into micro-batches."""
    first_losses = []
    for packing in ("true", "false"):
        everything = ("training.batch_tokens=100000", "training.max_steps=2", f"training.packing={packing}")
        folder = train(config_of(tiny_model_dir, choice_rows, tmp_path / packing, *everything))
        first_losses.append([row["loss"] for row in metrics_of(folder) if "loss" in row])
    assert first_losses[0] == pytest.approx(first_losses[1], rel=1e-4)


def test_the_best_adapter_is_kept_and_the_run_stops_early(
    tiny_model_dir: Path, choice_rows: Path, tmp_path: Path
) -> None:
    wild = ("training.learning_rate=2", "training.eval_steps=1", "training.max_steps=30", "training.warmup_share=0.9")
    patience = "training.early_stopping_patience=2"
    folder = train(config_of(tiny_model_dir, choice_rows, tmp_path / "wild", *wild, patience))
    losses = {row["step"]: row["validation_loss"] for row in metrics_of(folder) if "validation_loss" in row}
    best = min((step for step in losses if step > 0), key=lambda step: losses[step])
    assert max(losses) == best + 2 < 30
    assert adapter_hash(folder) == sha256(folder.checkpoints / "best" / "adapter_model.safetensors")


def test_a_training_that_did_not_help_says_so(
    tiny_model_dir: Path, choice_rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wild = ("training.learning_rate=20", "training.max_steps=1", "training.warmup_share=0")
    config = config_of(tiny_model_dir, choice_rows, tmp_path / "wild", *wild)
    logging.getLogger("finetune").propagate = True
    folder = train(config)
    assert "never fell below" in caplog.text and "training.learning_rate" in caplog.text
    assert adapter_hash(folder) == sha256(folder.checkpoints / "best" / "adapter_model.safetensors")


def test_a_loss_that_is_no_number_stops_the_run_and_saves_nothing(
    tiny_model_dir: Path, choice_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.training.trainer import AdapterTrainer

    original = AdapterTrainer._loss_sum

    def poisoned(self: AdapterTrainer, model: Any, inputs: Any) -> Any:
        loss, count = original(self, model, inputs)
        return (loss * float("nan") if model.training and self.state.global_step == 3 else loss), count

    monkeypatch.setattr(AdapterTrainer, "_loss_sum", poisoned)
    config = config_of(tiny_model_dir, choice_rows, tmp_path / "nan", "training.save_steps=2")
    with pytest.raises(TrainingError, match="step 4"):
        train(config)
    folder = RunFolder(tmp_path / "nan")
    assert not folder.is_trained
    newest = newest_valid(folder.checkpoints)
    assert newest is not None and newest.name == "step-00000002"


@pytest.mark.parametrize("adapter", ["rslora", "dora", "pissa", "loraplus"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_every_adapter_lowers_the_validation_loss(
    adapter: str, quantization: str, tiny_model_dir: Path, choice_rows: Path, tmp_path: Path
) -> None:
    if (adapter, quantization) == ("pissa", "nf4"):
        pytest.skip("refused by the configuration")
    choices = (f"adapter={adapter}", f"quantization={quantization}", "training.max_steps=4")
    folder = train(config_of(tiny_model_dir, choice_rows, tmp_path, *choices, f"output_dir={tmp_path / 'run'}"))
    losses = [row["validation_loss"] for row in metrics_of(folder) if "validation_loss" in row]
    assert losses[-1] < losses[0]


def test_going_on_from_an_adapter(straight: RunFolder, tiny_model_dir: Path, choice_rows: Path, tmp_path: Path) -> None:
    more = train(
        config_of(
            tiny_model_dir,
            choice_rows,
            tmp_path / "more",
            f"adapter.path={straight.adapter}",
            "training.learning_rate=0.002",
        )
    )
    first, last = metrics_of(more)[0], metrics_of(more)[-1]
    best = min(row["validation_loss"] for row in metrics_of(straight) if "validation_loss" in row)
    assert first["validation_loss"] == pytest.approx(best, rel=1e-4)
    assert last["validation_loss"] < best


def test_adapter_defaults_are_documented_values() -> None:
    assert AdapterConfig().alpha / AdapterConfig().rank == 2
