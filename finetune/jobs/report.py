"""Writes report.html and the model card from the run folder's files: `python -m finetune report recipe=…`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from finetune.config import RunConfig
from finetune.errors import ConfigError, did_you_mean
from finetune.offline import as_configured
from finetune.run import RunFolder, existing_folder, write_text

logger = logging.getLogger(__name__)


@as_configured
def report(config: RunConfig) -> RunFolder:
    """Write the report of an existing run again, or with `runs=[…]` one page that compares runs, beside the first.

    Raises:
        RunExists: there is no finished training of this configuration in the run folder.
        ConfigError: `runs` names what is no run folder, or fewer than two.
    """
    if config.runs:
        return compare_runs(config.runs)
    folder = existing_folder(config)
    report_part(config, folder)
    return folder


def compare_runs(names: Sequence[str]) -> RunFolder:
    """Write comparison.html into the folder that holds the first run, and return that run's folder."""
    from finetune.evaluation.comparison import build_comparison

    folders = [_run_named(name) for name in names]
    if len(set(folders)) < 2:
        raise ConfigError(f"runs: {', '.join(names)} is one run; name at least two, such as runs=[outputs/a,outputs/b]")
    page = folders[0].parent / "comparison.html"
    write_text(page, build_comparison(folders))
    logger.info("comparison: %s", page)
    return RunFolder(folders[0])


def _run_named(name: str) -> Path:
    """Find a run by its folder, or by its name below outputs/."""
    for place in (Path(name).expanduser(), Path("outputs") / name):
        if (place / "config.yaml").is_file():
            return place.absolute()
    around = Path(name).expanduser().absolute().parent
    known = [found.parent.name for place in (around, Path("outputs")) for found in place.glob("*/config.yaml")]
    raise ConfigError(f"runs: there is no run in {name}.{did_you_mean(Path(name).name, known)}")


def report_part(config: RunConfig, folder: RunFolder) -> None:
    """Build report and model card from the files of the run folder alone; `config.report` says what is shown."""
    from finetune.evaluation.report import build_model_card, build_report

    write_text(folder.card, build_model_card(folder.path))
    write_text(folder.report, build_report(folder.path, examples=config.report.examples))
    logger.info("report: %s", folder.report)
