"""The schema of a run: every option, its unit, its effect; standard library only.

`compose.load_config` makes one `RunConfig` from a recipe and overrides. After that nobody mutates it, and a
part of the system takes its own section only. Values below are the last resort; `conf/` holds the defaults.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from finetune.errors import ConfigError, did_you_mean

MISSING: Any = "???"
"""OmegaConf's mark of a required value, written here so that the schema needs no import of it."""

AUTO = "auto"
"""Value of an option that is otherwise a number, or true or false: the run chooses."""


class Use(Enum):
    """What the tuned model is for; a licence may forbid it."""

    research = "research"
    commercial = "commercial"


class CommercialUse(Enum):
    """What a model's licence says about commercial use."""

    allowed = "allowed"
    conditional = "conditional"
    """Allowed within the licence's own terms (user counts, an acceptable-use policy)."""
    forbidden = "forbidden"
    unknown = "unknown"


class DataFormat(Enum):
    """How rows become conversations; `auto` looks at the columns."""

    auto = "auto"
    messages = "messages"
    sharegpt = "sharegpt"
    alpaca = "alpaca"
    prompt_completion = "prompt_completion"
    question_answer = "question_answer"
    choices = "choices"
    squad = "squad"
    text = "text"
    preference = "preference"
    kto = "kto"


class LongRows(Enum):
    """What becomes of a row that is longer than `training.max_length`."""

    split = "split"
    """The prompt is shortened first; a longer answer goes on in further rows that repeat the prompt."""
    truncate = "truncate"
    """The prompt is shortened first; the end of a longer answer is cut off and counted as lost."""
    drop = "drop"
    """The row is rejected as too long."""


class LossOn(Enum):
    """Which turns of a chat carry loss."""

    all_turns = "all_turns"
    """Every turn of the assistant."""
    last_turn = "last_turn"
    """The last turn of the assistant alone."""


class ControlTokens(Enum):
    """What becomes of control tokens of the model, such as `<|im_end|>`, that stand in the text of a chat's row."""

    text = "text"
    """They are encoded as the characters that they are written with; only the template's own end and begin turns."""
    reject = "reject"
    """The row is rejected."""
    allow = "allow"
    """They count as if the template had written them."""


class NearDuplicates(Enum):
    """What becomes of a row that nearly repeats another one."""

    drop = "drop"
    """It is rejected; of a training and a test row, the training row is."""
    report = "report"
    """It is counted and kept; on one side of the split with its like, where the split is drawn here."""
    ignore = "ignore"
    """It is not looked for."""


PII_POLICIES = ("off", "report", "redact", "refuse")
"""What `data.pii` can be. Strings, since YAML reads a bare `off` as false."""


class AdapterMethod(Enum):
    """LoRA and its variants. LoRA+ is plain LoRA with `lora_plus_ratio`."""

    lora = "lora"
    rslora = "rslora"
    dora = "dora"
    pissa = "pissa"


class QuantizationMethod(Enum):
    """How the frozen base is held during training."""

    nf4 = "nf4"
    int8 = "int8"
    none = "none"


class Dtype(Enum):
    """Number type of frozen weights and arithmetic; `auto` asks the device."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Schedule(Enum):
    """Course of the learning rate after the warm-up."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class OnLossSpike(Enum):
    """What becomes of a step whose loss lies 6 standard deviations above the last 128."""

    warn = "warn"
    """Say so and learn from it."""
    skip = "skip"
    """Leave the weights as they are and go on; the rows are named in metrics.jsonl."""
    stop = "stop"
    """End the run before the step changes the weights."""


class OnSaveError(Enum):
    """What becomes of a run that cannot save: a full disk, a folder that cannot be written to."""

    stop = "stop"
    """End the run; the last good checkpoint stays."""
    warn = "warn"
    """Say so and go on; the last good checkpoint stays, and the next save is tried."""


