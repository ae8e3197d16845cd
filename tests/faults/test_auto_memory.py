"""Bar R8: `auto` and the trial of the worst step change speed and memory, and nothing that is learned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .test_out_of_memory import DROPOUT, MANY_SAVES, kill_after_checkpoint, out_of_memory

pytestmark = [pytest.mark.bar("R8"), pytest.mark.slow]

AUTO = (
    "training.micro_batch_tokens=auto",
    "training.gradient_checkpointing=auto",
    "training.max_length=256",
    "evaluation.batch_tokens=64",  # the training decides what fits
    DROPOUT,
)


def with_trial() -> None:
    from finetune.training.worst_step import Forecast

    Forecast.is_worth_a_try = lambda self: True  # type: ignore[method-assign]


def with_free_memory(share: float) -> Callable[[], None]:
    """Leave that share of the way from the least to the most memory that the tiny model's settings take."""

    def patch() -> None:
        from finetune.jobs import memory_choice, plan_amounts
        from finetune.model import cards
        from finetune.model.planning import CPU_SHARE

        original = plan_amounts.setting_with

        def setting_with(config: Any, shape: Any, card: Any, **more: Any) -> Any:
            roomy = original(config, shape, card, **more)
            most = roomy.changed(micro=1024, layers=0).peak
            least = min(roomy.changed(micro=256, layers=layers).peak for layers in (1, 2))
            free = (least + share * (most - least)) / CPU_SHARE + 1
            return original(config, shape, cards.replace(card, free_bytes=free), **more)

        memory_choice.setting_with = setting_with

    return patch


def memory_of(runs: Any, name: str) -> dict[str, Any]:
    return json.loads((Path(runs.path) / name / "versions.json").read_text())["memory"]


def said_auto(said: str) -> list[str]:
    return [line for line in said.splitlines() if "auto: " in line]


def test_a_trial_of_the_worst_step_leaves_no_trace(runs: Any, whole: bytes) -> None:
    """Weights, random numbers (dropout), order of the rows and counts are those of a run without it."""
    assert runs.train("plain", DROPOUT).code == 0
    ended = runs.train("tried", DROPOUT, before=with_trial)
    assert ended.code == 0 and runs.adapter("tried") == runs.adapter("plain") != whole, ended.said
    fields = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens")
    rows, plain = ([[row.get(f) for f in fields] for row in runs.metrics(run)] for run in ("tried", "plain"))
    assert rows == plain
    memory = memory_of(runs, "tried")
    assert memory["measured_bytes"] > 1e8 and memory["predicted_bytes"] > 1e8
    assert memory["parts"].keys() >= {"weights", "adapter", "activations", "working", "context"}
    assert "in a trial of the worst step, predicted" in ended.said


def test_auto_trains_what_the_same_sizes_by_hand_train(runs: Any) -> None:
    ended = runs.train("auto", *AUTO, *MANY_SAVES, before=with_free_memory(0.5))
    assert ended.code == 0 and len(said_auto(ended.said)) == 1, ended.said
    memory = memory_of(runs, "auto")
    assert memory["recomputed_layers"] > 0 or memory["micro_batch_tokens"] < 1024, "memory was short"
    assert said_auto(ended.said)[0].endswith(memory["reason"].removeprefix("auto: "))
    by_hand = f"training.micro_batch_tokens={memory['micro_batch_tokens']}"
    assert runs.train("by-hand", *AUTO, by_hand, "training.gradient_checkpointing=false", *MANY_SAVES).code == 0
    assert runs.adapter("auto") == runs.adapter("by-hand")


def test_a_resumed_run_keeps_the_choice_though_memory_is_free_now(runs: Any) -> None:
    def killed() -> None:
        with_free_memory(0.0)()
        kill_after_checkpoint(2)

    assert runs.train("kept", *AUTO, *MANY_SAVES, before=killed).code == -9
    first = memory_of(runs, "kept")
    assert first["micro_batch_tokens"] == 256 and first["recomputed_layers"] > 0
    ended = runs.train("kept", *AUTO, *MANY_SAVES, "resume=true")
    assert ended.code == 0 and "auto: as in the run that goes on" in ended.said, ended.said
    again = memory_of(runs, "kept")
    assert again["usable_bytes"] > first["usable_bytes"], "there is room for more now"
    for name in ("asked", "micro_batch_tokens", "recomputed_layers", "reason"):
        assert again[name] == first[name]


@pytest.mark.parametrize(("place", "in_trial"), [((3, 2), False), ((1, 1), True)], ids=["step 3", "trial"])
def test_out_of_memory_recomputes_before_anything_is_halved(
    place: tuple[int, int], in_trial: bool, runs: Any, whole: bytes
) -> None:
    def patch() -> None:
        out_of_memory(place)()
        if in_trial:
            with_trial()

    name = f"recomputes-{place[0]}"
    ended = runs.train(name, "training.gradient_checkpointing=auto", before=patch)
    assert ended.code == 0, ended.said
    told = [line for line in ended.said.splitlines() if "out of memory" in line]
    where = "a trial of the worst step" if in_trial else "step 3"
    assert len(told) == 1 and f"out of memory in {where}: every layer is recomputed" in told[0], ended.said
    assert runs.adapter(name) == whole
    assert memory_of(runs, name)["recomputed_layers"] == 2
