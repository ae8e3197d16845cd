"""`plan`: what it says of cards, models and settings, that it is quick, and that it touches nothing heavy."""

import functools
import json
import os
import re
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.__main__ import main
from finetune.compose import load_config
from finetune.config import (
    Dtype,
    ExportConfig,
    ExportFormat,
    PlanConfig,
    QuantizationConfig,
    QuantizationMethod,
    RunConfig,
)
from finetune.errors import ConfigError
from finetune.jobs import plan_amounts
from finetune.jobs.plan import plan
from finetune.model.cards import find_card, known_cards, this_cpu, this_machine
from finetune.model.choosing import setting_of
from finetune.model.planning import (
    Setting,
    cures,
    differences,
    fastest,
    largest_micro_batch,
    longest_document,
    micro_batches,
)
from finetune.model.shape import recommend
from finetune.model.speed import training_flops, training_speed

ROOT = Path(__file__).resolve().parents[2]
PROMISED = (
    *("rtx3060", "rtx4060ti_16gb", "rtx3090", "rtx4090", "rtx5090", "t4", "l4", "a10"),
    *("a100_40", "a100_80", "h100", "h200"),
)


@functools.cache
def config_of(model: str = "llama3_1_8b_instruct") -> RunConfig:
    return load_config("legal_qlora", f"model={model}", "quantization=none" if "mixtral" in model else "seed=1")


def setting(
    card: str = "rtx4090",
    *,
    model: str = "llama3_1_8b_instruct",
    quantized: bool = True,
    share: float = 1.0,
    num_devices: int = 1,
    **training: Any,
) -> Setting:
    config = config_of(model)
    shape = config.model.shape
    assert shape is not None
    method = QuantizationMethod.nf4 if quantized else QuantizationMethod.none
    options = {"micro_batch_tokens": 4096, "gradient_checkpointing": True} | training
    config = replace(
        config, training=replace(config.training, **options), quantization=QuantizationConfig(method=method)
    )
    return setting_of(config, shape, find_card(card), num_devices=num_devices, supervised_share=share)


def test_every_promised_card_is_known_and_plausible() -> None:
    cards = known_cards()
    assert set(PROMISED) <= cards.keys()
    for key, card in cards.items():
        assert re.fullmatch(r"[a-z0-9_]+", key)
        assert 8e9 < card.memory_bytes < 300e9
        assert 2.5e11 < card.bytes_per_second < 1e13
        assert 2e13 < card.flops_per_second < 3e15
    assert cards["t4"].dtype is Dtype.float16 and cards["rtx3060"].dtype is Dtype.bfloat16
    assert cards["h200"].memory_bytes > cards["h100"].memory_bytes


@pytest.mark.parametrize("name", ["RTX3060", "rtx-3060", "NVIDIA GeForce RTX 3060", "rtx4060ti16gb"])
def test_cards_are_found_under_the_names_that_people_use(name: str) -> None:
    assert find_card(name).key in ("rtx3060", "rtx4060ti_16gb")


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"plan\.gpu: 'rtx390' is not in the list of cards\. Did you mean 'rtx3090'"):
        find_card("rtx390")


def test_a_gpu_of_this_machine_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'NVIDIA GeForce RTX 4060 Ti, 16380, 15900'\necho 'NVIDIA GeForce RTX 4060 Ti, 16380, 9'\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("finetune.model.cards.gpu_seems_present", lambda: True)
    card, number = this_machine()
    assert (card.key, number, card.memory_bytes) == ("rtx4060ti_16gb", 2, 16380 * 2**20)
    assert card.usable_bytes == 15900 * 2**20
    program.write_text("#!/bin/sh\necho 'NVIDIA Unheard-of 9, 40000, 40000'\n")
    card, number = this_machine()
    assert (card.name, number, card.flops_per_second) == ("NVIDIA Unheard-of 9", 1, 0)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert this_machine()[0].key == "cpu"


