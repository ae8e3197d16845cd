"""Section `data`: which rows, how they are read, split and checked."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune.config.checks import at_least, positive
from finetune.config.values import (
    MISSING,
    PII_POLICIES,
    ControlTokens,
    DataFormat,
    LongRows,
    LossOn,
    NearDuplicates,
)


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
        yield from positive(f"data.sources ({self.path}): weight", self.weight)


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
            yield from at_least("data.max_rows", self.max_rows, 1)
        if self.contamination_words:
            yield from at_least("data.contamination_words", self.contamination_words, 3)
        yield from at_least("data.max_line_bytes", self.max_line_bytes, 1000)
        yield from positive("data.max_expansion", self.max_expansion)
        if self.pii not in PII_POLICIES:
            yield f"data.pii: {self.pii!r} is unknown. Known: {', '.join(PII_POLICIES)}"
        for source in self.sources:
            yield from source.problems()
