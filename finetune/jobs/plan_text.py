"""The plan as text for a terminal: aligned tables, bars, and one sentence for each verdict."""

from collections.abc import Iterator, Sequence

from finetune.config import QuantizationMethod, RunConfig
from finetune.jobs.plan_amounts import Course, Disk, Tokens
from finetune.log import duration
from finetune.model.choosing import choice_line, is_chosen
from finetune.model.memory import Workload, export_host_bytes, training_parts
from finetune.model.planning import Setting, largest_micro_batch, longest_document, methods_of
from finetune.model.sizes import num_adapter_parameters
from finetune.model.speed import Speed

BAR_CHARACTERS = 32
_FREE = 0.95
"""Where less of a device's memory is free now, the plan says so."""
TIME_MARGIN = 0.4
"""Share by which the estimated time may be off either way; see `GPU_EFFICIENCY`."""


def weights_name(work: Workload) -> str:
    """Name how the frozen weights are held."""
    method = work.quantization.method
    bits = {QuantizationMethod.nf4: "4 bits (nf4)", QuantizationMethod.int8: "8 bits (int8)"}
    return bits.get(method, "32 bits" if work.number_bytes == 4 else "16 bits")


def gigabytes(num_bytes: float) -> str:
    """Write a size in GB: 9.3 GB, 0.02 GB, 141 GB."""
    size = num_bytes / 1e9
    return f"{size:.0f} GB" if size >= 100 else f"{size:.1f} GB" if size >= 0.95 else f"{size:.2f} GB"


def heading(config: RunConfig, setting: Setting, num_here: int) -> Iterator[str]:
    """Name what is trained, where (on which of `num_here` devices), and whether it fits."""
    card, work = setting.card, setting.work
    several = f"{work.num_devices} x " if work.num_devices > 1 else ""
    sharded = f" ({work.sharding.name})" if work.num_devices > 1 and work.sharding.name != "none" else ""
    method = weights_name(work)
    yield f"{config.recipe}: {config.model.name} in {method}, {config.adapter.method.name} of rank {work.adapter.rank}"
    more = f"; one of {num_here}, plan.num_gpus={num_here} reckons with all" if num_here > work.num_devices else ""
    is_taken = card.usable_bytes < _FREE * card.memory_bytes
    memory = gigabytes(card.memory_bytes) + (f" ({gigabytes(card.usable_bytes)} free now)" if is_taken else "")
    yield f"on {several}{card.name}{sharded}, {memory}, {card.dtype.name} ({card.reason}){more}"
    yield ""
    if is_chosen(config.training):
        yield choice_line(setting, config.training)
    moment, peak = max(setting.moments().items(), key=lambda item: item[1])
    if setting.fits:
        free, whole = 1 - peak / card.usable_bytes, "what is free now" if is_taken else "the memory"
        yield f"It fits: {gigabytes(peak)} at the peak ({moment}), {free:.0%} of {whole} stays free."
    else:
        yield f"It does not fit: needs {gigabytes(peak)} ({moment}), has {gigabytes(setting.room)}."
    if config.model.needs_gpu and not card.is_cuda:
        yield "A run refuses this model without a GPU (model.needs_gpu); plan.gpu=… plans for a card."


def memory_table(setting: Setting) -> Iterator[str]:
    """List the parts of a training step's peak with bars against the card's memory."""
    work, parts = setting.work, dict(training_parts(setting.work))
    trainable = num_adapter_parameters(work.shape, work.adapter)
    again = f"{work.recomputed_layers} of {work.shape.num_layers} layers recomputed"
    meaning = {
        "weights": ("frozen weights", weights_name(work)),
        "adapter": ("adapter", f"{trainable / 1e6:,.1f} million weights with gradients and AdamW"),
        "activations": ("activations", f"{work.micro_batch_tokens:,} tokens at once, {again}"),
        "working": ("working memory", "one layer's backward pass, or the logits"),
        "gathered": ("exchanged", f"between {work.num_devices} cards"),
        "context": ("CUDA context", "and kernels, and what its allocator rounds up")
        if work.is_cuda
        else ("process", "Python, torch and libraries, and holes in its heap"),
    }
    yield "Memory at the peak of a training step"
    whole = max(setting.card.memory_bytes, sum(parts.values()))
    for name, size in parts.items():
        if size:
            title, what = meaning[name]
            yield _bar_row(title, size, whole, what)
    yield f"  {'in all':15}{gigabytes(sum(parts.values())):>9}"
    others = [f"{name} {gigabytes(size)}" for name, size in setting.moments().items() if name != "training"]
    yield f"  besides: {', '.join(others)}; verifying an export {gigabytes(export_host_bytes(work.shape))} of RAM"


