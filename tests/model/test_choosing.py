"""`auto`: the fastest setting that fits, the same for `plan` and for a training, and nothing that was not asked for."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune.compose import load_config
from finetune.config import AUTO, Dtype, PlanConfig, RunConfig
from finetune.errors import ConfigError
from finetune.jobs import memory_choice
from finetune.jobs.plan import plan
from finetune.model import cards
from finetune.model.cards import Card, card_of, find_card, this_cpu
from finetune.model.choosing import choice_line, setting_of
from finetune.model.free_memory import Room, usable_bytes
from finetune.model.planning import CPU_MICRO_BATCH, Setting, micro_batches
from finetune.run import RunFolder, kept_in_versions, write_json

WHOLE = 16_384


@functools.cache
def config_of(model: str = "llama3_1_8b_instruct", recipe: str = "legal_qlora") -> RunConfig:
    return load_config(recipe, f"model={model}")


def chosen(card: Card | str, *, recipe: str = "legal_qlora", num_devices: int = 1, **training: Any) -> Setting:
    config = config_of(recipe=recipe)
    config = replace(config, training=replace(config.training, **training))
    assert config.model.shape is not None
    found = find_card(card) if isinstance(card, str) else card
    return setting_of(config, config.model.shape, found, num_devices=num_devices, supervised_share=0.3)


def pace(setting: Setting) -> float:
    speed = setting.speed()
    assert speed is not None
    return speed.tokens_per_second


@pytest.mark.parametrize("card", ["rtx4060ti_16gb", "rtx3060", "rtx4090", "h200", "t4"])
@pytest.mark.parametrize("recipe", ["legal_qlora", "legal_lora"])
def test_no_setting_that_fits_is_faster(card: str, recipe: str) -> None:
    best = chosen(card, recipe=recipe)
    assert WHOLE % best.work.micro_batch_tokens == 0
    tried = [
        best.changed(micro=micro, layers=layers)
        for micro in micro_batches(best, WHOLE)
        for layers in range(0, best.work.shape.num_layers + 1, 4)
    ]
    fitting = [pace(found) for found in tried if found.fits]
    assert best.fits == bool(fitting)
    if fitting:
        assert pace(best) >= max(fitting) * (1 - 1e-5)
        layers = best.work.recomputed_layers
        assert not layers or not best.changed(layers=layers - 1).fits, "no more layers than needed"
    else:
        assert (best.work.micro_batch_tokens, best.recomputes_all) == (2048, True)


def test_more_memory_never_means_more_recomputation_or_a_slower_run() -> None:
    found = [
        chosen(replace(find_card("rtx4090"), memory_bytes=size * 1e9)) for size in (9, 12, 16, 20, 24, 30, 40, 200)
    ]
    paces = [pace(setting) for setting in found]
    assert paces == sorted(paces) and paces[-1] > paces[0]
    assert found[0].recomputes_all and not found[-1].recomputes
    assert any(0 < setting.work.recomputed_layers < 32 for setting in found)


def test_what_is_asked_for_stays() -> None:
    fixed = chosen("rtx4090", micro_batch_tokens=4096, gradient_checkpointing=True)
    assert (fixed.work.micro_batch_tokens, fixed.work.recomputed_layers) == (4096, 32)
    small = chosen("rtx3060", micro_batch_tokens=4096)
    assert small.work.micro_batch_tokens == 4096 and 0 < small.work.recomputed_layers <= 32
    plain = chosen("h200", gradient_checkpointing=False)
    assert plain.work.recomputed_layers == 0 and plain.fits
    assert chosen("rtx3060", gradient_checkpointing=False).work.micro_batch_tokens == 2048, "the least, though too much"


def test_a_micro_batch_is_no_larger_than_a_step() -> None:
    assert chosen("h200", micro_batch_tokens=65_536).work.micro_batch_tokens == WHOLE
    assert chosen("h200", micro_batch_tokens=65_536, num_devices=4).work.micro_batch_tokens == WHOLE // 4
    assert chosen("h200", micro_batch_tokens=512).work.micro_batch_tokens == 2048, "one document of max_length"
    assert chosen("h200", num_devices=2).work.micro_batch_tokens <= WHOLE // 2


def test_a_cpu_keeps_to_small_micro_batches_and_spares_a_fifth() -> None:
    card = replace(this_cpu(), memory_bytes=400e9, free_bytes=300e9)
    found = chosen(card)
    assert found.work.micro_batch_tokens == CPU_MICRO_BATCH and not found.recomputes
    assert found.room == pytest.approx(240e9)


def test_the_default_of_the_embedded_model_is_what_it_was() -> None:
    config = load_config("quickstart")
    assert config.training.micro_batch_tokens == 896 and config.training.gradient_checkpointing == AUTO
    assert load_config("legal_qlora", "model=embedded").training.micro_batch_tokens == 1024


def test_the_type_that_is_asked_for_counts() -> None:
    config = replace(config_of(), model=replace(config_of().model, dtype=Dtype.float32))
    assert config.model.shape is not None
    found = setting_of(config, config.model.shape, find_card("h200"), num_devices=1, supervised_share=1)
    assert found.work.number_bytes == 4


def test_the_line_says_what_and_why() -> None:
    training = config_of().training
    line = choice_line(chosen("rtx3060"), training)
    assert line.startswith("auto: micro-batches of 2,048 tokens (8 a step), ")
    assert " of 32 layers recomputed: the fastest that fits (1" in line
    assert len(line) <= 120
    tight = choice_line(chosen(replace(find_card("rtx3060"), memory_bytes=6e9)), training)
    assert "32 of 32 layers recomputed: takes least but may not fit" in tight
    assert "micro" not in choice_line(chosen("rtx3060"), replace(training, micro_batch_tokens=512))


@pytest.mark.parametrize("free", [2e9, 7.6e9, 9.5e9, 14e9, 80e9])
def test_plan_prints_what_a_training_does(
    free: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = replace(find_card("rtx4090"), memory_bytes=81e9, free_bytes=free)
    monkeypatch.setattr("finetune.jobs.plan.this_machine", lambda: (card, 1))
    monkeypatch.setattr(memory_choice, "card_of", lambda hardware: card)
    config = replace(config_of(), output_dir=str(tmp_path), plan=PlanConfig())
    folder = RunFolder(tmp_path)
    write_json(folder.ledger, {"tokens": {"total": 40_000, "supervised": 3000, "truncated": 0}})
    write_json(folder.versions, {})
    setting = memory_choice.choose_setting(config, Any, tmp_path, folder)  # type: ignore[arg-type]
    assert plan(config) == setting
    kept = json.loads(folder.versions.read_text())["memory"]
    assert kept["reason"] in capsys.readouterr().out.splitlines()
    assert kept["micro_batch_tokens"] == setting.work.micro_batch_tokens
    assert kept["recomputed_layers"] == setting.work.recomputed_layers


def test_a_run_that_goes_on_keeps_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"card": replace(find_card("rtx4090"), free_bytes=10e9)}
    monkeypatch.setattr(memory_choice, "card_of", lambda hardware: machine["card"])
    folder = RunFolder(tmp_path)
    write_json(folder.versions, {"python": "3.11"})
    config = replace(config_of(), output_dir=str(tmp_path))
    first = memory_choice.choose_setting(config, Any, tmp_path, folder).work  # type: ignore[arg-type]
    machine["card"] = find_card("h200")
    again = memory_choice.choose_setting(config, Any, tmp_path, folder)  # type: ignore[arg-type]
    assert again.work == first and kept_in_versions(folder, "memory")["usable_bytes"] == again.card.usable_bytes
    other = replace(config, training=replace(config.training, gradient_checkpointing=False))
    changed = memory_choice.choose_setting(other, Any, tmp_path, folder)  # type: ignore[arg-type]
    assert changed.work.recomputed_layers == 0, "another wish is another choice"


def test_memory_of_other_programs_is_not_free_and_that_of_this_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    hardware: Any = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0), dtype_name="bfloat16", reason="new")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9_000_000_000, 25_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 4090")
    card = card_of(hardware)
    assert (card.key, card.is_cuda, card.dtype) == ("rtx4090", True, Dtype.bfloat16)
    assert card.usable_bytes == 9e9 + 6e9 + cards.OWN_CONTEXT
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20_000_000_000)
    assert card_of(hardware).usable_bytes == 25e9, "never more than there is"


def test_processes_on_one_processor_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware: Any = SimpleNamespace(is_cuda=False, dtype_name="float32", reason="slow")
    monkeypatch.setattr(cards, "usable_bytes", lambda: 12e9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert card_of(hardware).usable_bytes == 4e9 and card_of(hardware).number_bytes == 4


def test_what_the_watch_keeps_and_swap_are_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    from finetune.model.free_memory import FreeMemory

    asked: list[bool] = []

    def look(self: FreeMemory, *, with_swap: bool = True) -> Room:
        asked.append(with_swap)
        return Room(8 * 10**9, 10 * 10**9, "this machine's memory")

    monkeypatch.setattr(FreeMemory, "look", look)
    memory = psutil.Process().memory_info()
    found = usable_bytes()
    assert found is not None and asked == [False]
    assert found == pytest.approx(8e9 - 2e8 + memory.rss - memory.shared, abs=5e7)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("training.micro_batch_tokens=many", "training.micro_batch_tokens: 'many' is not a whole number or auto"),
        ("training.micro_batch_tokens=null", "training.micro_batch_tokens: 'null' is not a whole number or auto"),
        ("training.micro_batch_tokens=2", "training.micro_batch_tokens: 2 is less than 8"),
        (
            "training.gradient_checkpointing=some",
            "training.gradient_checkpointing: 'some' is not true, false or auto",
        ),
    ],
)
def test_other_words_are_refused(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", word)


@pytest.mark.parametrize("micro", ["auto", "512"])
def test_a_number_or_auto_is_taken(micro: str) -> None:
    found = load_config("quickstart", f"training.micro_batch_tokens={micro}").training
    assert found.micro_batch_tokens == (AUTO if micro == "auto" else 512)


@pytest.mark.parametrize(("word", "value"), [("auto", AUTO), ("true", True), ("false", False)])
def test_true_false_or_auto_is_taken(word: str, value: object) -> None:
    found = load_config("quickstart", f"training.gradient_checkpointing={word}").training
    assert found.gradient_checkpointing is value or found.gradient_checkpointing == value == AUTO
