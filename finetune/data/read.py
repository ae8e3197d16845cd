"""From files to `Splits` without torch: read, format, reject, drop duplicates, draw, split. Called by jobs."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.config import DataConfig
from finetune.data.check import Ledger
from finetune.data.duplicates import drop_exact, drop_near
from finetune.data.leaks import check_contamination
from finetune.data.origins import Origin, list_origins, read_origin
from finetune.data.rows import Rows, count_labels
from finetune.data.split import cut_passages, draw, split_clusters
from finetune.errors import DataError
from finetune.records import Splits

logger = logging.getLogger(__name__)

Numbers = np.ndarray[Any, Any]


def read_splits(data: DataConfig, *, seed: int, offline: bool = False) -> tuple[Splits, Ledger]:
    """Read all files of the data set, and account for every row.

    Each step is deterministic by `seed`. A split without a file of its own takes its share of the training rows. The
    rows stay on disk, however many they are; the splits read them one at a time.

    Raises:
        ConfigError: personal data is to be looked for, and the extra `privacy` is not installed.
        DataError: a file cannot be read, its format cannot be told, a named column is missing, all or too many rows
            are unusable, or too few are left.
    """
    ledger = Ledger(max_answer_tokens_lost=data.max_answer_tokens_lost, max_rejected_share=data.max_rejected_share)
    ledger.keep_contents = data.pii not in ("redact", "refuse")
    rows = Rows()
    origins = list_origins(data)
    _read_all(origins, rows, data, ledger, offline=offline)
    drop_exact(rows, ledger)
    drop_near(rows, data, seed, ledger)
    _warn_of_shared_groups(rows, data)
    if not len(rows.kept("train")):
        raise DataError(
            f"{' and '.join(origin.short for origin in origins if origin.label.startswith('train'))}: no training rows "
            "are left; all of them also stand in the validation or test file"
        )
    rows.make_ids_unique()
    _draw(rows, origins, data.max_rows, seed, ledger)
    ledger.rows_used = len(rows.kept())
    splits = _split(rows, data, seed, ledger)
    for name in ledger.splits:
        ledger.splits[name] = len(getattr(splits, name))
    check_contamination(splits, data, ledger)
    ledger.close()
    return splits, ledger


def _read_all(origins: Sequence[Origin], rows: Rows, data: DataConfig, ledger: Ledger, *, offline: bool) -> None:
    personal = None
    if data.pii != "off":
        from finetune.data.privacy import PersonalData

        personal = PersonalData(data.pii)
    for origin in origins:
        read_origin(origin, rows, ledger, personal, offline=offline)
    ledger.pii_policy = data.pii
    if personal is not None:
        ledger.pii, ledger.pii_rows = dict(personal.counts), personal.rows
        personal.finish()


def _warn_of_shared_groups(rows: Rows, data: DataConfig) -> None:
    """The user's own files may share groups; nothing is removed, but the verdict is then about known groups."""
    if data.group is None and not any(source.group for source in data.sources):
        return
    train = rows.clusters_of("train")
    for split in ("validation", "test"):
        shared = rows.kept(split)[np.isin(rows.clusters_of(split), train)]
        if len(shared):
            logger.warning(
                "data.group=%s: %d rows of data.%s_path belong to groups of the training file, such as %r",
                *(data.group, len(shared), split, rows.read(int(shared[0])).group),
            )


def _draw(rows: Rows, origins: Sequence[Origin], max_rows: int | None, seed: int, ledger: Ledger) -> None:
    """Keep as many rows of each source as the weights allow, then `max_rows` of each split, drawn with the seed."""
    train = [origin for origin in origins if origin.label.startswith("train")]
    if len(train) > 1:
        usable = {origin.label: rows.kept(origin.label) for origin in train}
        scale = min(len(usable[origin.label]) / origin.weight for origin in train)
        for origin in train:
            wanted = max(1, round(scale * origin.weight))
            _keep_some(rows, usable[origin.label], wanted, f"{seed} {origin.label}", ledger)
    for split in ("test", "validation", "train"):
        if max_rows is not None:
            _keep_some(rows, rows.kept(split), max_rows, seed, ledger)
    used = count_labels(rows, rows.kept())
    for label, entry in ledger.sources.items():
        entry["used"] = used[label]
    if len(train) > 1:
        shares = ", ".join(f"{used[origin.label]:,} of {origin.short}" for origin in train)
        logger.info("training rows by weight: %s", shares)


def _keep_some(rows: Rows, found: Numbers, wanted: int, seed: int | str, ledger: Ledger) -> None:
    left_out = np.delete(found, draw(len(found), wanted, seed))
    ledger.rows_not_drawn += len(left_out)
    for row in left_out.tolist():
        rows.drop(row)


def _split(rows: Rows, data: DataConfig, seed: int, ledger: Ledger) -> Splits:
    """Take the user's own files as they are, and draw the other splits from the training rows."""
    need = {"test": data.test_path is None, "validation": data.validation_path is None}
    shares = {"test": data.test_share * need["test"], "validation": data.validation_share * need["validation"]}
    train = _passages_where_needed(rows, 1 + sum(share > 0 for share in shares.values()), ledger)
    clusters = rows.cluster_numbers(train)
    try:
        sides = np.asarray(split_clusters(clusters.tolist(), shares, seed=seed))
    except DataError as error:
        raise DataError(f"{error}{_first_rejection(ledger)}") from None
    parts = {name: train[sides == name] for name in ("train", "validation", "test")}
    for name, needed in need.items():
        if not needed:
            parts[name] = rows.kept(name)
    return Splits(**{name: rows.view(numbers) for name, numbers in parts.items()})


def _first_rejection(ledger: Ledger) -> str:
    """Name the first rejected row, for a message about too few rows."""
    first = next((kept[0] for kept in ledger.examples.values()), None)
    if first is None:
        return ""
    return f". {sum(ledger.rejected.values())} rows were rejected (first: {first['source']}: {first['detail']})"


def _passages_where_needed(rows: Rows, num_splits: int, ledger: Ledger) -> Numbers:
    """Cut texts into passages where there are too few documents for every split to have one."""
    train = rows.kept("train")
    num_clusters = Counter(rows.cluster_numbers(train).tolist())
    if len(num_clusters) >= num_splits or any(row.text is None for row in rows.view(train)):
        return train
    passages = cut_passages(list(rows.view(train)))
    ledger.passages = {passage.item_id for passage in passages}
    logger.info("%d documents are too few to split; cut into %d passages", len(train), len(passages))
    start = len(rows)
    origin = len(rows.labels) - 1
    for passage in passages:
        rows.add(passage, origin)
    rows.groups.clear()
    for row in train.tolist():
        rows.drop(row)
    return np.arange(start, len(rows))
