"""What this machine can do: its device, the number type that is fast on it, and why."""

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config import Dtype, ModelConfig
from finetune.errors import ModelError, ResourceError

if TYPE_CHECKING:
    import torch

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GPU_TRACES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True, slots=True)
class Hardware:
    """The device of this process and the type it computes in."""

    device: "torch.device"
    dtype: "torch.dtype"
    reason: str
    """Why this type."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def gpu_seems_present() -> bool:
    """Whether a GPU driver shows on this machine; asked without importing torch, so it can only say no for sure."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return sys.platform == "win32" or any(Path(trace).exists() for trace in _GPU_TRACES)


def check_gpu(model: ModelConfig) -> None:
    """Refuse a model that needs a GPU where there is none; cheap, before torch is imported.

    Raises:
        ModelError: naming what to use instead.
    """
    if model.needs_gpu and not gpu_seems_present():
        raise ModelError(
            f"model={model.name} needs a GPU and this machine shows none; use model=embedded or another small model "
            "(model=local model.path=…), or insist with model.needs_gpu=false"
        )


def detect(model: ModelConfig) -> Hardware:
    """Choose device and number type for this process.

    Raises:
        ModelError: the model needs a GPU that torch can use, and there is none.
    """
    import torch

    if torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise ResourceError(
                f"process {index} has no GPU of its own ({torch.cuda.device_count()} visible); start fewer processes"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif model.needs_gpu:
        raise ModelError(
            f"model={model.name} needs a GPU, and torch {torch.__version__} sees none; install a CUDA build of torch, "
            "use model=embedded, or insist with model.needs_gpu=false"
        )
    else:
        device = torch.device("cpu")
    dtype, reason = _choose_dtype(model.dtype, device)
    return Hardware(device, dtype, reason)


def _choose_dtype(requested: Dtype, device: "torch.device") -> tuple["torch.dtype", str]:
    import torch

    if requested is not Dtype.auto:
        return getattr(torch, requested.name), f"model.dtype={requested.name}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, f"{name} multiplies bfloat16 natively"
        return torch.float16, f"{name} is older than Ampere: float16"
    if cpu_multiplies_bfloat16():
        return torch.bfloat16, "this CPU multiplies bfloat16 natively"
    return torch.float32, "this CPU has no native bfloat16, which would be 8 to 70 times slower"


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; without them it would be 8 to 70 times slower."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    flags = set(info.read_text(encoding="utf-8", errors="replace").split())
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def container_limit_bytes() -> int | None:
    """Return the memory limit that Linux sets for this container, None where there is none."""
    for place in _CGROUP_LIMITS:
        try:
            text = Path(place).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


def host_memory_bytes() -> int:
    """Return this machine's memory, or the limit of the container around this process where that is less."""
    import psutil

    total, limit = psutil.virtual_memory().total, container_limit_bytes()
    return total if limit is None else min(total, limit)


def peak_memory_bytes(device: "torch.device") -> int:
    """Return the most memory that was in use so far: of the GPU on CUDA, else of the process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or this machine, has no memory left for a tensor."""
    import torch

    signs = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def release_memory() -> None:
    """Give back what Python and torch hold but do not use."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
