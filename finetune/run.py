"""The run folder: its names, whose it is, and files written whole or not at all; called by the jobs."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.errors import RunExists

FINGERPRINTED = ("seed", "model", "quantization", "adapter", "data", "training")
"""What decides the adapter; evaluation, export and tracking may change in a finished run."""
_WITHOUT_EFFECT = {
    "data": ("cache", "cache_dir", "contamination_paths", "contamination_words", "max_contaminated_share")
}
"""Options of these sections that leave the adapter as it is."""

_OWN_FILES = ("config.yaml", "versions.json", "metrics.jsonl", "report.html", "README.md")
_OWN_FOLDERS = ("checkpoints", "adapter", "evaluation", "export", "tracking")
_PACKAGES = (
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


def plain(value: Any) -> Any:
    """Return configuration values as JSON and YAML know them: enums by name, dataclasses as mappings."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def plain_config(config: RunConfig) -> dict[str, Any]:
    """Return the whole configuration as nested plain values."""
    return plain(asdict(config))


def fingerprint(config: RunConfig) -> str:
    """Return the SHA-256 of all that decides the adapter, in hexadecimal."""
    covered = {name: _deciding(name, plain_config(config)[name]) for name in FINGERPRINTED}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def _deciding(section: str, value: Any) -> Any:
    """Leave out what has no effect on the adapter."""
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if key not in _WITHOUT_EFFECT.get(section, ())}


def open_folder(config: RunConfig) -> tuple[RunFolder, RunState]:
    """Decide whose folder `config.output_dir` is; nothing is written, but an overwritten run is deleted.

    Raises:
        RunExists: it belongs to another configuration, to no run at all, or to this one without `resume=true`.
    """
    folder = RunFolder(Path(config.output_dir).absolute())
    if folder.path.exists() and not folder.path.is_dir():
        raise RunExists(f"output_dir: {config.output_dir} is a file; choose a folder")
    found = sorted(item.name for item in folder.path.iterdir()) if folder.path.is_dir() else []
    if not set(found) - {"data"}:
        return folder, RunState.new
    if "config.yaml" not in found:
        raise RunExists(
            f"output_dir: {config.output_dir} is not empty and holds no run (found {', '.join(found[:5])}); "
            "choose another folder with output_dir=…"
        )
    if config.overwrite:
        delete_run(folder)
        return folder, RunState.new
    changed = list(changes(folder, config))
    if changed:
        raise RunExists(
            f"output_dir: {config.output_dir} holds a run of another configuration ({'; '.join(changed[:6])}); "
            "choose another folder with output_dir=…, or delete that run with overwrite=true"
        )
    state = RunState.trained if folder.is_trained else RunState.unfinished
    if not config.resume:
        done = "is complete" if state is RunState.trained else "was not finished"
        raise RunExists(
            f"output_dir: the run in {config.output_dir} {done}; add resume=true to do what is missing, "
            "or overwrite=true to start again"
        )
    return folder, state


def is_run(config: RunConfig) -> bool:
    """Whether the run folder holds a run."""
    return RunFolder(Path(config.output_dir).absolute()).config.is_file()


def existing_folder(config: RunConfig) -> RunFolder:
    """Return the folder of a trained run, for the commands that need one.

    Raises:
        RunExists: there is none, or it is another configuration's.
    """
    folder = RunFolder(Path(config.output_dir).absolute())
    if not folder.config.is_file():
        raise RunExists(f"output_dir: there is no run in {config.output_dir}; train first, or name its output_dir=…")
    changed = list(changes(folder, config))
    if changed:
        raise RunExists(
            f"output_dir: the run in {config.output_dir} has another configuration ({'; '.join(changed[:6])}); "
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


def changes(folder: RunFolder, config: RunConfig) -> Iterator[str]:
    """Name each field that differs between the run in the folder and `config`, old and new."""
    old, new = stored_config(folder), plain_config(config)
    for section in FINGERPRINTED:
        before = dict(_flat(section, _deciding(section, old.get(section))))
        after = dict(_flat(section, _deciding(section, new[section])))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield f"{key}: {before.get(key)} there, {after.get(key)} here"


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}", inner)
    else:
        yield prefix, value


def delete_run(folder: RunFolder) -> None:
    """Delete the files of the run-folder contract, and nothing else that may lie beside them."""
    for name in _OWN_FOLDERS:
        shutil.rmtree(folder.path / name, ignore_errors=True)
    for name in _OWN_FILES:
        (folder.path / name).unlink(missing_ok=True)
    for path in (folder.ledger, folder.rejected, folder.preview):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.ledger.parent.rmdir()


def make_private(folder: RunFolder) -> None:
    """Create the folder, readable by its owner alone."""
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.path.chmod(0o700)


def start_folder(folder: RunFolder, config: RunConfig) -> None:
    """Create the folder, readable by its owner alone, and write the configuration into it."""
    import yaml

    make_private(folder)
    content = {"fingerprint": fingerprint(config), **plain_config(config)}
    write_text(folder.config, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def write_versions(folder: RunFolder, *, device: str, dtype: str, reason: str, seed: int) -> None:
    """Write what a later reader needs to repeat the run: packages, machine, device, seed."""
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
    write_json(folder.versions, content)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside, flushed to disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
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
