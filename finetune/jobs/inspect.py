"""Shows what a run would learn from: `python -m finetune inspect recipe=…`; loads no weights."""

import functools
import sys
from pathlib import Path

from finetune.config import RunConfig
from finetune.jobs import steps
from finetune.run import RunFolder, plain_config


def inspect(config: RunConfig) -> RunFolder:
    """Print the resolved configuration, the data's counts and rendered examples with the loss mask visible.

    Only `data/` is written to the run folder (ledger, rejected rows, preview); a run of any configuration may use it.

    Raises:
        ConfigError, DataError, ModelError: the user's mistakes, each in one line.
    """
    import yaml

    rows = steps.check_data(config)
    tokenizer, _ = steps.load_tokenizer(config)
    tokenized = steps.tokenize(config, rows, tokenizer)
    print("# Configuration")
    print(yaml.safe_dump(plain_config(config), sort_keys=False, allow_unicode=True))
    print("# Data")
    print("\n".join(rows.ledger.lines()))
    print(f"\n# What is learned (marked; {len(tokenized.train)} training examples)")
    from finetune.data.rendering.preview import preview

    for shown in tokenized.previews(rows, functools.partial(preview, colour=sys.stdout.isatty())):
        print(f"{shown}\n")
    folder = RunFolder(Path(config.output_dir).absolute())
    if not folder.config.exists():
        steps.keep_ledger(rows, tokenized, folder, quiet=True)
    return folder
