"""Bars R6 and R7: no update from a loss that is no number, rows named, spikes warned of, skipped or refused."""

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from finetune.training.loss_watch import FEWEST_STEPS, WINDOW_STEPS, LossWatch


@pytest.mark.bar("R7")
def test_one_spike_in_a_thousand_losses_is_found_and_nothing_else() -> None:
    generator = random.Random(1)
    watch = LossWatch()
    losses = [2 * math.exp(-step / 300) + generator.gauss(0, 0.1) for step in range(1000)]
    losses[500] += 3
    found = [step for step, loss in enumerate(losses) if watch.add(loss)]
    assert found == [500]


@pytest.mark.bar("R7")
def test_no_loss_is_a_spike_before_enough_are_known_and_the_window_is_bounded() -> None:
    watch = LossWatch()
    assert not any(watch.add(loss) for loss in [1.0, 1.1] * (FEWEST_STEPS // 2 - 1) + [1.0, 900.0])
    for _ in range(300):
        watch.add(1.0)
    assert len(watch.losses) == WINDOW_STEPS


@pytest.mark.bar("R7")
def test_a_spike_does_not_hide_the_next_one_and_a_new_level_is_accepted() -> None:
    generator = random.Random(2)
    watch = LossWatch(1 + generator.gauss(0, 0.1) for _ in range(128))
    assert watch.add(1000.0)
    assert watch.add(5.0)
    spikes = sum(watch.add(5 + generator.gauss(0, 0.1)) is not None for _ in range(100))
    assert 0 < spikes < 20


@pytest.mark.bar("R7")
def test_a_restored_window_decides_the_same() -> None:
    generator = random.Random(3)
    one = LossWatch(1 + generator.gauss(0, 0.2) for _ in range(200))
    assert LossWatch(one.losses).limit() == one.limit()


def poison(step: int, change: Callable[[Any], Any]) -> Callable[[], None]:
    """Let the loss of the second micro-batch of a training step be another one."""

    def patch() -> None:
        from finetune.training.trainer import AdapterTrainer

        original = AdapterTrainer._loss_sum

        def poisoned(self: AdapterTrainer, model: Any, inputs: Any) -> Any:
            loss, count = original(self, model, inputs)
            is_there = model.training and self.state.global_step == step - 1 and len(self.step.losses) == 1
            return (change(loss) if is_there else loss), count

        AdapterTrainer._loss_sum = poisoned  # type: ignore[method-assign]

    return patch


def nan(loss: Any) -> Any:
    return loss * math.nan


def finite_loss_without_gradient(loss: Any) -> Any:
    """The loss itself, whose derivative is infinite."""
    return loss + ((loss - loss.detach()).abs() + 0.0).sqrt()


@pytest.mark.bar("R6")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [(nan, "the loss is nan"), (lambda loss: loss * math.inf, "the loss is inf"),
     (finite_loss_without_gradient, "the gradient norm is nan")],
    ids=["nan", "inf", "gradient"],
)  # fmt: skip
def test_numbers_that_are_none_stop_before_the_update(
    change: Callable[[Any], Any], words: str, runs: Any, whole: bytes, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    ended = runs.train(name, before=poison(6, change))
    assert ended.code == 1, ended.said
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith("finetune: step 6: ") and words in last and "item-" in last, ended.said
    assert "training.learning_rate" in last and "model.dtype" in last
    assert runs.checkpoints(name) == ["step-00000004"] and not (runs.path / name / "adapter").exists()
    for file in (runs.path / name).rglob("*.safetensors"):
        assert all(math.isfinite(value) for tensor in load_file(file).values() for value in tensor.ravel().tolist())
    assert runs.metrics(name)[-1]["step"] < 6
    again = runs.train(name, "resume=true")
    assert again.code == 0 and runs.adapter(name) == whole


@pytest.mark.bar("R6")
@pytest.mark.slow
def test_a_nan_in_the_validation_rows_stops_before_it_is_saved(runs: Any) -> None:
    def patch() -> None:
        from finetune.training.trainer import AdapterTrainer

        original = AdapterTrainer._loss_sum

        def poisoned(self: AdapterTrainer, model: Any, inputs: Any) -> Any:
            loss, count = original(self, model, inputs)
            return (loss if model.training or self.state.global_step < 3 else nan(loss)), count

        AdapterTrainer._loss_sum = poisoned  # type: ignore[method-assign]

    ended = runs.train("validation", "training.save_steps=1", before=patch)
    assert ended.code == 1 and "step 3: the validation loss is nan" in ended.said, ended.said
    assert runs.checkpoints("validation") == ["step-00000001", "step-00000002"]


@pytest.mark.bar("R6")
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["weight", "optimizer"])
def test_weights_and_optimizer_that_are_no_numbers_are_not_saved(victim: str, runs: Any) -> None:
    def patch() -> None:
        from finetune.training.callbacks import Flow

        original = Flow.on_step_end

        def poisoned(self: Flow, args: Any, state: Any, control: Any, **named: Any) -> None:
            original(self, args, state, control, **named)
            if state.global_step == 4 and self.trainer is not None:
                tensors = {
                    "weight": next(p for p in self.trainer.model.parameters() if p.requires_grad),  # type: ignore[union-attr]
                    "optimizer": next(iter(self.trainer.optimizer.state.values()))["exp_avg"],  # type: ignore[union-attr]
                }
                tensors[victim].data[0, 0] = math.inf

        Flow.on_step_end = poisoned  # type: ignore[method-assign]

    ended = runs.train(victim, "training.save_steps=2", "training.eval_steps=6", before=patch)
    assert ended.code == 1 and "step 4: 1 tensors hold values that are no numbers" in ended.said, ended.said
    assert runs.checkpoints(victim) == ["step-00000002"] and not runs.leftovers(victim)


LONG = ("training.max_steps=44", "training.eval_steps=44", "training.save_steps=42", "training.learning_rate=0.001")


def spike(loss: Any) -> Any:
    return loss * 50


@pytest.mark.bar("R7")
@pytest.mark.slow
def test_a_clean_run_has_no_spike(runs: Any) -> None:
    assert runs.train("clean", *LONG).code == 0
    assert not [row for row in runs.metrics("clean") if "skipped" in row]


@pytest.mark.bar("R7")
@pytest.mark.slow
def test_a_spike_is_told_and_learned_from(runs: Any) -> None:
    ended = runs.train("warn", *LONG, before=poison(41, spike))
    assert ended.code == 0 and "step 41: the loss is" in ended.said, ended.said
    told = [row for row in runs.metrics("warn") if "skipped" in row]
    assert [(row["step"], row["skipped"]) for row in told] == [(41, False)]
    assert told[0]["spike_loss"] > told[0]["spike_limit"] and all(name.startswith("item-") for name in told[0]["rows"])


@pytest.mark.bar("R7")
@pytest.mark.slow
def test_a_skipped_step_leaves_the_weights_as_they_were_and_resume_agrees(runs: Any) -> None:
    policy = "training.on_loss_spike=skip"

    def watch_weights() -> None:
        poison(41, spike)()
        from finetune.training.callbacks import Flow

        original, seen = Flow.on_step_end, []

        def compare(self: Flow, args: Any, state: Any, control: Any, **named: Any) -> None:
            original(self, args, state, control, **named)
            model: Any = self.trainer.model  # type: ignore[union-attr]
            seen.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
            if state.global_step in (40, 41, 42) and len(seen) > 1:
                same = all((a == b).all() for a, b in zip(seen[-1], seen[-2], strict=True))
                sys.stderr.write(f"step {state.global_step} {'kept' if same else 'moved'} the weights\n")

        Flow.on_step_end = compare  # type: ignore[method-assign]

    ended = runs.train("skip", *LONG, policy, before=watch_weights)
    assert ended.code == 0, ended.said
    moves = [line for line in ended.said.splitlines() if line.endswith("the weights")]
    assert moves == ["step 40 moved the weights", "step 41 kept the weights", "step 42 moved the weights"]
    assert [row["step"] for row in runs.metrics("skip") if row.get("skipped")] == [41]

    def die_after_save() -> None:
        poison(41, spike)()
        _kill_after_checkpoint(40)

    shorter = tuple(word.replace("save_steps=42", "save_steps=40") for word in LONG)
    runs.train("skip-whole", *shorter, policy, before=poison(41, spike))
    killed = runs.train("skip-killed", *shorter, policy, before=die_after_save)
    assert killed.code == -9
    assert runs.train("skip-killed", *shorter, policy, "resume=true", before=poison(41, spike)).code == 0
    assert runs.adapter("skip-killed") == runs.adapter("skip-whole") == runs.adapter("skip")
    assert [row["step"] for row in runs.metrics("skip-killed") if row.get("skipped")] == [41]


def _kill_after_checkpoint(step: int) -> None:
    import os
    import signal

    from finetune.training.trainer import AdapterTrainer

    original = AdapterTrainer._save_checkpoint

    def save(self: AdapterTrainer, *arguments: Any) -> None:
        original(self, *arguments)
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    AdapterTrainer._save_checkpoint = save  # type: ignore[method-assign]


@pytest.mark.bar("R7")
@pytest.mark.slow
def test_a_spike_ends_the_run_where_asked(runs: Any) -> None:
    ended = runs.train("stop", *LONG, "training.on_loss_spike=stop", before=poison(41, spike))
    last = ended.said.strip().splitlines()[-1]
    assert ended.code == 1 and last.startswith("finetune: step 41: the loss is") and "on_loss_spike=skip" in last
    assert not (Path(runs.path) / "stop" / "adapter").exists()
