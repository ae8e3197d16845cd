"""Shows what a run would learn from: `python -m finetune inspect recipe=…`; loads no weights."""

import sys
from pathlib import Path

from finetune.config import RunConfig
from finetune.jobs import steps
from finetune.run import RunFolder, plain_config, write_json

_NUM_EXAMPLES = 2


def inspect(config: RunConfig) -> RunFolder:
    """Print the resolved configuration, the data's counts and rendered examples with the loss mask visible.

    Only `data/ledger.json` is written to the run folder, which a later run of any configuration may use.

    Raises:
        ConfigError, DataError, ModelError: the user's mistakes, each in one line.
    """
    import yaml

    rows = steps.check_data(config)
    tokenizer, _ = steps.load_tokenizer(config)
    train, _ = steps.tokenize(config, rows, tokenizer)
    print("# Configuration")
    print(yaml.safe_dump(plain_config(config), sort_keys=False, allow_unicode=True))
    print("# Data")
    print("\n".join(rows.ledger.lines()))
    print(f"\n# What is learned (marked; {len(train)} training examples)")
    from finetune.data.preview import preview

    conversations = {conversation.item_id: conversation for conversation in rows.splits.train}
    for example in train[:_NUM_EXAMPLES]:
        conversation = conversations.get(example.item_id) or conversations[example.item_id.rpartition("#")[0]]
        print(preview(example, tokenizer, conversation, colour=sys.stdout.isatty()))
        print()
    folder = RunFolder(Path(config.output_dir).absolute())
    if not folder.config.exists():
        write_json(folder.ledger, rows.ledger.to_json())
    return folder
