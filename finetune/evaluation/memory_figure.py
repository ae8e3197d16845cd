"""Memory of a training, part by part, as a picture: a notebook shows the plan, the report adds what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.evaluation.figure import Figure, figure
from finetune.evaluation.stacked_bars import Bar, Segment, stacked_chart
from finetune.model.memory import Workload, logits_bytes, training_parts
from finetune.model.sizes import num_adapter_parameters

GB = 1e9
TITLES = {
    "weights": "frozen weights",
    "state": "adapter, gradients, optimizer",
    "adapter": "adapter and gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits",
    "working": "working memory of a layer or of the logits",
    "gathered": "exchanged between cards",
    "context": "context",
    "held": "held before the training",
    "measured": "measured",
}
"""Parts of a prediction in the order of the bar, and their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryBar:
    """Bytes by part under one name, such as `predicted` or a quantisation."""

    name: str
    parts: Mapping[str, float]
    remark: str = ""
    """Stands beside the total."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def parts_of(work: Workload) -> dict[str, float]:
    """Return the bytes of a training step's peak as the picture shows them.

    AdamW's two moments in float32 (8 bytes a trainable weight) stand apart from the adapter; what exists for a moment
    only is called logits where these are the larger part of it.
    """
    parts = dict(training_parts(work))
    sharded = work.num_devices if work.num_devices > 1 and work.sharding.name == "fsdp" else 1
    optimizer = min(
        parts["adapter"], (work.state_bytes - 8) * num_adapter_parameters(work.shape, work.adapter) / sharded
    )
    parts["adapter"] -= optimizer
    parts["optimizer"] = optimizer
    if logits_bytes(work) >= parts["working"]:
        parts["logits"] = parts.pop("working")
    return {name: parts[name] for name in TITLES if parts.get(name)}


def memory_figure(bars: list[MemoryBar], *, limit_bytes: float | None, limit_name: str, title: str) -> Figure | None:
    """Draw bars against the device's memory, with their numbers as a table; None without a bar."""
    if not bars:
        return None
    drawn = [
        Bar(
            name=bar.name,
            text=", ".join(filter(None, (_gigabytes(bar.total), bar.remark))),
            segments=[
                Segment(name=TITLES.get(part, part.replace("_", " ")), css_class=_css_class(part), value=size / GB)
                for part, size in _in_order(bar.parts)
            ],
        )
        for bar in bars
    ]
    names = list(dict.fromkeys(part for bar in bars for part, _ in _in_order(bar.parts)))
    return figure(
        lambda width: stacked_chart(
            drawn,
            width=width,
            title=title,
            unit=" GB",
            write=lambda value: _gigabytes(value * GB),
            limit=None if limit_bytes is None else limit_bytes / GB,
            limit_name=limit_name,
        ),
        columns=["part", *(f"{bar.name} (bytes)" for bar in bars)],
        rows=[
            *([TITLES.get(name, name), *(f"{bar.parts.get(name, 0):.0f}" for bar in bars)] for name in names),
            ["in all", *(f"{bar.total:.0f}" for bar in bars)],
            *([[limit_name, *[f"{limit_bytes:.0f}"] * len(bars)]] if limit_bytes is not None else []),
        ],
    )


def _in_order(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    known = list(TITLES)
    return sorted(parts.items(), key=lambda part: known.index(part[0]) if part[0] in known else len(known) - 1)


def _css_class(part: str) -> str:
    return f"part-{part}" if part in TITLES else "part-other"


def _gigabytes(num_bytes: float) -> str:
    size = num_bytes / GB
    return f"{size:.0f} GB" if size >= 100 else f"{size:.1f} GB" if size >= 9.95 else f"{size:.2f} GB"
