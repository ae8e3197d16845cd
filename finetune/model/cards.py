"""What a plan knows of devices: the GPUs of gpus.yaml, and those or the processor of this machine; no torch."""

import functools
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config import Dtype
from finetune.errors import ConfigError, did_you_mean
from finetune.model.free_memory import usable_bytes
from finetune.model.hardware import cpu_multiplies_bfloat16, gpu_seems_present, host_memory_bytes

if TYPE_CHECKING:
    from finetune.model.hardware import Hardware

_FILE = Path(__file__).with_name("gpus.yaml")
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
CPU = "cpu"
USUAL_CPU_FLOPS = 1e11
"""Of a few cores, where only what is faster counts, not by how much."""
OWN_CONTEXT = 0.4e9
"""The least that this process's own CUDA context takes; it counts to the training (`memory.CUDA_CONTEXT`)."""
GPU_EFFICIENCY, CPU_EFFICIENCY = 0.5, 0.5
"""Share of a device's rate that transformers and PEFT reach. Published: 0.37 to 0.41 on an A100 (LLaMA-Factory), 0.57
on a 4090 and 0.68 on a 3090 (answer.ai), all Llama 2 7B with 2,048 to 4,096 tokens at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A device that a training could run on."""

    key: str
    """Name for `plan.gpu`."""
    name: str
    memory_bytes: float
    bytes_per_second: float
    """Of its memory; 0 where it is not known."""
    flops_per_second: float
    """Dense, in the type that a training would use."""
    dtype: Dtype
    reason: str
    """Why this type."""
    free_bytes: float | None = None
    """What a training on it could have now, where this machine's device was asked."""

    @property
    def usable_bytes(self) -> float:
        """What a training may take: all memory, or what other programs leave of it."""
        return self.memory_bytes if self.free_bytes is None else self.free_bytes

    @property
    def is_cuda(self) -> bool:
        return self.key != CPU

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in weights and arithmetic."""
        return 4 if self.dtype is Dtype.float32 else 2


@functools.cache
def known_cards() -> dict[str, Card]:
    """Return all cards of gpus.yaml by key."""
    import yaml

    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {key: _card(key, *row) for key, row in rows.items()}


def _card(key: str, name: str, mebibytes: float, gigabytes_per_second: float, teraflops: float, level: float) -> Card:
    is_new = level >= 8
    return Card(
        key=key,
        name=name,
        memory_bytes=mebibytes * 2**20,
        bytes_per_second=gigabytes_per_second * 1e9,
        flops_per_second=teraflops * 1e12,
        dtype=Dtype.bfloat16 if is_new else Dtype.float16,
        reason="multiplies bfloat16 natively" if is_new else "older than Ampere",
    )


def find_card(name: str) -> Card:
    """Return the card that `plan.gpu` names.

    Raises:
        ConfigError: there is none, with the nearest names.
    """
    plain = name.lower().replace("-", "").replace(" ", "").removeprefix("nvidia").removeprefix("geforce")
    cards = known_cards()
    for key, card in cards.items():
        if plain in (key, key.replace("_", "")):
            return card
    if plain == CPU:
        return this_cpu()
    raise ConfigError(f"plan.gpu: {name!r} is not in the list of cards.{did_you_mean(plain, [*cards, CPU])}")


def this_machine() -> tuple[Card, int]:
    """Return the device that a training on this machine would use, and how many of it there are."""
    if gpu_seems_present():
        found = _listed_gpus()
        if found:
            name, mebibytes, free = found[0]
            return replace(_seen_card(name, mebibytes), free_bytes=free * 2**20), len(found)
    return this_cpu(), 1


def card_of(hardware: "Hardware") -> Card:
    """Return the device of this process with the memory that a training can have on it now.

    Processes on one processor share its memory; memory that this process holds already counts as free.
    """
    dtype = Dtype[hardware.dtype_name]
    if not hardware.is_cuda:
        card = this_cpu(is_measured=False)
        free = card.usable_bytes / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return replace(card, free_bytes=free, dtype=dtype, reason=hardware.reason)
    import torch

    free, total = torch.cuda.mem_get_info(hardware.device)
    free += torch.cuda.memory_reserved(hardware.device) + OWN_CONTEXT
    card = _seen_card(torch.cuda.get_device_name(hardware.device), total / 2**20)
    return replace(card, free_bytes=min(free, total), dtype=dtype, reason=hardware.reason)


def _listed_gpus() -> list[tuple[str, int, int]]:
    if shutil.which(_QUERY[0]) is None:
        return []
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=True)
        rows = [line.rsplit(",", 2) for line in done.stdout.splitlines() if line.strip()]
        return [(name.strip(), int(size), int(free)) for name, size, free in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _seen_card(name: str, mebibytes: float) -> Card:
    """Return the known card of that name and nearly that memory; of an unknown one, its memory alone is known."""
    same = [card for card in known_cards().values() if card.name == name or name.startswith(f"{card.name} ")]
    if same:
        nearest = min(same, key=lambda card: abs(card.memory_bytes - mebibytes * 2**20))
        return replace(nearest, memory_bytes=mebibytes * 2**20)
    return Card(
        key=name,
        name=name,
        memory_bytes=mebibytes * 2**20,
        bytes_per_second=0,
        flops_per_second=0,
        dtype=Dtype.bfloat16,
        reason="taken to multiply bfloat16",
    )


def this_cpu(*, is_measured: bool = True) -> Card:
    """Return this machine's processor: its memory, and its rate as a small matrix product shows it, or a usual one."""
    has_bfloat16 = cpu_multiplies_bfloat16()
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Card(
        key=CPU,
        name=f"this machine's processor ({num_cores} core{'s' if num_cores > 1 else ''})",
        memory_bytes=host_memory_bytes(),
        free_bytes=usable_bytes(),
        bytes_per_second=0,
        flops_per_second=_measured_flops() if is_measured else USUAL_CPU_FLOPS,
        dtype=Dtype.bfloat16 if has_bfloat16 else Dtype.float32,
        reason="multiplies bfloat16 natively" if has_bfloat16 else "no native bfloat16",
    )


@functools.cache
def _measured_flops() -> float:
    """Return multiplications and additions per second of float32 matrix products, the best of three small ones."""
    import numpy as np

    size = 768
    left, right = np.ones((size, size), dtype=np.float32), np.ones((size, size), dtype=np.float32)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        np.matmul(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
