"""Examples of the report as rows for its template: a question, what was expected, what each contestant wrote."""

from typing import Any

from finetune.evaluation import wording
from finetune.evaluation.report_facts import CONTESTANT_NAMES
from finetune.evaluation.run_record import RunRecord

CONTINUOUS = ("bits_per_byte", "calibration_error", "token_f1", "rouge_l", "json_field_accuracy")
"""Metrics whose values are no rights and wrongs, even where they are 0 or 1."""


def example_rows(record: RunRecord) -> list[dict[str, Any]]:
    """Examples with every contestant's answer, base and tuned first, and what each scored on the main metric."""
    metric = record.result.main_metric if record.result is not None else ""
    scores = {(item.item_id, item.model): item.value for item in record.items if item.metric == metric}
    rows: list[dict[str, Any]] = []
    for example in record.examples:
        answers: list[dict[str, str]] = []
        for model, text in example.answers.items():
            value = scores.get((example.item_id, model))
            score, tone = "", ""
            if value in (0.0, 1.0) and metric not in CONTINUOUS:
                score, tone = ("right", "passed") if value else ("wrong", "failed")
                score = f"choice {score}" if metric.startswith("choice_") else score
            elif value is not None:
                score = wording.format_value(metric, value)
            answers.append({"name": CONTESTANT_NAMES.get(model, model), "text": text, "score": score, "tone": tone})
        rows.append({"id": example.item_id, "kind": example.kind, "question": example.question})
        rows[-1] |= {"reference": example.reference, "answers": answers}
    return rows
