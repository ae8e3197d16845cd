"""The plan's memory as a picture for notebooks: `memory_picture(plan(config))` as the last line of a cell."""

from finetune.evaluation.figure import Figure
from finetune.evaluation.memory_figure import MemoryBar, memory_figure, parts_of
from finetune.jobs.plan_text import gigabytes, weights_name
from finetune.model.planning import Setting, methods_of


def memory_picture(setting: Setting) -> Figure:
    """Draw the parts of a training's memory against the device: this setting first, then the other ways to train it."""
    found = memory_figure(
        [_bar("this run", setting), *(_bar("", other) for other in _others(setting))],
        limit_bytes=setting.card.memory_bytes,
        limit_name=f"{setting.card.name}: {gigabytes(setting.card.memory_bytes)}",
        title="Memory at the peak of a training step, predicted",
    )
    assert found is not None
    return found


def _bar(name: str, setting: Setting) -> MemoryBar:
    again, layers = setting.work.recomputed_layers, setting.work.shape.num_layers
    kept = "all layers kept" if not again else "recomputed" if again >= layers else f"{again} of {layers} recomputed"
    words = f"{weights_name(setting.work)}, {kept}"
    return MemoryBar(
        name=f"{name}: {words}" if name else words,
        parts=parts_of(setting.work),
        remark="" if setting.fits else "does not fit",
    )


def _others(setting: Setting) -> list[Setting]:
    """Every quantisation with and without recomputation, but for the setting itself."""
    tried = [
        setting.changed(method=method, recompute=recompute)
        for method in methods_of(setting)
        for recompute in (True, False)
    ]
    return [other for other in tried if other.work != setting.work]
