"""`python -m finetune prefetch`: downloads what a run needs from the hub, for a machine without network."""

from collections.abc import Iterator
from pathlib import Path

from finetune.config import DataConfig, RunConfig
from finetune.data.load import is_hub_id
from finetune.data.readers.hub import read_hub
from finetune.log import megabytes
from finetune.model.hub import resolve_base
from finetune.model.license import check_license
from finetune.offline import as_configured


@as_configured
def prefetch(config: RunConfig) -> None:
    """Download the base model and the hub data sets of a run, and print what lies where.

    Raises:
        ConfigError, ModelError, DataError, ResourceError: what cannot be had, and what to do.
    """
    check_license(config.model, config.use)
    folder = resolve_base(config.model, offline=config.offline)
    if config.model.path is not None:
        print(f"model  {config.model.name}: nothing to download, {megabytes(_size(folder))} in {folder}")
    else:
        print(f"model  {config.model.hub_id}: {megabytes(_size(folder))} in {folder}")
    hub_ids = list(dict.fromkeys(path for path in _data_paths(config.data) if is_hub_id(path)))
    for hub_id in hub_ids:
        print(f"data   {hub_id}: {_fetch_data(hub_id, config.data, offline=config.offline)}")
    if not hub_ids:
        print("data   nothing to download")
    if hub_ids or config.model.path is None:
        print(
            "Copy the hub cache (HF_HOME, else ~/.cache/huggingface) to the other machine and add offline=true there."
        )


def _data_paths(data: DataConfig) -> Iterator[str]:
    yield from (path for path in (data.path, data.validation_path, data.test_path) if path is not None)


def _fetch_data(hub_id: str, data: DataConfig, *, offline: bool) -> str:
    next(iter(read_hub(hub_id, subset=data.subset, split=data.split, offline=offline)), None)
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / hub_id.replace("/", "___").lower()
    return f"{megabytes(_size(folder))} in {folder}" if folder.is_dir() else f"in {config.HF_DATASETS_CACHE}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
