"""How fast rows become packed token ids with a loss mask: this project against TRL's own preparation.

    python benchmarks/bench_data.py --source medquad.jsonl [--rows 50000] [--checks [--pii-rows 2000]]

The rows of `--source` (jsonl with `question` and `answer`) are repeated, each copy made distinct by a prefix, and
written as chats into one jsonl file. Each side reads that file in a fresh process with empty caches, and ends with the
ids and the mask of all rows, packed to 2,048 tokens; imports are not counted. Ours is measured without the search for
near-duplicates, contamination and personal data; `--checks` measures what each of them adds to reading the rows, in a
second table: personal data on the first `--pii-rows` rows alone, since it takes minutes for all. A longer row is
continued in a further one by ours and cut off by TRL, which is why ours ends with more tokens. Prints its tables and
writes benchmarks/data.json.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CAPACITY = 2048
Counts = dict[str, Any]


def ours(path: Path, tokenizer: Any, folder: Path) -> Counts:
    """Read, tokenise and pack by this project's public path."""
    from finetune.data.examples import lengths_of, num_supervised_of
    from finetune.data.pack import pack
    from finetune.data.read import read_splits
    from finetune.data.tokenize import tokenize_split

    splits, ledger = read_splits(without_checks(path), seed=0, offline=True)
    counts = {"rows": 0, "tokens": 0, "learned": 0, "packs": 0}
    for name in ("train", "validation", "test"):
        examples = tokenize_split(getattr(splits, name), tokenizer, CAPACITY, ledger, split=name)
        lengths = lengths_of(examples)
        counts["rows"] += len(getattr(splits, name))
        counts["tokens"] += sum(lengths)
        counts["learned"] += num_supervised_of(examples)
        counts["packs"] += len(pack(lengths, CAPACITY))
    return counts


def without_checks(path: Path, **options: Any) -> Any:
    """The configuration of ours, with `options` in place of what is switched off."""
    from finetune.config import DataConfig, NearDuplicates

    off = {"near_duplicates": NearDuplicates.ignore, "pii": "off", "contamination_words": 0}
    return DataConfig(path=str(path), **(off | options))


def check(name: str, path: Path) -> Counts:
    """Read the rows without any check and with one; the difference is what it costs.

    A few rows are read before, so that neither time holds imports.
    """
    from finetune.config import NearDuplicates
    from finetune.data.read import read_splits

    options: dict[str, dict[str, Any]] = {
        "near-duplicates": {"near_duplicates": NearDuplicates.report},
        "contamination": {"contamination_words": 13},
        "personal data": {"pii": "report"},
    }
    few = path.with_name("few.jsonl")
    with path.open(encoding="utf-8") as file:
        few.write_text("".join(itertools.islice(file, 50)), encoding="utf-8")
    seconds: list[float] = []
    rows = 0
    for given in ({}, options[name]):
        read_splits(without_checks(few, **given), seed=0, offline=True)
        started = time.perf_counter()
        _, ledger = read_splits(without_checks(path, **given), seed=0, offline=True)
        seconds.append(time.perf_counter() - started)
        rows = ledger.rows_in
    cost = max(seconds[1] - seconds[0], 0.001)
    return {"rows": rows, "reading_seconds": round(seconds[0], 2), "seconds": round(cost, 3)}


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
    "ours": ours,
    "trl": trl,
}
CHECKS = ("near-duplicates", "contamination", "personal data")
NEEDS = {"near-duplicates": "rensa", "personal data": "presidio-analyzer", "trl": "trl"}


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


def check_table(results: dict[str, Counts], num_rows: int) -> str:
    """One line per check: what it adds to reading, per row, and what all rows would take at that rate."""
    heads = ("check", "rows", "reading s", "check s", "rows/s", f"s for {num_rows:,} rows")
    lines: list[tuple[str, ...]] = [heads]
    for name, found in results.items():
        speed = found["rows"] / found["seconds"]
        projected = f"{num_rows / speed:,.1f}" + ("" if found["rows"] == num_rows else " (projected)")
        seconds = (f"{found['reading_seconds']:.1f}", f"{found['seconds']:.1f}", f"{speed:,.0f}")
        lines.append((name, f"{found['rows']:,}", *seconds, projected))
    return aligned(lines)


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
    return aligned(lines)


def aligned(lines: list[tuple[str, ...]]) -> str:
    """Cells of each column at its right edge."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
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
    parser.add_argument("--checks", action="store_true", help="measure what each check costs, too")
    parser.add_argument("--pii-rows", type=int, default=2000, help="rows in which personal data is looked for")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "data.json")
    parser.add_argument("--side", choices=(*SIDES, *CHECKS), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        if arguments.side in CHECKS:
            found = check(arguments.side, arguments.file)
        else:
            found = run_side(arguments.side, arguments.file, arguments.tokenizer, arguments.folder)
        print(json.dumps(found))
        return
    if arguments.source is None:
        parser.error("--source is missing: a jsonl file with question and answer")
    with tempfile.TemporaryDirectory() as folder:
        path, sample = Path(folder) / "chats.jsonl", Path(folder) / "sample.jsonl"
        write_rows(arguments.source, path, arguments.rows)
        write_rows(arguments.source, sample, min(arguments.rows, arguments.pii_rows))
        sides = [side for side in SIDES if installed(NEEDS.get(side))]
        results = {side: measure(side, path, arguments.tokenizer) for side in sides}
        print(table(results), flush=True)
        costs: dict[str, Counts] = {}
        for name in CHECKS if arguments.checks else ():
            if installed(NEEDS.get(name)):
                costs[name] = measure(name, sample if name == "personal data" else path, arguments.tokenizer)
                print(f"\n{check_table({name: costs[name]}, arguments.rows)}", flush=True)
    versions = {name: version(name) for name in ("transformers", "tokenizers", "datasets", "trl") if installed(name)}
    record = {"rows": arguments.rows, "source": arguments.source.name, "versions": versions, "sides": results}
    record |= {"checks": costs} if costs else {}
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
