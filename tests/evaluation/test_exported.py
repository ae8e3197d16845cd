"""Exports in the evaluation's table: fewer items, the same metrics, the same main metric."""

import contextlib

import pytest

from finetune.config import EvaluationConfig
from finetune.evaluation import exported, metrics, selection, summary
from finetune.records import Conversation, ItemScore, Message


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def scores(model, rows, names):
    return [
        ItemScore(item_id=row.item_id, cluster_id=row.cluster, model=model, metric=name, value=0.5)
        for name in names
        for row in rows
    ]


def test_exports_join_on_fewer_items_and_the_main_metric_stays(tokenizer, tmp_path, monkeypatch):
    rows = [
        Conversation(
            item_id=f"item-{at}",
            source="rows.jsonl",
            messages=(
                Message(role="user", content=f"Clause {at}?"),
                Message(role="assistant", content=f"law {at % 15}"),
            ),
        )
        for at in range(100)
    ]
    config = EvaluationConfig(bootstrap_samples=100)
    measured = ["bits_per_byte", "exact_match"]
    assert selection.main_metric(measured, rows) == "exact_match"
    assert selection.main_metric(measured, rows[:20]) == "bits_per_byte"
    table = tmp_path / "items.jsonl"
    summary.write_items(table, scores("base", rows, measured) + scores("tuned", rows, measured))
    asked = []

    def score(name, runtime, tokenizer, rows, config, names, **settings):
        asked.append(names)
        return scores(name, rows, names)

    monkeypatch.setattr(exported, "LlamaCpp", lambda path, context: contextlib.nullcontext())
    monkeypatch.setattr(exported, "score_contestant", score)
    result = exported.score_exports(
        {"gguf_q8_0": tmp_path / "x.gguf"}, table, tokenizer, rows, config, 42, num_items=20, max_length=256
    )
    assert asked == [measured]
    assert result.main_metric == "exact_match"
    assert result.metrics["exact_match"].estimates["gguf_q8_0"].n == 20
    assert result.metrics["exact_match"].estimates["tuned"].n == 100


def test_the_metrics_of_a_table_are_named_as_they_were_asked_for():
    rows = [ItemScore(item_id="a", cluster_id="a", model="tuned", metric=name, value=1.0)
            for name in (metrics.CHOICE_CONFIDENCE, "choice_accuracy", "pass_of_mine", "bits_per_byte")]  # fmt: skip
    assert selection.metrics_of(rows) == ["bits_per_byte", "choice_accuracy", "calibration_error", "pass_of_mine"]
