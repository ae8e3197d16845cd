"""Bars S7 and S9: no secret in any file, message or tracker; a tracker gets scalars and nothing else."""

import getpass
import importlib.machinery
import json
import logging
import os
import platform
import re
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from finetune.__main__ import main
from finetune.compose import load_config
from finetune.errors import ConfigError
from finetune.log import set_up_logging
from finetune.secrets import redact, secret_values

CANARIES = {
    "HF_TOKEN": "hf_CanaryAbcdefGhijklMnopqrStuvwx",
    "HUGGING_FACE_HUB_TOKEN": "hf_CanarySecondGhijklMnopqrStu",
    "WANDB_API_KEY": "0123456789canary0123456789abcdef01234567",
    "OPENAI_API_KEY": "sk-proj-canaryAbcdefGhijklMnopqr",
    "AWS_ACCESS_KEY_ID": "AKIACANARYCANARY1234",
    "AWS_SECRET_ACCESS_KEY": "canary/Abcdefghijklmnop+qrstuvwxyz012345",
    "DB_PASSWORD": "canary-correct-horse",
    "GIT_CREDENTIALS": "canary-credentials-9",
}
ADDRESS = "https://user:canary-in-url@example.org/x"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def found_in(content: bytes) -> list[str]:
    """The canaries in some bytes, as they are and in UTF-16."""
    shapes = [
        (value, value.encode(form))
        for value in [*CANARIES.values(), "canary-in-url"]
        for form in ("utf-8", "utf-16-le")
    ]
    return [value for value, raw in shapes if raw in content]


