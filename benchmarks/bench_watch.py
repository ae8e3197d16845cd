"""What share of the training time goes into keeping the run safe: checkpoints, watches and the metrics file.

    python benchmarks/bench_watch.py [--repeats 3] [overrides, such as model=… or training.save_steps=1]

Trains recipe=quickstart in a folder that is deleted afterwards, with a stop-watch around every function that saves or
watches; what one of them spends inside another is counted once, in the inner one. The whole is the time of the
trainer's loop: steps, measurements and saves; loading and the final adapter are not in it. Prints one table, the
median of the repeats, says whether the bar (3 %) holds, and writes benchmarks/watch.json.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MOST_SHARE = 0.03
WHOLE = "training"
Found = dict[str, Any]


class Watch:
    """Seconds and calls by part; a part inside another takes its seconds away from the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inner: list[float] = []

    def around(self, owner: Any, name: str, part: str) -> None:
        """Put the stop-watch around a function or method."""
        function = getattr(owner, name)
        is_class_method = isinstance(owner, type) and hasattr(function, "__self__")

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds = time.perf_counter() - start
                self.seconds[part] += seconds - (self._inner.pop() if part != WHOLE else 0.0)
                self.calls[part] += 1
                if self._inner:
                    self._inner[-1] += seconds

        setattr(owner, name, staticmethod(timed) if is_class_method else timed)


def watched() -> Watch:
    """Put stop-watches around all that saves and watches in a training."""
    from finetune.model.free_memory import FreeMemory
    from finetune.training.build import AdapterTrainer
    from finetune.training.callbacks import MetricsFile
    from finetune.training.shrinking import Generators

    watch = Watch()
    watch.around(AdapterTrainer, "train", WHOLE)
    parts = {
        "checkpoints": (AdapterTrainer, ("_save_checkpoint",)),
        "best adapter": (AdapterTrainer, ("save_best",)),
        "weights finite?": (AdapterTrainer, ("check_weights",)),
        "loss and gradient": (AdapterTrainer, ("_judge_step",)),
        "signals": (AdapterTrainer, ("_agree_to_stop",)),
        "main memory": (FreeMemory, ("look",)),
        "out of memory": (Generators, ("capture",)),
        "metrics file": (MetricsFile, ("on_train_begin", "on_step_begin", "on_log", "on_train_end", "flush")),
    }
    for part, (owner, names) in parts.items():
        for name in names:
            watch.around(owner, name, part)
    return watch


def measure(watch: Watch, overrides: list[str]) -> Found:
    """Train once; return the seconds of the whole and of each part."""
    from finetune import load_config
    from finetune.jobs.train import train

    watch.seconds.clear()
    watch.calls.clear()
    with tempfile.TemporaryDirectory() as folder:
        train(load_config("quickstart", *overrides, f"output_dir={folder}/run"))
    return {"seconds": dict(watch.seconds), "calls": dict(watch.calls)}


def table(seconds: dict[str, float], calls: dict[str, int]) -> str:
    whole = seconds[WHOLE]
    kept = {part: seconds[part] for part in seconds if part != WHOLE}
    lines = [f"{'part':<20}{'calls':>7}{'seconds':>10}{'share':>9}"]
    for part, value in sorted(kept.items(), key=lambda item: -item[1]):
        lines.append(f"{part:<20}{calls[part]:>7}{value:>10.4f}{value / whole:>9.2%}")
    lines.append(f"{'together':<27}{sum(kept.values()):>10.4f}{sum(kept.values()) / whole:>9.2%}")
    lines.append(f"{'training':<27}{whole:>10.4f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("watch.json"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    watch = watched()
    found = [measure(watch, arguments.overrides) for _ in range(arguments.repeats)]
    seconds = {part: statistics.median(run["seconds"][part] for run in found) for part in found[0]["seconds"]}
    share = sum(value for part, value in seconds.items() if part != WHOLE) / seconds[WHOLE]
    print(table(seconds, found[0]["calls"]))
    print(f"{'pass' if share < MOST_SHARE else 'FAIL'}: {share:.2%} of the training time, at most {MOST_SHARE:.0%}")
    conditions = {"cores": len(os.sched_getaffinity(0)), "torch": version("torch"), "overrides": arguments.overrides}
    record = {"share": share, "seconds": seconds, "calls": found[0]["calls"], "runs": found, "conditions": conditions}
    arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
