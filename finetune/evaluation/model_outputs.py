"""Loads a plain 16-bit model for a comparison and asks it for logits and greedy tokens; called by `verify`.

All arithmetic is float32, on every device: in bfloat16, base + adapter and the right merge of them differ at 1 to 2 %
of the most likely tokens (measured on the models of tests/), which would hide what is looked for.

Shapes: T positions of one prompt, V vocabulary.
"""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.errors import ModelError, one_line
from finetune.headers.safetensors import check_safetensors_folder

_KL_ROWS = 64
"""Positions whose probabilities are held at once."""

_ROOM = 1.3
"""Memory for float32 weights and what running them takes, over the weights' own size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainModel:
    """A model as plain transformers loads it."""

    model: Any
    epsilon: float
    """Relative spacing of the coarsest number type among its stored weights."""
    problems: tuple[str, ...]
    """Tensors that were absent or of another shape, in words."""


def comparison_device(device: str, num_bytes: int) -> str:
    """Return the device if a model of so many stored bytes fits on it beside what is there, else the CPU."""
    if not device.startswith("cuda"):
        return device
    free = torch.cuda.mem_get_info(torch.device(device))[0]
    return device if num_bytes * _ROOM < free else "cpu"


@contextmanager
def plain_model(
    folder: Path, device: str, round_trip: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> Iterator[PlainModel]:
    """Yield a folder's model, ready to run in float32, then free it.

    Weights are loaded as stored and put through `round_trip` where training quantised them (all linear layers but the
    output head). They are widened to float32 at once where memory allows, else layer by layer while they run.

    Raises:
        ModelError: transformers cannot load the folder.
    """
    from transformers import AutoModelForCausalLM

    try:
        check_safetensors_folder(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype="auto",
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, info = loaded
    except Exception as error:
        raise ModelError(f"{folder}: cannot load the model: {one_line(error)}") from error
    epsilon = max(torch.finfo(weight.dtype).eps for weight in model.parameters() if weight.is_floating_point())
    if round_trip is not None:
        _expand_quantized(model, round_trip)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        if _fits_in_float32(model, device):
            model = model.to(torch.float32)
        else:
            widen_while_running(model)
        yield PlainModel(model=model.eval(), epsilon=epsilon, problems=tuple(_loading_problems(info)))
    finally:
        torch.set_float32_matmul_precision(precision)
        del model
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _fits_in_float32(model: Any, device: str) -> bool:
    weights = list(model.parameters())
    needed = sum(weight.numel() * (4 * _ROOM - weight.element_size()) for weight in weights)
    if device.startswith("cuda"):
        return needed < torch.cuda.mem_get_info(torch.device(device))[0]
    import psutil

    return needed < psutil.virtual_memory().available


def widen_while_running(model: Any) -> None:
    """Let every module see its own weights in float32 while it runs, and hold them as stored at other times."""
    stored: dict[int, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}

    def widen(module: torch.nn.Module, inputs: object) -> None:
        own = [weight for weight in module.parameters(recurse=False) if weight.is_floating_point()]
        stored[id(module)] = [(weight, weight.data) for weight in own]
        for weight in own:
            weight.data = weight.data.to(torch.float32)

    def restore(module: torch.nn.Module, inputs: object, output: object) -> None:
        for weight, data in stored.pop(id(module), ()):
            weight.data = data

    for module in model.modules():
        if any(weight.dtype != torch.float32 for weight in module.parameters(recurse=False)):
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(restore, always_call=True)


def _expand_quantized(model: Any, round_trip: Callable[[torch.Tensor], torch.Tensor]) -> None:
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            # On the CPU, where the merge does it too: kernels of two devices need not agree on every tie.
            module.weight.data = round_trip(module.weight.data.cpu()).to(module.weight.device)


def _loading_problems(info: dict[str, Any]) -> list[str]:
    found = []
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        names = sorted(str(name) for name in info.get(kind) or ())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(f"{kind.replace('_', ' ')}: {', '.join(names[:3])}{more}")
    return found


@torch.no_grad()
def logits_of(model: Any, prompt: Sequence[int]) -> torch.Tensor:
    """Return logits_TV of one sequence in float32 on the CPU."""
    ids = torch.tensor([list(prompt)], device=_device(model))
    return model(input_ids=ids, use_cache=False).logits[0].to(device="cpu", dtype=torch.float32)


@torch.no_grad()
def greedy_tokens(model: Any, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """Return the most likely continuation token by token, whatever the model's own generation settings say."""
    ids, cache = torch.tensor([list(prompt)], device=_device(model)), None
    tokens: list[int] = []
    for _ in range(num_tokens):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, ids = output.past_key_values, output.logits[:, -1].argmax(dim=-1, keepdim=True)
        tokens.append(int(ids))
    return tokens


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device


def kl_divergence(expected_TV: torch.Tensor, actual_TV: torch.Tensor) -> torch.Tensor:
    """Return KL(expected || actual) in nats for each of T positions, from logits."""
    parts = []
    for start in range(0, len(expected_TV), _KL_ROWS):
        expected = torch.log_softmax(expected_TV[start : start + _KL_ROWS].double(), dim=-1)
        actual = torch.log_softmax(actual_TV[start : start + _KL_ROWS].double(), dim=-1)
        parts.append((expected.exp() * (expected - actual)).sum(dim=-1).clamp(min=0))
    return torch.cat(parts) if parts else torch.full((0,), math.nan, dtype=torch.float64)
