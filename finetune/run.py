"""The run folder: its names, whose it is, and files written whole or not at all; called by the jobs."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.errors import RunExists, UnfinishedRun
from finetune.fingerprint import (
    SHAPE,
    Change,
    Contents,
    content_changes,
    fingerprint,
    listed,
    option_changes,
    plain_config,
)
from finetune.holding import hold
from finetune.log import is_main_process
from finetune.placing import recover, recover_all

_OWN_FILES = ("config.yaml", "versions.json", "metrics.jsonl", "report.html", "README.md")
_OWN_FOLDERS = ("checkpoints", "adapter", "evaluation", "export", "tracking")
_OWN_DATA_FILES = ("ledger.json", "rejected.jsonl", "preview.html", "golden.json")
_DELETION = ".config.yaml.deleted"
"""Stands for config.yaml while a run is deleted, so that a kill meanwhile leaves a folder that is known as ours."""
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?:\d+|partial|previous|new)")
"""Name of a file or folder that was being written when the process was killed."""
_PACKAGES = (
    "finetune",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "safetensors",
)


class RunState(Enum):
    """What a run folder holds for a given configuration."""

    new = "new"
    """Nothing, or what `inspect` left."""
    unfinished = "unfinished"
    """A training of this configuration that did not end."""
    trained = "trained"
    """The adapter of this configuration."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths inside one run folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def versions(self) -> Path:
        return self.path / "versions.json"

    @property
    def ledger(self) -> Path:
        return self.path / "data" / "ledger.json"

    @property
    def rejected(self) -> Path:
        return self.path / "data" / "rejected.jsonl"

    @property
    def preview(self) -> Path:
        return self.path / "data" / "preview.html"

    @property
    def golden(self) -> Path:
        return self.path / "data" / "golden.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def items(self) -> Path:
        return self.path / "evaluation" / "items.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "evaluation" / "summary.json"

    @property
    def examples(self) -> Path:
        return self.path / "evaluation" / "examples.jsonl"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def verification(self) -> Path:
        return self.export / "verification.json"

    @property
    def manifest(self) -> Path:
        return self.export / "manifest.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    @property
    def is_trained(self) -> bool:
        """Whether the training has ended: the adapter folder is put in place in one step."""
        return (self.adapter / "adapter_model.safetensors").is_file()


def open_folder(config: RunConfig) -> tuple[RunFolder, RunState]:
    """Decide whose folder `config.output_dir` is; nothing is written or deleted.

    Raises:
        RunExists: it belongs to another configuration or to no run at all.
        UnfinishedRun: it belongs to this one, and `resume=true` is not given.
    """
    folder = RunFolder(Path(config.output_dir).absolute())
    if folder.path.exists() and not folder.path.is_dir():
        raise RunExists(f"output_dir: {config.output_dir} is a file; choose a folder")
    found = sorted(item.name for item in folder.path.iterdir()) if folder.path.is_dir() else []
    others = [name for name in found if name not in ("data", _DELETION) and not _is_leftover(name)]
    if not others or (_DELETION in found and "config.yaml" not in found):
        return folder, RunState.new
    if "config.yaml" not in found:
        raise RunExists(
            f"output_dir: {config.output_dir} is not empty and holds no run (found {', '.join(others[:5])}); "
            "choose another folder with output_dir=…"
        )
    if config.overwrite:
        return folder, RunState.new
    state = RunState.trained if folder.is_trained else RunState.unfinished
    refuse_changes(folder, config, list(option_changes(stored_config(folder), config)))
    if not config.resume:
        done = "is complete" if state is RunState.trained else f"was not finished ({_progress(folder)})"
        raise UnfinishedRun(
            f"output_dir: the run in {config.output_dir} {done}; add resume=true to do what is missing, "
            "or overwrite=true to start again"
        )
    return folder, state


