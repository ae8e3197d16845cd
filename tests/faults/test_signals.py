"""Bar R5: SIGTERM and SIGINT end every phase cleanly, a training with a checkpoint; SIGUSR1 saves and goes on."""

import contextlib
import importlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune import interruption
from finetune.__main__ import continuing

pytestmark = pytest.mark.bar("R5")

ROOT = Path(__file__).resolve().parents[2]


def test_signals_raise_outside_and_wait_inside_a_deferred_block() -> None:
    with interruption.listening(), pytest.raises(interruption.Interrupted, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    with interruption.listening():
        reached = []
        with pytest.raises(interruption.Interrupted, match="SIGTERM"), interruption.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append(interruption.stop_wish())
        assert reached == ["SIGTERM"]


def test_a_second_sigint_ends_a_deferred_block_at_once() -> None:
    with interruption.listening():
        reached = []
        with pytest.raises(interruption.Interrupted), interruption.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("after the second")
        assert reached == ["after the first"]


def test_an_end_that_a_library_swallowed_is_asked_for_again() -> None:
    with interruption.listening():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(interruption.Interrupted):
            interruption.raise_if_wished()


def test_sigusr1_is_a_wish_that_is_taken_once_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruption.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interruption.take_save_wish() and not interruption.take_save_wish()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("recipe=quickstart seed=1", "python -m finetune recipe=quickstart seed=1 resume=true"),
        ("train recipe=x overwrite=true resume=false", "python -m finetune train recipe=x resume=true"),
        ("evaluate recipe=x", "python -m finetune evaluate recipe=x"),
        ("-m recipe=x seed=1,2", "python -m finetune -m recipe=x seed=1,2 resume=true"),
    ],
)
def test_the_command_that_continues(words: str, expected: str) -> None:
    assert shlex.join(continuing(words.split())) == expected


def at(place: str, name: str, *, call: int = 1) -> Callable[[], None]:
    """Send this process a signal when a function (`module:function` or `module:Class.method`) is called."""

    def patch() -> None:
        module_name, _, path = place.partition(":")
        owner: Any = importlib.import_module(module_name)
        *classes, function = path.split(".")
        for part in classes:
            owner = getattr(owner, part)
        original, calls = getattr(owner, function), []

        def signalled(*arguments: Any, **named: Any) -> Any:
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), getattr(signal, name))
            return original(*arguments, **named)

        setattr(owner, function, signalled)

    return patch


