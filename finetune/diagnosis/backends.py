"""Do the native libraries work: torch and its GPU, bitsandbytes, llama.cpp. Importing torch takes seconds."""

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.config import ModelConfig
from finetune.diagnosis.finding import Finding, error, ok, warning
from finetune.log import megabytes
from finetune.model.hardware import detect, gpu_seems_present

_DRIVER_FILE = "/proc/driver/nvidia/version"
_SELF_TEST_SECONDS = 60
NF4_ERROR = (0.05, 0.15)
"""Relative error (root mean square) of normally distributed weights after NF4: 0.09, in blocks of 64."""


def check_torch(model: ModelConfig) -> Iterator[Finding]:
    """Check the build of torch against the GPU and its driver, and say which number type would be used and why."""
    import torch

    build = (
        "CUDA " + torch.version.cuda
        if torch.version.cuda
        else "ROCm " + torch.version.hip
        if torch.version.hip
        else "CPU"
    )
    yield ok("torch", f"{torch.__version__}, built for {build}")
    if torch.cuda.is_available():
        yield from _gpu_findings()
    elif not gpu_seems_present():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        yield ok("GPU", "hidden by CUDA_VISIBLE_DEVICES" if hidden else "none shows on this machine")
    elif build == "CPU":
        version = torch.__version__.partition("+")[0]
        text = f"a driver is there ({driver()}), but this torch cannot use a GPU"
        yield warning("GPU", text, f"install the CUDA build of torch {version} (https://pytorch.org/get-started)")
    else:
        text = f"torch finds no usable GPU: the driver ({driver()}) is too old for {build}, or no GPU is free"
        yield error("GPU", text, "look at nvidia-smi; update the driver, or install torch built for an older CUDA")
    hardware = detect(model)
    yield ok("number type", f"{hardware.dtype_name} on {hardware.device}: {hardware.reason}")


def _gpu_findings() -> Iterator[Finding]:
    import torch

    compiled = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        found = (
            f"{index}: {name}, {megabytes(free)} of {megabytes(total)} free, compute capability "
            f"{capability[0]}.{capability[1]}, driver {driver()}"
        )
        if torch.version.cuda and not is_covered(capability, compiled):
            text = f"{found}; torch {torch.__version__} holds no code for it ({' '.join(compiled)})"
            yield error("GPU", text, "install a build of torch for another CUDA version, or hide this GPU")
        elif free < total / 2:
            yield warning("GPU", f"{found}: other programs use it", "end them, or choose a GPU: CUDA_VISIBLE_DEVICES=…")
        else:
            yield ok("GPU", found)


def is_covered(capability: tuple[int, int], compiled: Sequence[str]) -> bool:
    """Whether one of torch's architectures (`sm_90`, `compute_120`) runs on a GPU of this compute capability.

    Machine code runs on later minor versions of its major version, intermediate code on everything later.
    """
    for entry in compiled:
        kind, _, digits = entry.rstrip("af").partition("_")
        if not digits.isdigit():
            continue
        major, minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= capability:
            return True
    return False


@functools.cache
def driver() -> str:
    """Return the version of NVIDIA's kernel driver, or `version unknown`."""
    try:
        words = Path(_DRIVER_FILE).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return "version unknown"
    return next((word for word in words if word.count(".") >= 1 and word.replace(".", "").isdigit()), "version unknown")


def check_bitsandbytes(model: ModelConfig) -> Iterator[Finding]:
    """Quantise a small matrix to NF4 on the device and expand it again: the 4-bit back end at work."""
    import torch

    from finetune.model.quantize import round_trip_nf4

    device = detect(model).device
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(0)).to(device)
    cure = "pip install --force-reinstall bitsandbytes in the locked version, or use quantization=none"
    try:
        expanded = round_trip_nf4(weight)
    except Exception as problem:  # a missing library, symbol or kernel shows as any kind of exception
        text = f"quantising on {device} fails with {type(problem).__name__}: {str(problem)[:200]}"
        yield error("bitsandbytes", text, cure)
        return
    relative = float((expanded - weight).norm() / weight.norm())
    if not NF4_ERROR[0] < relative < NF4_ERROR[1]:
        text = f"NF4 on {device} changes weights by {relative:.3f} of their size, where 0.09 is due"
        yield error("bitsandbytes", text, cure)
    else:
        yield ok("bitsandbytes", f"NF4 works on {device} (relative error {relative:.3f})")


def check_llama_cpp() -> Iterator[Finding]:
    """Run the self-test of llama.cpp in a process of its own, which a faulty build would end."""
    if any(importlib.util.find_spec(name) is None for name in ("gguf", "xllamacpp")):
        yield ok("llama.cpp", "not installed: no GGUF export (pip install 'finetune[gguf]')")
        return
    done = subprocess.run(
        [sys.executable, "-P", "-m", "finetune.diagnosis.llama_self_test"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SELF_TEST_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        yield ok("llama.cpp", done.stdout.strip())
        return
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    told = lines[-1] if lines else f"ended by signal {-done.returncode}: built for another processor"
    yield error("llama.cpp", told, "pip install --force-reinstall 'finetune[gguf]', or export without GGUF")
