"""Writes the adapter alone as a GGUF LoRA, for llama.cpp's --lora beside a GGUF file of the base; called by the job.

llama.cpp adds alpha / rank x (lora_b @ lora_a) to a tensor, with one alpha for all of a file and the rank of each pair.
Where modules have scalings of their own (rsLoRA, patterns), lora_b carries what is left.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.errors import ConfigError, ExportError
from finetune.export.adapter_files import Adapter, LowRankPair
from finetune.export.gguf.tensors import GgufTensor
from finetune.export.gguf.write import ALIGNMENT, header, interleaved
from finetune.export.merge import MergePlan
from finetune.export.placing import ExportedFile, ExportFiles, check_disk, placed
from finetune.export.stream import hashed_file

_WAY_OUT = "export the merged model (export.formats=[gguf_q8_0])"


def check_pairs(adapter: Adapter) -> None:
    """Refuse what llama.cpp's adapters cannot hold, from headers alone.

    Raises:
        ConfigError: DoRA, fully trained tensors, a pair on the embedding, or on a mixture's experts.
    """
    problems = []
    if any(pair.magnitude is not None for pair in adapter.pairs.values()):
        problems.append("DoRA")
    if adapter.replacements:
        problems.append(f"fully trained tensors ({next(iter(adapter.replacements))})")
    if any(pair.embedding for pair in adapter.pairs.values()):
        problems.append("an update of the embedding")
    if adapter.stacks:
        problems.append("updates of stacked experts")
    if problems:
        raise ConfigError(f"gguf_lora: llama.cpp's adapters know no {' and no '.join(problems)}; {_WAY_OUT}")


def write_lora(
    plan: MergePlan, target: Path, *, tensors: Sequence[GgufTensor], architecture: str, name: str
) -> ExportFiles:
    """Write the pairs of `plan` in float32; `tensors` are those of the whole model (architectures.py).

    Raises:
        ConfigError: see `check_pairs`.
        ExportError: a changed tensor is not one of the file's, or is made of several of the checkpoint's.
        ResourceError: the disk is too small, or became full.
    """
    check_pairs(plan.adapter)
    pairs = {tensor.name: tensor.pair for tensor in plan.tensors if tensor.pair is not None}
    alpha = max(pair.scaling * pair.down.shape[0] for pair in pairs.values())
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in tensors:
        sources = list(dict.fromkeys(rows.source for rows in tensor.rows))
        changed = [source for source in sources if source in pairs]
        if changed and len(sources) > 1:
            raise ExportError(
                f"gguf_lora: {tensor.name} joins {len(sources)} tensors, and {changed[0]} is changed; {_WAY_OUT}"
            )
        if changed:
            pair = pairs.pop(changed[0])
            arrays[f"{tensor.name}.lora_a"], arrays[f"{tensor.name}.lora_b"] = _arrays(tensor, pair, alpha)
    if pairs:
        raise ExportError(f"gguf_lora: {next(iter(pairs))} is changed, but is no tensor of a GGUF file; {_WAY_OUT}")
    return _write(target, arrays, _metadata(architecture, name, alpha))


def _arrays(tensor: GgufTensor, pair: LowRankPair, alpha: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return lora_a (rank, inputs) and lora_b (outputs, rank), its rows in the order of the file."""
    down_RI, up_OR = (factor.to(torch.float32) for factor in pair.factors())
    up_OR = torch.cat([up_OR[rows.start : rows.stop] for rows in tensor.rows])
    if tensor.interleave:
        up_OR = interleaved(up_OR, tensor.interleave)
    rest = pair.scaling * down_RI.shape[0] / alpha
    return down_RI.numpy(), (up_OR * rest if rest != 1 else up_OR).contiguous().numpy()


def _metadata(architecture: str, name: str, alpha: float) -> dict[str, Any]:
    return {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.name": name,
        "adapter.lora.alpha": float(alpha),
    }


def _write(target: Path, arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, Any]) -> ExportFiles:
    tensors = [GgufTensor(name=name, shape=array.shape) for name, array in arrays.items()]
    sizes = {name: array.nbytes for name, array in arrays.items()}
    check_disk(sum(sizes.values()), target)
    with placed(target) as staged:
        with hashed_file(staged) as file:
            file.write(header(metadata, tensors, dict.fromkeys(arrays, "F32"), sizes))
            for array in arrays.values():
                file.write(array.tobytes() + bytes(-array.nbytes % ALIGNMENT))
        total = staged.stat().st_size
    return ExportFiles(path=target, files=(ExportedFile(name=target.name, num_bytes=total, sha256=file.sha256),))
