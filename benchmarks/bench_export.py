"""What an export costs, against copying the base, PEFT's merge, and llama.cpp's own route to GGUF.

    python benchmarks/bench_export.py --size 1b --size 7b [--llama-cpp FOLDER [--llama-quantize PROGRAM]] [--peft]

A random Llama in bf16 and a random adapter (rank 16, every linear layer) are written to `--folder`, never whole in
memory. Each row is a fresh process: imports are not counted, the base has been read once before it, and it ends when
its result is flushed to disk. The copy and our safetensors are measured `--repeats` times in turn, and the fastest
counts. `memory` is the process's peak beyond what it held after its imports; `own` leaves out pages of mapped files.
`written` counts pages that were written; `others' CPU s` says how disturbed a row was (`--patience` waits for an idle
machine). Prints one table, says whether the bars hold, and writes benchmarks/export.json. Needs room on the disk for
twice the model (three times with --llama-cpp), and Linux.
"""

import argparse
import contextlib
import json
import mmap
import os
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RATIO = ("cp + sync", "ours safetensors")
MOST_TIMES_COPY = 1.3
MOST_MEMORY_BYTES = 1_000_000_000
PEFT, CONVERT, QUANTIZE = "PEFT merge + save", "llama.cpp convert F16", "llama.cpp quantize Q4_K_M"
Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Where a row finds its input and puts its result."""

    base: Path
    adapter: Path
    out: Path
    llama_cpp: Path | None
    llama_quantize: Path | None


Work = Callable[[], object]


def copy(task: Task) -> Work:
    """Copy the base's weights and flush them, with the system's own programs."""
    task.out.mkdir()

    def work() -> None:
        subprocess.run(["cp", *sorted(task.base.glob("*.safetensors")), task.out], check=True)
        subprocess.run(["sync", *sorted(task.out.iterdir())], check=True)

    return work


def ours_safetensors(task: Task) -> Work:
    """This project's safetensors export."""
    from finetune.export.merge import plan_merge
    from finetune.export.safetensors import write_safetensors

    return lambda: write_safetensors(plan_merge(task.base, task.adapter), task.out, tokenizer=None, card="")


def ours_gguf(task: Task, format: str) -> Work:
    """This project's GGUF export, from base + adapter in one pass."""
    from transformers import AutoTokenizer

    from finetune.export.companions import exported_config
    from finetune.export.gguf.build import ModelFacts, lay_out
    from finetune.export.gguf.quantize import check_types
    from finetune.export.gguf.write import write_gguf
    from finetune.export.merge import plan_merge

    tokenizer = AutoTokenizer.from_pretrained(task.base)
    check_types([] if format == "F16" else ["Q8_0", "Q4_K"])  # loads ggml

    def work() -> None:
        plan = plan_merge(task.base, task.adapter)
        config = exported_config(plan, json.loads((task.base / "config.json").read_text(encoding="utf-8")))
        layout = lay_out(
            format,
            config,
            {tensor.name: tensor.shape for tensor in plan.tensors},
            tokenizer=tokenizer,
            tokenizer_dir=task.base,
            facts=ModelFacts(name="random", license="mit"),
        )
        write_gguf(plan, task.out, tensors=layout.tensors, types=layout.types, metadata=layout.metadata)

    return work


def peft(task: Task) -> Work:
    """PEFT's merge_and_unload and save_pretrained, flushed."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def work() -> None:
        base = AutoModelForCausalLM.from_pretrained(task.base, dtype=torch.bfloat16)
        model: Any = PeftModel.from_pretrained(base, task.adapter)
        model.merge_and_unload().save_pretrained(task.out, max_shard_size="5GB")
        flush(task.out)

    return work


def convert(task: Task) -> Work:
    """llama.cpp's converter on weights that are merged already; the base stands for them, of the same size."""
    assert task.llama_cpp is not None
    sys.path[:0] = [str(task.llama_cpp), str(task.llama_cpp / "gguf-py")]
    import conversion  # pyright: ignore[reportMissingImports]
    import transformers  # noqa: F401

    # the embedded tokenizer is none that the converter knows by its hash
    conversion.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    sys.argv = ["convert", str(task.base), "--outfile", str(task.out), "--outtype", "f16"]

    def work() -> None:
        assert task.llama_cpp is not None
        with contextlib.redirect_stdout(sys.stderr):
            runpy.run_path(str(task.llama_cpp / "convert_hf_to_gguf.py"), run_name="__main__")
        flush(task.out)

    return work


def quantize(task: Task) -> Work:
    """llama.cpp's quantiser on its own F16 file."""
    assert task.llama_quantize is not None
    command = [task.llama_quantize, task.out.with_name(CONVERT), task.out, "Q4_K_M", str(os.cpu_count())]

    def work() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        flush(task.out)

    return work


