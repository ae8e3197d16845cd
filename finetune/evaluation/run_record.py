"""What a run folder says, read leniently: a missing or damaged file empties its part; the report is made of this."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import DataError
from finetune.evaluation.examples import Example, read_examples
from finetune.evaluation.summary import read_items, summary_from_json
from finetune.records import EvaluationResult, ItemScore
from finetune.run import RunFolder, read_json


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """The contents of the contract's files; empty where a file is missing or damaged."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    result: EvaluationResult | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    """summary.json as it stands, for what `result` does not hold."""
    items: list[ItemScore] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    verification: dict[str, Any] = field(default_factory=dict)
    preview: str = ""
    """HTML of the first training examples, their loss masks visible; written by this program."""
    damaged: list[str] = field(default_factory=list)
    """Files that are there and cannot be read."""


def read_run(run_dir: Path) -> RunRecord:
    """Read a run folder."""
    folder = RunFolder(run_dir)
    record = RunRecord(name=run_dir.absolute().name)

    def load(path: Path, read: Callable[[Path], Any], kind: type, default: Any) -> Any:
        if not path.is_file():
            return default
        try:
            found = read(path)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, yaml.YAMLError, DataError):
            found = None
        if not isinstance(found, kind):
            record.damaged.append(str(path.relative_to(run_dir)))
            return default
        return found

    record.config = load(folder.config, _read_yaml, dict, {})
    record.versions = load(folder.versions, read_json, dict, {})
    record.ledger = load(folder.ledger, read_json, dict, {})
    record.preview = load(folder.preview, lambda path: path.read_text(encoding="utf-8"), str, "")
    record.steps = load(folder.metrics, _read_lines, list, [])
    record.result = load(folder.summary, lambda path: summary_from_json(read_json(path)), EvaluationResult, None)
    record.summary = load(folder.summary, read_json, dict, {}) if record.result is not None else {}
    record.items = load(folder.items, read_items, list, [])
    record.examples = load(folder.examples, read_examples, list, [])
    record.verification = load(folder.verification, read_json, dict, {})
    return record


def _read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if number < len(lines):  # a stopped run may leave half a last line
                raise
            break
        if isinstance(row, dict):
            rows.append(row)
    return rows


def hide_texts(record: RunRecord) -> None:
    """Empty all that holds texts of rows, or names of rows that may tell whose they are; counts and figures stay."""
    record.preview, record.examples = "", []
    for part in ("examples", "sources"):
        record.ledger.pop(part, None)
    found = record.ledger.get("contamination")
    for entry in found.values() if isinstance(found, dict) else ():
        if isinstance(entry, dict):
            entry |= {"examples": [], "item_ids": []}
    data = record.config.get("data")
    for option in ("prompt", "completion", "system"):
        if isinstance(data, dict) and data.get(option) is not None:
            data[option] = "(not shown: report.examples=false)"
