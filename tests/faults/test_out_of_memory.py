"""Bar R8: out of memory shrinks the micro-batches and nothing else; the run is the one that began with that size."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.bar("R8"), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SMALLER = "training.micro_batch_tokens=256"
DROPOUT = "adapter.dropout=0.2"  # the generators' states count
MANY_SAVES = ("training.save_steps=2", "training.keep_checkpoints=9")


def out_of_memory(*places: tuple[int, int], where: str = "_loss_sum", trains: bool = True) -> Callable[[], None]:
    """Raise what torch raises at each (step, micro-batch of it), once: in the forward or in the backward pass."""
    waiting = list(places)

    def patch() -> None:
        import torch
        from accelerate import Accelerator

        from finetune.training.trainer import AdapterTrainer

        now: dict[str, Any] = {}
        forward = AdapterTrainer._loss_sum

        def fails() -> None:
            if now["place"] in waiting and now["trains"] == trains:
                waiting.remove(now["place"])
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        def poisoned(self: AdapterTrainer, model: Any, inputs: Any) -> Any:
            done = len(self.step.losses) if model.training else 0
            now.update(place=(self.state.global_step + model.training, done + 1), trains=model.training)
            if where == "_loss_sum":
                forward(self, model, inputs)  # uses up random numbers
                fails()
            return forward(self, model, inputs)

        AdapterTrainer._loss_sum = poisoned  # type: ignore[method-assign]
        if where == "backward":
            backward = Accelerator.backward

            def poisoned_backward(self: Any, *arguments: Any, **named: Any) -> None:
                fails()
                backward(self, *arguments, **named)

            Accelerator.backward = poisoned_backward  # type: ignore[method-assign]

    return patch


@pytest.fixture(scope="module")
def smaller(runs: Any) -> bytes:
    """The adapter of a run that began with micro-batches of half the size."""
    assert runs.train("smaller", SMALLER, DROPOUT).code == 0
    return runs.adapter("smaller")


@pytest.mark.parametrize(
    ("places", "where", "trains"),
    [
        ([(1, 1)], "_loss_sum", True),
        ([(1, 2)], "_loss_sum", True),
        ([(1, 2)], "backward", True),
        ([(3, 2)], "_loss_sum", True),
        ([(4, 1)], "backward", True),
        ([(0, 1)], "_loss_sum", False),
        ([(3, 1)], "_loss_sum", False),
    ],
    ids=["first", "second", "backward", "step 3", "step 4", "untrained", "measuring"],
)
def test_the_adapter_is_that_of_a_run_that_began_with_the_smaller_size(
    places: list[tuple[int, int]], where: str, trains: bool, runs: Any, smaller: bytes, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id.replace(" ", "-")
    ended = runs.train(name, DROPOUT, before=out_of_memory(*places, where=where, trains=trains))
    assert ended.code == 0, ended.said
    told = [line for line in ended.said.splitlines() if "out of memory" in line]
    assert len(told) == 1 and "micro-batches of 256 tokens instead of 512" in told[0], ended.said
    assert ("from the first step again" in told[0]) == (places[0][0] > 1 or (not trains and places[0][0] > 0))
    assert runs.adapter(name) == smaller
    fields = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens")
    rows, straight = ([[row.get(f) for f in fields] for row in runs.metrics(run)] for run in (name, "smaller"))
    assert rows[1:] == straight[1:] and runs.metrics(name)[-1]["micro_batch_tokens"] == 256


def test_the_batch_is_the_same_whatever_the_size(runs: Any, smaller: bytes) -> None:
    """Without dropout the losses differ by rounding alone."""
    losses = []
    for number, size in enumerate(("1024", "512", "200", "100")):
        assert runs.train(f"size-{number}", f"training.micro_batch_tokens={size}").code == 0
        losses.append([row["loss"] for row in runs.metrics(f"size-{number}") if "loss" in row])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-4)


def kill_after_checkpoint(step: int) -> None:
    from finetune.training.trainer import AdapterTrainer

    original = AdapterTrainer._save_checkpoint

    def save(self: AdapterTrainer, *arguments: Any) -> None:
        original(self, *arguments)
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    AdapterTrainer._save_checkpoint = save  # type: ignore[method-assign]


def test_after_a_checkpoint_the_step_is_done_again_and_resume_keeps_the_size(runs: Any) -> None:
    fault = out_of_memory((3, 2))
    ended = runs.train("late", DROPOUT, *MANY_SAVES, before=fault)
    assert ended.code == 0 and "instead of 512 from here on" in ended.said, ended.said
    assert "from the first step again" not in ended.said
    course = json.loads((runs.path / "late/checkpoints/step-00000004/course.json").read_text())
    assert course["micro_batch_tokens"] == 256
    assert [row.get("micro_batch_tokens") for row in runs.metrics("late")] == [None, None, 256, 256, 256]

    def smaller_from_checkpoint() -> None:
        from finetune.training.trainer import AdapterTrainer

        original = AdapterTrainer._load_optimizer_and_scheduler

        def load(self: AdapterTrainer, checkpoint: Any) -> None:
            original(self, checkpoint)
            self._take_size(256)

        AdapterTrainer._load_optimizer_and_scheduler = load  # type: ignore[method-assign]

    def killed(step: int) -> Callable[[], None]:
        return lambda: (fault(), kill_after_checkpoint(step))  # type: ignore[return-value]

    assert runs.train("early-kill", DROPOUT, *MANY_SAVES, before=killed(2)).code == -9
    again = runs.train("early-kill", DROPOUT, *MANY_SAVES, "resume=true", before=smaller_from_checkpoint)
    assert again.code == 0 and runs.adapter("early-kill") == runs.adapter("late"), "the step is done again exactly"
    assert runs.train("late-kill", DROPOUT, *MANY_SAVES, before=killed(4)).code == -9
    again = runs.train("late-kill", DROPOUT, *MANY_SAVES, "resume=true")
    assert again.code == 0 and runs.adapter("late-kill") == runs.adapter("late"), "the size is kept"


def test_below_one_row_the_error_names_what_takes_less_memory(runs: Any) -> None:
    ended = runs.train("too-small", before=out_of_memory(*[(1, 1)] * 9))
    last = ended.said.strip().splitlines()[-1]
    assert ended.code == 1 and last.startswith("finetune: out of memory in step 1, with micro-batches of one row of ")
    for cure in ("training.max_length", "training.gradient_checkpointing=true", "quantization=nf4", "adapter.rank"):
        assert cure in last
    assert not (runs.path / "too-small" / "adapter").exists()


ON_ONE_RANK = """
import os, sys
import torch
from finetune.__main__ import main
from finetune.training.trainer import AdapterTrainer
original, calls = AdapterTrainer._loss_sum, []
def loss_sum(self, model, inputs):
    calls.append(model.training)
    if sum(calls) == int(os.environ["FAILS_AT"]) and calls[-1] and os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return original(self, model, inputs)
