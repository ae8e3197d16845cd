"""The allocator of CPU trainings: which commands start anew with its settings, and that a real process has them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import allocator
from finetune.allocator import TUNABLES, VARIABLE, allocator_in_use, restart_with_tunables

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that the process was replaced by."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, words: commands.append(words))
    monkeypatch.setattr(allocator, "_is_glibc", lambda: True)
    monkeypatch.setattr(sys, "argv", ["/somewhere/finetune/__main__.py", "train"])
    return commands


@pytest.mark.parametrize("words", [["recipe=quickstart"], ["run", "a=b"], ["train", "a=b"], ["-m", "seed=1,2"], []])
def test_trainings_start_anew_with_the_settings(words: list[str], started: list[list[str]]) -> None:
    environment: dict[str, str] = {}
    restart_with_tunables(words, environment)
    assert environment == {VARIABLE: TUNABLES}
    assert started == [[sys.executable, *sys.orig_argv[1:]]]
    restart_with_tunables(words, environment)  # as the new process does
    assert len(started) == 1


@pytest.mark.parametrize("words", [["plan", "a=b"], ["recipes"], ["--help"], ["recipe=quickstart", "--cfg", "job"]])
def test_other_commands_do_not(words: list[str], started: list[list[str]]) -> None:
    restart_with_tunables(words, {})
    assert not started


def test_a_script_that_calls_the_command_line_is_not_run_twice(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["my_finetune.py", "train"])
    restart_with_tunables(["train"], {})
    assert not started
    monkeypatch.setattr(sys, "argv", ["/venv/bin/finetune", "train"])
    restart_with_tunables(["train"], {})
    assert len(started) == 1


@pytest.mark.parametrize(
    "environment",
    [{VARIABLE: ""}, {"MALLOC_MMAP_THRESHOLD_": "1048576"}, {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}],
    ids=["tunables", "variables of glibc", "another allocator"],
)
def test_what_the_user_chose_stands(environment: dict[str, str], started: list[list[str]]) -> None:
    before = dict(environment)
    restart_with_tunables(["train"], environment)
    assert not started and environment == before
    assert allocator_in_use(environment) == f"as {next(iter(environment))} in the environment says"


def test_the_log_says_what_is_in_use() -> None:
    assert allocator_in_use({}) == "the system's"
    assert "for less memory" in allocator_in_use({VARIABLE: TUNABLES})


def test_the_command_line_keeps_its_words_and_its_process(tmp_path: Path) -> None:
    """A training that ends at once with a mistake: the same process, started anew, says so."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_", "MALLOC_", "LD_PRE"))}
    show = "import os, sys; print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), file=sys.stderr)"
    (tmp_path / "sitecustomize.py").write_text(show)
    command = [sys.executable, "-m", "finetune", "train", "nothing=a b"]
    path = os.pathsep.join([str(tmp_path), str(Path(allocator.__file__).parents[1])])
    environment = plain | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    first, second, message = done.stderr.splitlines()[:3]
    assert done.returncode == 2 and "nothing: there is no such option" in message
    if allocator._is_glibc():
        assert (first.split()[0], second.split()[1]) == (second.split()[0], TUNABLES)
