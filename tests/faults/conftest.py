"""Children that run the command line with a fault built in: forked after the slow imports, ended by their exit code."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

QUICK = (
    "data.near_duplicates=ignore",  # its thread pool does not outlive a fork
    "model.dtype=float32",
    "adapter.rank=4",
    "training.max_steps=6",
    "training.save_steps=4",
    "training.eval_steps=3",
    "training.logging_steps=4",
    "training.micro_batch_tokens=512",
    "training.batch_tokens=1024",
    "training.gradient_checkpointing=false",
    "training.learning_rate=0.01",
    "evaluation.max_items=12",
    "export.verification_items=4",
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit code (-9 for SIGKILL), and all that it said."""

    code: int
    said: str


def fork_main(words: list[str], log: Path, before: Callable[[], object] = lambda: None) -> Ended:
    """Run `python -m finetune` with these words in a forked child, after calling `before` in it."""
    import finetune.jobs.run
    import finetune.training.build  # noqa: F401

    child = os.fork()
    if not child:
        code = 99
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            before()
            from finetune.__main__ import main

            code = main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text())


@dataclass(slots=True)
class Runs:
    """Runs of one small data set on the tiny model, each in a folder of its own below `path`."""

    path: Path
    model: Path
    rows: Path

    def words(self, name: str, *more: str) -> list[str]:
        given = {word.partition("=")[0] for word in more}
        quick = [word for word in QUICK if word.partition("=")[0] not in given]
        local = ["model=local", f"model.path={self.model}", f"data.path={self.rows}", f"output_dir={self.path / name}"]
        return [*local, *quick, *more]

    def train(self, name: str, *more: str, before: Callable[[], object] = lambda: None) -> Ended:
        return fork_main(["train", *self.words(name, *more)], self.path / f"{name}.log", before)

    def run(self, name: str, *more: str, before: Callable[[], object] = lambda: None) -> Ended:
        return fork_main(self.words(name, *more), self.path / f"{name}.log", before)

    def call(self, command: str, name: str, *more: str, before: Callable[[], object] = lambda: None) -> Ended:
        return fork_main([command, *self.words(name, *more)], self.path / f"{name}-{command}.log", before)

    def adapter(self, name: str) -> bytes:
        return (self.path / name / "adapter" / "adapter_model.safetensors").read_bytes()

    def metrics(self, name: str) -> list[dict[str, Any]]:
        lines = (self.path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line, parse_constant=_refuse) for line in lines]

    def checkpoints(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.path / name / "checkpoints").glob("step-*"))

    def leftovers(self, name: str) -> list[str]:
        """Hidden and staged files, which a clean end leaves none of."""
        return [str(path) for path in (self.path / name).rglob(".*")]


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


@pytest.fixture(scope="module")
def runs(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Rows for a dozen steps an epoch, and a place for runs."""
    path = tmp_path_factory.mktemp("faults")
    laws = ["New York", "Delaware", "Texas"]
    rows = [
        {
            "id": f"item-{n}",
            "question": f"Clause {n}: {laws[n % 3]} law. Which?",
            "options": laws,
            "answer": laws[n % 3],
        }
        for n in range(120)
    ]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Runs(path, tiny_model_dir, path / "rows.jsonl")


@pytest.fixture(scope="module")
def whole(runs: Runs) -> bytes:
    """The adapter of a training that nothing disturbs."""
    assert runs.train("whole").code == 0
    return runs.adapter("whole")
