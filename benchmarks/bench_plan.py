"""Predicted against measured peak memory of CPU trainings; writes benchmarks/plan.json, and a table into docs/plan.md.

    python benchmarks/bench_plan.py [--only 20m,300m] [--number 1,12] [--keep FOLDER]

Each configuration trains a random Llama for a few steps by `python -m finetune train` in a fresh process; measured is
the most memory that this process ever had (VmHWM of Linux), predicted the peak that `plan` gives before. Rows are text,
so that every token carries loss, and every micro-batch is full. Results are added to those of earlier calls.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from random_llama import Shape, write_model  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks" / "plan.json", ROOT / "docs" / "plan.md"
BEGIN, END = "<!-- bench_plan: begin -->", "<!-- bench_plan: end -->"
SHAPES = {
    "20m": Shape(hidden=384, layers=8, heads=6, kv_heads=2, inner=1024, vocabulary=8192, tied=True),
    "100m": Shape(hidden=768, layers=10, heads=12, kv_heads=4, inner=2048, vocabulary=32000, tied=True),
    "300m": Shape(hidden=1024, layers=18, heads=16, kv_heads=8, inner=3584, vocabulary=32000, tied=True),
    "600m": Shape(hidden=1280, layers=26, heads=20, kv_heads=4, inner=4480, vocabulary=32000, tied=True),
    "1500m": Shape(hidden=2048, layers=32, heads=32, kv_heads=4, inner=5632, vocabulary=32000, tied=True),
}
NUM_STEPS = 3
"""The optimizer's state is there from the second step on, so that the third shows all that a long training has."""


@dataclass(frozen=True, slots=True)
class Task:
    """One configuration."""

    size: str
    quantization: str
    recompute: bool
    tokens: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        again = "recomputed" if self.recompute else "kept"
        return f"{self.size} {self.quantization} {again} {self.tokens} {self.dtype}"

    def words(self, model: Path, rows: Path, folder: Path) -> list[str]:
        """The words of the command line."""
        return [
            *("model=local", f"model.path={model}", f"model.dtype={self.dtype}", f"data.path={rows}"),
            *(f"quantization={self.quantization}", f"output_dir={folder}", "overwrite=true"),
            *("data.near_duplicates=ignore", "data.cache=false", "training.eval_steps=1000"),
            *(f"training.max_length={self.tokens}", f"training.micro_batch_tokens={self.tokens}"),
            *(f"training.batch_tokens={self.tokens}", f"training.max_steps={NUM_STEPS}"),
            *(f"training.gradient_checkpointing={str(self.recompute).lower()}", "training.max_validation_tokens=512"),
        ]


TASKS = [
    Task("20m", "none", False, 512),
    Task("20m", "none", False, 2048),
    Task("20m", "nf4", True, 2048),
    Task("100m", "none", False, 1024),
    Task("100m", "none", True, 2048),
    Task("100m", "nf4", False, 512),
    Task("100m", "nf4", True, 1024, "bfloat16"),
    Task("300m", "none", False, 512),
    Task("300m", "nf4", True, 1024),
    Task("600m", "none", True, 256),
    Task("600m", "nf4", False, 256),
    Task("1500m", "nf4", True, 256),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="sizes to measure, such as 20m,100m; all by default")
    parser.add_argument("--number", default="", help="rows of the table to measure, such as 1,12")
    parser.add_argument("--keep", type=Path, help="folder for the random models, to be used again")
    parser.add_argument("--table", action="store_true", help="measure nothing; predict again and write the table")
    options = parser.parse_args()
    wanted = [] if options.table else chosen(options.only, options.number)
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-plan-")))
        folder.mkdir(parents=True, exist_ok=True)
        for task in wanted:
            row = measure(task, folder)
            write_results(results() | {task.name: row})
            print(task.name, row, flush=True)
    found = results()
    for task in TASKS:
        if task.name in found:
            found[task.name]["predicted_bytes"], found[task.name]["peak"] = predict(task)
    write_results(found)
    lines = table(found)
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:start] + "\n" + "\n".join(lines) + "\n" + page[end:], encoding="utf-8")
    print("\n".join(lines))