def test_the_longest_document_and_the_largest_micro_batch_are_the_last_that_fit() -> None:
    here = setting("rtx3090")
    longest = longest_document(here, 131_072)
    assert here.changed(length=longest, micro=longest).fits
    assert not here.changed(length=longest + 64, micro=longest + 64).fits
    found = largest_micro_batch(here, 16_384)
    assert found is not None and found.fits
    larger = [micro for micro in micro_batches(here, 16_384) if micro > found.work.micro_batch_tokens]
    assert not any(here.changed(micro=micro).fits for micro in larger)
    assert longest_document(setting("b200", model="llama3_2_1b", share=0.01), 4096) == 4096


def test_micro_batches_leave_the_effective_batch_alone() -> None:
    here = setting("a100_80", num_devices=2)
    assert micro_batches(here, 24_576) == [12288, 6144, 4096, 3072, 2048]


def test_the_recommendation_is_the_fastest_of_all_that_fit() -> None:
    here = setting("rtx4090", share=0.2)
    best = fastest(here, 16_384)
    assert best is not None and best.fits
    paces = []
    for micro in micro_batches(here, 16_384):
        for layers in (0, 32):
            tried = replace(here, work=replace(here.work, micro_batch_tokens=micro, recomputed_layers=layers))
            speed = tried.speed()
            assert speed is not None
            paces += [speed.tokens_per_second] if tried.fits else []
    speed = best.speed()
    assert speed is not None and speed.tokens_per_second == max(paces)
    assert not best.recomputes


def test_cures_give_up_the_least_harmful_first() -> None:
    tight = setting("rtx3060")
    assert not tight.fits
    assert differences(tight, cures(tight)[0]) == ["training.micro_batch_tokens=2048"]
    plain = setting("rtx3060", quantized=False, share=0.2)
    found = cures(plain)
    assert len(found) == 1 and "quantization=nf4" in differences(plain, found[0])
    assert all(cure.fits for cure in (*cures(tight), *found))
    without = setting("rtx4090", gradient_checkpointing=False, share=0.2)
    assert [differences(without, cure) for cure in cures(without)] == [
        ["training.micro_batch_tokens=2048"],
        ["training.gradient_checkpointing=true"],
    ]
    assert cures(setting("rtx3060", model="mixtral_8x7b", quantized=False)) == []


def test_published_speeds_lie_at_the_stated_efficiencies() -> None:
    """Ideal tokens/s of facts: 8B QLoRA, S = 2,048, full checkpointing: 3,535 at 165 TFLOP/s; answer.ai, torchtune."""
    here = setting("rtx4090")
    assert 165e12 / training_flops(here.work, 2048) == pytest.approx(3535, rel=0.01)
    plain = here.changed(recompute=False)
    assert 165e12 / training_flops(plain.work, 2048) == pytest.approx(5139, rel=0.01)
    speed = training_speed(here.work, here.card, document_tokens=2048, efficiency=0.68)
    assert speed is not None and speed.tokens_per_second == pytest.approx(2413, rel=0.05)


def test_tokens_come_from_the_ledger_once_there_is_one(tmp_path: Path) -> None:
    config = replace(config_of(), output_dir=str(tmp_path / "run"))
    assert config.model.shape is not None
    guessed = plan_amounts.count_tokens(config, config.model.shape)
    assert guessed is not None and "estimated" in guessed.source and guessed.supervised_share is not None
    (tmp_path / "run" / "data").mkdir(parents=True)
    ledger = {"tokens": {"total": 1000, "supervised": 250, "truncated": 0}}
    (tmp_path / "run" / "data" / "ledger.json").write_text(json.dumps(ledger))
    counted = plan_amounts.count_tokens(config, config.model.shape)
    assert counted is not None and (counted.total, counted.supervised_share) == (1000, 0.25)
    hub = replace(config, output_dir=str(tmp_path), data=replace(config.data, path="owner/name"))
    assert plan_amounts.count_tokens(hub, config.model.shape) is None


