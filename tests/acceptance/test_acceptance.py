"""The project's promises at full size: `scripts/test acceptance`. Prints one line per promise; tens of minutes."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.recipes import list_recipes

pytestmark = pytest.mark.acceptance

MINUTES, MEMORY_BYTES, P_VALUE = 6.0, 4e9, 0.01


@dataclass
class Finished:
    """One run of the command line: exit code, what it wrote, its time and the most memory it held."""

    code: int
    folder: Path
    errors: str
    seconds: float
    peak_bytes: int

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def validation(self) -> tuple[float, float]:
        rows = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
        return losses[0], min(losses)


def run(folder: Path, *words: str) -> Finished:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune", *words, f"output_dir={folder}"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    _, errors = process.communicate(timeout=3600)
    return Finished(process.returncode, folder, errors, time.perf_counter() - started, peak[0])


def _watch(pid: int, peak: list[int]) -> None:
    while psutil.pid_exists(pid):
        try:
            peak[0] = max(peak[0], psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return
        time.sleep(0.2)


@pytest.mark.parametrize("recipe", sorted(list_recipes()))
def test_recipes_on_the_embedded_model(
    recipe: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    done = run(tmp_path / recipe, f"recipe={recipe}", "model=embedded")
    assert done.code == 0, done.errors
    summary, verified = done.read("evaluation/summary.json"), done.read("export/verification.json")["safetensors"]
    metric = summary["metrics"][summary["main_metric"]]
    compared = metric["comparison"]
    record_property(
        "figures",
        f"{recipe}: {done.seconds / 60:.1f} min, {done.peak_bytes / 1e9:.2f} GB, {summary['main_metric']} "
        f"{metric['base']['value']:.3f} -> {metric['tuned']['value']:.3f} (n={metric['tuned']['n']}, "
        f"p={compared['p_value']:.2g}, {compared['verdict']}), safetensors verified: {verified['passed']}, "
        f"greedy match {verified['greedy_match']:.2%}",
    )
    assert verified["passed"] and verified["greedy_match"] >= 0.99
    if recipe == "quickstart":
        assert compared["difference"] > 0
    else:
        assert compared["verdict"] == "better" and compared["p_value"] < P_VALUE
    assert done.seconds < 60 * (2 if recipe == "quickstart" else MINUTES)
    assert done.peak_bytes < MEMORY_BYTES


CUAD = (
    "data.format=prompt_completion",
    "data.prompt=Which law governs? {Governing Law}",
    "data.completion={Governing Law-Answer}",
)
PUBMED = ("data.prompt={CONTEXTS}\\n{QUESTION}", "data.completion={final_decision}")
REAL_DATA = {
    "legal/cuad/master_clauses.csv": CUAD,
    "legal/privacy_policy_qa.jsonl": (),
    "medical/pubmedqa_train.json": PUBMED,
    "medical/medquad.jsonl": ("training.learning_rate=1e-3",),  # the embedded base has read half of it before
    "code/codegen_instruct.json": (),
    "legal/cuad/contracts": (  # the embedded base has read these contracts before: large batches, or nothing is left
        "training.learning_rate=1e-3",
        "training.batch_tokens=10240",
    ),
    "formats/alpaca_en_demo.json": (),
    "formats/identity.json": (),
    "formats/glaive_toolcall_en_demo.json": (),
    "formats/c4_demo.jsonl": (),
    "formats/wiki_demo.txt": (),
    "general/openbookqa.jsonl": ("data.format=choices",),
    "general/gsm8k_train_1000.jsonl": (),
    "code/mbpp.jsonl": ("data.prompt={prompt}", "data.completion={canonical_solution}"),
}
MODELS = {"stories260k": ("model=local", "model.path={shared}/models/stories260k"), "embedded": ("model=embedded",)}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", REAL_DATA)
def test_real_data_lowers_the_validation_loss(
    data: str, model: str, shared_dir: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    words = [word.replace("{shared}", str(shared_dir)) for word in MODELS[model]]
    sizes = ("training.max_steps=40", "evaluation.max_items=20", "data.max_rows=600", "data.max_answer_tokens_lost=1")
    done = run(tmp_path / "run", *words, f"data.path={shared_dir}/data/{data}", *REAL_DATA[data], *sizes)
    assert done.code == 0, done.errors
    first, best = done.validation
    bits = done.read("evaluation/summary.json")["metrics"]["bits_per_byte"]
    record_property(
        "figures",
        f"{data} on {model}: validation loss {first:.4f} -> {best:.4f}; bits per byte {bits['base']['value']:.4f} -> "
        f"{bits['tuned']['value']:.4f}; {done.seconds:.0f} s, {done.peak_bytes / 1e9:.2f} GB",
    )
    assert best < first
    if data == "legal/cuad/contracts":
        assert bits["tuned"]["value"] < bits["base"]["value"] - 0.0005
    assert done.read("export/verification.json")["safetensors"]["passed"]


def test_help_and_a_typo_within_a_second(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    for words, code in ((["--help"], 0), (["recipe=legal_qlra"], 2), (["training.lerning_rate=1"], 2)):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "finetune", *words], capture_output=True, cwd=tmp_path, check=False
        )
        seconds = time.perf_counter() - started
        record_property("figures", f"{words}: exit {done.returncode} after {seconds:.2f} s")
        assert done.returncode == code and seconds < 1
