"""Every architecture from training to llama.cpp, along the user's own path: one command trains, exports and verifies.

With FINETUNE_WRITE_DOCS=1 the figures go into docs/gguf_architectures.md.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from finetune.__main__ import main
from finetune.evaluation.verify import agrees
from finetune.export.gguf.architectures import known_classes

from .small_bases import BASES, ROOT, TOKENIZERS, save_base, write_rows

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

PAGE = ROOT / "docs" / "gguf_architectures.md"
REAL = ("embedded", "stories260k", "babyllama-1m", "tinystories-656k")
OPTIONS: Mapping[str, list[str]] = {
    "stories260k": ["adapter.modules_to_save=[embed_tokens]"],
    "tinystories-656k": ["adapter.modules_to_save=[embed_tokens]"],
}
"""Their bases never learned the EOS token: it lies among the unused ones, where no adapter of the layers tells it from
them."""
STEPS = {"Falcon 7B": 90, "Qwen2": 25}
"""Optimizer steps, where 45 are too few for clear logits, or too slow for the size of the vocabulary."""
COLUMNS = ("model", "tokenizer", "format", "bytes", "top-1", "KL mean", "KL p99", "greedy")
TOP1 = {"gguf_f16": 0.999, "gguf_q8_0": 0.0, "gguf_q4_k_m": 0.0}
"""Least share of the answers' places with the same most likely token, near ties included; of the others it is stated,
and the export's own gate holds Q8_0 to 99 % without near ties."""


def words_of(model_dir: Path, rows: tuple[Path, Path], out: Path, num_steps: int) -> list[str]:
    """The command line of one run."""
    return [
        *("model=local", f"model.path={model_dir}", "model.dtype=float32", f"output_dir={out}"),
        *(f"data.path={rows[0]}", f"data.test_path={rows[1]}", "data.prompt={prompt}", "data.completion={completion}"),
        *(f"training.max_steps={num_steps}", "training.learning_rate=0.005", "training.adam_beta2=0.95"),
        *("training.max_length=256", "training.micro_batch_tokens=512", "training.batch_tokens=512"),
        *(f"training.eval_steps={num_steps}", "training.max_validation_tokens=400", "training.logging_steps=15"),
        *("evaluation.max_items=2", "evaluation.max_new_tokens=4", "export.task_items=2"),
        *("export.verification_items=8", f"export.formats=[{','.join(TOP1)}]"),
    ]


@pytest.mark.slow
@pytest.mark.few(4, rest="exhaustive")
@pytest.mark.parametrize("name", [*REAL, *BASES])
def test_what_llama_cpp_computes_is_what_was_trained(name: str, shared_dir: Path, tmp_path: Path) -> None:
    if name in BASES:
        model_dir, tokenizer = tmp_path / "base", BASES[name].tokenizer
        save_base(name, shared_dir, model_dir)
    else:
        model_dir = ROOT / "models" / name if name == "embedded" else shared_dir / "models" / name
        tokenizer = name
    out = tmp_path / "run"
    words = words_of(model_dir, write_rows(tmp_path), out, STEPS.get(name, 45))
    assert main([*words, *OPTIONS.get(name, [])]) == 0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [step["validation_loss"] for step in steps if "validation_loss" in step]
    assert losses[-1] < 0.5 * losses[0], "the adapter learned little: its logits are too flat to compare"
    found = json.loads((out / "export" / "verification.json").read_text(encoding="utf-8"))
    if os.environ.get("FINETUNE_WRITE_DOCS"):
        write_page(name, tokenizer, found)
    for format, least in TOP1.items():
        assert found[format]["passed"], found[format]["reason"]
        num_places = sum(len(row) for row in answers(out))
        assert agrees(found[format]["top1_agreement"], num_places, least), found[format]
        assert (out / "export" / "gguf" / f"run-{format.removeprefix('gguf_').upper()}.gguf").is_file()


def answers(out: Path) -> list[list[int]]:
    """Token ids of the held-out answers that are in the run folder."""
    items = json.loads(next(out.glob("**/golden*.json")).read_text(encoding="utf-8"))
    return [item["whole"]["ids"][len(item["prompt"]["ids"]) :] for item in items]


def test_every_class_that_is_written_has_a_row(tmp_path: Path) -> None:
    kinds = {f"{base.kind.removesuffix('Text')}ForCausalLM" for base in BASES.values()}
    aliases = {"LLaMAForCausalLM", "RWForCausalLM", "Gemma3ForConditionalGeneration"}
    assert kinds == set(known_classes()) - aliases
    rows = table(PAGE.read_text(encoding="utf-8"))
    assert list(rows) == [(name, format) for name in [*BASES, *REAL] for format in labels()]
    for (name, _), cells in rows.items():
        tokenizer = BASES[name].tokenizer if name in BASES else name
        assert cells[1] == f"{tokenizer}, {TOKENIZERS[tokenizer][0]}"


def labels() -> list[str]:
    """The formats as the page names them."""
    return [format.removeprefix("gguf_").upper() for format in TOP1]


def table(text: str) -> dict[tuple[str, str], list[str]]:
    """The page's rows by model and format."""
    lines = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return {(cells[0], cells[2]): cells for cells in lines if len(cells) == len(COLUMNS) and cells[2] in labels()}


def write_page(name: str, tokenizer: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace one model's rows on the page, and say with what they were measured; other processes may do so too."""
    with PAGE.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        rows = table(text) | {
            (name, label): cells(name, f"{tokenizer}, {TOKENIZERS[tokenizer][0]}", label, found[format])
            for label, format in zip(labels(), TOP1, strict=True)
        }
        ordered = [rows[name, label] for name in [*BASES, *REAL] for label in labels() if (name, label) in rows]
        lines = ["| " + " | ".join(row) + " |" for row in (list(COLUMNS), ["---"] * len(COLUMNS), *ordered)]
        start, rest = text.index("| model |"), text.index("\n\n", text.index("| model |"))
        text = text[:start] + "\n".join(lines) + text[rest:]
        text = re.sub(r"^Measured .*$", conditions(), text, flags=re.MULTILINE)
        file.seek(0)
        file.truncate()
        file.write(text)


def cells(name: str, tokenizer: str, label: str, figures: Mapping[str, Any]) -> list[str]:
    """One row of the page."""
    shares = [f"{100 * figures[key]:.2f} %" for key in ("top1_agreement", "greedy_match")]
    size = f"{figures['num_bytes']:,}"
    return [name, tokenizer, label, size, shares[0], f"{figures['kl_mean']:.1e}", f"{figures['kl_p99']:.1e}", shares[1]]


def conditions() -> str:
    """Say when and with what it was measured."""
    packages: Iterable[str] = ("xllamacpp", "gguf", "torch", "transformers", "peft")
    return f"Measured {datetime.now(UTC):%Y-%m-%d} with " + ", ".join(f"{name} {version(name)}" for name in packages)
