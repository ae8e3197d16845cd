"""Turn an open language model into a domain specialist on your own machine.

    from finetune import load_config
    from finetune.jobs.run import run

    run(load_config("quickstart"))

The other jobs lie beside it: `finetune.jobs.train`, `evaluate`, `export`, `inspect`, `report`, `prefetch`. Importing
this package imports neither torch nor Hydra.
"""

from typing import TYPE_CHECKING, Any

from finetune.config import RunConfig
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.compose import load_config

__version__ = "0.1.0"
__all__ = ["FinetuneError", "RunConfig", "load_config"]


def __getattr__(name: str) -> Any:
    if name == "load_config":  # imported when asked for: composition needs more than the package's own files
        from finetune.compose import load_config

        return load_config
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")