class MergeBase(Enum):
    """Which weights the adapter is added to in an export."""

    original = "original"
    """The 16-bit weights of the base model."""
    dequantized = "dequantized"
    """The NF4 weights that were trained on, expanded to 16 bits."""
    auto = "auto"
    """Both are measured on the validation set; the better one is taken."""


class ExportFormat(Enum):
    """Files that an export can write beside the adapter."""

    safetensors = "safetensors"
    gguf_f32 = "F32"
    gguf_f16 = "F16"
    gguf_bf16 = "BF16"
    gguf_q8_0 = "Q8_0"
    gguf_q6_k = "Q6_K"
    gguf_q5_k_m = "Q5_K_M"
    gguf_q5_k_s = "Q5_K_S"
    gguf_q4_k_m = "Q4_K_M"
    gguf_q4_k_s = "Q4_K_S"
    gguf_q4_0 = "Q4_0"
    gguf_iq4_xs = "IQ4_XS"
    gguf_q3_k_m = "Q3_K_M"
    gguf_q2_k = "Q2_K"
    gguf_lora = "LoRA"
    """The adapter alone, for llama.cpp's --lora."""

    @property
    def is_gguf(self) -> bool:
        """Whether the file is one of llama.cpp's."""
        return self is not ExportFormat.safetensors


class ExportDtype(Enum):
    """Number type of the merged safetensors."""

    stored = "stored"
    """That of the base's own files."""
    float32 = "F32"
    float16 = "F16"
    bfloat16 = "BF16"


class Tracker(Enum):
    """Where scalars go besides `metrics.jsonl`."""

    none = "none"
    wandb = "wandb"


class TrackingMode(Enum):
    """`offline` writes to the run folder only; `online` sends scalars to the tracker's server."""

    offline = "offline"
    online = "online"


@dataclass(kw_only=True, slots=True)
class ShapeConfig:
    """The model's sizes, so that a plan needs no download; checked against config.json where that is there."""

    num_layers: int = MISSING
    """Transformer blocks."""
    hidden_size: int = MISSING
    """Width of the residual stream."""
    intermediate_size: int = MISSING
    """Width of the feed-forward layer (of one expert in a mixture)."""
    num_heads: int = MISSING
    """Query heads."""
    num_kv_heads: int = MISSING
    """Key and value heads."""
    head_dim: int = MISSING
    """Width of one head."""
    vocab_size: int = MISSING
    """Rows of the embedding."""
    tied_embeddings: bool = False
    """Whether the output head is the embedding."""
    num_experts: int = 0
    """Experts per layer; 0 for a dense model."""
    experts_per_token: int = 0
    """Experts that a token runs through; 0 for a dense model."""