def flush(path: Path) -> None:
    """Wait until a file or a folder's files are on the disk."""
    for file in [path] if path.is_file() else path.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


ROWS: dict[str, Callable[[Task], Work]] = {
    "cp + sync": copy,
    "ours safetensors": ours_safetensors,
    "ours GGUF F16": lambda task: ours_gguf(task, "F16"),
    "ours GGUF Q8_0": lambda task: ours_gguf(task, "Q8_0"),
    "ours GGUF Q4_K_M": lambda task: ours_gguf(task, "Q4_K_M"),
    PEFT: peft,
    CONVERT: convert,
    QUANTIZE: quantize,
}


def memory(pid: int | str = "self") -> dict[str, int]:
    """Resident bytes of a process: now, highest, and those that belong to no file."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    found = {line.split(":")[0]: line.split()[1:2] for line in lines}
    return {name: 1024 * int(found[name][0]) for name in ("VmRSS", "VmHWM", "RssAnon") if found.get(name)}


def warm_memory(num_bytes: int) -> None:
    """Touch free memory and return it: a virtual machine's host has to find pages that were unused for seconds anew."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemFree"))
    num_bytes = min(num_bytes, free - 1_000_000_000)
    if num_bytes > 0:
        with mmap.mmap(-1, num_bytes) as memory:
            for start in range(0, num_bytes, mmap.PAGESIZE):
                memory[start] = 1


def busy_seconds() -> float:
    """CPU seconds that all of the machine's processes have used."""
    user, nice, system = Path("/proc/stat").read_text(encoding="utf-8").split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(patience_seconds: float) -> None:
    """Wait until others use less than a tenth of a core for three seconds, or until patience ends."""
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(3)
        if busy_seconds() - before < 0.3:
            return


def bytes_written() -> dict[str, int]:
    """What this process handed to write calls, and what it and its children put into files, in whole pages."""
    calls = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines())
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"calls": int(calls["wchar"]), "pages": 512 * sum(usage.ru_oublock for usage in usages)}


def run_row(row: str, task: Task) -> Found:
    """Do one row's work in this process."""
    import torch

    work = ROWS[row](task)
    torch.addmm(torch.zeros(8, 8), torch.zeros(8, 2), torch.zeros(2, 8))  # loads its kernels
    warm_memory(sum(path.stat().st_size for path in task.base.glob("*.safetensors")))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest mark falls to what is held now
    before, written = memory(), bytes_written()
    anonymous = [before["RssAnon"]]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            anonymous.append(memory()["RssAnon"])
            anonymous[:] = [max(anonymous)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    busy, cpu, started = busy_seconds(), sum(os.times()[:4]), time.perf_counter()
    work()
    seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[:4]) - cpu
    others_seconds = max(0.0, busy_seconds() - busy - cpu_seconds)
    done.set()
    watcher.join()
    after = bytes_written()
    files = [task.out] if task.out.is_file() else [path for path in task.out.rglob("*") if path.is_file()]
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "others_cpu_seconds": round(others_seconds, 2),
        "memory_bytes": memory()["VmHWM"] - before["VmRSS"],
        "own_memory_bytes": max(anonymous) - before["RssAnon"],
        "libraries_bytes": before["VmRSS"],
        "written_bytes": after["pages"] - written["pages"],
        "call_bytes": after["calls"] - written["calls"],
        "output_bytes": sum(path.stat().st_size for path in files),
    }


def read_once(folder: Path) -> None:
    """Bring a folder's files into memory, as far as they fit."""
    buffer = bytearray(1 << 23)
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            while file.readinto(buffer):
                pass


def measure(row: str, folder: Path, arguments: argparse.Namespace) -> Found:
    """Run one row in a fresh process; its result is left in `folder`."""
    out = folder / row
    command = [sys.executable, __file__, "--row", row, "--folder", str(folder)]
    for name in ("llama_cpp", "llama_quantize"):
        if getattr(arguments, name):
            command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name).resolve())]
    read_once(folder / "base")
    os.sync()
    wait_for_quiet(arguments.patience)
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{row} failed:\n{done.stderr[-3000:]}")
    if row != CONVERT:
        remove(out)
    return json.loads(done.stdout.splitlines()[-1])


