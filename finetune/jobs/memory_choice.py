"""What `auto` chooses for a training on this machine, by the function that `plan` asks; called by the train job."""

import logging
from pathlib import Path

from finetune.config import RunConfig
from finetune.jobs.plan_amounts import count_tokens, setting_with
from finetune.log import num_processes
from finetune.model.cards import card_of
from finetune.model.choosing import choice_line, is_chosen
from finetune.model.hardware import Hardware
from finetune.model.planning import Setting
from finetune.model.shape import read_model_config, shape_of
from finetune.run import RunFolder, keep_in_versions, kept_in_versions

logger = logging.getLogger(__name__)


def choose_setting(config: RunConfig, hardware: Hardware, base_dir: Path, folder: RunFolder) -> Setting:
    """Return how the run trains, tell it in one line and keep it in versions.json; a resumed run keeps its choice."""
    kept = kept_in_versions(folder, "memory")
    shape = config.model.shape or shape_of(read_model_config(base_dir))
    tokens = count_tokens(config, shape)
    setting = setting_with(config, shape, card_of(hardware), num_devices=num_processes(), tokens=tokens)
    training = config.training
    asked = {
        "micro_batch_tokens": training.micro_batch_tokens,
        "gradient_checkpointing": training.gradient_checkpointing,
    }
    if not is_chosen(training):
        reason = "as configured"
    elif kept.get("asked") == asked:
        layers, micro = kept["recomputed_layers"], kept["micro_batch_tokens"]
        setting = setting.changed(layers=layers, micro=micro)
        reason = kept["reason"]
        logger.info("auto: as in the run that goes on: %s", reason.removeprefix("auto: "))
    else:
        reason = choice_line(setting, training)
        logger.log(logging.INFO if setting.fits else logging.WARNING, "%s", reason)
    size = training.micro_batch_tokens
    choice = {
        "micro_batch_tokens": setting.work.micro_batch_tokens if isinstance(size, str) else size,
        "recomputed_layers": setting.work.recomputed_layers,
        "reason": reason,
        "usable_bytes": round(setting.card.usable_bytes),
    }
    keep_in_versions(folder, "memory", {"asked": asked, **choice})
    return setting
