"""The worst step: which one it is, what it is told to take, and when a prediction that is off is said so."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.compose import load_config
from finetune.data.examples import Examples, ExampleWriter, supervised_of
from finetune.model.cards import find_card
from finetune.model.choosing import setting_of
from finetune.model.memory import CPU_PROCESS, CUDA_CONTEXT
from finetune.model.planning import Setting
from finetune.records import Example
from finetune.run import RunFolder, keep_in_versions, write_json, write_versions
from finetune.training import worst_step
from finetune.training.steps import Steps, plan_steps
from finetune.training.worst_step import Forecast, all_micro_batches, optimizer_state, parts_of, worst_of

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(scope="module")
def setting() -> Setting:
    config = load_config("legal_qlora", "model=llama3_2_1b", "training.micro_batch_tokens=64", "training.max_length=64")
    assert config.model.shape is not None
    return setting_of(config, config.model.shape, find_card("rtx4090"), num_devices=1, supervised_share=1)


def example(number: int, tokens: int, supervised: int) -> Example:
    mask = [False] * (tokens - supervised) + [True] * supervised
    return Example(item_id=f"{number}", input_ids=[1] * tokens, loss_mask=mask, num_supervised_bytes=supervised)


def rows_of(sizes: list[tuple[int, int]], *, packed: bool = True) -> Steps:
    examples = [example(number, *size) for number, size in enumerate(sizes)]
    return plan_steps(examples, batch_tokens=128, max_length=64, num_processes=1, packed=packed, seed=0)


def test_the_worst_micro_batch_is_the_fullest_with_most_answers(setting: Setting) -> None:
    rows = rows_of([(64, 5), (64, 60), (64, 20), (30, 29)])
    assert worst_of(rows, 64, setting).numbers == [1]
    assert worst_of(rows, 128, setting).tokens == 128
    for batch in all_micro_batches(rows, 128):
        assert parts_of(batch, setting).total <= parts_of(worst_of(rows, 128, setting), setting).total


def test_padding_counts(setting: Setting) -> None:
    rows = rows_of([(60, 1), (10, 1), (10, 1)], packed=False)
    assert sorted(batch.tokens for batch in all_micro_batches(rows, 128)) == [10, 120]
    assert worst_of(rows, 128, setting).tokens == 120
    assert worst_of(rows, 64, setting).tokens == 60


def test_answers_are_counted_alike_in_memory_and_on_disk(tmp_path: Path) -> None:
    examples = [example(0, 7, 3), example(1, 2, 1), example(2, 9, 0), example(3, 4, 2)]
    writer = ExampleWriter(tmp_path)
    for one in examples:
        writer.add(one)
    writer.close()
    assert supervised_of(Examples(tmp_path)) == supervised_of(examples) == [3, 1, 0, 2]
    (tmp_path / "none").mkdir()
    ExampleWriter(tmp_path / "none").close()
    assert supervised_of(Examples(tmp_path / "none")) == []


def forecast_of(setting: Setting, folder: Path, device: torch.device, monkeypatch: Any, *, before: int) -> Forecast:
    monkeypatch.setattr(worst_step, "peak_memory_bytes", lambda device: before)
    monkeypatch.setattr(worst_step, "_held_bytes", lambda device: before)
    run = RunFolder(folder)
    write_json(run.versions, {"python": "3.11"})
    return Forecast.now(setting, device, run)


def memory_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "versions.json").read_text())["memory"]


@pytest.mark.parametrize(("error", "is_warned"), [(0.03, False), (-0.08, False), (0.2, True), (-0.2, True)])
def test_a_prediction_that_is_off_by_a_tenth_is_told(
    error: float,
    is_warned: bool,
    setting: Setting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "finetune")
    forecast = forecast_of(setting, tmp_path, CUDA, monkeypatch, before=0)
    worst = worst_of(rows_of([(64, 60)]), 64, setting)
    predicted = forecast.predict(worst)
    assert predicted == parts_of(worst, setting).total - CUDA_CONTEXT and memory_of(tmp_path)["measured_bytes"] is None
    measured = round(predicted / (1 + error))
    monkeypatch.setattr(worst_step, "peak_memory_bytes", lambda device: measured)
    forecast.compare("in a trial of the worst step")
    forecast.compare("at the peak of the training")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert len(told) == 1 and f"({error:+.0%})" in told[0] and "in a trial of the worst step" in told[0]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == is_warned and all("off by 20 %" in line for line in warned)
    kept = memory_of(tmp_path)
    assert kept["measured_bytes"] == measured and kept["predicted_bytes"] == round(predicted)
    assert sum(kept["parts"].values()) == pytest.approx(parts_of(worst, setting).total, abs=9)
    assert (kept["worst_tokens"], kept["worst_supervised"]) == (64, 60)


def test_on_a_cpu_the_process_counts_and_what_it_held_before(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setting = replace(setting, work=replace(setting.work, is_cuda=False))
    worst = worst_of(rows_of([(64, 60)]), 64, setting)
    parts = parts_of(worst, setting)
    assert forecast_of(setting, tmp_path, CPU, monkeypatch, before=0).predict(worst) == parts.total
    held = forecast_of(setting, tmp_path, CPU, monkeypatch, before=90_000_000_000)
    assert held.predict(worst) == 90e9 + parts.total - parts.weights - CPU_PROCESS
    held.compare("at the peak of the training")
    assert memory_of(tmp_path)["measured_bytes"] is None, "loading took more: nothing was measured"
    small = forecast_of(setting, tmp_path, CPU, monkeypatch, before=0)
    predicted = small.predict(worst)
    monkeypatch.setattr(worst_step, "peak_memory_bytes", lambda device: round(predicted + 0.25e9))
    caplog.set_level(logging.WARNING, "finetune")
    small.compare("at the peak of the training")
    assert not caplog.records and memory_of(tmp_path)["measured_bytes"] > predicted, "libraries differ by as much"


def test_a_trial_is_made_on_every_gpu_and_on_a_cpu_that_is_short_of_memory(setting: Setting, tmp_path: Path) -> None:
    def is_tried(device: torch.device, free: float) -> bool:
        here = replace(setting, card=replace(setting.card, free_bytes=free))
        return Forecast(here, device, RunFolder(tmp_path), 0, 0, predicted_bytes=4e9).is_worth_a_try()

    assert is_tried(CUDA, 80e9) and is_tried(CPU, 7e9) and not is_tried(CPU, 9e9)


def test_the_optimizer_state_stands_in_for_two_moments() -> None:
    weights = [torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(5)]
    assert [(state.dtype, state.numel()) for state in optimizer_state(weights)] == [
        *[(torch.float32, 12)] * 2,
        *[(torch.float32, 5)] * 2,
    ]


def test_out_of_memory_recomputes_every_layer_first_where_that_is_left_to_the_run(
    setting: Setting, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    write_json(tmp_path / "versions.json", {})
    forecast = Forecast(setting.changed(layers=1), CPU, RunFolder(tmp_path), 0, 0)
    forecast.recompute_all(SimpleNamespace(get_base_model=lambda: model))
    assert all(layer.gradient_checkpointing for layer in model.model.layers) and forecast.setting.recomputes_all
    assert memory_of(tmp_path)["recomputed_layers"] == 16, "of the setting's model, for a resumed run"


def test_versions_keep_the_memory_of_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    machine: dict[str, Any] = {"device": "cpu", "dtype": "float32", "reason": "slow", "seed": 1}
    write_versions(folder, **machine)
    keep_in_versions(folder, "memory", {"predicted_bytes": 5})
    keep_in_versions(folder, "memory", {"measured_bytes": 6})
    assert write_versions(folder, **machine) == []
    assert memory_of(tmp_path) == {"predicted_bytes": 5, "measured_bytes": 6}
