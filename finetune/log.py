"""Logging, set up once by `__main__`: plain lines on standard error, from the main process only."""

import logging
import os
import sys
import warnings

from finetune.secrets import redact

_NOISY = ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "httpx", "torch", "filelock")


def is_main_process() -> bool:
    """Whether this process is the one that checks, writes and speaks (rank 0, or a single process)."""
    return int(os.environ.get("RANK", "0")) == 0


def num_processes() -> int:
    """Return how many processes torchrun or accelerate started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_logging_set_up() -> bool:
    """Whether somebody listens to this package's messages."""
    return bool(logging.getLogger("finetune").handlers)


class _Redacting(logging.Formatter):
    """Writes messages and tracebacks without the secrets that they may hold."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up_logging(*, verbose: bool = False) -> None:
    """Send this package's messages to standard error; other libraries speak of errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(message)s"))
    own = logging.getLogger("finetune")
    own.handlers[:] = [handler]
    own.propagate = False
    own.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not is_main_process():
        own.setLevel(logging.ERROR)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not verbose:
        warnings.filterwarnings("ignore", module=r"(?!finetune)")


def quiet_libraries() -> None:
    """Turn off telemetry, code from the hub, progress bars and advice of the libraries below; before their import."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "WANDB_SILENT": "true",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DATASETS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "BITSANDBYTES_NOWELCOME": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        # Threads that wait by spinning slow everything down thirty times as soon as another program uses the cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }.items():
        os.environ.setdefault(name, value)
    # bitsandbytes and transformers would fetch native code from the hub by this package, where it is installed.
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    imported_before = sys.modules.get("huggingface_hub.constants")
    if imported_before is not None:
        vars(imported_before)["HF_HUB_DISABLE_TELEMETRY"] = True


def megabytes(num_bytes: float) -> str:
    """Write a size for people: 512 MB, 7.4 GB."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e7 else f"{num_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Write a duration for people: 8 s, 4 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
