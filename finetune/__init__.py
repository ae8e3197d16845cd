"""Turn an open language model into a domain specialist on your own machine.

    from finetune import load_config, run
    result = run(load_config("quickstart"))

Importing this package imports neither torch nor Hydra.
"""

from typing import TYPE_CHECKING, Any

from finetune.config import RunConfig
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    from finetune.compose import load_config
    from finetune.jobs.evaluate import evaluate
    from finetune.jobs.export import export
    from finetune.jobs.inspect import inspect
    from finetune.jobs.report import report
    from finetune.jobs.run import run
    from finetune.jobs.train import train

__version__ = "0.1.0"
__all__ = ["FinetuneError", "RunConfig", "evaluate", "export", "inspect", "load_config", "report", "run", "train"]

_LAZY = {"load_config": "finetune.compose"} | {
    name: f"finetune.jobs.{name}" for name in ("evaluate", "export", "inspect", "report", "run", "train")
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
