"""What the report says of a run's memory and of the size of its data, from the record's configuration; as lenient."""

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar

from finetune.config import AdapterConfig, EvaluationConfig, QuantizationConfig, ShapeConfig, TrainingConfig
from finetune.evaluation.figure import Figure
from finetune.evaluation.memory_figure import MemoryBar, memory_figure, parts_of
from finetune.evaluation.run_record import RunRecord
from finetune.log import megabytes
from finetune.model.data_size import DataSize, data_size
from finetune.model.memory import Workload

Section = TypeVar("Section")


def section(kind: type[Section], values: Any) -> Section | None:
    """Read a section of config.yaml as its dataclass; None where it is missing or of another version."""
    if not isinstance(values, Mapping):
        return None
    try:
        return kind(**{f.name: _typed(f.type, values[f.name]) for f in fields(kind) if f.name in values})  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError, ValueError):
        return None


def _typed(kind: Any, value: Any) -> Any:
    return kind[value] if isinstance(kind, type) and issubclass(kind, Enum) else value


def size_of_data(record: RunRecord) -> DataSize | None:
    """Return the counts that the rules of thumb on data sizes need; None where the record lacks them."""
    config = record.config
    training, adapter = section(TrainingConfig, config.get("training")), section(AdapterConfig, config.get("adapter"))
    evaluation = section(EvaluationConfig, config.get("evaluation")) or EvaluationConfig()
    if training is None or adapter is None:
        return None
    try:
        return data_size(record.ledger, training, adapter, _shape(config), max_test_items=evaluation.max_items)
    except (TypeError, AttributeError, ValueError):  # a ledger or a configuration that lacks what is counted
        return None


def _shape(config: Mapping[str, Any]) -> ShapeConfig | None:
    model = config.get("model")
    return section(ShapeConfig, model.get("shape")) if isinstance(model, Mapping) else None


def memory_of_run(record: RunRecord) -> Figure | None:
    """Draw the predicted parts of the training's peak above what was measured.

    A run that kept its prediction (`memory` in versions.json) is taken at its word; of another one it is computed
    again from config.yaml.
    """
    kept = record.versions.get("memory")
    kept = kept if isinstance(kept, Mapping) else {}
    parts = _kept_parts(kept) or _predicted(record)
    bars = [MemoryBar(name="predicted", parts=parts)] if parts else []
    measured = _measured(record, kept)
    if measured:
        error = f"prediction {sum(parts.values()) / measured - 1:+.0%}".replace("-", "−") if parts else ""
        bars.append(MemoryBar(name="measured", parts={"measured": measured}, remark=error))
    limit = _numbers(kept).get("usable_bytes")
    return memory_figure(
        bars,
        limit_bytes=limit,
        limit_name=f"usable here: {megabytes(limit)}" if limit else "",
        title="Memory at the peak of the training",
    )


def _kept_parts(kept: Mapping[str, Any]) -> dict[str, float]:
    """Return the parts that the run kept of its prediction, so that they add up to what can be measured.

    On a GPU the context is not among what torch measures; on a CPU the process may have held more before.
    """
    parts = _numbers(kept.get("parts"))
    predicted = _numbers(kept).get("predicted_bytes")
    if not parts or predicted is None:
        return parts
    if "optimizer" not in parts and "adapter" in parts:
        parts["state"] = parts.pop("adapter")
    more = predicted - sum(parts.values())
    if more > 0.001 * predicted:
        return parts | {"held": more}
    return {name: size for name, size in parts.items() if name != "context" or more > -0.5 * size}


def _measured(record: RunRecord, kept: Mapping[str, Any]) -> float:
    peaks = [row.get("peak_memory_bytes") for row in record.steps] + [kept.get("measured_bytes")]
    return max(_numbers(dict(enumerate(peaks))).values(), default=0.0)


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    }


def _predicted(record: RunRecord) -> dict[str, float]:
    """Compute the parts from the configuration, the device and the share of tokens with loss."""
    config, device = record.config, str(record.versions.get("device", ""))
    training, adapter = section(TrainingConfig, config.get("training")), section(AdapterConfig, config.get("adapter"))
    quantization, shape = section(QuantizationConfig, config.get("quantization")), _shape(config)
    if training is None or adapter is None or quantization is None or shape is None or not device:
        return {}
    try:
        is_cuda = device.startswith("cuda")
        recomputes = (
            is_cuda if training.gradient_checkpointing in (None, "auto") else bool(training.gradient_checkpointing)
        )
        tokens, micro = _numbers(record.ledger.get("tokens")), training.micro_batch_tokens
        share = tokens.get("supervised", 0.0) / tokens["total"] if tokens.get("total") else 1.0
        work = Workload(
            shape=shape,
            adapter=adapter,
            quantization=quantization,
            micro_batch_tokens=training.max_length if isinstance(micro, str) else max(micro, training.max_length),
            recomputed_layers=shape.num_layers if recomputes else 0,
            supervised_share=min(1.0, 1.5 * share),
            number_bytes=4 if record.versions.get("dtype") == "float32" else 2,
            is_cuda=is_cuda,
        )
        return parts_of(work)
    except (TypeError, ValueError):  # values that are still open, such as an interpolation
        return {}