def leaks(folder: Path) -> dict[str, list[str]]:
    """Every file of a folder that holds a canary, binaries and names included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 15
    return {str(path): found for path in files if (found := found_in(path.read_bytes() + str(path).encode()))}


@pytest.mark.bar("S7")
@pytest.mark.slow
@pytest.mark.parametrize("tracking", ["none", "wandb"])
def test_a_whole_run_leaves_no_secret_in_any_file(tracking: str, runs: Any, secrets: None) -> None:
    if tracking == "wandb":
        pytest.importorskip("wandb")
    words = ["training.max_steps=2", f"tracking={tracking}", "export.formats=[safetensors,gguf_q8_0]", "--verbose"]
    ended = runs.run(f"secrets-{tracking}", *words)
    assert ended.code == 0, ended.said
    assert not leaks(runs.path / f"secrets-{tracking}")
    assert not found_in(ended.said.encode())


@pytest.mark.bar("S7")
@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["data.tokenize:tokenize_split", "training.build:train_adapter", "evaluation.report:build_report"]
)
def test_a_failure_that_names_a_secret_does_not_show_it(place: str, runs: Any, secrets: None) -> None:
    module, _, function = place.partition(":")

    def broken() -> None:
        import importlib

        def fail(*_: Any, **__: Any) -> None:
            cause = ValueError(f"401 for {ADDRESS} with {CANARIES['HF_TOKEN']}")
            raise RuntimeError(f"denied: {' '.join(CANARIES.values())}") from cause

        setattr(importlib.import_module(f"finetune.{module}"), function, fail)

    name = f"fails-{function}"
    ended = runs.run(name, "training.max_steps=1", "export.formats=[]", "--verbose", before=broken)
    assert ended.code == 1 and "denied: [" in ended.said, ended.said
    assert not found_in(ended.said.encode())
    for path in (runs.path / name).rglob("*"):
        assert not path.is_file() or not found_in(path.read_bytes())


@pytest.mark.few(2)
@pytest.mark.bar("S7")
@pytest.mark.parametrize(
    "word",
    [
        f"data.path={ADDRESS}",
        f"output_dir=outputs/{CANARIES['HF_TOKEN']}",
        f"tracking.project={CANARIES['WANDB_API_KEY']}",
        f"model.hub_id={CANARIES['OPENAI_API_KEY']}/x",
        f"tracking.api_key={CANARIES['WANDB_API_KEY']}",
        f"seed={CANARIES['DB_PASSWORD']}",
        f"recipe={CANARIES['DB_PASSWORD']}",
        f"model={CANARIES['GIT_CREDENTIALS']}",
        CANARIES["AWS_SECRET_ACCESS_KEY"],
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_shown(
    word: str, secrets: None, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "data=legal", "model=embedded", word]) == 2
    said = "".join(capfd.readouterr())
    assert said and not found_in(said.encode())
    assert not list(tmp_path.iterdir())


@pytest.mark.few(2)
@pytest.mark.bar("S7")
@pytest.mark.parametrize(
    "text",
    [
        f"tracking: {{tracker: wandb, project: {CANARIES['WANDB_API_KEY']}}}",
        f"tracking: {{tracker: wandb, api_key: {CANARIES['WANDB_API_KEY']}}}",
        f"data: {{path: '{ADDRESS}'}}",
        "model: {hub_id: 'x/hf_someoneElsesTokenAbcdefgh'}",
        f"data: {{sources: [{{path: '{ADDRESS}'}}]}}",
        f"training: {CANARIES['DB_PASSWORD']}",
        f"seed: '{CANARIES['DB_PASSWORD']}",
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_not_shown(text: str, tmp_path: Path, secrets: None, capfd: Any) -> None:
    (tmp_path / "mine.yaml").write_text(f"defaults: [override /model: embedded]\n{text}\n")
    assert main(["inspect", f"recipe={tmp_path / 'mine.yaml'}", f"output_dir={tmp_path / 'out'}"]) == 2
    said = "".join(capfd.readouterr())
    assert said and not found_in(said.encode()) and "someoneElses" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.bar("S7")
def test_what_is_redacted_and_what_is_not(secrets: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert redact(f"a {CANARIES['DB_PASSWORD']} b {ADDRESS}") == "a [DB_PASSWORD] b https://[password]@example.org/x"
    assert redact("ghp_" + "a1" * 18) == "[key]" and redact("hub id meta-llama/Llama-3.1-8B, hf_hub, sk-learn") == (
        "hub id meta-llama/Llama-3.1-8B, hf_hub, sk-learn"
    )
    plain = {
        "TOKENIZERS_PARALLELISM": "false-false",
        "HF_TOKEN_PATH": "/root/.cache/token",
        "SECRET": "short",
        "A": "b" * 20,
    }
    assert secret_values(plain) == {}
    set_up_logging()
    try:
        raise ValueError(CANARIES["HF_TOKEN"])
    except ValueError:
        logging.getLogger("finetune.test").exception("failed with %s", ADDRESS)
    said = capfd.readouterr().err
    assert "Traceback" in said and not found_in(said.encode())
    with pytest.raises(ConfigError, match=r"model\.name: holds a key or a password"):
        load_config(None, "data=legal", "model=embedded", f"model.name={CANARIES['DB_PASSWORD']}")


@pytest.mark.bar("S7")
@pytest.mark.bar("S9")
def test_every_switch_of_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.log import quiet_libraries

    names = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    quiet_libraries()
    assert all(os.environ[name] == "1" for name in names)


def fake_wandb(log: Path) -> types.ModuleType:
    """Writes down everything that it is told."""

    class Run:
        name, id = "quiet-sea-1", "abc"

        def __getattr__(self, method: str) -> Any:
            return lambda *arguments, **named: tell(f"run.{method}", arguments, named)

    def tell(what: str, arguments: Any, named: Any) -> Run:
        with log.open("a") as file:
            file.write(json.dumps([what, arguments, named], default=lambda value: vars(value)) + "\n")
        return Run()

    class Settings:
        def __init__(self, **named: Any) -> None:
            self.__dict__.update(named)

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.Settings = Settings  # type: ignore[attr-defined]
    module.init = lambda *arguments, **named: tell("init", arguments, named)  # type: ignore[attr-defined]
    module.__getattr__ = lambda name: lambda *arguments, **named: tell(name, arguments, named)  # type: ignore[method-assign]
    return module


def grams(text: str, length: int = 8) -> set[str]:
    """Runs of so many characters without white space, in words of text."""
    plain = re.sub(r"\s+", " ", text)
    return {plain[start : start + length * 3] for start in range(len(plain) - length * 3 + 1)}


@pytest.mark.bar("S9")
@pytest.mark.slow
def test_a_tracker_is_told_scalars_alone(runs: Any, tmp_path: Path) -> None:
    log = tmp_path / "told.jsonl"

    def before() -> None:
        sys.modules["wandb"] = fake_wandb(log)

    ended = runs.train("told", "tracking=wandb", "training.logging_steps=1", before=before)
    assert ended.code == 0, ended.said
    told = [json.loads(line) for line in log.read_text().splitlines()]
    (settings,) = [named.pop("settings") for what, _, named in told if what == "init"]
    (place,) = [named.pop("dir") for what, _, named in told if what == "init"]
    assert Path(place) == runs.path / "told" / "tracking"
    assert [named for what, _, named in told if what == "init"] == [{"project": "finetune"}]
    assert settings["mode"] == "offline" and settings["console"] == "off"
    assert settings["host"] == settings["username"] == ""
    assert all(settings[name] for name in settings if name.startswith(("disable_", "x_disable_")))
    rows = [arguments[0] for what, arguments, _ in told if what == "run.log"]
    assert len(rows) >= 6 and {what for what, _, _ in told} == {"init", "run.log", "run.finish"}
    assert all(isinstance(value, int | float) for row in rows for value in row.values())
    text = " ".join(json.dumps([arguments, named]) for _, arguments, named in told)
    secret = [
        str(runs.path),
        str(runs.model),
        "/",
        "told",
        socket.gethostname(),
        "Clause",
        "q_proj",
        "adapter",
        "finetune.",
    ]
    assert not [word for word in secret if word in text]
    assert not grams(runs.rows.read_text()) & grams(text)


@pytest.mark.bar("S9")
@pytest.mark.slow
def test_the_files_that_wandb_would_send_tell_nothing_else(runs: Any) -> None:
    pytest.importorskip("wandb")

    def before() -> None:
        socket.gethostname = lambda: "canary-host-name"
        platform.node = socket.gethostname

    ended = runs.train("sent", "tracking=wandb", "training.max_steps=2", before=before)
    assert ended.code == 0, ended.said
    (path,) = (runs.path / "sent" / "tracking").rglob("*.wandb")
    content = path.read_bytes()
    text = content.decode("latin-1")
    secret = {str(runs.path), str(runs.model), "canary-host-name", "Clause", "q_proj", str(Path.home()), "lora"}
    secret |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 5}
    assert not [word for word in secret if word in text]
    assert not grams(runs.rows.read_text()) & grams(text)
    files = {found.name for found in (runs.path / "sent" / "tracking").rglob("files/*")}
    assert not files & {"requirements.txt", "wandb-metadata.json", "diff.patch", "output.log", "config.yaml"}
