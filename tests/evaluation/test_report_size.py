"""Memory in the report: what a run kept of its prediction, what is computed again, and what was measured."""

import json
import re

import pytest

from finetune.compose import load_config
from finetune.evaluation.report_size import memory_of_run, size_of_data
from finetune.evaluation.run_record import RunRecord
from finetune.fingerprint import plain_config

PARTS = {"weights": 5e9, "adapter": 0.7e9, "activations": 1e9, "working": 2e9, "gathered": 0, "context": 1.25e9}


def record(memory=None, *, steps=(), **versions):
    found = RunRecord(name="r", config=plain_config(load_config("quickstart")), steps=list(steps))
    found.versions = {"device": "cpu", "dtype": "float32"} | versions | ({"memory": memory} if memory else {})
    return found


def rows(figure):
    assert figure is not None
    cells = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", figure.html)]
    return {row[0]: row[1:] for row in cells if row}


def test_a_kept_prediction_stands_beside_what_was_measured():
    kept = {"parts": PARTS, "predicted_bytes": 8.7e9, "measured_bytes": 8.0e9, "usable_bytes": 22e9}
    figure = memory_of_run(record(kept))
    assert figure is not None
    found = rows(figure)
    assert found["in all"] == ["8700000000", "8000000000"]
    assert "context" not in found  # a GPU's context is not among what torch measures
    assert found["usable here: 22.0 GB"] == ["22000000000"] * 2
    assert "prediction +9%" in figure.html
    assert "adapter, gradients, optimizer" in figure.html


def test_what_a_process_held_before_is_a_part_of_its_own():
    found = rows(memory_of_run(record({"parts": PARTS, "predicted_bytes": 11.95e9, "measured_bytes": 12e9})))
    assert found["held before the training"][0] == "2000000000"
    assert found["in all"][0] == "11950000000"


def test_an_older_run_is_predicted_again():
    found = rows(memory_of_run(record(steps=[{"step": 3, "peak_memory_bytes": 1.6e9}])))
    assert found["in all"][1] == "1600000000"
    assert 0.8e9 < float(found["in all"][0]) < 1.2e9
    assert found["optimizer"][0] == str(8 * 466_944)


@pytest.mark.parametrize("damage", [{"parts": "x", "predicted_bytes": "y"}, {"parts": {"weights": "5"}}, []])
def test_damage_empties_the_figure_only(damage):
    hurt = record(damage)
    hurt.config["training"] = {"micro_batch_tokens": "auto"}
    assert memory_of_run(hurt) is None
    assert size_of_data(hurt) is None


def test_sizes_come_from_ledger_and_configuration():
    counted = record()
    counted.ledger = json.loads(
        '{"splits": {"train": 720, "test": 220}, "tokens": {"total": 65591, "supervised": 4745}}'
    )
    size = size_of_data(counted)
    assert size is not None
    assert (size.num_steps, size.num_test_items, size.rank) == (54, 60, 16)
