"""Steps that several jobs share: what is checked before anything costs time, and what is loaded after that."""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.allocator import allocator_in_use
from finetune.config import AdapterMethod, LossOn, RunConfig, Tracker, TrackingConfig
from finetune.data.check import Ledger
from finetune.data.read import read_splits
from finetune.errors import ConfigError, ExportError
from finetune.evaluation.metrics import CODE_METRICS
from finetune.evaluation.sandbox.isolation import find_isolation
from finetune.evaluation.selection import choose_items, select_metrics
from finetune.jobs.export_checks import check_formats
from finetune.log import is_main_process
from finetune.model.adapter import check_adapter_folder
from finetune.model.hardware import Hardware, check_gpu
from finetune.model.hub import resolve_base
from finetune.model.license import check_license
from finetune.model.quantize import check_quantizable
from finetune.records import Conversation, Example, Splits, TrainResult
from finetune.run import RunFolder, make_private, read_json, write_json, write_text

logger = logging.getLogger(__name__)

NUM_PREVIEWS = 3
"""Examples shown by `inspect` and in the report."""

NUM_GOLDEN = 8
"""Conversations that are kept as the training tokenises them."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The user's rows as conversations by split, and the ledger of what became of each row."""

    splits: Splits
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Training and validation rows as token ids with loss masks, and the tokenizer that made them."""

    train: Sequence[Example]
    validation: Sequence[Example]
    tokenizer: Any

    def previews(self, rows: Rows, show: Callable[[Example, Any, Conversation], str]) -> list[str]:
        """Show the first training examples."""
        wanted = self.train[:NUM_PREVIEWS]
        names = {example.item_id for example in wanted} | {name_of_row(example.item_id) for example in wanted}
        found: dict[str, Conversation] = {}
        for conversation in rows.splits.train:
            if conversation.item_id in names:
                found[conversation.item_id] = conversation
            if len(found) >= NUM_PREVIEWS:
                break
        shown = [(example, found.get(example.item_id) or found.get(name_of_row(example.item_id))) for example in wanted]
        return [show(example, self.tokenizer, row) for example, row in shown if row is not None]


def name_of_row(item_id: str) -> str:
    """Return the id of the row that `row#2` is a part of."""
    return item_id.rpartition("#")[0]


@dataclass(slots=True)
class Tuned:
    """A PeftModel that holds the trained adapter, in memory with what belongs to it."""

    model: Any
    tokenizer: Any
    base_dir: Path
    adapter_dir: Path
    hardware: Hardware
    result: TrainResult | None = None

    @contextmanager
    def base(self) -> Iterator[Any]:
        """The model with its adapter switched off."""
        with self.model.disable_adapter():
            yield self.model

    @contextmanager
    def tuned(self) -> Iterator[Any]:
        """The model with its adapter."""
        yield self.model


def check_cheaply(config: RunConfig) -> Rows:
    """Check all that can be checked without torch and without weights, and read the rows.

    Raises:
        ConfigError, ModelError, DataError: the user's mistakes, each in one line.
    """
    check_model(config)
    check_tracker(config.tracking)
    return check_data(config)


def check_model(config: RunConfig) -> None:
    """Check device, licence, adapter folder and export formats."""
    check_gpu(config.model)
    check_license(config.model, config.use)
    check_quantizable(config.quantization, config.model.shape, config.model.name)
    if config.adapter.path is not None:
        check_adapter_folder(Path(config.adapter.path))
    check_formats(config)


def check_tracker(tracking: TrackingConfig) -> None:
    """Refuse a tracker that is not installed, before anything long begins."""
    if tracking.tracker is Tracker.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError("tracking=wandb: wandb is not installed; run pip install 'finetune[wandb]'")


def check_data(config: RunConfig) -> Rows:
    """Read the rows and check that they allow what is asked of them."""
    if not config.data.path and not config.data.sources:
        raise ConfigError(
            "data.path: not set; give a file or folder (data.path=…), a recipe, or a data set (data=legal)"
        )
    splits, ledger = read_splits(config.data, seed=config.seed, offline=config.offline)
    evaluation = config.evaluation
    items = choose_items(splits.test, evaluation.max_items, config.seed)
    metrics = select_metrics(evaluation.metrics, items, run_code=evaluation.run_code)
    if evaluation.run_code:
        _check_sandbox(metrics)
    return Rows(splits, ledger)


def _check_sandbox(metrics: Sequence[str]) -> None:
    """Prove that code can be shut in, before anything long begins."""
    if set(metrics).isdisjoint(CODE_METRICS):
        logger.warning("evaluation.run_code=true, but no test row has unit tests: no code is run")
        return
    logger.info("generated code runs in a sandbox (%s)", find_isolation().kind)


def load_tokenizer(config: RunConfig) -> tuple[Any, Path]:
    """Find (or download) the base model and load its tokenizer, chat template included."""
    from finetune.data.rendering.chat_template import ensure_chat_template
    from finetune.data.rendering.control_tokens import set_policy
    from finetune.model.load import load_tokenizer as load

    base_dir = resolve_base(config.model, offline=config.offline)
    tokenizer = load(base_dir)
    name = ensure_chat_template(tokenizer, config.model.chat_template)
    set_policy(tokenizer, config.data.control_tokens)
    logger.info("base model: %s (%s); chat template: %s", config.model.name, config.model.license, name)
    return tokenizer, base_dir


def load_frozen(config: RunConfig, tokenizer: Any, base_dir: Path) -> tuple[Any, Hardware]:
    """Load the frozen base onto this process's device."""
    from finetune.model.hardware import detect
    from finetune.model.load import load_base

    hardware = detect(config.model)
    loaded = load_base(base_dir, config.model, config.quantization, hardware, tokenizer)
    logger.info(
        "device: %s, %s (%s); base weights: %s",
        hardware.device,
        hardware.dtype_name,
        hardware.reason,
        config.quantization.method.name if loaded.quantized else hardware.dtype_name,
    )
    if not hardware.is_cuda:
        logger.info("allocator: %s", allocator_in_use())
    return loaded.model, hardware


