"""The verdict on adapters that are known to be useless or harmful, on the embedded model and its legal test items."""

import contextlib
import json
from pathlib import Path

import pytest
import torch

from finetune.config import EvaluationConfig
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.wording import explain
from finetune.records import Conversation, Message

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NUM_ITEMS = 60


@pytest.fixture(scope="module")
def subject():
    """The embedded model with a new adapter, and the tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "models" / "embedded"
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")), AutoTokenizer.from_pretrained(folder)


def legal_rows():
    with (ROOT / "data" / "legal" / "test.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:NUM_ITEMS]
    return [
        Conversation(
            item_id=row["id"],
            source="test.jsonl",
            messages=(Message(role="user", content=row["question"]), Message(role="assistant", content=row["answer"])),
            options=tuple(row["options"]),
            group=row["group"],
        )
        for row in rows
    ]


def compare(subject):
    model, tokenizer = subject
    config = EvaluationConfig(max_new_tokens=8, bootstrap_samples=1000)
    contestants = {"base": model.disable_adapter, "tuned": contextlib.nullcontext}
    opened = {name: lambda context=context: _opened(context, model) for name, context in contestants.items()}
    _, result = evaluate(opened, tokenizer, legal_rows(), config, 42, max_length=2048)
    return result, {name: metric.comparison.verdict for name, metric in result.metrics.items()}


@contextlib.contextmanager
def _opened(context, model):
    with context():
        yield model


def test_an_adapter_that_learned_nothing_is_equivalent(subject):
    """A new adapter is what a learning rate of 0 leaves: its second matrix is zero."""
    result, verdicts = compare(subject)
    assert set(verdicts.values()) == {"equivalent"}
    assert explain(result).verdict == "equivalent"


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_an_adapter_of_random_weights_is_worse(subject, std):
    model, _ = subject
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=std)
    result, verdicts = compare(subject)
    assert verdicts["bits_per_byte"] == "worse"
    assert "better" not in {verdict for name, verdict in verdicts.items() if name != "calibration_error"}
    assert explain(result).verdict == "worse"
    assert explain(result).headline.startswith("Tuning did harm")
