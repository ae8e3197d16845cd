"""Writes report.html and the model card from the run folder's files: `python -m finetune report recipe=…`."""

import logging

from finetune.config import RunConfig
from finetune.offline import as_configured
from finetune.run import RunFolder, existing_folder, write_text

logger = logging.getLogger(__name__)


@as_configured
def report(config: RunConfig) -> RunFolder:
    """Write the report of an existing run again.

    Raises:
        RunExists: there is no finished training of this configuration in the run folder.
    """
    folder = existing_folder(config)
    report_part(config, folder)
    return folder


def report_part(config: RunConfig, folder: RunFolder) -> None:
    """Build report and model card from the files of the run folder alone; `config.report` says what is shown."""
    from finetune.evaluation.report import build_model_card, build_report

    write_text(folder.card, build_model_card(folder.path))
    write_text(folder.report, build_report(folder.path, examples=config.report.examples))
    logger.info("report: %s", folder.report)