def load_tuned(config: RunConfig, adapter_dir: Path, loaded: tuple[Any, Path] | None = None) -> Tuned:
    """Load the base and a trained adapter on it; `loaded` is what `load_tokenizer` gave, if it has been called."""
    from finetune.model.adapter import load_adapter

    tokenizer, base_dir = loaded or load_tokenizer(config)
    base, hardware = load_frozen(config, tokenizer, base_dir)
    model = load_adapter(base, adapter_dir, trainable=False)
    model.eval()
    return Tuned(model, tokenizer, base_dir, adapter_dir, hardware)


def tokenize(config: RunConfig, rows: Rows, tokenizer: Any) -> Tokenized:
    """Turn training and validation rows into token ids with loss masks, counted in the ledger."""
    from finetune.data.tokenize import tokenize_split

    found = {
        split: tokenize_split(
            getattr(rows.splits, split),
            tokenizer,
            config.training.max_length,
            rows.ledger,
            split=split,
            last_turn_only=config.data.loss_on is LossOn.last_turn,
            long=config.data.long,
            cache_dir=_cache_dir(config),
        )
        for split in ("train", "validation")
    }
    return Tokenized(found["train"], found["validation"], tokenizer)


def _cache_dir(config: RunConfig) -> Path | None:
    if not config.data.cache:
        return None
    return Path(config.data.cache_dir or Path(config.output_dir).absolute().parent / ".cache")


def keep_ledger(rows: Rows, tokenized: Tokenized, folder: RunFolder, *, quiet: bool = False) -> None:
    """Print the ledger and write it into the run folder, with the rejected rows and what is learned of the first."""
    if not is_main_process():
        return
    for line in () if quiet else rows.ledger.lines():
        logger.info("%s", line)
    make_private(folder)
    write_json(folder.ledger, rows.ledger.to_json())
    rows.ledger.write_rejected(folder.rejected)
    write_text(folder.preview, _preview_page(rows, tokenized))


def keep_golden(rows: Rows, tokenizer: Any, folder: RunFolder) -> None:
    """Write held-out conversations as they are rendered and tokenised now; an export must repeat them."""
    write_json(folder.golden, _golden(rows, tokenizer))


def check_golden(rows: Rows, tokenizer: Any, folder: RunFolder) -> None:
    """Compare the held-out conversations with what the training kept of them.

    Raises:
        ExportError: one is rendered or tokenised otherwise now.
    """
    kept = {item["item_id"]: item for item in (read_json(folder.golden) if folder.golden.is_file() else [])}
    for item in _golden(rows, tokenizer):
        before = kept.get(item["item_id"], item)
        if before["messages"] == item["messages"] and (before["whole"], before["prompt"]) != (
            item["whole"],
            item["prompt"],
        ):
            raise ExportError(
                f"{item['item_id']}: is rendered or tokenised otherwise than in the training; the base model's chat "
                "template or tokenizer has changed since. Put it back (model.chat_template, the model's folder), or "
                "train again"
            )


def _golden(rows: Rows, tokenizer: Any) -> list[dict[str, Any]]:
    from finetune.export.gguf.golden import golden_items

    held_out = rows.splits.test or rows.splits.validation or rows.splits.train
    return golden_items(held_out[:NUM_GOLDEN], tokenizer, NUM_GOLDEN)


def _preview_page(rows: Rows, tokenized: Tokenized) -> str:
    """HTML that stands alone and inside the report; in ASCII, so that no browser guesses the encoding wrong."""
    from finetune.data.rendering.preview_html import PREVIEW_CSS, preview_html

    figures = "\n".join(tokenized.previews(rows, preview_html))
    return f"<style>{PREVIEW_CSS}</style>\n{figures}\n".encode("ascii", "xmlcharrefreplace").decode()


def base_is_changed(config: RunConfig) -> bool:
    """Whether training changes the base in memory, so that it must be loaded again for a comparison (PiSSA)."""
    return config.adapter.method is AdapterMethod.pissa
