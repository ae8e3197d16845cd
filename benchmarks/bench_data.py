"""How fast rows become packed token ids with a loss mask: this project against TRL's own preparation.

    python benchmarks/bench_data.py --source medquad.jsonl [--rows 50000] [--checks]

The rows of `--source` (jsonl with `question` and `answer`) are repeated, each copy made distinct by a prefix, and
written as chats into one jsonl file. Each side reads that file in a fresh process with empty caches, and ends with the
ids and the mask of all rows, packed to 2,048 tokens; imports are not counted. Ours is measured without the search for
near-duplicates, contamination and personal data; `--checks` measures what they cost. A longer row is continued in a
further one by ours and cut off by TRL, which is why ours ends with more tokens. Prints one table and writes
benchmarks/data.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CAPACITY = 2048
Counts = dict[str, Any]


def ours(path: Path, tokenizer: Any, folder: Path, near: str, pii: str, words: int = 0) -> Counts:
    """Read, tokenise and pack by this project's public path."""
    from finetune.config import DataConfig, NearDuplicates
    from finetune.data.examples import lengths_of, num_supervised_of
    from finetune.data.pack import pack
    from finetune.data.read import read_splits
    from finetune.data.tokenize import tokenize_split

    config = DataConfig(path=str(path), near_duplicates=NearDuplicates[near], pii=pii, contamination_words=words)
    splits, ledger = read_splits(config, seed=0, offline=True)
    counts = {"rows": 0, "tokens": 0, "learned": 0, "packs": 0}
    for name in ("train", "validation", "test"):
        examples = tokenize_split(getattr(splits, name), tokenizer, CAPACITY, ledger, split=name)
        lengths = lengths_of(examples)
        counts["rows"] += len(getattr(splits, name))
        counts["tokens"] += sum(lengths)
        counts["learned"] += num_supervised_of(examples)
        counts["packs"] += len(pack(lengths, CAPACITY))
    return counts


def trl(path: Path, tokenizer: Any, folder: Path) -> Counts:
    """Prepare the file as `SFTTrainer(assistant_only_loss=True, packing=True)` does, by its own method."""
    from types import SimpleNamespace

    import datasets
    import numpy as np
    from trl.trainer.sft_trainer import SFTTrainer

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / "cache"))
    trainer: Any = SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=False)
    arguments: Any = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field="text",
        assistant_only_loss=True,
        max_length=CAPACITY,
        packing_strategy="bfd",
        truncation_mode="keep_start",
        shuffle_dataset=False,
        seed=0,
    )
    prepared: Any = SFTTrainer._prepare_dataset(trainer, rows, tokenizer, arguments, True, None, "train")  # pyright: ignore
    tokens = learned = 0
    for batch in prepared.with_format("arrow").iter(batch_size=1000):
        labels = batch["labels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        tokens += len(labels)
        learned += int(np.sum(labels != -100))
    return {"rows": len(rows), "tokens": tokens, "learned": learned, "packs": len(prepared)}


SIDES: dict[str, Callable[..., Counts]] = {
    "ours": partial(ours, near="ignore", pii="off"),
    "ours + near-duplicates": partial(ours, near="drop", pii="off"),
    "ours + contamination": partial(ours, near="ignore", pii="off", words=13),
    "ours + personal data": partial(ours, near="ignore", pii="report"),
    "trl": trl,
}
NEEDS = {"ours + personal data": "presidio-analyzer", "trl": "trl"}


def run_side(side: str, path: Path, model: str, folder: Path) -> Counts:
    """Measure one side in this process; imports are counted apart."""
    import resource

    started = time.perf_counter()
    from transformers import AutoTokenizer

    if side == "trl":
        import datasets  # noqa: F401
        import trl.trainer.sft_trainer  # noqa: F401
    else:
        import finetune.data.read
        import finetune.data.tokenize  # noqa: F401
    tokenizer = AutoTokenizer.from_pretrained(model)
    ready = time.perf_counter()
    cpu = time.process_time()
    counts = SIDES[side](path, tokenizer, folder)
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return counts | {
        "seconds": round(done - ready, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "import_seconds": round(ready - started, 2),
        "peak_memory_bytes": peak,
    }


def write_rows(source: Path, path: Path, num_rows: int) -> None:
    """Write `num_rows` distinct chats; copy k of a row begins its question with `[k]`."""
    pairs: dict[tuple[str, str], None] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if str(row["question"] or "").strip() and str(row["answer"] or "").strip():
            pairs[row["question"], row["answer"]] = None
    with path.open("w", encoding="utf-8") as file:
        distinct = list(pairs)
        for number in range(num_rows):
            copy, place = divmod(number, len(distinct))
            question, answer = distinct[place]
            turns = [("user", f"[{copy}] {question}"), ("assistant", f"[{copy}] {answer}")]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def measure(side: str, path: Path, model: str) -> Counts:
    """Run one side in a fresh process with its own empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            "--side",
            side,
            "--file",
            str(path),
            "--tokenizer",
            model,
            "--folder",
            folder,
        ]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder, "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[str, Counts]) -> str:
    """One line per side; the ratio is its rows per second over TRL's."""
    heads = ("side", "rows", "tokens", "learned", "packs", "seconds", "CPU s", "rows/s", "tokens/s", "peak MB", "x trl")
    lines: list[tuple[str, ...]] = [heads]
    for side, found in results.items():
        speed = found["rows"] / found["seconds"]
        ratio = results["trl"]["seconds"] / found["seconds"] if "trl" in results else 0.0
        numbers = [f"{found[name]:,}" for name in ("rows", "tokens", "learned", "packs")]
        times = [f"{found['seconds']:.1f}", f"{found['cpu_seconds']:.1f}", f"{speed:,.0f}"]
        rate = f"{found['tokens'] / found['seconds']:,.0f}"
        lines.append((side, *numbers, *times, rate, f"{found['peak_memory_bytes'] / 1e6:,.0f}", f"{ratio:.2f}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def installed(package: str | None) -> bool:
    """Whether a side's package is there; ours needs none."""
    try:
        return package is None or bool(version(package))
    except PackageNotFoundError:
        return False


def main() -> None:
    """Measure the sides one after the other, or (`--side`) one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="jsonl with question and answer")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--tokenizer", default=str(ROOT / "models" / "embedded"))
    parser.add_argument("--checks", action="store_true", help="measure near-duplicates and personal data too")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "data.json")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(arguments.side, arguments.file, arguments.tokenizer, arguments.folder)))
        return
    if arguments.source is None:
        parser.error("--source is missing: a jsonl file with question and answer")
    sides = [side for side in SIDES if (arguments.checks or "+" not in side) and installed(NEEDS.get(side))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chats.jsonl"
        write_rows(arguments.source, path, arguments.rows)
        results = {side: measure(side, path, arguments.tokenizer) for side in sides}
    print(table(results))
    versions = {name: version(name) for name in ("transformers", "tokenizers", "datasets", "trl") if installed(name)}
    record = {"rows": arguments.rows, "source": arguments.source.name, "versions": versions, "sides": results}
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
