"""What an export is compared on, and which base weights it merges into; called by the export job."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.config import MergeBase, QuantizationConfig, QuantizationMethod
from finetune.data.tokenize import fit
from finetune.evaluation.verify import Reference, answer_loss, reference_outputs
from finetune.model.quantize import round_trip_nf4
from finetune.records import Conversation, Example

logger = logging.getLogger(__name__)

_LONGEST_TOKENS = 512
"""Longest prompt that verification reads."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Held-out token ids, and where in each the answer begins (half-way through a plain text)."""

    examples: list[Example]
    starts: list[int]

    @property
    def ids(self) -> list[list[int]]:
        return [example.input_ids for example in self.examples]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeChoice:
    """The base weights that an export merges into."""

    name: str
    """original or dequantized."""
    reference: Reference
    """What these weights + adapter say under plain PEFT."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Mean loss in nats on held-out answers by name, where both were measured."""
    round_trip: Callable[[Any], Any] | None = None
    """What the original weights are put through; None: nothing."""


def verification_prompts(
    conversations: Sequence[Conversation], tokenizer: Any, *, num_items: int, max_length: int
) -> Prompts:
    """Tokenise the first `num_items` conversations, one example each, of at most `max_length` tokens."""
    examples: list[Example] = []
    starts: list[int] = []
    for conversation in conversations[:num_items]:
        for example in fit(conversation, tokenizer, min(max_length, _LONGEST_TOKENS), last_turn_only=True)[:1]:
            examples.append(example)
            is_text = conversation.text is not None
            starts.append(len(example.input_ids) // 2 if is_text else example.loss_mask.index(True))
    return Prompts(examples, starts)


def choose_merge_base(
    choice: MergeBase,
    quantization: QuantizationConfig,
    prompts: Prompts,
    *,
    base_dir: Path,
    adapter_dir: Path,
    device: str,
    storage_dir: Path,
) -> MergeChoice:
    """Choose the weights to merge into.

    With `auto` the loss on held-out answers decides between the original weights and the dequantised ones that
    training saw. Only one model is in memory at a time.
    """
    refer = functools.partial(
        reference_outputs,
        base_dir,
        adapter_dir,
        prompts.ids,
        starts=prompts.starts,
        device=device,
        storage_dir=storage_dir,
    )
    if quantization.method is not QuantizationMethod.nf4 or choice is MergeBase.original:
        return MergeChoice(name="original", reference=refer())
    round_trip = functools.partial(round_trip_nf4, double_quantization=quantization.double_quantization)
    dequantized = refer(round_trip=round_trip)
    if choice is MergeBase.dequantized:
        return MergeChoice(name="dequantized", reference=dequantized, round_trip=round_trip)
    original = refer()
    losses = {"original": answer_loss(original), "dequantized": answer_loss(dequantized)}
    taken = min(losses, key=lambda name: losses[name])
    logger.info("merge base: held-out loss %.4f on original weights, %.4f on dequantised; %s", *losses.values(), taken)
    (dequantized if taken == "original" else original).close()
    if taken == "original":
        return MergeChoice(name=taken, reference=original, losses=losses)
    return MergeChoice(name=taken, reference=dequantized, losses=losses, round_trip=round_trip)
