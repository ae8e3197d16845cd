"""The whole of a run: its sections, and what only they together can get wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass

from finetune.config.data import DataConfig
from finetune.config.model import AdapterConfig, ModelConfig, QuantizationConfig
from finetune.config.results import EvaluationConfig, ExportConfig, PlanConfig, ReportConfig, TrackingConfig
from finetune.config.training import TrainingConfig
from finetune.config.values import (
    CONTENTS,
    FINGERPRINTED,
    MISSING,
    AdapterMethod,
    QuantizationMethod,
    TrackingMode,
    Use,
)
from finetune.errors import ConfigError, did_you_mean


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run, wholly described."""

    recipe: str = MISSING
    """Name of the recipe that it came from, or `custom`."""
    seed: int = 42
    """Seed of splits, adapter initialisation, data order and bootstrap."""
    use: Use = Use.research
    """What the tuned model is for; a licence that forbids it stops the run."""
    output_dir: str = MISSING
    """The run folder."""
    resume: bool = False
    """Go on with what the run folder holds."""
    resume_changes: list[str] = field(default_factory=list)
    """What may differ from the run that is resumed, by name: options (`training.learning_rate`), contents
    (`data.train`, `model.weights`, …) or whole sections (`data`). The steps that are left follow the new values."""
    overwrite: bool = False
    """Delete the run that the folder holds, and start again."""
    offline: bool = False
    """Close the network for this run; use local folders and what was downloaded before."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    runs: list[str] = field(default_factory=list)
    """Run folders that `report` compares on one page, such as [outputs/a,outputs/b]; the others with the first."""

    def __post_init__(self) -> None:
        """Gather all problems and raise once.

        Raises:
            ConfigError: naming each value that cannot work, with what to do.
        """
        problems = list(self._problems())
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        sections = (self.model, self.data, self.adapter, self.training, self.evaluation, self.export, self.plan)
        for section in sections:
            yield from section.problems()
        if not 0 <= self.seed < 2**32:
            yield f"seed: {self.seed} is not in [0, 2^32)"
        yield from self._problems_of_changes()
        if self.resume and self.overwrite:
            yield "resume and overwrite are both true; choose one"
        if self.adapter.method is AdapterMethod.pissa and self.quantization.method is not QuantizationMethod.none:
            yield (
                f"adapter=pissa needs unquantised weights, but quantization={self.quantization.method.name}; "
                "use quantization=none, or adapter=rslora"
            )
        if self.training.max_length > self.model.context_length:
            yield (
                f"training.max_length: {self.training.max_length} is more than the model's context of "
                f"{self.model.context_length} tokens (model.context_length)"
            )
        if self.tracking.mode is TrackingMode.online and self.offline:
            yield "tracking.mode=online contradicts offline=true"

    def _problems_of_changes(self) -> Iterator[str]:
        if self.resume_changes and not self.resume:
            yield "resume_changes: names what may differ from the run that is resumed, so it needs resume=true"
        for name in self.resume_changes:
            section, _, rest = name.partition(".")
            options = getattr(self, section, None) if section in FINGERPRINTED else None
            known = [f"{section}.{f.name}" for f in fields(options)] if is_dataclass(options) else []
            is_option = options is not None and (not rest or f"{section}.{rest.partition('.')[0]}" in known)
            if not is_option and name not in CONTENTS:
                nearest = did_you_mean(name, [*FINGERPRINTED, *CONTENTS, *known])
                yield f"resume_changes: {name!r} decides nothing.{nearest}"
