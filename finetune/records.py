"""The data types that flow between the rooms; standard library only.

recipe + overrides -> RunConfig -> list[Conversation] -> Splits -> LoadedModel -> trainer -> TrainResult
-> EvaluationResult -> ExportResult -> report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn. `tool_calls` is the JSON text of a list of calls that an assistant turn makes."""

    role: str
    """system, user, assistant or tool."""
    content: str
    tool_calls: str | None = None
    reasoning_content: str | None = None
    """What an assistant thinks before it says `content`, where the data keeps the two apart."""
    tool_call_id: str | None = None
    """Which call a tool turn answers: the `id` of an entry of `tool_calls`."""
    name: str | None = None
    """Name of the function whose result a tool turn holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """One usable row: a chat (`messages`) or plain `text`, never both.

    `options` are the candidate answers of a choice item; the last message is then the right one of them.
    """

    item_id: str
    """Stable name of the row inside its data set, unique over all splits."""
    source: str
    """Where it was read: `file.jsonl:12`, `contract.txt`, or `hub/id[train]:12`."""
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: str | None = None
    """JSON text of the list of tools that the conversation may call."""
    options: tuple[str, ...] = ()
    group: str | None = None
    """Rows of one group (a contract, a patient) never stand on both sides of a split."""
    tests: tuple[str, ...] = ()
    """Unit tests of the function that the answer is: Python statements or whole test files."""
    entry_point: str | None = None
    """Name of that function."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last assistant turn."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The text that the last assistant turn says, or the whole plain text."""
        return self.text if self.text is not None else self.messages[-1].content

    @property
    def cluster(self) -> str:
        """What statistics resample together: the group, else the item itself."""
        return self.group if self.group is not None else self.item_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A row that is not used, with the ledger's reason and a sentence for the user."""

    source: str
    reason: str
    """One of the reasons in `finetune.data.check.REASONS`."""
    detail: str
    content: str = ""
    """What of the row is kept for rejected.jsonl: its line or cells as text, cut to 10,000 characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """One prompt with a better and a worse answer, for trainers that compare answers (DPO).

    `prompt + chosen` and `prompt + rejected` are whole chats; both answers begin and end with an assistant turn.
    """

    item_id: str
    source: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: str | None = None
    """JSON text of the list of tools that both answers may call."""
    group: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RatedAnswer:
    """One prompt with one answer that somebody found good or bad, for trainers such as KTO.

    `prompt + completion` is a whole chat; the completion begins and ends with an assistant turn.
    """

    item_id: str
    source: str
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    desirable: bool
    """Whether the answer is one to learn (True) or to avoid (False)."""
    tools: str | None = None
    """JSON text of the list of tools that the answer may call."""
    group: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """Conversations by split; no group stands in two of them."""

    train: Sequence[Conversation]
    validation: Sequence[Conversation]
    test: Sequence[Conversation]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A tokenised conversation: `input_ids` and `loss_mask` have one entry per token (T)."""

    item_id: str
    input_ids: list[int]
    loss_mask: list[bool]
    """True where the token carries loss, that is, where the model must predict it."""
    num_supervised_bytes: int
    """UTF-8 bytes of the supervised text, for bits per byte; template tokens count no bytes."""

    @property
    def num_supervised(self) -> int:
        """Supervised tokens that have a predecessor, hence a prediction."""
        return sum(self.loss_mask[1:])


@dataclass(kw_only=True, slots=True)
class LoadedModel:
    """A base model in memory with its tokenizer. `model` and `tokenizer` are transformers objects."""

    model: Any
    tokenizer: Any
    folder: Path
    """Local folder that holds config.json, the 16-bit weights and the tokenizer."""
    quantized: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a finished training leaves behind."""

    adapter_dir: Path
    num_steps: int
    best_step: int
    first_validation_loss: float | None
    best_validation_loss: float | None
    num_tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """One line of `evaluation/items.jsonl`: one item x model x metric."""

    item_id: str
    cluster_id: str
    model: str
    """base, tuned, merged, or the name of an export."""
    metric: str
    value: float
    weight: float = 1.0
    """The item's weight in the metric's mean: bytes for bits_per_byte, else 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over `n` items with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Tuned minus base on the same items; `verdict` is better, worse, equivalent or not_enough_data."""

    difference: float
    low: float
    high: float
    p_value: float
    """Adjusted for the number of metrics (Holm); the verdict goes by it."""
    verdict: str
    raw_p_value: float | None = None
    """Before the adjustment."""
    items_needed: int | None = None
    """About how many test items would tell, where these do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricResult:
    """One metric over all contestants."""

    estimates: dict[str, Estimate]
    """By contestant: base, tuned, majority_class, merged, ..."""
    comparison: Comparison | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """The answers whose confidence lies in (low, high]: how many, their mean confidence, the share that is right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """What `evaluation/summary.json` holds."""

    main_metric: str
    metrics: dict[str, MetricResult]
    calibration: dict[str, tuple[ReliabilityBin, ...]] = field(default_factory=dict)
    """Reliability curve of each contestant whose calibration_error was measured; empty bins are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The comparison of one exported model with merge base + adapter under plain PEFT.

    Logit differences are in nats over held-out prompts; agreements are shares of tokens in [0, 1], for GGUF files of
    the tokens of answers.
    """

    passed: bool
    max_abs_logit_difference: float
    top1_agreement: float
    greedy_match: float
    tokenizer_match: bool
    template_match: bool
    kl_mean: float
    num_tokens: int
    kl_p99: float = 0.0
    """99th percentile of the KL divergence over all positions."""
    quantization_shift_kl_mean: float | None = None
    """KL from the NF4 function that was trained; reported, not gated. None without quantisation."""
    clear_agreement: float | None = None
    """Share of an answer's places where the export does not prefer a token that is clearly less likely."""
    flips_to_wrong: int | None = None
    """Tokens of the held-out answers that base + adapter puts first and the export does not."""
    flips_to_right: int | None = None
    """The other way round."""
    tokens_per_second: float | None = None
    """Rate of generation in the export's own runtime on this machine."""
    num_bytes: int | None = None
    merge_base: str | None = None
    """Weights that the adapter was added to: original or dequantized."""
    merge_base_losses: dict[str, float] | None = None
    """Loss in nats on held-out answers of both, where both were measured."""
    reason: str = ""
    """Why it did not pass; empty when it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """The files of an export and what their verification found, by format name."""

    folders: dict[str, Path] = field(default_factory=dict)
    verifications: dict[str, Verification] = field(default_factory=dict)

    @property
    def unverified(self) -> Sequence[str]:
        """Names of the formats whose verification did not pass."""
        return [name for name, result in self.verifications.items() if not result.passed]