@dataclass(kw_only=True, slots=True)
class RecommendedConfig:
    """What depends on the model's size; recipes refer to it, such as `${model.recommended.learning_rate}`.

    A local model's YAML leaves them open; they are then derived from its config.json (`model.shape`).
    """

    learning_rate: float = MISSING
    """Peak learning rate for LoRA with AdamW."""
    max_length: int = MISSING
    """Longest document in tokens; longer costs memory."""
    micro_batch_tokens: int | str = MISSING
    """Tokens per forward pass and process, or `auto`; more costs memory."""
    batch_tokens: int = MISSING
    """Tokens per optimizer step over all processes."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The base model: a local folder (`path`) or a hub id."""

    name: str = MISSING
    """Short name, for messages and the model card."""
    path: str | None = None
    """Folder with config.json, safetensors weights and tokenizer. Set, it is used instead of the hub."""
    hub_id: str | None = None
    """`owner/name` on the Hugging Face hub."""
    revision: str = "main"
    """Branch, tag or commit on the hub; a commit makes the run reproducible."""
    license: str = "unknown"
    """SPDX identifier, or the licence's own name."""
    license_url: str | None = None
    """Where the licence's text stands."""
    commercial_use: CommercialUse = CommercialUse.unknown
    """What the licence says about `use=commercial`."""
    gated: bool = False
    """Whether the hub asks for an account that has accepted the licence."""
    context_length: int = MISSING
    """Longest input in tokens that the model was made for; a local model's is read from its config.json."""
    chat_template: str = "auto"
    """`auto`: the tokenizer's own, else `plain`; a name (chatml, plain); or a path to a Jinja file."""
    needs_gpu: bool = True
    """Whether training it without a GPU is refused, because it would take days."""
    dtype: Dtype = Dtype.auto
    """Type of the frozen weights and of the arithmetic."""
    shape: ShapeConfig | None = None
    """Sizes; None for a model that is known by its folder only."""
    recommended: RecommendedConfig = field(default_factory=RecommendedConfig)
    """Defaults that depend on the model's size."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        if self.path is None and self.hub_id is None:
            yield "model.path: not set. Give the folder of the base model (model.path=…) or choose one (model=embedded)"
        if self.hub_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_id):
            yield f"model.hub_id: {self.hub_id!r} is no hub id; write owner/name"
        yield from _at_least("model.context_length", self.context_length, 8)


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """One of several sources of training rows; what is None here is as `data` says."""

    path: str = MISSING
    """File, folder or hub id, as `data.path`."""
    weight: float = 1.0
    """Its share of the training rows, relative to the other sources. No row is repeated: the source that is scarcest
    for its weight is used wholly, of the others as many rows are drawn as the weights allow."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    split: str | None = None
    """Split of a hub data set."""
    format: DataFormat | None = None
    """Format of its rows."""
    prompt: str | None = None
    """Template of the user turn."""
    completion: str | None = None
    """Template of the assistant turn."""
    system: str | None = None
    """System message put before every conversation that has none."""
    text_column: str | None = None
    """Column of plain text."""
    group: str | None = None
    """Column whose equal values never stand on both sides of a split."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        yield from _positive(f"data.sources ({self.path}): weight", self.weight)


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """The rows to learn from, how they become conversations, and how they are split."""

    path: str = MISSING
    """File (.jsonl .json .csv .tsv .parquet .txt .md .html .pdf .docx, or one of them as .gz or .zst), folder of
    documents or of data files, Arrow folder (`save_to_disk`), or hub id."""
    sources: list[SourceConfig] = field(default_factory=list)
    """Several sources of training rows, mixed by weight; used instead of `path`."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split of a hub data set, of an Arrow folder with several, or of a folder whose files are named after splits."""
    validation_path: str | None = None
    """Rows to validate on; None takes `validation_share` of the training rows."""
    test_path: str | None = None
    """Rows to test on; None takes `test_share` of the training rows."""
    format: DataFormat = DataFormat.auto
    """Format of the rows."""
    prompt: str | None = None
    """Template of the user turn: `{column}` is replaced; \\n is a newline, {{ a brace."""
    completion: str | None = None
    """Template of the assistant turn, like `prompt`."""
    system: str | None = None
    """System message put before every conversation that has none."""
    text_column: str | None = None
    """Column of plain text (format `text`)."""
    group: str | None = None
    """Column whose equal values never stand on both sides of a split (contract, patient, repository)."""
    max_rows: int | None = None
    """Use at most so many rows of each file, drawn with the seed."""
    validation_share: float = 0.1
    """Share of rows set aside to choose the best checkpoint."""
    test_share: float = 0.1
    """Share of rows set aside for the verdict."""
    max_rejected_share: float = 0.5
    """A larger share of unusable rows stops the run."""
    max_answer_tokens_lost: float = 0.05
    """A larger share of answer tokens that do not fit `training.max_length` stops the run."""
    long: LongRows = LongRows.split
    """What becomes of a row longer than `training.max_length`: split, truncate or drop."""
    loss_on: LossOn = LossOn.all_turns
    """Which assistant turns of a chat carry loss: all_turns or last_turn."""
    control_tokens: ControlTokens = ControlTokens.text
    """What becomes of control tokens such as `<|im_end|>` in the text of chats: text, reject or allow."""
    near_duplicates: NearDuplicates = NearDuplicates.drop
    """What becomes of rows that nearly repeat another one: drop, report or ignore."""
    near_duplicate_similarity: float = 0.85
    """Rows are near-duplicates when so large a share of their text is the same, and nothing that changes question or
    answer differs."""
    contamination_paths: list[str] = field(default_factory=list)
    """Benchmark files whose items are looked for in the training rows, besides the test split."""
    contamination_words: int = 13
    """An item counts as contaminated when so many words in a row stand in a training row too; 0 does not look."""
    max_contaminated_share: float = 1.0
    """A larger share of contaminated test items stops the run."""
    pii: str = "off"
    """Personal data: off, report (count), redact (replace by placeholders) or refuse (stop the run). Needs the extra
    `privacy`."""
    max_line_bytes: int = 32_000_000
    """A longer line, cell or document is rejected; higher costs memory."""
    max_expansion: float = 200.0
    """A compressed file that grows by more than this factor is refused as a decompression bomb."""
    cache_dir: str | None = None
    """Folder of tokenised rows for later runs; None is `.cache` beside the run folder."""
    cache: bool = True
    """Keep tokenised rows, and use them again where nothing that they depend on has changed."""

    def __post_init__(self) -> None:
        """Read `pii: off` as it is meant; YAML makes it false."""
        if self.pii == "False":
            self.pii = "off"

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        for name in ("validation_share", "test_share"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                yield f"data.{name}: {share} is not in [0, 1)"
        if 0 <= self.validation_share < 1 and 0 <= self.test_share < 1 and self.validation_share + self.test_share >= 1:
            yield "data.validation_share + data.test_share leave no rows to train on; lower one of them"
        for name in (
            "max_rejected_share",
            "max_answer_tokens_lost",
            "near_duplicate_similarity",
            "max_contaminated_share",
        ):
            if not 0 <= getattr(self, name) <= 1:
                yield f"data.{name}: {getattr(self, name)} is not in [0, 1]"
        if (self.prompt is None) != (self.completion is None):
            absent = "prompt" if self.prompt is None else "completion"
            if self.format not in (DataFormat.choices, DataFormat.question_answer, DataFormat.squad):
                yield f"data.{absent}: not set; a mapping needs both data.prompt and data.completion"
        yield from self._problems_of_checks()

    def _problems_of_checks(self) -> Iterator[str]:
        if self.max_rows is not None:
            yield from _at_least("data.max_rows", self.max_rows, 1)
        if self.contamination_words:
            yield from _at_least("data.contamination_words", self.contamination_words, 3)
        yield from _at_least("data.max_line_bytes", self.max_line_bytes, 1000)
        yield from _positive("data.max_expansion", self.max_expansion)
        if self.pii not in PII_POLICIES:
            yield f"data.pii: {self.pii!r} is unknown. Known: {', '.join(PII_POLICIES)}"
        for source in self.sources:
            yield from source.problems()


@dataclass(kw_only=True, slots=True)
class AdapterConfig:
    """The trainable part: low-rank matrices beside the frozen linear layers."""

    method: AdapterMethod = AdapterMethod.lora
    """LoRA or a variant of it."""
    path: str | None = None
    """Folder of a PEFT adapter to go on from; its rank, alpha and targets are kept."""
    rank: int = 16
    """Width of the low-rank matrices; higher learns more and costs memory."""
    alpha: float = 32.0
    """Scale of the update: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
    dropout: float = 0.0
    """Dropout before the low-rank matrices."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names (or name endings) of the linear layers to adapt; `all-linear` is all but the output head."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules trained and saved in full, such as embed_tokens; costs memory."""
    lora_plus_ratio: float | None = None
    """LoRA+: learning rate of the B matrices over that of A (Hayou et al. 2024); None uses one rate."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        yield from _at_least("adapter.rank", self.rank, 1)
        yield from _positive("adapter.alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            yield f"adapter.dropout: {self.dropout} is not in [0, 1)"
        if not self.target_modules:
            yield "adapter.target_modules: empty; nothing would be trained. Use [all-linear]"
        if self.lora_plus_ratio is not None:
            yield from _positive("adapter.lora_plus_ratio", self.lora_plus_ratio)


@dataclass(kw_only=True, slots=True)
class QuantizationConfig:
    """How the frozen base weights are held while training."""

    method: QuantizationMethod = QuantizationMethod.none
    """nf4 (QLoRA, 0.52 bytes a weight), int8 (1 byte) or none."""
    double_quantization: bool = True
    """Quantise NF4's scales too: saves 0.05 bytes a weight."""


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """Optimizer, schedule, batch and checkpoints."""

    learning_rate: float = MISSING
    """Peak learning rate."""
    num_epochs: float = 3.0
    """Passes over the training rows, unless max_steps is set."""
    max_steps: int | None = None
    """Optimizer steps; None derives them from num_epochs."""
    max_length: int = MISSING
    """Longest document in tokens; longer costs memory."""
    micro_batch_tokens: int | str = MISSING
    """Most tokens per forward pass and process, at least the longest row; more costs memory. `auto` takes what is
    fastest within the free memory. Changes speed and memory only: what a step learns from is the same. Halved by itself
    where memory turns out too small."""
    batch_tokens: int = MISSING
    """Most tokens per optimizer step over all processes, at least one row of max_length for each."""
    packing: bool = True
    """Put several documents into one row; attention never crosses from one to another."""
    schedule: Schedule = Schedule.cosine
    """Course of the learning rate after the warm-up, down to zero."""
    warmup_share: float = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """AdamW's decay of the adapter weights."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    adam_beta2: float = 0.999
    """AdamW's decay of the squared gradient; lower adapts faster in short runs."""
    gradient_checkpointing: bool | str = "auto"
    """Recompute activations in the backward pass: about 40 % slower, far less memory. `auto` recomputes just as many
    layers as the free memory makes necessary; the gradients are the same."""
    logging_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    eval_steps: int | None = None
    """Steps between two measurements of the validation loss; None measures about ten times a run."""
    max_validation_tokens: int = 100_000
    """Tokens of validation rows that a measurement reads at most, so that large sets do not slow the training."""
    save_steps: int | None = None
    """Steps between two checkpoints; None saves at each measurement."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, besides the best."""
    early_stopping_patience: int | None = None
    """Stop after so many measurements without a better validation loss; None never stops early."""
    on_loss_spike: OnLossSpike = OnLossSpike.warn
    """A step's loss far (6 standard deviations of the last 128 steps) above them: `warn`, `skip` it, or `stop`."""
    on_save_error: OnSaveError = OnSaveError.stop
    """A checkpoint cannot be written: `stop` the run, or `warn` and go on; either way the last good one stays."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        yield from _positive("training.learning_rate", self.learning_rate, zero=True)
        yield from _positive("training.num_epochs", self.num_epochs)
        for name in ("max_steps", "eval_steps", "save_steps", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None:
                yield from _at_least(f"training.{name}", value, 1)
        for name in ("logging_steps", "keep_checkpoints", "max_validation_tokens"):
            yield from _at_least(f"training.{name}", getattr(self, name), 1)
        yield from _at_least("training.max_length", self.max_length, 8)
        if not isinstance(self.micro_batch_tokens, str):
            yield from _at_least("training.micro_batch_tokens", self.micro_batch_tokens, 8)
        elif self.micro_batch_tokens != AUTO:
            yield f"training.micro_batch_tokens: {self.micro_batch_tokens!r} is neither a whole number nor auto"
        if isinstance(self.gradient_checkpointing, str) and self.gradient_checkpointing != AUTO:
            yield f"training.gradient_checkpointing: {self.gradient_checkpointing!r} is neither true, false nor auto"
        yield from _at_least("training.batch_tokens", self.batch_tokens, 8)
        if not 0 <= self.warmup_share < 1:
            yield f"training.warmup_share: {self.warmup_share} is not in [0, 1)"
        yield from _positive("training.max_grad_norm", self.max_grad_norm)
        yield from _positive("training.weight_decay", self.weight_decay, zero=True)
        if not 0 < self.adam_beta2 < 1:
            yield f"training.adam_beta2: {self.adam_beta2} is not in (0, 1)"


METRICS = (
    "bits_per_byte",
    *("choice_accuracy", "choice_accuracy_normalised", "calibration_error"),
    *("exact_match", "normalised_match", "token_f1", "rouge_l", "json_field_accuracy"),
    *("pass_at_1", "pass_at_5", "pass_at_10", "pass_at_100"),
)
"""Metrics that `evaluation.metrics` can name, besides `auto`."""


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
        yield from _at_least("evaluation.max_items", self.max_items, 1)
        yield from _at_least("evaluation.max_new_tokens", self.max_new_tokens, 1)
        yield from _at_least("evaluation.batch_tokens", self.batch_tokens, 8)
        yield from _at_least("evaluation.bootstrap_samples", self.bootstrap_samples, 100)
        yield from _positive("evaluation.equivalence_margin", self.equivalence_margin, zero=True)
        yield from _at_least("evaluation.code_samples", self.code_samples, 1)
        yield from _positive("evaluation.code_temperature", self.code_temperature)
        yield from _at_least("evaluation.max_code_tokens", self.max_code_tokens, 1)
        yield from _positive("evaluation.code_seconds", self.code_seconds)
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
        yield from _at_least("export.max_shard_bytes", self.max_shard_bytes, 1_000_000)
        yield from _at_least("export.verification_items", self.verification_items, 1)
        yield from _at_least("export.imatrix_tokens", self.imatrix_tokens, 256)
        yield from _at_least("export.task_items", self.task_items, 0)


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where scalars go besides the run folder. Off by default: nothing leaves the machine."""

    tracker: Tracker = Tracker.none
    """none or wandb."""
    mode: TrackingMode = TrackingMode.offline
    """offline (files in the run folder) or online."""
    project: str = "finetune"
    """The tracker's project."""


FINGERPRINTED = ("seed", "model", "quantization", "adapter", "data", "training")
"""What decides the adapter; evaluation, export and tracking may change in a finished run."""

CONTENTS = (
    *("data.train", "data.validation", "data.test"),
    *("model.weights", "model.config", "model.tokenizer", "model.chat_template", "adapter.weights", "num_processes"),
)
"""What else decides it: the contents behind the options, as a resumed run compares them."""


class Sharding(Enum):
    """What several GPUs hold of the model."""

    none = "none"
    """Each a whole copy (DDP)."""
    fsdp = "fsdp"
    """Each a part of the frozen weights and of the adapter's state (FSDP)."""


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
        yield from _at_least("plan.num_gpus", self.num_gpus, 1)
        if not 0 <= self.margin < 1:
            yield f"plan.margin: {self.margin} is not in [0, 1)"
        if self.efficiency is not None and not 0 < self.efficiency <= 1:
            yield f"plan.efficiency: {self.efficiency} is not in (0, 1]"
        if self.dollars_per_hour is not None:
            yield from _positive("plan.dollars_per_hour", self.dollars_per_hour, zero=True)


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """What the report shows."""

    examples: bool = True
    """Show texts of the rows: test questions with the models' answers, training examples, rejected rows. false keeps
    every client's text out of report.html."""


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


def _at_least(key: str, value: int, least: int) -> Iterator[str]:
    if value < least:
        yield f"{key}: {value} is less than {least}"


def _positive(key: str, value: float, *, zero: bool = False) -> Iterator[str]:
    if not (0 < value < float("inf") or (zero and value == 0)):
        yield f"{key}: {value} is not a positive number"