TRAINER = "finetune.training.trainer:AdapterTrainer"
IN_TRAINING = {
    "before the first step": (f"{TRAINER}._run_epoch", 1, []),
    "first micro-batch of a step": (f"{TRAINER}.training_step", 2, ["step-00000002"]),
    "second micro-batch of a step": (f"{TRAINER}.compute_loss", 2, ["step-00000001"]),
    "measuring the untrained model": (f"{TRAINER}._loss_sum", 1, []),
    "measuring": (f"{TRAINER}._measure", 2, ["step-00000003"]),
    "logging": (f"{TRAINER}.log", 3, ["step-00000003"]),
    "saving": ("finetune.training.states:save_optimizer", 1, ["step-00000004", "step-00000005"]),
    "last measurement": (f"{TRAINER}._measure", 3, ["step-00000004", "step-00000006"]),
    "last save": ("finetune.training.states:save_optimizer", 2, ["step-00000004", "step-00000006"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "phase"), [("SIGINT", "saving"), ("SIGINT", "measuring"), *(("SIGTERM", phase) for phase in IN_TRAINING)]
)
def test_a_signal_in_training_leaves_a_checkpoint_and_resume_gives_the_same_adapter(
    name: str, phase: str, runs: Any, whole: bytes
) -> None:
    place, call, saved = IN_TRAINING[phase]
    folder = f"{name}-{phase.replace(' ', '-')}"
    ended = runs.train(folder, before=at(place, name, call=call))
    assert ended.code == 1, ended.said
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith(f"finetune: stopped by {name}; go on with: python -m finetune train model=local")
    assert last.endswith(" resume=true") and "Traceback" not in ended.said
    assert runs.checkpoints(folder) == saved and not runs.leftovers(folder)
    assert not (runs.path / folder / "adapter").exists()
    again = runs.train(folder, "resume=true")
    assert again.code == 0, again.said
    assert runs.adapter(folder) == whole
    fields = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens")
    resumed, straight = ([[row.get(f) for f in fields] for row in runs.metrics(run)] for run in (folder, "whole"))
    assert resumed == straight


ELSEWHERE = {
    "reading": "finetune.data.store:ConversationStore.add",
    "tokenising": "finetune.data.tokenize:fit_encoded",
    "keeping tokenised rows": "finetune.data.tokenize:keep_entry",
    "writing the configuration": "finetune.run:os.fsync",
    "loading": "finetune.model.load:load_base",
    "writing the adapter": "finetune.training.build:save_adapter",
    "evaluating": "finetune.evaluation.passes:scorers.score_examples",
    "choosing the merge base": "finetune.evaluation.verify:greedy_tokens",
    "exporting": "finetune.export.safetensors:_rounded_bytes",
    "verifying": "finetune.evaluation.verify:logits_of",
    "reporting": "finetune.jobs.report:report_part",
}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ELSEWHERE)
def test_a_signal_elsewhere_ends_at_once_and_leaves_no_half_written_file(
    phase: str, runs: Any, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder, cache = phase.replace(" ", "-"), f"data.cache_dir={tmp_path / 'cache'}"
    ended = runs.run(folder, cache, before=at(ELSEWHERE[phase], "SIGTERM"))
    assert ended.code == 1 and "Traceback" not in ended.said, ended.said
    assert (
        ended.said.strip().splitlines()[-1].startswith("finetune: stopped by SIGTERM; go on with: python -m finetune")
    )
    assert not runs.leftovers(folder) and not list(tmp_path.rglob(".*"))
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []
    again = runs.run(folder, cache, "resume=true")
    assert again.code == 0, again.said
    assert runs.adapter(folder) == whole and (runs.path / folder / "report.html").is_file()


@pytest.mark.slow
def test_sigusr1_saves_and_goes_on(runs: Any, whole: bytes) -> None:
    ended = runs.train("usr1", "training.keep_checkpoints=9", before=at(f"{TRAINER}.training_step", "SIGUSR1", call=2))
    assert ended.code == 0 and "SIGUSR1: a checkpoint is saved" in ended.said, ended.said
    assert runs.checkpoints("usr1") == ["step-00000002", "step-00000004", "step-00000006"]
    assert runs.adapter("usr1") == whole


@pytest.mark.slow
def test_a_second_sigint_in_training_ends_at_once(runs: Any, whole: bytes) -> None:
    def twice() -> None:
        at(f"{TRAINER}.training_step", "SIGINT", call=5)()
        at(f"{TRAINER}._accumulate", "SIGINT", call=5)()

    ended = runs.train("twice", before=twice)
    assert ended.code == 1 and "go on with" in ended.said.splitlines()[-1], ended.said
    assert runs.checkpoints("twice") == ["step-00000004"], "no checkpoint of step 5"
    assert runs.train("twice", "resume=true").code == 0 and runs.adapter("twice") == whole


def start(words: list[str], cwd: Path, launch: list[str], code: str = "") -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(cwd)])}
    if code:
        (cwd / "faulty.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "-m", *launch, *words],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_step(process: "subprocess.Popen[str]", metrics: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if metrics.is_file() and len(metrics.read_text().splitlines()) > 2:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_a_signal_from_outside_ends_the_command_line(runs: Any, tmp_path: Path) -> None:
    long = (
        "training.max_steps=3000",
        "training.eval_steps=3000",
        "training.save_steps=3000",
        "training.logging_steps=1",
    )
    process = start(["train", *runs.words("outside", *long)], tmp_path, ["finetune"])
    wait_for_step(process, runs.path / "outside" / "metrics.jsonl")
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and time.monotonic() - sent < 30, said
    assert "SIGTERM: stopping at the end of this step" in said and said.strip().endswith("resume=true")
    assert len(runs.checkpoints("outside")) == 1 and not runs.leftovers("outside")


SIGNAL_TO_ONE_RANK = """
import os, signal, sys
from finetune.__main__ import main
from finetune.training.trainer import AdapterTrainer
original, calls = AdapterTrainer.training_step, []
def step(self, *arguments, **named):
    calls.append(1)
    if len(calls) == 3 and os.environ["RANK"] == os.environ["SIGNALLED"]:
        os.kill(os.getpid(), signal.SIGTERM)
    return original(self, *arguments, **named)
if "SIGNALLED" in os.environ:
    AdapterTrainer.training_step = step
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.few(1, rest="exhaustive")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_signal_to_one_process_stops_all_at_the_same_step(
    rank: str, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = ["torch.distributed.run", "--nproc_per_node", "2", "faulty.py"]
    words = ["train", "training.batch_tokens=1024"]
    straight = start([*words, *runs.words(f"straight-{rank}")], tmp_path, launch, SIGNAL_TO_ONE_RANK)
    assert straight.wait(200) == 0, straight.communicate()[0]
    monkeypatch.setenv("SIGNALLED", rank)
    name = f"two-{rank}"
    process = start([*words, *runs.words(name)], tmp_path, launch, SIGNAL_TO_ONE_RANK)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 1 and said.count("finetune: stopped by") == 1, said
    assert "go on with: torchrun --nproc_per_node 2 -m finetune train" in said
    assert runs.checkpoints(name) == ["step-00000003"]
    monkeypatch.delenv("SIGNALLED")
    again = start([*words, *runs.words(name, "resume=true")], tmp_path, launch, SIGNAL_TO_ONE_RANK)
    assert again.wait(200) == 0, again.communicate()[0]
    assert runs.adapter(name) == runs.adapter(f"straight-{rank}")
