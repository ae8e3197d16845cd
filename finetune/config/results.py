"""Sections `evaluation`, `export`, `tracking`, `report` and `plan`: what is made of a training."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune.config.checks import at_least, positive
from finetune.config.values import METRICS, ExportDtype, ExportFormat, MergeBase, Sharding, Tracker, TrackingMode


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How base and tuned model are compared on the test split."""

    metrics: list[str] = field(default_factory=lambda: ["auto"])
    """`auto` (what the rows support) or some of bits_per_byte, choice_accuracy, choice_accuracy_normalised,
    calibration_error, exact_match, normalised_match, token_f1, rouge_l, json_field_accuracy, pass_at_1, pass_at_5,
    pass_at_10, pass_at_100."""
    max_items: int = 200
    """Test items scored per metric, drawn with the seed; more narrows the intervals."""
    max_new_tokens: int = 64
    """Longest answer in tokens that a model may write (metrics of written answers); more takes longer."""
    batch_tokens: int = 4096
    """Tokens scored at once; more is faster and costs memory."""
    equivalence_margin: float = 0.03
    """Differences wholly within plus or minus this count as equivalent (in the metric's unit)."""
    bootstrap_samples: int = 10000
    """Resamples of the paired cluster bootstrap."""
    run_code: bool = False
    """Run the functions that the models write, with the rows' unit tests, in a sandbox (Linux); for pass_at_1."""
    code_samples: int = 1
    """Answers to each programming task: 1 is the most probable one, more are drawn; pass_at_5 needs 5; more takes
    longer."""
    code_temperature: float = 0.8
    """Randomness of drawn answers; higher makes them differ more."""
    max_code_tokens: int = 512
    """Longest answer to a programming task in tokens; more takes longer."""
    code_seconds: float = 10.0
    """Longest run of one program with its tests."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        for metric in self.metrics:
            if metric not in (*METRICS, "auto"):
                yield f"evaluation.metrics: {metric!r} is unknown. Known: auto, {', '.join(METRICS)}"
        if not self.metrics:
            yield "evaluation.metrics: empty; use [auto]"
        yield from at_least("evaluation.max_items", self.max_items, 1)
        yield from at_least("evaluation.max_new_tokens", self.max_new_tokens, 1)
        yield from at_least("evaluation.batch_tokens", self.batch_tokens, 8)
        yield from at_least("evaluation.bootstrap_samples", self.bootstrap_samples, 100)
        yield from positive("evaluation.equivalence_margin", self.equivalence_margin, zero=True)
        yield from at_least("evaluation.code_samples", self.code_samples, 1)
        yield from positive("evaluation.code_temperature", self.code_temperature)
        yield from at_least("evaluation.max_code_tokens", self.max_code_tokens, 1)
        yield from positive("evaluation.code_seconds", self.code_seconds)
        for metric in self.metrics:
            if metric in METRICS and metric.startswith("pass_at_"):
                yield from self._problems_of_code(metric)

    def _problems_of_code(self, metric: str) -> Iterator[str]:
        if not self.run_code:
            yield f"evaluation.metrics: {metric} runs code that a model wrote; allow it with evaluation.run_code=true"
        needed = int(metric.removeprefix("pass_at_"))
        if self.code_samples < needed:
            yield (
                f"evaluation.code_samples: {self.code_samples} answers to a task are too few for {metric}; set "
                f"evaluation.code_samples={needed} or more"
            )


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """The files written after training, besides the adapter."""

    formats: list[ExportFormat] = field(default_factory=lambda: [ExportFormat.safetensors])
    """Files besides the adapter: safetensors, GGUF types (extra `gguf`), or [] for none."""
    dtype: ExportDtype = ExportDtype.stored
    """Number type of the safetensors."""
    imatrix: bool = False
    """Weigh the columns of quantised GGUF tensors by how strongly the training rows use them."""
    imatrix_tokens: int = 20_000
    """Training tokens that are run for that."""
    merge_base: MergeBase = MergeBase.original
    """Which weights the adapter is added to; differs from `original` for a quantised training only."""
    max_shard_bytes: int = 5_000_000_000
    """Largest safetensors file."""
    verification_items: int = 20
    """Held-out prompts on which the written model is compared with base + adapter."""
    task_items: int = 50
    """Test items that each GGUF file answers in llama.cpp for the evaluation's table; 0 for none."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        yield from at_least("export.max_shard_bytes", self.max_shard_bytes, 1_000_000)
        yield from at_least("export.verification_items", self.verification_items, 1)
        yield from at_least("export.imatrix_tokens", self.imatrix_tokens, 256)
        yield from at_least("export.task_items", self.task_items, 0)


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where scalars go besides the run folder. Off by default: nothing leaves the machine."""

    tracker: Tracker = Tracker.none
    """none or wandb."""
    mode: TrackingMode = TrackingMode.offline
    """offline (files in the run folder) or online."""
    project: str = "finetune"
    """The tracker's project."""


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """What `plan` computes for; a run itself takes the machine that it finds."""

    gpu: str | None = None
    """Card to plan for, such as rtx3060 or a100_80; None is this machine, `cpu` its processor."""
    num_gpus: int = 1
    """Cards of that kind."""
    sharding: Sharding = Sharding.none
    """What each of several cards holds: none (a whole copy, DDP) or fsdp."""
    margin: float = 0.08
    """Share of the memory that is kept free: the formulas' error and fragmentation."""
    efficiency: float | None = None
    """Share of the card's dense 16-bit rate that a training reaches; None is 0.5."""
    dollars_per_hour: float | None = None
    """Price of one card and hour; the plan then names the cost of the run."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        yield from at_least("plan.num_gpus", self.num_gpus, 1)
        if not 0 <= self.margin < 1:
            yield f"plan.margin: {self.margin} is not in [0, 1)"
        if self.efficiency is not None and not 0 < self.efficiency <= 1:
            yield f"plan.efficiency: {self.efficiency} is not in (0, 1]"
        if self.dollars_per_hour is not None:
            yield from positive("plan.dollars_per_hour", self.dollars_per_hour, zero=True)


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """What the report shows."""

    examples: bool = True
    """Show texts of the rows: test questions with the models' answers, training examples, rejected rows. false keeps
    every client's text out of report.html."""
