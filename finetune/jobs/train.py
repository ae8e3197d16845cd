"""Trains the adapter: `python -m finetune train recipe=…`; the first part of a run."""

import logging
from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.holding import let_go_of
from finetune.jobs import steps
from finetune.jobs.contents import contents_of
from finetune.jobs.export_checks import check_base
from finetune.jobs.memory_choice import choose_setting
from finetune.jobs.processes import leave_training, on_main_process
from finetune.log import duration, is_main_process, num_processes
from finetune.offline import as_configured
from finetune.run import RunFolder, RunState, open_folder, refuse_changed_contents, start_folder, write_versions

logger = logging.getLogger(__name__)


@as_configured
def train(config: RunConfig) -> RunFolder:
    """Train the adapter and write it to the run folder, with its metrics and the data's ledger.

    Raises:
        FinetuneError: a mistake of the user (nothing is left behind), or a training that failed.
    """
    rows = steps.check_cheaply(config)
    folder, state = on_main_process(lambda: open_folder(config))
    if state is RunState.trained:
        logger.info("train: %s is already trained; nothing to do", folder.path)
    else:
        with let_go_of(folder.path):
            train_part(config, rows, folder, state)
    return folder


def train_part(config: RunConfig, rows: steps.Rows, folder: RunFolder, state: RunState) -> steps.Tuned | None:
    """Train, or load what was trained before; None on all processes but the main one."""
    tokenizer, base_dir = on_main_process(lambda: steps.load_tokenizer(config))
    if state is RunState.trained:
        if not is_main_process():
            return None
        refuse_changed_contents(folder, config, contents_of(config, rows, tokenizer, base_dir))
        logger.info("train: already done; loading the adapter of %s", folder.path)
        return steps.load_tuned(config, folder.adapter, (tokenizer, base_dir))
    check_base(config, base_dir, tokenizer)
    contents = on_main_process(lambda: _contents(config, rows, tokenizer, base_dir, folder, state))
    examples = steps.tokenize(config, rows, tokenizer)
    on_main_process(lambda: start_folder(folder, config, contents))
    steps.keep_ledger(rows, examples, folder)
    if is_main_process():
        steps.keep_golden(rows, tokenizer, folder)
    return _train_new(config, examples, tokenizer, base_dir, folder)


def _contents(
    config: RunConfig, rows: steps.Rows, tokenizer: Any, base_dir: Path, folder: RunFolder, state: RunState
) -> dict[str, str]:
    """Return the contents that the training depends on, which are those of the run that goes on."""
    contents = contents_of(config, rows, tokenizer, base_dir) | {"num_processes": str(num_processes())}
    if state is RunState.unfinished:
        refuse_changed_contents(folder, config, contents)
    return contents


def _train_new(
    config: RunConfig,
    examples: steps.Tokenized,
    tokenizer: Any,
    base_dir: Path,
    folder: RunFolder,
) -> steps.Tuned | None:
    from finetune.model.adapter import add_adapter
    from finetune.training.build import train_adapter

    base, hardware = steps.load_frozen(config, tokenizer, base_dir)
    if is_main_process():
        for change in write_versions(
            folder, device=str(hardware.device), dtype=hardware.dtype_name, reason=hardware.reason, seed=config.seed
        ):
            logger.warning("resume: %s; the result may differ from an uninterrupted run's", change)
    setting = on_main_process(lambda: choose_setting(config, hardware, base_dir, folder))
    model = add_adapter(base, config.adapter, seed=config.seed)
    result = train_adapter(
        model,
        tokenizer,
        examples.train,
        examples.validation,
        training=config.training,
        setting=setting,
        adapter=config.adapter,
        tracking=config.tracking,
        hardware=hardware,
        folder=folder,
        seed=config.seed,
        resume=config.resume,
    )
    leave_training()
    if result is None:
        return None
    logger.info(
        "trained %d steps, %s tokens in %s (%s tokens/s)",
        result.num_steps,
        f"{result.num_tokens:,}",
        duration(result.seconds),
        f"{result.tokens_per_second:,.0f}",
    )
    first, best = result.first_validation_loss, result.best_validation_loss
    if first is not None and best is not None and best >= first:
        logger.warning(
            "the validation loss never fell below the untrained model's (%.4f; best %.4f at step %d): lower "
            "training.learning_rate (now %g), or train longer on more rows",
            first,
            best,
            result.best_step,
            config.training.learning_rate,
        )
    if steps.base_is_changed(config):
        return steps.load_tuned(config, folder.adapter)
    return steps.Tuned(model, tokenizer, base_dir, folder.adapter, hardware, result)
