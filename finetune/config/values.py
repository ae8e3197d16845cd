"""Values that options of a run choose from, by name; each says what it means."""

from enum import Enum
from typing import Any

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


METRICS = (
    "bits_per_byte",
    *("choice_accuracy", "choice_accuracy_normalised", "calibration_error"),
    *("exact_match", "normalised_match", "token_f1", "rouge_l", "json_field_accuracy"),
    *("pass_at_1", "pass_at_5", "pass_at_10", "pass_at_100"),
)
"""Metrics that `evaluation.metrics` can name, besides `auto`."""


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
