"""How much a planned run has to do: tokens, steps and disk, by the ledger or, before there is one, by file sizes."""

import gzip
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import DataConfig, ExportFormat, RunConfig, ShapeConfig
from finetune.model.cards import Card
from finetune.model.choosing import setting_of
from finetune.model.planning import Setting
from finetune.model.sizes import num_adapter_parameters, sizes_of
from finetune.run import RunFolder, read_json

SMALL_VOCABULARY = 16_000
_SAMPLED_ROWS = 200
_MEASUREMENTS = 10
_SPREAD = 1.5
"""The fullest micro-batch has at most so many times the mean share of supervised tokens."""
_ROWS_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_LABELS = ("id", "group", "task", "source", "language")
_ROLES = {"gpt": "assistant", "model": "assistant"}
_ANSWERS = ("answer", "answers", "assistant", "completion", "output", "response", "text")
_BITS = {
    ExportFormat.gguf_f32: 32.0,
    ExportFormat.gguf_f16: 16.0,
    ExportFormat.gguf_bf16: 16.0,
    ExportFormat.gguf_q8_0: 8.5,
    ExportFormat.gguf_q6_k: 6.56,
    ExportFormat.gguf_q5_k_m: 5.7,
    ExportFormat.gguf_q5_k_s: 5.55,
    ExportFormat.gguf_q4_k_m: 4.9,
    ExportFormat.gguf_q4_k_s: 4.65,
    ExportFormat.gguf_q4_0: 4.6,
    ExportFormat.gguf_iq4_xs: 4.4,
    ExportFormat.gguf_q3_k_m: 4.0,
    ExportFormat.gguf_q2_k: 3.2,
}
"""Bits of a weight in llama.cpp's files of whole models, norms and the mix of types counted (Llama 3.1 8B)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of the training rows."""

    total: int
    supervised_share: float | None
    """None where it is not known."""
    source: str
    """Where the count comes from, in words."""


@dataclass(frozen=True, slots=True)
class Course:
    """Steps and tokens of a whole training."""

    num_steps: int
    num_tokens: int
    num_validation_tokens: int
    """Read without a backward pass, over all measurements."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a run writes, by what they are, and what is free."""

    parts: dict[str, float]
    free: int

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def ledger_of(config: RunConfig) -> dict[str, Any]:
    """Return what `inspect` or an earlier run counted in the run folder; {} where neither was there."""
    ledger = RunFolder(Path(config.output_dir).absolute()).ledger
    return read_json(ledger) if ledger.is_file() else {}


def count_tokens(config: RunConfig, shape: ShapeConfig) -> Tokens | None:
    """Return the training tokens, by the run folder's ledger or the files' size; None where neither is there."""
    counts = ledger_of(config).get("tokens", {})
    if counts.get("total"):
        share = counts.get("supervised", 0) / counts["total"]
        return Tokens(counts["total"], share, "counted by inspect or an earlier run")
    paths = [config.data.path, *(source.path for source in config.data.sources)]
    files = [Path(path) for path in paths if path]
    if not files or not all(path.is_file() for path in files):
        return None
    per_token = 3 if shape.vocab_size < SMALL_VOCABULARY else 4
    samples = [_sample(path, config.data) for path in files]
    total = (
        sum(path.stat().st_size * sample.text_share for path, sample in zip(files, samples, strict=True)) / per_token
    )
    shares = [sample.answer_share for sample in samples]
    share = max((share for share in shares if share is not None), default=None) if None not in shares else None
    held_out = 0.0 if config.data.validation_path else config.data.validation_share
    held_out += 0.0 if config.data.test_path else config.data.test_share
    source = "estimated from the first rows and the size of the files; `inspect` counts them"
    return Tokens(round(total * (1 - held_out)), share, source)


@dataclass(frozen=True, slots=True)
class _Sample:
    text_share: float
    """Characters that are learned from or shown, over the file's bytes."""
    answer_share: float | None
    """Characters of answers over those, in the row where it is largest on a mean of ten; None where it is not known."""