def remove(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def rows_of(size: str, arguments: argparse.Namespace) -> list[str]:
    """The rows that are measured at a size."""
    if size == "15gb":
        return ["cp + sync", "ours safetensors", "ours GGUF Q8_0"]
    unwanted = set()
    if size == "7b" and not arguments.peft:
        unwanted.add(PEFT)
    if not arguments.llama_cpp:
        unwanted |= {CONVERT, QUANTIZE}
    elif not arguments.llama_quantize:
        unwanted.add(QUANTIZE)
    return [row for row in ROWS if row not in unwanted]


def measure_size(size: str, arguments: argparse.Namespace) -> dict[str, Found]:
    """Measure all rows at one size, one after the other."""
    from benchmarks.random_llama import SHAPES, write_adapter, write_model

    rows = rows_of(size, arguments)
    again = [row for row in rows if row in RATIO] * (arguments.repeats - 1)
    runs: dict[str, list[Found]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="export-") as name:
        folder = Path(name)
        write_model(SHAPES[size], folder / "base")
        write_adapter(SHAPES[size], folder / "adapter")
        for row in [*[row for row in rows if row in RATIO], *again, *[row for row in rows if row not in RATIO]]:
            runs[row].append(measure(row, folder, arguments))
            print(f"{size} {row}: {runs[row][-1]['seconds']} s", file=sys.stderr)
    return {
        row: min(found, key=lambda run: run["seconds"]) | {"all_seconds": [run["seconds"] for run in found]}
        for row, found in runs.items()
    }


def table(results: dict[str, Found]) -> str:
    """One line per row; the ratio is its time over the copy's."""
    heads = ("row", "seconds", "x cp", "CPU s", "others' CPU s", "memory MB", "own MB", "written MB", "result MB")
    lines: list[tuple[str, ...]] = [heads]
    for row, found in results.items():
        ratio = found["seconds"] / results["cp + sync"]["seconds"]
        sizes = [found[name] for name in ("memory_bytes", "own_memory_bytes", "written_bytes", "output_bytes")]
        times = [
            f"{found['seconds']:.1f}",
            f"{ratio:.2f}",
            f"{found['cpu_seconds']:.1f}",
            f"{found['others_cpu_seconds']:.1f}",
        ]
        lines.append((row, *times, *(f"{size / 1e6:,.0f}" for size in sizes)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def bars(results: dict[str, Found]) -> dict[str, bool]:
    """What was promised, and whether it holds."""
    ours = {row: found for row, found in results.items() if row.startswith("ours")}
    ratio = ours["ours safetensors"]["seconds"] / results["cp + sync"]["seconds"]
    most = max(found["memory_bytes"] for found in ours.values())
    held = {
        f"safetensors takes {ratio:.2f} times a copy (at most {MOST_TIMES_COPY})": ratio <= MOST_TIMES_COPY,
        f"peak memory is {most / 1e6:,.0f} MB beyond the libraries (at most {MOST_MEMORY_BYTES / 1e6:,.0f})": most
        <= MOST_MEMORY_BYTES,
    }
    for row in ("ours GGUF Q8_0", "ours GGUF Q4_K_M"):
        if row in ours:
            more = ours[row]["call_bytes"] - ours[row]["output_bytes"]
            held[f"{row.removeprefix('ours GGUF ')} writes {more} bytes more than its result (at most 0)"] = more <= 0
    return held


def main() -> None:
    """Measure the sizes one after the other, or (`--row`) do one row's work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=("1b", "7b", "15gb"), help="default: 1b and 7b")
    parser.add_argument("--quick", action="store_true", help="a model of 100 million parameters instead")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the models are written")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the copy and of our safetensors")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait before each row for an idle machine")
    parser.add_argument("--peft", action="store_true", help="measure PEFT at 7b too; it needs 14 GB of memory")
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp's sources, for its converter")
    parser.add_argument("--llama-quantize", type=Path, help="llama.cpp's quantiser, for its Q4_K_M")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "export.json")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        places = {"base": arguments.folder / "base", "adapter": arguments.folder / "adapter"}
        programs = {"llama_cpp": arguments.llama_cpp, "llama_quantize": arguments.llama_quantize}
        task = Task(**places, **programs, out=arguments.folder / arguments.row)
        print(json.dumps(run_row(arguments.row, task)))
        return
    record: Found = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    for size in ["100m"] if arguments.quick else arguments.size or ["1b", "7b"]:
        results = measure_size(size, arguments)
        held = bars(results)
        print(f"\n{size}\n{table(results)}")
        print("\n".join(f"{'pass' if good else 'FAIL'}: {text}" for text, good in held.items()))
        record[size] = {"conditions": conditions(), "rows": results, "bars": held}
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def conditions() -> Found:
    """What the figures depend on."""
    names = ("torch", "transformers", "peft", "safetensors", "gguf", "xllamacpp")
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cores": len(os.sched_getaffinity(0)), "memory_bytes": pages, "versions": versions}


if __name__ == "__main__":
    main()