AdapterTrainer._loss_sum = loss_sum
sys.exit(main())
"""


def test_all_processes_take_the_smaller_size_together(runs: Any, tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(ON_ONE_RANK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "faulty.py", "train"]
    for name, fails_at, *more in (("two", "5", ""), ("two-smaller", "0", "training.micro_batch_tokens=256")):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FAILS_AT": fails_at}
        words = runs.words(name, DROPOUT, "training.batch_tokens=2048", "training.max_steps=4", *filter(None, more))
        done = subprocess.run(
            [*launch, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("micro-batches of 256 tokens instead of 512") == (fails_at != "0"), done.stderr
    assert runs.adapter("two") == runs.adapter("two-smaller")


def little_memory_at(step: int) -> Callable[[], None]:
    """Let the free memory fall at a step to what is left when the kernel is about to act."""

    def patch() -> None:
        from finetune.model.free_memory import FreeMemory, Room
        from finetune.training.trainer import AdapterTrainer

        original = AdapterTrainer._shortage

        def shortage(self: AdapterTrainer) -> str:
            free = 90_000_000 if self.state.global_step + 1 >= step else 5 * 10**9
            FreeMemory.look = lambda _: Room(free, 16 * 10**9, "this container's limit")  # type: ignore[method-assign]
            return original(self)

        AdapterTrainer._shortage = shortage  # type: ignore[method-assign]

    return patch


@pytest.mark.parametrize("step", [2, 3, 6])
def test_little_main_memory_stops_with_a_checkpoint_and_resume_goes_on(step: int, runs: Any, whole: bytes) -> None:
    name = f"little-{step}"
    ended = runs.train(name, before=little_memory_at(step))
    if step == 6:
        assert ended.code == 0 and runs.adapter(name) == whole, "after the last step it ends anyway"
        return
    last = ended.said.strip().splitlines()[-1]
    assert ended.code == 1, ended.said
    assert last.startswith(f"finetune: step {step}: 0.09 GB of 16.00 GB left (this container's limit); stopped with a")
    assert "resume=true" in last and "training.micro_batch_tokens (now 512)" in last
    assert runs.checkpoints(name) == [f"step-0000000{step}"] and not (runs.path / name / "adapter").exists()
    again = runs.train(name, "resume=true")
    assert again.code == 0 and runs.adapter(name) == whole, again.said