def _progress(folder: RunFolder) -> str:
    newest = max((path.name for path in folder.checkpoints.glob("step-*")), default="")
    return f"its newest checkpoint is {newest}" if newest else "it has no checkpoint"


def _is_leftover(name: str) -> bool:
    """Whether this name of the run folder is one of ours that a killed process left."""
    found = _LEFTOVER.fullmatch(name)
    return found is not None and found["name"] in (*_OWN_FILES, *_OWN_FOLDERS)


def refuse_changes(folder: RunFolder, config: RunConfig, changes: Sequence[Change]) -> None:
    """Refuse to go on where something differs that decides the adapter, unless the change is named as wanted.

    Raises:
        RunExists: naming each such field, old and new.
    """
    fixed = [change for change in changes if change.field in SHAPE]
    refused = fixed or [change for change in changes if not change.is_named(config.resume_changes)]
    if refused and not folder.is_trained:
        names = ",".join(change.field for change in refused)
        on = f", or go on with the changed values by resume=true resume_changes=[{names}]"
        why = "; the shape of an adapter cannot change while it is trained" if fixed else ""
        raise RunExists(
            f"output_dir: {config.output_dir} holds a run of another configuration ({listed(refused)}{why}); choose "
            f"another folder with output_dir=…, delete that run with overwrite=true{'' if fixed else on}"
        )
    if changes and folder.is_trained:
        raise RunExists(
            f"output_dir: {config.output_dir} holds a finished run of another configuration ({listed(changes)}); "
            "choose another folder with output_dir=…, or delete that run with overwrite=true"
        )


def is_run(config: RunConfig) -> bool:
    """Whether the run folder holds a run."""
    return RunFolder(Path(config.output_dir).absolute()).config.is_file()


def refuse_changed_contents(folder: RunFolder, config: RunConfig, contents: Contents) -> None:
    """Refuse rows, base model, tokenizer or template other than those that the run in the folder was begun with.

    Raises:
        RunExists: naming each that differs, unless the run is unfinished and the change is named as wanted.
    """
    refuse_changes(folder, config, list(content_changes(stored_config(folder), contents)))


def existing_folder(config: RunConfig) -> RunFolder:
    """Return the folder of a trained run, for the commands that need one.

    Raises:
        RunExists: there is none, or it is another configuration's.
    """
    folder = RunFolder(Path(config.output_dir).absolute())
    if not folder.config.is_file():
        raise RunExists(f"output_dir: there is no run in {config.output_dir}; train first, or name its output_dir=…")
    changed = list(option_changes(stored_config(folder), config))
    if changed:
        raise RunExists(
            f"output_dir: the run in {config.output_dir} has another configuration ({listed(changed)}); "
            "give the same recipe and overrides as for training"
        )
    if not folder.is_trained:
        raise RunExists(f"output_dir: the run in {config.output_dir} was not finished; train it with resume=true")
    return folder


def stored_config(folder: RunFolder) -> dict[str, Any]:
    """Read the configuration that a run folder was made with.

    Raises:
        RunExists: config.yaml is damaged.
    """
    import yaml

    try:
        stored = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        stored = None
    if not isinstance(stored, dict):
        raise RunExists(f"{folder.config} is damaged; choose another output_dir=…, or delete the folder")
    return stored


def delete_run(folder: RunFolder) -> None:
    """Delete the files of the run-folder contract, and nothing else that may lie beside them.

    The folder stays known as ours until `start_folder` has written another configuration into it.
    """
    with contextlib.suppress(FileNotFoundError):
        folder.config.replace(folder.path / _DELETION)
    for name in _OWN_FOLDERS:
        shutil.rmtree(folder.path / name, ignore_errors=True)
    for name in _OWN_FILES:
        (folder.path / name).unlink(missing_ok=True)
    for name in _OWN_DATA_FILES:
        (folder.ledger.parent / name).unlink(missing_ok=True)
    remove_leftovers(folder)
    with contextlib.suppress(OSError):
        folder.ledger.parent.rmdir()


