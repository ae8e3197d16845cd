"""Whose folder is it? Every case of the run-folder contract, without torch."""

import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from finetune import holding, load_config
from finetune.__main__ import main
from finetune.config import RunConfig
from finetune.errors import ConfigError, RunExists, UnfinishedRun
from finetune.holding import let_go_of
from finetune.run import (
    RunFolder,
    RunState,
    delete_run,
    existing_folder,
    fingerprint,
    open_folder,
    refuse_changed_contents,
    start_folder,
    stored_config,
    write_json,
    write_text,
    write_versions,
)


@functools.cache
def composed(*overrides: str) -> RunConfig:
    return load_config("quickstart", *overrides)


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return dataclasses.replace(composed(*overrides), output_dir=str(folder))


def started(folder: Path, *, trained: bool = False) -> RunFolder:
    run = RunFolder(folder)
    start_folder(run, config_of(folder))
    if trained:
        write_text(run.adapter / "adapter_model.safetensors", "weights")
    return run


def test_a_new_folder_is_private_and_names_its_configuration(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert f"fingerprint: {fingerprint(config_of(run.path))}" in run.config.read_text()


@pytest.mark.parametrize("leftover", [[], ["data"]])
def test_an_empty_folder_or_one_that_inspect_left_is_free(leftover: list[str], tmp_path: Path) -> None:
    for name in leftover:
        (tmp_path / name).mkdir()
    assert open_folder(config_of(tmp_path))[1] is RunState.new


@pytest.mark.slow
def test_a_folder_with_other_files_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for extra in ((), ("resume=true",), ("overwrite=true",)):
        with pytest.raises(RunExists, match=r"thesis\.tex"):
            open_folder(config_of(tmp_path, *extra))
    assert (tmp_path / "thesis.tex").is_file()


def test_an_unfinished_run_asks_for_resume(tmp_path: Path) -> None:
    started(tmp_path)
    with pytest.raises(RunExists, match="resume=true"):
        open_folder(config_of(tmp_path))
    assert open_folder(config_of(tmp_path, "resume=true"))[1] is RunState.unfinished


def test_a_complete_run_is_known_as_such(tmp_path: Path) -> None:
    started(tmp_path, trained=True)
    with pytest.raises(RunExists, match="is complete"):
        open_folder(config_of(tmp_path))
    assert open_folder(config_of(tmp_path, "resume=true"))[1] is RunState.trained


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "change",
    [
        "seed=7",
        "training.learning_rate=0.1",
        "adapter.rank=4",
        "quantization=nf4",
        "data.max_rows=9",
        "model.dtype=float32",
    ],
)
def test_another_configuration_is_refused_by_name_even_with_resume(change: str, tmp_path: Path) -> None:
    started(tmp_path)
    for extra in ((), ("resume=true",)):
        with pytest.raises(RunExists, match="another configuration") as caught:
            open_folder(config_of(tmp_path, change, *extra))
        assert change.partition("=")[0].partition(".")[0] in str(caught.value)


@pytest.mark.few(1)
@pytest.mark.parametrize("change", ["evaluation.max_items=3", "export.formats=[]", "tracking=wandb", "offline=true"])
def test_evaluation_export_and_tracking_may_change(change: str, tmp_path: Path) -> None:
    started(tmp_path, trained=True)
    assert open_folder(config_of(tmp_path, change, "resume=true"))[1] is RunState.trained


def test_overwrite_deletes_the_runs_own_files_only(tmp_path: Path) -> None:
    run = started(tmp_path, trained=True)
    write_json(run.ledger, {})
    write_text(tmp_path / "notes.txt", "mine")
    write_text(tmp_path / "data" / "mine.csv", "mine")
    config = config_of(tmp_path, "overwrite=true", "seed=9")
    assert open_folder(config)[1] is RunState.new
    assert run.is_trained, "nothing is deleted before the new run starts"
    start_folder(run, config)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "config.yaml",
        "data",
        "data/mine.csv",
        "notes.txt",
    ]


