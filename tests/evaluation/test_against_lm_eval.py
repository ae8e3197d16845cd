"""Log-probabilities of options are lm-eval's; runs where lm-eval is installed, which the project does not need."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NUM_ITEMS = 8


@pytest.fixture
def bench(monkeypatch):
    """benchmarks/bench_scoring.py, which scores both ways."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; benchmarks/bench_scoring.py says how")
    spec = importlib.util.spec_from_file_location("bench_scoring", ROOT / "benchmarks" / "bench_scoring.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    return module


def test_log_probabilities_are_those_of_lm_eval(bench):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "models" / "embedded"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = bench.choice_items(NUM_ITEMS)
    expected = bench.theirs_on_our_tokens(model, tokenizer, rows, 8)
    assert bench.ours(model, tokenizer, rows) == pytest.approx(expected, abs=1e-4)
    assert len(expected) == sum(len(row.options) for row in rows)
    of_texts = bench.theirs(model, tokenizer, bench.texts(tokenizer, rows), 8)
    assert expected == pytest.approx(of_texts, abs=1e-2)  # there the newline before the answer counts too
