"""Shows what a run would learn from: `python -m finetune inspect recipe=…`; loads no weights."""

import functools
import sys
from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.jobs import steps
from finetune.jobs.size_text import size_lines
from finetune.offline import as_configured
from finetune.run import RunFolder, plain_config

_LINE_CHARACTERS = 110


@as_configured
def inspect(config: RunConfig) -> RunFolder:
    """Print the data's counts, rendered examples with the loss mask visible, and the resolved configuration.

    Only `data/` is written to the run folder (ledger, rejected rows, preview); a run of any configuration may use it.

    Raises:
        ConfigError, DataError, ModelError: the user's mistakes, each in one line.
    """
    rows = steps.check_data(config)
    tokenizer, _ = steps.load_tokenizer(config)
    tokenized = steps.tokenize(config, rows, tokenizer)
    print("# Data")
    print("\n".join(rows.ledger.lines()))
    if counted := list(size_lines(config, rows.ledger.to_json())):
        print("\n".join(["", "# Is it enough? (docs/plan.md)", *counted]))
    print(f"\n# What is learned (marked; {len(tokenized.train)} training examples)")
    from finetune.data.rendering.preview import preview

    for shown in tokenized.previews(rows, functools.partial(preview, colour=sys.stdout.isatty())):
        print(f"{shown.rstrip()}\n")
    print("# Configuration (what is not set is left out)")
    print(configuration_text(config))
    folder = RunFolder(Path(config.output_dir).absolute())
    if not folder.config.exists():
        steps.keep_ledger(rows, tokenized, folder, quiet=True)
    return folder


def configuration_text(config: RunConfig) -> str:
    """Write the options that are set as YAML, each section in few lines."""
    import yaml

    def written(value: object, *, in_braces: bool) -> str:
        return yaml.safe_dump(
            value, sort_keys=False, allow_unicode=True, default_flow_style=in_braces, width=_LINE_CHARACTERS
        ).rstrip()

    given = plain_config(config)
    single = {name: value for name, value in given.items() if not isinstance(value, dict)}
    parts = [written(_without_unset(single), in_braces=False)]
    for name in (name for name in given if name not in single):
        section = written(_without_unset(given[name]), in_braces=True)
        parts.append(f"{name}: {section}".replace("\n", "\n  "))
    return "\n".join(parts)


def _without_unset(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != []}