@pytest.mark.bar("R2")
@pytest.mark.parametrize("number", range(1, 13))
def test_a_deletion_that_was_cut_short_is_finished_by_the_same_command(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(tmp_path, trained=True)
    write_json(run.ledger, {})
    write_text(run.checkpoints / "step-00000004" / "manifest.json", "{}")
    write_text(tmp_path / "notes.txt", "mine")
    config, calls = config_of(tmp_path, "overwrite=true", "seed=9"), []
    for name in ("unlink", "replace", "rmdir"):
        monkeypatch.setattr(Path, name, _cut_short(getattr(Path, name), calls, number))
    monkeypatch.setattr("shutil.rmtree", _cut_short(shutil.rmtree, calls, number))
    with contextlib.suppress(KeyboardInterrupt):
        start_folder(run, config)
    monkeypatch.undo()
    for extra in ("overwrite=true", "resume=true"):
        if extra == "overwrite=true" or len(calls) >= number:
            again = config_of(tmp_path, extra, "seed=9")
            if extra == "resume=true" and run.config.exists() and "seed: 42" in run.config.read_text():
                continue  # nothing was deleted yet
            assert open_folder(again)[1] is not RunState.trained
            start_folder(run, again)
    assert "seed: 9" in run.config.read_text() and not run.is_trained
    assert not list(run.path.glob(".*")) and (tmp_path / "notes.txt").is_file()


def _cut_short(original: Any, calls: list[int], number: int) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    return call


@pytest.mark.bar("R2")
@pytest.mark.parametrize("leftover", [".config.yaml.4711", ".adapter.partial", ".metrics.jsonl.12", "data"])
def test_what_a_killed_start_leaves_is_known_and_cleared(leftover: str, tmp_path: Path) -> None:
    if leftover in ("data", ".adapter.partial"):
        (tmp_path / leftover).mkdir()
    else:
        (tmp_path / leftover).write_text("half")
    if leftover == "data":
        (tmp_path / "data" / ".ledger.json.99").write_text("half")
        (tmp_path / "data" / ".rejected.jsonl.new").write_text("half")
    config = config_of(tmp_path, "resume=true")
    folder, state = open_folder(config)
    assert state is RunState.new
    start_folder(folder, config)
    assert not list(tmp_path.rglob(".*"))
    assert open_folder(config)[1] is RunState.unfinished


def test_hidden_files_that_are_not_ours_are_kept(tmp_path: Path) -> None:
    started(tmp_path)
    for name in (".thesis.tex.12", ".mine.partial", ".git"):
        (tmp_path / name).write_text("mine")
    start_folder(RunFolder(tmp_path), config_of(tmp_path, "resume=true"))
    assert {path.name for path in tmp_path.glob(".*")} == {".thesis.tex.12", ".mine.partial", ".git"}


@pytest.mark.slow
@pytest.mark.bar("R9")
def test_a_change_of_contents_is_refused_by_name_unless_it_is_meant(tmp_path: Path) -> None:
    run, old = RunFolder(tmp_path), {"data.train": f"96 rows {'ab' * 20}", "model.weights": f"9 bytes {'cd' * 20}"}
    start_folder(run, config_of(tmp_path), old)
    new = old | {"data.train": f"97 rows {'ef' * 20}"}
    with pytest.raises(
        RunExists, match=r"data\.train: 96 rows abababababab… there, 97 rows efefefefefef… here"
    ) as caught:
        start_folder(run, config_of(tmp_path, "resume=true"), new)
    assert "resume_changes=[data.train]" in str(caught.value) and "model.weights" not in str(caught.value)
    for names in ("data", "[data.train,seed]"):
        refuse_changed_contents(run, config_of(tmp_path, "resume=true", f"resume_changes={names}"), new)
    start_folder(run, config_of(tmp_path, "resume=true", "resume_changes=[data]"), new)
    refuse_changed_contents(run, config_of(tmp_path, "resume=true"), new)
    stored = stored_config(run)
    assert stored["contents"] == new and stored["changed"] == [
        f"data.train: 96 rows {'ab' * 6}… there, 97 rows {'ef' * 6}… here"
    ]


@pytest.mark.bar("R9")
def test_a_named_option_may_change_in_an_unfinished_run_only(tmp_path: Path) -> None:
    started(tmp_path)
    words = ("resume=true", "training.learning_rate=0.1", "seed=5")
    with pytest.raises(RunExists, match=r"seed: 42 there, 5 here\)"):
        open_folder(config_of(tmp_path, *words, "resume_changes=[training]"))
    allowed = config_of(tmp_path, *words, "resume_changes=[training.learning_rate,seed]")
    assert open_folder(allowed)[1] is RunState.unfinished
    write_text(RunFolder(tmp_path).adapter / "adapter_model.safetensors", "weights")
    with pytest.raises(RunExists, match="finished run of another configuration"):
        open_folder(allowed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resume_changes=[data]",), "needs resume=true"),
        (("resume=true", "resume_changes=[training.learning_rat]"), "Did you mean 'training.learning_rate'"),
        (("resume=true", "resume_changes=[evaluation]"), "'evaluation' decides nothing"),
        (("resume=true", "resume_changes=[model.weight]"), "Did you mean 'model.weights'"),
    ],
)
def test_names_of_changes_are_checked(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, *words)