def _bar_row(title: str, size: float, whole: float, what: str) -> str:
    bar = "█" * max(1, round(BAR_CHARACTERS * size / whole))
    return f"  {title:15}{gigabytes(size):>9}  {bar:{BAR_CHARACTERS}}  {what}".rstrip()


def fits_table(setting: Setting, config: RunConfig, course: Course | None) -> Iterator[str]:
    """List what fits by method and recomputation: micro-batch, document, pace and time of the run."""
    rows: list[tuple[str, ...]] = [("weights", "recomputed", "micro-batch", "longest document", "tokens/s", "the run")]
    for method in methods_of(setting):
        for recompute in (False, True):
            here = setting.changed(method=method, recompute=recompute, micro=setting.document_tokens)
            rows.append(_fit_row(here, setting, config, course))
    yield f"What fits here (documents of {setting.document_tokens:,} tokens; {setting.plan.margin:.0%} kept free)"
    yield from _aligned(rows)


def _fit_row(here: Setting, wanted: Setting, config: RunConfig, course: Course | None) -> tuple[str, ...]:
    method = weights_name(here.work)
    again = "all layers" if here.recomputes else "no layer"
    longest = longest_document(here, config.model.context_length)
    best = largest_micro_batch(here, config.training.batch_tokens)
    if best is None:
        lacking = f"needs {gigabytes(here.peak)}"
        return (method, again, lacking, f"{longest:,} tokens" if longest else "none", "-", "-")
    speed = best.speed()
    pace = "?" if speed is None else _pace(speed)
    took = "?" if course is None or speed is None else duration(run_seconds(best, course))
    return (method, again, f"{best.work.micro_batch_tokens:,} tokens", f"{longest:,} tokens", pace, took)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        left = [f"{cell:{width}}" for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  " + "   ".join([*left, *right]).rstrip()


def run_seconds(setting: Setting, course: Course) -> float:
    """Return the seconds of all steps and measurements of a training; a measurement is a forward pass alone."""
    speed = setting.speed()
    assert speed is not None
    share = 2 / (6 if setting.recomputes else 4)
    return (course.num_tokens + share * course.num_validation_tokens) / speed.tokens_per_second


def time_lines(setting: Setting, config: RunConfig, tokens: Tokens | None, course: Course | None) -> Iterator[str]:
    """Say how many tokens and steps there are, how long they take, and what they cost."""
    yield "Time"
    if tokens is not None:
        yield f"  data    {tokens.total:,} training tokens ({tokens.source})"
    else:
        yield "  data    not known before it is read: `inspect` counts the tokens, and plan then takes its count"
    speed = setting.speed()
    if speed is None:
        yield "  pace    this GPU is not in the list of cards; name one like it with plan.gpu=… for an estimate"
        return
    rate = setting.card.flops_per_second / 1e12
    basis = f"{speed.efficiency:.0%} of {rate:,.1f} TFLOP/s" if rate >= 10 else f"{speed.efficiency:.0%} of {rate:.2f}"
    basis += "" if rate >= 10 else " TFLOP/s, measured here"
    per_step = config.training.batch_tokens / speed.tokens_per_second
    yield (
        f"  step    {config.training.batch_tokens:,} tokens in {_short(per_step)} "
        f"({_pace(speed)} tokens/s: {basis}, plan.efficiency)"
    )
    if course is None:
        return
    seconds = run_seconds(setting, course)
    low, high = seconds * (1 - TIME_MARGIN), seconds * (1 + TIME_MARGIN)
    yield f"  run     {course.num_steps:,} steps: {duration(seconds)} ({duration(low)} to {duration(high)})"
    if config.plan.dollars_per_hour is not None:
        hourly = config.plan.dollars_per_hour * setting.work.num_devices
        yield f"  cost    ${seconds / 3600 * hourly:,.2f} (${low / 3600 * hourly:,.2f} to ${high / 3600 * hourly:,.2f})"
    yield "          evaluation and export come on top"


def _pace(speed: Speed) -> str:
    return f"{speed.tokens_per_second:,.{0 if speed.tokens_per_second >= 10 else 1}f}"


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def disk_lines(disk: Disk) -> Iterator[str]:
    """List what is written, and whether there is room."""
    yield "Disk"
    shown = ", ".join(f"{name} {gigabytes(size)}" for name, size in disk.parts.items() if size >= 5e6)
    yield f"  {gigabytes(disk.total)}: {shown or 'next to nothing'}"
    verdict = "free" if disk.total <= disk.free else "free: too little; name another folder with output_dir=…"
    yield f"  {gigabytes(disk.free)} {verdict}"
