"""The command line as a newcomer meets it: exit codes, one line per mistake, nothing heavy imported for it."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "trl", "peft")
WATCH = f"""
import sys, runpy
code = 0
try:
    sys.argv = ["finetune", *sys.argv[1:]]
    runpy.run_module("finetune", run_name="__main__")
except SystemExit as stop:
    code = stop.code
print("IMPORTED", [name for name in {HEAVY!r} if name in sys.modules])
sys.exit(code)
"""


def finetune(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; the last line of its output names heavy imports."""
    return subprocess.run(
        [sys.executable, "-c", WATCH, *words],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def mistakes(tmp_path: Path, tiny_model_dir: Path) -> dict[str, tuple[list[str], str]]:
    """Bad input by name: the words typed, and what the one line must say."""
    no_weights = tmp_path / "no_weights"
    no_weights.mkdir()
    (no_weights / "config.json").write_text((tiny_model_dir / "config.json").read_text())
    empty_answers = '{"question": "a", "answer": ""}\n{"question": "b", "answer": " "}\n'
    local = ["model=local", f"model.path={tiny_model_dir}"]
    files = {
        "empty": write(tmp_path / "empty.jsonl", ""),
        "broken": write(tmp_path / "broken.jsonl", '{"question": "a", "answer": "b"}\n{"question": "a" "b"}\n'),
        "answers": write(tmp_path / "answers.jsonl", empty_answers),
        "csv": write(tmp_path / "laws.csv", "Clause,Law\nx,New York\n"),
    }
    mapping = ["data.prompt={Clause}", "data.completion={Lawx}"]
    return {
        "missing file": (["data.path=nowhere.jsonl"], "nowhere.jsonl"),
        "empty file": ([f"data.path={files['empty']}"], "empty"),
        "not JSON": ([f"data.path={files['broken']}"], "broken.jsonl:2"),
        "empty answers": ([f"data.path={files['answers']}"], "empty answer"),
        "unmapped column": ([f"data.path={files['csv']}", *mapping], "Lawx"),
        "no weights": (["model=local", f"model.path={no_weights}"], "weights"),
        "no folder": (["model=local", "model.path=/nowhere/at/all"], "/nowhere/at/all"),
        "needs a GPU": (["model=llama3_1_8b_instruct"], "needs a GPU"),
        "experts": (["model=mixtral_8x7b", "quantization=nf4", "model.needs_gpu=false"], "GB"),
        "metric": ([*local, "evaluation.metrics=[choice_accuracy]", "data.path=rows.txt"], "rows.txt"),
        "adapter": (["adapter.path=/nowhere/adapter"], "adapter.path"),
        "licence": (["use=commercial", "model.license=cc-by-nc-4.0", "model.commercial_use=forbidden"], "commercial"),
        "key": (["training.lerning_rate=1"], "learning_rate"),
        "group": (["model=embeded"], "embedded"),
        "bare word": (["legal"], "legal"),
    }


NAMES = [
    "missing file", "empty file", "not JSON", "empty answers", "unmapped column", "no weights", "no folder",
    "needs a GPU", "experts", "metric", "adapter", "licence", "key", "group", "bare word",
]  # fmt: skip


IN_SECONDS = ("key", "group")
"""The mistakes of the default tier: each one starts a process."""


@pytest.mark.parametrize(
    "name", [name if name in IN_SECONDS else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_mistakes_end_in_one_line_with_exit_code_2(
    name: str, mistakes: dict[str, tuple[list[str], str]], tmp_path: Path
) -> None:
    words, expected = mistakes[name]
    work = tmp_path / "work"
    work.mkdir()
    done = finetune("recipe=quickstart", *words, cwd=work)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, done.stderr
    assert lines[-1].startswith("finetune: ") and expected.lower() in lines[-1].lower(), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "IMPORTED []"
    assert not list(work.iterdir()), "a mistake must leave nothing behind"


def test_help_names_recipes_and_is_fast(tmp_path: Path) -> None:
    started = time.perf_counter()
    done = finetune("--help", cwd=tmp_path)
    seconds = time.perf_counter() - started
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("legal_qlora", "quickstart", "model=", "inspect", "resume=true"))
    assert seconds < 5  # a busy machine; about 0.2 s on an idle one


@pytest.mark.parametrize(
    ("words", "nearest"),
    [(["trian"], "train"), (["evalute", "recipe=quickstart"], "evaluate"), (["--hlp"], "--help")],
)
def test_unknown_commands_name_the_nearest(words: list[str], nearest: str, tmp_path: Path) -> None:
    done = finetune(*words, cwd=tmp_path)
    assert done.returncode == 2 and nearest in done.stderr


def test_recipes_command(tmp_path: Path) -> None:
    done = finetune("recipes", cwd=tmp_path)
    assert done.returncode == 0 and "medical_lora" in done.stdout


@pytest.mark.skipif(not hasattr(select, "poll"), reason="this system does not tell whether a pipe is read")
@pytest.mark.parametrize(
    "words",
    [
        ["recipes"],
        pytest.param(["plan", "recipe=legal_qlora", "plan.gpu=t4"], marks=pytest.mark.slow),
        pytest.param(["inspect", "recipe=quickstart", "model=embedded"], marks=pytest.mark.slow),
        pytest.param(["recipe=legal_qlora", "model=embedded", "--cfg", "job"], marks=pytest.mark.slow),
    ],
    ids=["recipes", "plan", "inspect", "--cfg"],
)
def test_a_reader_that_leaves_ends_the_command_quietly(words: list[str], tmp_path: Path) -> None:
    """As `python -m finetune plan … | head` does; 141 is what a shell shows for programs that SIGPIPE ends."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "finetune", *words]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, "Broken" in done.stderr, "Traceback" in done.stderr) == (141, False, False), done.stderr


@pytest.mark.slow
def test_the_composed_configuration_can_be_printed(tmp_path: Path) -> None:
    done = finetune("recipe=legal_qlora", "model=embedded", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0 and "recipe: legal_qlora" in done.stdout


def test_importing_the_package_is_light() -> None:
    code = f"import finetune, sys; print([n for n in {(*HEAVY, 'hydra', 'omegaconf')!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_can_be_imported() -> None:
    import finetune

    for name in finetune.__all__:
        assert getattr(finetune, name) is not None
    assert sorted(finetune.__all__) == finetune.__all__
    with pytest.raises(AttributeError):
        _ = finetune.nonsense
