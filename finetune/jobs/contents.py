"""What lies behind a run's options: digests of rows, base model, tokenizer and template, kept with its fingerprint."""

from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.data.digest import digest_rows
from finetune.jobs.steps import Rows
from finetune.model.digest import digest_config, digest_text, digest_tokenizer, digest_weights


def contents_of(config: RunConfig, rows: Rows, tokenizer: Any, base_dir: Path) -> dict[str, str]:
    """Return a digest of each content that decides the adapter or its verdict, by the names of `CONTENTS`."""
    found = {f"data.{split}": digest_rows(getattr(rows.splits, split)) for split in ("train", "validation", "test")}
    found |= {
        "model.weights": digest_weights(base_dir),
        "model.config": digest_config(base_dir),
        "model.tokenizer": digest_tokenizer(base_dir),
        "model.chat_template": digest_text(str(tokenizer.chat_template)),
    }
    if config.adapter.path is not None:
        found["adapter.weights"] = digest_weights(Path(config.adapter.path))
    return found
