"""Rules of thumb on data sizes: what is counted, which rule speaks when, and that an ample set is left in peace."""

from dataclasses import replace

import pytest

from finetune.config import AdapterConfig, ShapeConfig, TrainingConfig
from finetune.model.data_size import data_size, least_difference, size_facts, size_warnings

TRAINING = TrainingConfig(
    learning_rate=2e-4, num_epochs=3, max_length=1024, micro_batch_tokens=4096, batch_tokens=16384, warmup_share=0.03
)
SHAPE = ShapeConfig(
    num_layers=32, hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128,
    vocab_size=128256,
)  # fmt: skip


def size(*, rows=5000, tokens=2_000_000, supervised=600_000, test=500, rank=16, **training):
    ledger = {"splits": {"train": rows, "test": test}, "tokens": {"total": tokens, "supervised": supervised}}
    found = data_size(ledger, replace(TRAINING, **training), AdapterConfig(rank=rank), SHAPE, max_test_items=200)
    assert found is not None
    return found


def warnings(**changes):
    return {warning.source: warning.text for warning in size_warnings(size(**changes))}


def test_the_schedule_follows_from_tokens_epochs_and_batch():
    found = size()
    assert (found.num_steps, found.num_epochs, found.warmup_steps) == (369, 3.0, 12)
    assert found.num_test_items == 200
    # r (inputs + outputs) of the seven linear layers of Llama 3.1 8B
    assert found.num_trainable == 41_943_040
    facts = dict(size_facts(found))
    assert facts["Rank 16"] == "41,943,040 weights hold about 83.9 megabits; the answers 600 kilobits"
    stopped = size(max_steps=60)
    assert (stopped.num_steps, stopped.warmup_steps) == (60, 2)
    assert stopped.num_epochs == pytest.approx(60 / 123)


def test_an_ample_set_is_left_in_peace():
    assert warnings() == {}


@pytest.mark.parametrize(
    ("changes", "source", "text"),
    [
        ({"rows": 20}, "OpenAI, fine-tuning guide", "20 training rows are few"),
        ({"tokens": 200_000}, "Schulman et al. 2025", "training.batch_tokens="),
        ({"tokens": 1_000_000, "num_epochs": 1}, "Schulman et al. 2025", "training.num_epochs=2 gives 100 steps"),
        ({"max_steps": 20}, "Schulman et al. 2025", "training.max_steps=100"),
        ({"num_epochs": 6}, "Muennighoff et al. 2023", "6 passes over the same rows"),
        ({"num_epochs": 20}, "Muennighoff et al. 2023", "worth nothing"),
        ({"supervised": 20_000}, "Biderman et al. 2024; Schulman et al. 2025", "small for rank 16"),
        ({"rank": 1, "supervised": 15_000_000}, "Schulman et al. 2025; Allen-Zhu and Li 2024", "adapter.rank=3"),
        ({"test": 40}, "docs/evaluation.md", "about 15 percentage points"),
    ],
)
def test_each_rule_speaks_where_it_applies(changes, source, text):
    found = warnings(**changes)
    assert text in found[source]
    assert len(found) == 1 or changes == {"tokens": 200_000}


def test_a_proposed_batch_holds_the_longest_row():
    [warning] = [text for source, text in warnings(tokens=30_000).items() if source == "Schulman et al. 2025"]
    assert "batch_tokens" not in warning


def test_a_thousand_items_show_three_points():
    assert least_difference(1000) == pytest.approx(3.0)
    assert least_difference(250) == pytest.approx(6.0)


@pytest.mark.parametrize("ledger", [{}, {"tokens": {"total": 0}}, {"tokens": {"total": 5}, "splits": {}}])
def test_nothing_is_said_where_nothing_is_counted(ledger):
    assert data_size(ledger, TRAINING, AdapterConfig(), None, max_test_items=200) is None
