"""Loads a plain 16-bit model for a comparison and asks it for logits and greedy tokens; called by `verify`.

Shapes: T positions of one prompt, V vocabulary.
"""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from finetune.errors import ModelError, one_line

_KL_ROWS = 64
"""Positions whose probabilities are held at once."""

_ROOM = 1.3
"""Memory for float32 weights and what running them takes, over the weights' own size."""


def arithmetic_for(folder: Path, device: str) -> str:
    """Choose float32 wherever it fits, so that only the stored weights differ, else `auto`: the stored number type."""
    if not device.startswith("cuda"):
        return "float32"
    stored_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free_bytes, _ = torch.cuda.mem_get_info(torch.device(device))
    return "float32" if 2 * stored_bytes * _ROOM < free_bytes else "auto"


@contextmanager
def model_in_memory(
    folder: Path, arithmetic: str, device: str, round_trip: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> Iterator[tuple[Any, list[str]]]:
    """Yield a folder's model as plain transformers loads it, and what was wrong with its tensors; then free it.

    Weights are loaded as stored, put through `round_trip` where they were quantised in training (all linear layers
    but the output head), and then widened to `arithmetic`.

    Raises:
        ModelError: transformers cannot load the folder.
    """
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise ModelError(f"{folder}: cannot load the model: {one_line(error)}") from error
    if round_trip is not None:
        _expand_quantized(model, round_trip)
    if arithmetic == "float32":
        model = model.to(torch.float32)
    model = model.to(device).eval()
    try:
        yield model, _loading_problems(info)
    finally:
        del model
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _expand_quantized(model: Any, round_trip: Callable[[torch.Tensor], torch.Tensor]) -> None:
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            module.weight.data = round_trip(module.weight.data)


def _loading_problems(info: dict[str, Any]) -> list[str]:
    found = []
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        names = sorted(str(name) for name in info.get(kind) or ())
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found.append(f"{kind.replace('_', ' ')}: {', '.join(names[:3])}{more}")
    return found


@torch.inference_mode()
def logits_of(model: Any, prompt: Sequence[int]) -> torch.Tensor:
    """Return logits_TV of one sequence in float32 on the CPU."""
    ids = torch.tensor([list(prompt)], device=_device(model))
    return model(input_ids=ids, use_cache=False).logits[0].to(device="cpu", dtype=torch.float32)


@torch.inference_mode()
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