def remove_leftovers(folder: RunFolder) -> None:
    """Delete what killed processes left half-written, and put back what they had moved away."""
    for name in (*_OWN_FOLDERS, *_OWN_FILES):
        recover(folder.path / name)
    for path in (folder.checkpoints, folder.export, folder.export / "gguf"):
        recover_all(path)
    names = {folder.path: _OWN_FILES, folder.ledger.parent: _OWN_DATA_FILES}
    for path in (*names, folder.items.parent, folder.export):
        for leftover in path.glob(".*"):
            found = _LEFTOVER.fullmatch(leftover.name)
            if found is not None and leftover.is_file() and found["name"] in names.get(path, (found["name"],)):
                leftover.unlink(missing_ok=True)


def make_private(folder: RunFolder) -> None:
    """Create the folder, readable by its owner alone."""
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.path.chmod(0o700)


def start_folder(folder: RunFolder, config: RunConfig, contents: Contents | None = None) -> None:
    """Create the folder, readable by its owner alone, and write the configuration into it.

    What another run left is deleted (`overwrite=true`), what a killed process left is cleared away.

    Raises:
        RunExists: another process is at work in it, or the run in it was begun with other contents, and the change is
            not named as wanted.
    """
    import yaml

    make_private(folder)
    if not hold(folder.path):
        raise RunExists(
            f"output_dir: another process is training in {config.output_dir}; wait for it, end it, or choose another "
            "output_dir=…"
        )
    stored = stored_config(folder) if folder.config.is_file() and not config.overwrite else {}
    changes = [*option_changes(stored, config), *content_changes(stored, contents or {})] if stored else []
    refuse_changes(folder, config, changes)
    if config.overwrite or ((folder.path / _DELETION).exists() and not folder.config.exists()):
        delete_run(folder)
    remove_leftovers(folder)
    content = {"fingerprint": fingerprint(config, contents), "contents": dict(contents or {}), **plain_config(config)}
    history = [*stored.get("changed", []), *map(str, changes)]
    write_text(folder.config, yaml.safe_dump(content | {"changed": history}, sort_keys=False, allow_unicode=True))
    (folder.path / _DELETION).unlink(missing_ok=True)


def write_versions(folder: RunFolder, *, device: str, dtype: str, reason: str, seed: int) -> list[Change]:
    """Write what a later reader needs to repeat the run: packages, machine, device, seed.

    Returns what differs from the run that is resumed: it is no reason to refuse it.
    """
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)}
    content = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "device": device,
        "dtype": dtype,
        "dtype_reason": reason,
        "num_processes": int(os.environ.get("WORLD_SIZE", "1")),
        "seed": seed,
    }
    stored = read_json(folder.versions) if folder.versions.is_file() else {}
    before = _flat_versions(stored) if stored else {}
    write_json(folder.versions, content | {name: stored[name] for name in ("memory",) if name in stored})
    after = _flat_versions(content)
    return [Change(name, before[name], after[name]) for name in after if name in before and before[name] != after[name]]


def keep_in_versions(folder: RunFolder, name: str, values: dict[str, Any]) -> None:
    """Add values to a section of versions.json, on the main process."""
    if is_main_process():
        content = read_json(folder.versions)
        write_json(folder.versions, content | {name: content.get(name, {}) | values})


def kept_in_versions(folder: RunFolder, name: str) -> dict[str, Any]:
    """Return a section of versions.json as an earlier call has left it, or nothing."""
    return read_json(folder.versions).get(name, {}) if folder.versions.is_file() else {}


def _flat_versions(content: dict[str, Any]) -> dict[str, Any]:
    return {name: content.get(name) for name in ("python", "device", "dtype")} | content.get("packages", {})


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside, flushed to disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.partial")  # the next write takes what a killed process left
    try:
        with staged.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all, indented for people."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of the run folder."""
    return json.loads(path.read_text(encoding="utf-8"))
