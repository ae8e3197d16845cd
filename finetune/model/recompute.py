"""Recomputation ("gradient checkpointing") of the first layers of a model, as many as memory makes necessary.

Results and gradients are those without it: the same operations run again, with the same random numbers.
"""

import functools
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_first(model: Any, num_layers: int) -> int:
    """Let the first layers compute their activations again in the backward pass, and return how many do.

    The first ones, since the others have freed theirs by the time that these are computed again. An architecture that
    switches all its layers together gets all of them.
    """
    layers: list[Any] = [
        module for module in model.get_decoder().modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers and num_layers:
        model.activation_checkpointing_enable()
        return model.config.num_hidden_layers
    again = functools.partial(checkpoint, use_reentrant=False)
    for number, layer in enumerate(layers):
        layer._gradient_checkpointing_func = again
        layer.gradient_checkpointing = number < num_layers
    return min(num_layers, len(layers))
