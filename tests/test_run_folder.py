"""Whose folder is it? Every case of the run-folder contract, without torch."""

from pathlib import Path

import pytest

from finetune import load_config
from finetune.config import RunConfig
from finetune.errors import RunExists
from finetune.run import (
    RunFolder,
    RunState,
    delete_run,
    existing_folder,
    fingerprint,
    open_folder,
    start_folder,
    write_json,
    write_text,
)


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return load_config("quickstart", f"output_dir={folder}", *overrides)


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
    assert open_folder(config_of(tmp_path, "overwrite=true", "seed=9"))[1] is RunState.new
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "data",
        "data/mine.csv",
        "notes.txt",
    ]


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
