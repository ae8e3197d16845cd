"""The schema of a run: every option, its unit, its effect; standard library only.

`compose.load_config` makes one `RunConfig` from a recipe and overrides. After that nobody mutates it, and a
part of the system takes its own section only. Values in these files are the last resort; `conf/` holds the defaults.
"""

from finetune.config.data import DataConfig, SourceConfig
from finetune.config.model import AdapterConfig, ModelConfig, QuantizationConfig, RecommendedConfig, ShapeConfig
from finetune.config.results import EvaluationConfig, ExportConfig, PlanConfig, ReportConfig, TrackingConfig
from finetune.config.run import RunConfig
from finetune.config.training import TrainingConfig
from finetune.config.values import (
    AUTO,
    CONTENTS,
    FINGERPRINTED,
    METRICS,
    MISSING,
    PII_POLICIES,
    AdapterMethod,
    CommercialUse,
    ControlTokens,
    DataFormat,
    Dtype,
    ExportDtype,
    ExportFormat,
    LongRows,
    LossOn,
    MergeBase,
    NearDuplicates,
    OnLossSpike,
    OnSaveError,
    QuantizationMethod,
    Schedule,
    Sharding,
    Tracker,
    TrackingMode,
    Use,
)

__all__ = [
    "AUTO",
    "CONTENTS",
    "FINGERPRINTED",
    "METRICS",
    "MISSING",
    "PII_POLICIES",
    "AdapterConfig",
    "AdapterMethod",
    "CommercialUse",
    "ControlTokens",
    "DataConfig",
    "DataFormat",
    "Dtype",
    "EvaluationConfig",
    "ExportConfig",
    "ExportDtype",
    "ExportFormat",
    "LongRows",
    "LossOn",
    "MergeBase",
    "ModelConfig",
    "NearDuplicates",
    "OnLossSpike",
    "OnSaveError",
    "PlanConfig",
    "QuantizationConfig",
    "QuantizationMethod",
    "RecommendedConfig",
    "ReportConfig",
    "RunConfig",
    "Schedule",
    "ShapeConfig",
    "Sharding",
    "SourceConfig",
    "Tracker",
    "TrackingConfig",
    "TrackingMode",
    "TrainingConfig",
    "Use",
]
