"""Measures how much each input column of a linear layer matters on given text: llama.cpp's importance matrix.

A column's importance is the mean, over all tokens, of its squared input: an error in the column's weights reaches the
layer's output in that proportion. Called by the GGUF export for `export.imatrix=true`; quantize.py weighs with it.

Shapes: T tokens, W width (input columns of a layer).
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.errors import ExportError

logger = logging.getLogger(__name__)

_BLOCK_TOKENS = 256
"""Tokens squared at a time; bounds what a layer's statistics need beside its sums."""

_WRAPPERS = re.compile(r"\.base_layer|\.original_module|\.modules_to_save\.[^.]+")
"""What PEFT puts into the names of modules that it wraps."""

_ADAPTER_PARTS = re.compile(r"\.lora_[A-Za-z_]+(\.|$)")
"""Modules of an adapter's own; the export adds them to the weight beside them."""


class _ColumnSums:
    """Sums of squares of one layer's inputs: all that is kept of the text."""

    def __init__(self) -> None:
        self.squares_W: torch.Tensor | None = None
        self.num_tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Add inputs of shape (…, W)."""
        inputs_TW = inputs.detach().reshape(-1, inputs.shape[-1])
        if self.squares_W is None:
            self.squares_W = torch.zeros(inputs.shape[-1], dtype=torch.float64, device=inputs.device)
        for block_TW in inputs_TW.split(_BLOCK_TOKENS):
            self.squares_W += block_TW.float().square().sum(0)
        self.num_tokens += len(inputs_TW)

    def mean(self, name: str) -> np.ndarray:
        """Mean squares, float32 (W,)."""
        assert self.squares_W is not None
        mean_W = (self.squares_W / self.num_tokens).to("cpu", torch.float32).numpy()
        if not np.isfinite(mean_W).all():
            raise ExportError(f"the inputs of {name} are no numbers on the calibration text; export without imatrix")
        return mean_W


def collect_importance(
    model: nn.Module, rows_of_ids: Iterable[Sequence[int]], *, on_row: Callable[[], None] | None = None
) -> dict[str, np.ndarray]:
    """Run token ids through a causal LM and return the mean squares of every linear layer's inputs, float32 (W,).

    Keys are the weights' names in the checkpoint, PEFT's wrappers stripped; a tied embedding stands under its own name
    and the head's. Layers that no token reached are left out, and so are experts stacked into one parameter, which a
    warning names. Each row runs alone, at its own length; `on_row` is called after each. The model comes back as it
    was, in training or evaluation.

    Raises:
        ExportError: there are no rows, or the model computes NaN on them.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    _warn_of_stacked_experts(base)
    sums: dict[str, _ColumnSums] = {}
    num_rows = 0
    with _evaluating(base), torch.no_grad(), _hooked(base, sums):
        device = base.get_input_embeddings().weight.device
        for ids in rows_of_ids:
            if len(ids) == 0:
                continue
            base(input_ids=torch.tensor([list(ids)], dtype=torch.long, device=device), use_cache=False)
            num_rows += 1
            if on_row is not None:
                on_row()
    if not num_rows:
        raise ExportError("there is no text to measure importance on; give training data or export without imatrix")
    means = {name: layer.mean(name) for name, layer in sums.items() if layer.num_tokens}
    return means | _tied_embedding(base, means)


@contextmanager
def _hooked(base: Any, sums: dict[str, _ColumnSums]) -> Iterator[None]:
    """Listen to the inputs of all linear layers; the head's are cut to the last token, so that no logits are made."""
    head = base.get_output_embeddings()
    with ExitStack() as hooks:
        for name, module in _linear_layers(base, head):
            layer = sums.setdefault(name, _ColumnSums())
            hook = _listener(layer, cut=module is head)
            hooks.callback(module.register_forward_pre_hook(hook).remove)
        yield


def _listener(layer: _ColumnSums, *, cut: bool) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    def listen(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        inputs = arguments[0]
        layer.add(inputs)
        return (inputs[..., -1:, :], *arguments[1:]) if cut else None

    return listen


def _linear_layers(base: nn.Module, head: nn.Module | None) -> Iterator[tuple[str, nn.Module]]:
    """Yield the weight's name and the module to listen to; the head as a whole, whatever wraps it."""
    inside_head = {id(module) for module in head.modules()} if head is not None else set()
    for name, module in base.named_modules():
        is_layer = isinstance(module, nn.Linear) and not _ADAPTER_PARTS.search(name) and id(module) not in inside_head
        if is_layer or module is head:
            yield _weight_name(name), module


def _weight_name(module_name: str) -> str:
    return _WRAPPERS.sub("", module_name.removeprefix("base_model.model.")) + ".weight"


def _tied_embedding(base: Any, means: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The head's importance under the embedding's name, where the two are one weight."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return {}
    names = {id(module): _weight_name(name) for name, module in base.named_modules()}
    return {names[id(embedding)]: means[names[id(head)]]}


def _warn_of_stacked_experts(base: nn.Module) -> None:
    stacked = [name for name, parameter in base.named_parameters() if parameter.ndim == 3 and "expert" in name]
    if stacked:
        logger.warning(
            "importance is not measured for the %d stacked expert tensors (%s, …); they are quantised without it",
            len(stacked),
            stacked[0],
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