def test_disk_counts_download_checkpoints_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    export = ExportConfig(formats=[ExportFormat.safetensors, ExportFormat.gguf_q4_k_m])
    config = replace(config_of(), export=export, output_dir=str(tmp_path / "a" / "b"))
    assert config.model.shape is not None
    disk = plan_amounts.disk_of(config, config.model.shape)
    assert disk.parts["safetensors"] == pytest.approx(16.06e9, rel=0.001)
    assert disk.parts["gguf_q4_k_m"] == pytest.approx(4.92e9, rel=0.01)
    assert disk.parts["checkpoints"] == 4 * 12 * 41_943_040
    assert disk.free > 0
    local = config_of("embedded")
    assert local.model.shape is not None
    assert "download" not in plan_amounts.disk_of(local, local.model.shape).parts


def test_the_page_answers_all_questions(capsys: pytest.CaptureFixture[str]) -> None:
    plan(replace(config_of(), plan=PlanConfig(gpu="rtx3060", dollars_per_hour=0.3)))
    page = capsys.readouterr().out
    assert page.startswith(
        "legal_qlora: llama3_1_8b_instruct in 4 bits (nf4), lora of rank 16\non NVIDIA GeForce RTX 3060"
    )
    for word in ("It fits:", "Recommended:", "frozen weights", "What fits here", "tokens/s", "cost    $", "download"):
        assert word in page
    assert all(len(line) <= 120 for line in page.splitlines())


def test_what_does_not_fit_is_said_in_one_line_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "recipe=legal_lora", "model=mixtral_8x7b", "quantization=none", "plan.gpu=rtx4090"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"^It does not fit: needs 9\d\.\d GB \(\w+\), has 23\.7 GB\.$", page, re.MULTILINE)
    assert "model=qwen3_8b" in page


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("word", "said"),
    [("plan.gpu=rtx390", "Did you mean 'rtx3090'"), ("model=llama3_1_8b", "'llama3_1_8b_instruct'?")],
)
def test_mistakes_are_answered_in_one_line(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "recipe=legal_qlora", word]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_gpus": 0}, "plan.num_gpus: 0 is less than 1"),
        ({"margin": 1.0}, "plan.margin: 1.0 is not in [0, 1)"),
        ({"efficiency": 0.0}, "plan.efficiency: 0.0 is not in (0, 1]"),
        ({"dollars_per_hour": -1.0}, "plan.dollars_per_hour: -1.0 is not a positive number"),
    ],
)
def test_values_that_cannot_be_are_named(values: dict[str, Any], said: str) -> None:
    assert list(PlanConfig(**values).problems()) == [said]


@pytest.mark.slow
def test_config_json_alone_is_enough_and_its_gaps_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((ROOT / "models" / "embedded" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["model=local", f"model.path={tmp_path}", "data=legal", "plan.gpu=t4"]
    assert main(["plan", *words]) == 0
    assert "It fits" in capsys.readouterr().out
    assert main(["inspect", *words]) == 2
    assert "has no weights" in capsys.readouterr().err
    del config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["plan", *words]) == 2
    assert "num_hidden_layers is missing" in capsys.readouterr().err


def test_the_processor_is_planned_for_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert this_cpu().flops_per_second > 1e8
    plan(replace(config_of("embedded"), plan=PlanConfig(gpu="cpu")))
    assert "this machine's processor" in capsys.readouterr().out


@pytest.mark.slow
def test_a_named_card_is_answered_at_once_and_without_torch() -> None:
    script = (
        "import sys; from finetune.__main__ import main;"
        "code = main(['plan', 'recipe=legal_qlora', 'plan.gpu=rtx3060']);"
        "print([name for name in ('torch', 'transformers', 'datasets', 'trl') if name in sys.modules], code)"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    started = time.process_time()
    before = os.times().children_user + os.times().children_system
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    spent = os.times().children_user + os.times().children_system - before
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert spent < 2 and time.process_time() - started < 2


def test_recommended_sizes_of_a_small_model_fit_the_smallest_card() -> None:
    shape = config_of("embedded").model.shape
    assert shape is not None
    here = setting("rtx4060", model="embedded", micro_batch_tokens=recommend(shape, 2048).micro_batch_tokens)
    assert here.fits