def _sample(path: Path, data: DataConfig) -> _Sample:
    """Look at the first rows of a file of JSON lines; of other files nothing is known."""
    shown = answered = size = 0
    try:
        if not path.name.endswith(_ROWS_SUFFIXES):
            return _Sample(1.0, None)
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in itertools.islice(file, _SAMPLED_ROWS):
                texts = dict(_texts(json.loads(line), data))
                shown += sum(map(len, texts.values()))
                answered += sum(len(text) for key, text in texts.items() if _is_answer(key, data))
                size += len(line)
    except (OSError, ValueError):
        return _Sample(1.0, None)
    if not size or not shown:
        return _Sample(1.0, None)
    return _Sample(min(1.0, shown / size), answered / shown if answered else None)


def _texts(row: Any, data: DataConfig) -> Iterator[tuple[str, str]]:
    """Yield the texts of a row by column; turns of a chat by their role and number."""
    if not isinstance(row, dict):
        return
    wanted = {name for text in (data.prompt, data.completion) if text for name in re.findall(r"{([^{}]+)}", text)}
    answers = {key for key in row if _is_answer(key, data)}
    for key, value in row.items():
        if isinstance(value, str) and key not in _LABELS and (not wanted or key in wanted | answers):
            yield key, value
        for number, turn in enumerate(value if isinstance(value, list) else ()):
            if isinstance(turn, dict):
                role, text = turn.get("role", turn.get("from", "")), turn.get("content", turn.get("value", ""))
                yield f"{_ROLES.get(role, role)} {number}", text if isinstance(text, str) else ""


def _is_answer(key: str, data: DataConfig) -> bool:
    if data.completion and "{" in data.completion:
        return f"{{{key}}}" in data.completion
    return key.split(" ")[0] in _ANSWERS


def setting_with(
    config: RunConfig, shape: ShapeConfig, card: Card, *, num_devices: int, tokens: Tokens | None
) -> Setting:
    """Return how a run with these rows trains on a device: what `plan` prints and what a training does."""
    share = None if tokens is None else tokens.supervised_share
    share = 1.0 if share is None else min(1.0, _SPREAD * share)
    return setting_of(config, shape, card, num_devices=num_devices, supervised_share=share)


def course_of(config: RunConfig, tokens: Tokens | None) -> Course | None:
    """Return steps and tokens of the training; None where neither the rows nor training.max_steps say them."""
    training = config.training
    per_step = training.batch_tokens
    if training.max_steps is not None:
        num_steps = training.max_steps
    elif tokens is not None:
        num_steps = max(1, math.ceil(training.num_epochs * math.ceil(tokens.total / per_step)))
    else:
        return None
    measured = training.max_validation_tokens
    if tokens is not None:
        measured = min(measured, round(tokens.total * max(config.data.validation_share, 0.05)))
    num_tokens = num_steps * per_step
    if tokens is not None:
        num_tokens = min(num_tokens, math.ceil(tokens.total * num_steps * per_step / max(tokens.total, per_step)))
    return Course(num_steps, num_tokens, measured * _MEASUREMENTS)


def disk_of(config: RunConfig, shape: ShapeConfig) -> Disk:
    """Return what a run writes: download, checkpoints, adapter, exports, logits kept while an export is verified."""
    from finetune.model.hub import is_cached

    weights, trainable = sizes_of(shape).total, num_adapter_parameters(shape, config.adapter)
    parts: dict[str, float] = {}
    if config.model.path is None and not is_cached(config.model):
        parts["download"] = 2 * weights
    parts["checkpoints"] = (config.training.keep_checkpoints + 2) * 12 * trainable
    parts["adapter"] = 4 * trainable
    for format in config.export.formats:
        parts[format.name] = _export_bytes(format, weights, trainable)
    if config.export.formats:
        rows = config.export.verification_items * min(config.training.max_length, 512)
        parts["verification"] = 4 * rows * shape.vocab_size
    place = Path(config.output_dir).absolute()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    return Disk(parts, shutil.disk_usage(existing).free)


def _export_bytes(format: ExportFormat, weights: int, trainable: int) -> float:
    if format is ExportFormat.gguf_lora:
        return 2 * trainable
    return weights * (_BITS[format] / 8 if format.is_gguf else 2)
