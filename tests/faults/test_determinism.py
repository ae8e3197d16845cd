"""Bar R10: the same configuration and seed give the same adapter in any process; a hundred losses stay what they were.

The losses are kept in golden_losses.json. Where a change means to change them, write them anew and say why:
`FINETUNE_WRITE_GOLDEN=1 pytest tests/faults/test_determinism.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.bar("R10"), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden_losses.json")
HUNDRED = (
    "training.max_steps=100",
    "training.logging_steps=1",
    "training.eval_steps=100",
    "training.save_steps=100",
    "training.learning_rate=0.001",
)


def tolerance(step: int) -> float:
    """Return the relative tolerance at a step: rounding differs between CPUs, and grows with the steps."""
    return 1e-5 + 2e-6 * step


@pytest.fixture(scope="module")
def hundred(runs: Any) -> bytes:
    ended = runs.train("hundred", *HUNDRED)
    assert ended.code == 0, ended.said
    return runs.adapter("hundred")


def test_a_hundred_losses_are_what_they_were(runs: Any, hundred: bytes) -> None:
    rows = runs.metrics("hundred")
    found = {
        "losses": [row["loss"] for row in rows if "loss" in row],
        "validation_losses": [row["validation_loss"] for row in rows if "validation_loss" in row],
    }
    if os.environ.get("FINETUNE_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(found["losses"]) == len(golden["losses"]) == 100
    for step, (loss, expected) in enumerate(zip(found["losses"], golden["losses"], strict=True), start=1):
        assert loss == pytest.approx(expected, rel=tolerance(step)), f"step {step}"
    assert found["validation_losses"] == pytest.approx(golden["validation_losses"], rel=tolerance(100))


def test_another_process_and_another_folder_give_the_same_adapter(runs: Any, hundred: bytes) -> None:
    assert runs.train("hundred-again", *HUNDRED).code == 0
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "finetune", "train", *runs.words("hundred-alone", *HUNDRED)]
    done = subprocess.run(
        words, cwd=runs.path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert runs.adapter("hundred-again") == runs.adapter("hundred-alone") == hundred


def test_another_seed_gives_another_adapter(runs: Any, whole: bytes) -> None:
    assert runs.train("seed", "seed=43").code == 0
    assert runs.adapter("seed") != whole