def chosen(sizes: str, numbers: str) -> list[Task]:
    """Return the tasks of these sizes and with these numbers, as the options name them."""
    numbered = {f"{number}": task for number, task in enumerate(TASKS, start=1)}
    tasks = [numbered[number] for number in numbers.split(",")] if numbers else TASKS
    return [task for task in tasks if not sizes or task.size in sizes.split(",")]


def results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def write_results(found: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(task: Task, folder: Path) -> dict[str, Any]:
    """Train in a fresh process and return its peak memory, pace and machine."""
    model, rows = folder / task.size, folder / "rows.jsonl"
    if not model.exists():
        write_model(SHAPES[task.size], model)
    if not rows.exists():
        write_rows(rows)
    command = [sys.executable, "-m", "finetune", "train", *task.words(model, rows, folder / f"run_{task.size}")]
    log = folder / f"log_{task.size}.txt"
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder
        )
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{task.name}: the training failed\n{log.read_text(encoding='utf-8')[-2000:]}")
    metrics = [json.loads(line) for line in (folder / f"run_{task.size}" / "metrics.jsonl").read_text().splitlines()]
    return {
        "measured_bytes": usage.ru_maxrss * 1024,
        "tokens_per_second": metrics[-1].get("tokens_per_second"),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
    }


def predict(task: Task) -> tuple[int, str]:
    """Return the peak that `plan` gives, with every token supervised, and which part of the run has it."""
    from dataclasses import replace

    from finetune.config import (
        AdapterConfig,
        Dtype,
        EvaluationConfig,
        PlanConfig,
        QuantizationConfig,
        QuantizationMethod,
        ShapeConfig,
    )
    from finetune.model.cards import find_card
    from finetune.model.memory import Workload, loading_bytes
    from finetune.model.planning import Setting

    sizes = SHAPES[task.size]
    shape = ShapeConfig(
        num_layers=sizes.layers,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        num_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        head_dim=sizes.hidden // sizes.heads,
        vocab_size=sizes.vocabulary,
        tied_embeddings=sizes.tied,
    )
    work = Workload(
        shape=shape,
        adapter=AdapterConfig(),
        quantization=QuantizationConfig(method=QuantizationMethod[task.quantization]),
        micro_batch_tokens=task.tokens,
        recomputed_layers=shape.num_layers if task.recompute else 0,
        number_bytes=4 if task.dtype == "float32" else 2,
        is_cuda=False,
    )
    setting = Setting(
        work=work,
        document_tokens=task.tokens,
        card=replace(find_card("cpu"), dtype=Dtype[task.dtype]),
        evaluation=EvaluationConfig(),
        plan=PlanConfig(),
    )
    moments = {"training": setting.moments()["training"], "loading": loading_bytes(work)}  # `train` does not evaluate
    moment = max(moments, key=lambda name: moments[name])
    return round(moments[moment]), moment


def write_rows(path: Path) -> None:
    """Write rows of random words, each longer than any document."""
    source = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(source.choices(letters, k=source.randint(2, 8))) for _ in range(3000)]
    rows = [json.dumps({"text": " ".join(source.choices(words, k=1500))}) for _ in range(40)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def table(found: dict[str, Any]) -> list[str]:
    """Write the comparison as Markdown."""
    lines = [
        "| model | weights | layers | tokens | type | peak | predicted | measured | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    errors: list[float] = []
    for task in TASKS:
        if task.name not in found:
            continue
        row = found[task.name]
        error = row["predicted_bytes"] / row["measured_bytes"] - 1
        errors.append(abs(error))
        again = "recomputed" if task.recompute else "kept"
        sizes = f"{row['predicted_bytes'] / 1e9:.2f} GB | {row['measured_bytes'] / 1e9:.2f} GB | {error:+.0%}"
        what = f"{task.size} | {task.quantization} | {again} | {task.tokens:,} | {task.dtype} | {row['peak']}"
        lines.append(f"| {what} | {sizes} |")
    if errors:
        lines.append("")
        off = f"off by {statistics.median(errors):.0%} on the median, {max(errors):.0%} at worst"
        lines.append(f"{len(errors)} configurations: {off}.")
    return lines


if __name__ == "__main__":
    main()
