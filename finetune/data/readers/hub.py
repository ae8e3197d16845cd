"""Reads a data set of the Hugging Face hub; the one file of data/ that knows `datasets`. Called by load.py."""

import os
from collections.abc import Iterator
from typing import Any

from finetune.data.readers.raw import Limits, RawRow, row_within
from finetune.errors import DataError
from finetune.records import Rejection

_DEFAULTS = Limits()


def read_hub(
    hub_id: str, *, subset: str | None, split: str, offline: bool, limits: Limits = _DEFAULTS
) -> Iterator[RawRow | Rejection]:
    """Yield the rows of a hub data set; `offline` uses what is on disk and opens no connection.

    A row of more than `data.max_line_bytes` comes as its Rejection. `data.max_expansion` does not apply: `datasets` has
    unpacked the files before the first row is seen.

    Raises:
        DataError: the data set is missing, gated or unreachable, or has no such subset or split.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{hub_id}: a hub data set needs the package datasets. Install it: pip install datasets"
        ) from None
    if offline:
        _go_offline(datasets)
    try:
        rows: Any = datasets.load_dataset(hub_id, name=subset, split=split, streaming=False)
    except Exception as error:
        raise DataError(_explain(hub_id, error, subset=subset, split=split, offline=offline)) from error
    for number, values in enumerate(rows, start=1):
        yield row_within(dict(values), f"{hub_id}[{split}]:{number}", limits)


def _go_offline(datasets: Any) -> None:
    """Tell modules that read HF_HUB_OFFLINE when they were imported."""
    import huggingface_hub.constants

    datasets.config.HF_HUB_OFFLINE = True
    huggingface_hub.constants.HF_HUB_OFFLINE = True


def _explain(hub_id: str, error: Exception, *, subset: str | None, split: str, offline: bool) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if offline:
        return (
            f"{hub_id}: not on this machine, and offline=true forbids the download. Run once with offline=false, or "
            "give a file or folder (data.path=…)"
        )
    if "GatedRepoError" in kinds or "gated" in text.lower():
        return (
            f"{hub_id}: the data set is gated. Accept its terms on https://huggingface.co/datasets/{hub_id}, then log "
            "in: hf auth login"
        )
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError"}:
        return (
            f"{hub_id}: no such data set on the hub, nor such a file here. Check the name, or give a path (data.path=…)"
        )
    if "split" in text.lower() and isinstance(error, ValueError):
        return f"{hub_id}: has no split {split!r} (data.split)"
    if "config" in text.lower() and isinstance(error, ValueError):
        return f"{hub_id}: cannot choose the subset {subset!r}; name it (data.subset=…)"
    return f"{hub_id}: cannot be loaded from the hub. Check the network, or download it and give its path (data.path=…)"
