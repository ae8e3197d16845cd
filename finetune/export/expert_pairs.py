"""Parts an adapter's update of stacked experts among the experts' own tensors, as the checkpoint stores them.

transformers keeps a layer's experts in two stacks, gate above up and down, and PEFT adapts each as a whole
(`target_parameters`); Mixtral's and Qwen3-MoE's checkpoints hold three matrices per expert. Called by merge.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from finetune.errors import ExportError
from finetune.export.adapter_files import ExpertPart, ExpertStack, LowRankPair
from finetune.export.tensor_files import StoredTensor

_EXPERT = re.compile(r"(?:^|\.)layers\.(\d+)\.\w+\.experts\.(\d+)\.(\w+)\.weight$")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_PARTS = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
"""Mixtral's and Qwen's names of an expert's matrices."""

Experts = Mapping[tuple[int, str], str]
"""Checkpoint name of each expert's matrix, by the expert's number and the part."""


def expert_pairs(
    stacks: tuple[ExpertStack, ...], sources: Mapping[str, StoredTensor], adapter_dir: Path
) -> dict[str, LowRankPair]:
    """Give every expert's matrix that the adapter changes its part of the update, by checkpoint name.

    Raises:
        ExportError: the checkpoint does not hold the experts one by one, or has others than the adapter.
    """
    layers = _experts_of_layers(sources)
    found: dict[str, LowRankPair] = {}
    for stack in stacks:
        layer = _LAYER.search(stack.module)
        experts = layers.get(int(layer[1]), {}) if layer else {}
        if not experts:
            raise ExportError(
                f"{adapter_dir}: changes {stack.module}, which the base model does not store expert by expert; save "
                "the base with transformers' save_pretrained and take that folder"
            )
        parted = _part(stack, experts, sources, adapter_dir)
        if twice := sorted(set(parted) & set(found)):
            raise ExportError(f"{adapter_dir}: two updates would change {twice[0]}")
        found |= parted
    return found


def _experts_of_layers(sources: Mapping[str, StoredTensor]) -> dict[int, dict[tuple[int, str], str]]:
    layers: dict[int, dict[tuple[int, str], str]] = {}
    for name in sources:
        match = _EXPERT.search(name)
        if match and match[3] in _PARTS:
            layers.setdefault(int(match[1]), {})[int(match[2]), _PARTS[match[3]]] = name
    return layers


def _part(
    stack: ExpertStack, experts: Experts, sources: Mapping[str, StoredTensor], adapter_dir: Path
) -> dict[str, LowRankPair]:
    """Tell by the shapes which of the two stacks is meant, and cut it."""
    count = 1 + max(number for number, _ in experts)
    wrong = ExportError(f"{stack.module} has other shapes in {adapter_dir} than the base model's experts: wrong base")
    if len(experts) != 3 * count:
        raise wrong
    width, hidden = sources[experts[0, "gate"]].shape
    outputs, inputs = stack.up.shape[0], stack.down.shape[1]
    if (outputs, inputs) == (2 * width, hidden):
        parameter, cuts = "gate_up_proj", {"gate": (0, width), "up": (width, 2 * width)}
    elif (outputs, inputs) == (hidden, width):
        parameter, cuts = "down_proj", {"down": (0, hidden)}
    else:
        raise wrong
    rank, scaling = stack.options[parameter]
    if not stack.down.shape[0] == stack.up.shape[1] == count * rank:
        raise wrong
    return {
        experts[number, part]: LowRankPair(
            module=experts[number, part].removesuffix(".weight"),
            down=stack.down,
            up=stack.up,
            magnitude=None,
            scaling=scaling,
            embedding=False,
            part=ExpertPart(number=number, count=count, start=start, stop=stop),
        )
        for number in range(count)
        for part, (start, stop) in cuts.items()
    }
