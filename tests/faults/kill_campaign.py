"""Kills trainings at random times and resumes them, until each ends in the uninterrupted run's adapter.

    python tests/faults/kill_campaign.py                                  # 50 forked, 5 command line, 3 torchrun
    python tests/faults/kill_campaign.py --kind forked --first 20 --count 10 --seed 1 --folder /tmp/kills

Every kill is drawn from seed, kind and number, so that a failed one can be repeated alone. Bar R2: the same command
with resume=true recovers, and at most save_steps steps are lost. Exits with 1 where one does not.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
SAVE_STEPS = 2
WORDS = (
    "train",
    "recipe=quickstart",
    "training.max_steps=8",
    f"training.save_steps={SAVE_STEPS}",
    "training.eval_steps=3",
    "training.logging_steps=1",
    "data.max_rows=200",
    "data.near_duplicates=ignore",  # its thread pool does not outlive a fork
)
COUNTS = {"forked": 50, "command": 5, "torchrun": 3}
_WAIT_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill and what came of it."""

    kind: str
    number: int
    seconds: float
    """From the start of the run to the kill."""
    lost_steps: int
    problem: str
    """Empty where all is well."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A process that was started, by its id where it was forked, and what it says."""

    process: "int | subprocess.Popen[str]"
    log: Path


@dataclass(slots=True)
class Campaign:
    """Kills of one kind in one folder, after an uninterrupted run to compare with."""

    kind: str
    folder: Path
    seed: int
    straight_seconds: float = 0.0
    adapter: bytes = b""

    def prepare(self) -> None:
        """Train without a kill, twice: the first time fills the cache of tokenised rows."""
        for name in ("cold", "straight"):
            started = time.monotonic()
            code, said = self.end(self.begin(name))
            assert code == 0, said
            self.straight_seconds = time.monotonic() - started
        self.adapter = self.adapter_of("straight")

    def adapter_of(self, name: str) -> bytes:
        return (self.folder / name / "adapter" / "adapter_model.safetensors").read_bytes()

    def kills(self, first: int, count: int) -> Iterator[Kill]:
        for number in range(first, first + count):
            yield self.kill(number)

    def kill(self, number: int) -> Kill:
        """Kill a run at a random time and resume it."""
        name = f"{self.kind}-{number}"
        drawn = random.Random(f"{self.seed} {self.kind} {number}")
        share = drawn.random()
        while True:
            seconds = share * self.straight_seconds
            begun = self.begin(name)
            time.sleep(seconds)
            if self.strike(begun, drawn):
                break
            shutil.rmtree(self.folder / name, ignore_errors=True)  # it was done before the kill
            share *= 0.8
        reached = self.last_step(name)
        code, said = self.end(self.begin(name, "resume=true"))
        lost, problem = 0, ""
        if code != 0:
            problem = f"exit {code}: {said.strip().splitlines()[-1] if said.strip() else ''}"
        else:
            found = re.search(r"going on from step-(\d+)", said)
            is_done = "is already trained" in said
            lost = 0 if is_done else reached - int(found[1] if found else 0)
            if self.adapter_of(name) != self.adapter:
                problem = "another adapter"
            elif lost > SAVE_STEPS:
                problem = f"{lost} steps lost"
            elif left := [str(path.name) for path in (self.folder / name).rglob(".*")]:
                problem = f"left over: {left}"
        if not problem:
            shutil.rmtree(self.folder / name)
        return Kill(self.kind, number, seconds, lost, problem)

    def last_step(self, name: str) -> int:
        metrics = self.folder / name / "metrics.jsonl"
        steps = [0]
        for line in metrics.read_text().splitlines() if metrics.is_file() else ():
            with contextlib.suppress(ValueError):
                steps.append(json.loads(line)["step"])
        return max(steps)

    def words(self, name: str, *more: str) -> list[str]:
        return [*WORDS, f"output_dir={self.folder / name}", *more]

    def begin(self, name: str, *more: str) -> Begun:
        log = self.folder / f"{name}.log"
        if self.kind == "forked":
            return Begun(_fork(self.words(name, *more), log), log)
        launch = ["finetune"]
        if self.kind == "torchrun":
            launch = ["torch.distributed.run", "--nproc_per_node", "2", "-m", "finetune"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *launch, *self.words(name, *more)],
                stdout=file, stderr=subprocess.STDOUT, env=environment, text=True, start_new_session=True,
            )  # fmt: skip
        return Begun(process, log)

    def end(self, begun: Begun) -> tuple[int, str]:
        """Wait for a process, and return its exit code and what it said."""
        if isinstance(begun.process, int):
            code = os.waitstatus_to_exitcode(os.waitpid(begun.process, 0)[1])
        else:
            try:
                code = begun.process.wait(_WAIT_SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(begun.process.pid, signal.SIGKILL)
        return code, begun.log.read_text()

    def strike(self, begun: Begun, drawn: random.Random) -> bool:
        """Kill the process, of several ranks one of them; return whether it was still running."""
        if isinstance(begun.process, int):
            os.kill(begun.process, signal.SIGKILL)  # not waited for yet, so it is still ours, if only in name
            return self.end(begun)[0] == -signal.SIGKILL
        if begun.process.poll() is not None:
            return False
        victims = _ranks(begun.process.pid) if self.kind == "torchrun" else []
        with contextlib.suppress(ProcessLookupError):
            os.kill(drawn.choice(victims or [begun.process.pid]), signal.SIGKILL)
        return self.end(begun)[0] != 0


def _ranks(launcher: int) -> list[int]:
    """Return the processes of the ranks that a launcher has started."""
    found = {}
    for child in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            environment = child.environ()
            if "RANK" in environment and child.ppid() == launcher:
                found[environment["RANK"]] = child.pid
    return [found[rank] for rank in sorted(found)]


def _fork(words: Sequence[str], log: Path) -> int:
    import finetune.jobs.train
    import finetune.training.build  # noqa: F401
    from finetune.__main__ import main

    child = os.fork()
    if child:
        return child
    code = 99
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        code = main(words)
    finally:
        os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=COUNTS, help="forked, command or torchrun; all of them without it")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    found: list[Kill] = []
    for kind in [options.kind] if options.kind else COUNTS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        campaign = Campaign(kind, folder / kind, options.seed)
        campaign.prepare()
        print(f"{kind}: an uninterrupted run takes {campaign.straight_seconds:.1f} s", flush=True)
        for kill in campaign.kills(options.first, COUNTS[kind] if options.count is None else options.count):
            found.append(kill)
            result = kill.problem or "same adapter"
            print(
                f"{kind} {kill.number:3}: killed after {kill.seconds:5.2f} s, {kill.lost_steps} steps lost, {result}",
                flush=True,
            )
    bad = [kill for kill in found if kill.problem]
    most = max((kill.lost_steps for kill in found), default=0)
    print(
        f"{len(found)} kills, {len(found) - len(bad)} ended in the uninterrupted run's adapter, "
        f"at most {most} steps lost"
    )
    if not options.folder and not bad:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