@pytest.mark.parametrize("change", ["training.keep_checkpoints=1", "training.on_save_error=warn", "data.cache=false"])
def test_options_without_effect_on_the_adapter_may_change(change: str, tmp_path: Path) -> None:
    started(tmp_path)
    assert open_folder(config_of(tmp_path, change, "resume=true"))[1] is RunState.unfinished


@pytest.mark.slow
def test_an_unfinished_run_names_its_newest_checkpoint_and_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(tmp_path)
    (run.checkpoints / "step-00000012").mkdir(parents=True)
    with pytest.raises(UnfinishedRun, match="step-00000012"):
        open_folder(config_of(tmp_path))
    assert main(["train", "recipe=quickstart", f"output_dir={tmp_path}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith(f"Go on with: python -m finetune train recipe=quickstart output_dir={tmp_path} resume=true")


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        started(tmp_path)
        (tmp_path / "held").touch()
        signal.pause()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    config = config_of(tmp_path, "resume=true")
    with pytest.raises(RunExists, match="another process is training in"):
        start_folder(RunFolder(tmp_path), config)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with let_go_of(tmp_path):
        start_folder(RunFolder(tmp_path), config)
    assert tmp_path not in holding._held


def test_other_versions_are_told_and_nothing_else(tmp_path: Path) -> None:
    run = started(tmp_path)
    machine = {"device": "cpu", "dtype": "float32", "reason": "", "seed": 1}
    assert write_versions(run, **machine) == []
    assert write_versions(run, **machine) == []
    told = write_versions(run, **(machine | {"device": "cuda:0"}))
    assert [str(change) for change in told] == ["device: cpu there, cuda:0 here"]


def test_deleting_twice_is_fine(tmp_path: Path) -> None:
    run = started(tmp_path)
    delete_run(run)
    delete_run(run)
    assert not run.config.exists()


def test_commands_that_need_a_run_say_so(tmp_path: Path) -> None:
    with pytest.raises(RunExists, match="no run"):
        existing_folder(config_of(tmp_path))
    started(tmp_path)
    with pytest.raises(RunExists, match="not finished"):
        existing_folder(config_of(tmp_path))
    with pytest.raises(RunExists, match="seed"):
        existing_folder(config_of(tmp_path, "seed=5"))


def test_a_damaged_configuration_is_said_in_one_line(tmp_path: Path) -> None:
    started(tmp_path)
    (tmp_path / "config.yaml").write_text(":\n  - [")
    with pytest.raises(RunExists, match="damaged"):
        open_folder(config_of(tmp_path))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "new \ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
