"""How long a training takes, from floating-point operations and memory traffic. Formulas: docs/plan.md.

Legend: N weights that a token runs through, S document length, D hidden size, V vocabulary, P trainable weights.
"""

from dataclasses import dataclass

from finetune.config import QuantizationMethod
from finetune.model.cards import CPU_EFFICIENCY, GPU_EFFICIENCY, Card
from finetune.model.memory import Workload
from finetune.model.sizes import num_adapter_parameters, sizes_of


@dataclass(frozen=True, slots=True)
class Speed:
    """A training's pace on all devices together."""

    tokens_per_second: float
    efficiency: float
    """Share of the device's rate that it is reckoned with."""


def training_flops(work: Workload, document_tokens: int) -> float:
    """Return floating-point operations per token: 4 N + 3.5 a + 6 P + 4 s D V, and for recomputed layers 2 N + a + 2 P.

    a = 2 S Q L is the attention product of causal documents; the frozen weights have no gradient of their own.
    """
    shape = work.shape
    layers, trainable = sizes_of(shape).active, num_adapter_parameters(shape, work.adapter)
    attention = 2 * min(document_tokens, work.micro_batch_tokens) * shape.num_heads * shape.head_dim * shape.num_layers
    again = min(work.recomputed_layers, shape.num_layers) / shape.num_layers
    head = 4 * work.supervised_share * shape.hidden_size * shape.vocab_size
    return 4 * layers + 3.5 * attention + 6 * trainable + head + again * (2 * layers + attention + 2 * trainable)


def training_speed(work: Workload, card: Card, *, document_tokens: int, efficiency: float | None) -> Speed | None:
    """Return the pace of a training at a share of the device's rate; None where the rate is not known.

    Quantised weights are expanded once per pass and micro-batch, at the speed of the memory.
    """
    if not card.flops_per_second:
        return None
    share = efficiency or (GPU_EFFICIENCY if card.is_cuda else CPU_EFFICIENCY)
    seconds = work.micro_batch_tokens * training_flops(work, document_tokens) / (card.flops_per_second * share)
    if work.quantization.method is not QuantizationMethod.none and card.bytes_per_second:
        passes = 2 + min(work.recomputed_layers, work.shape.num_layers) / work.shape.num_layers
        seconds += passes * sizes_of(work.shape).linear * (work.number_bytes + 0.52) / card.bytes_per_second
    return Speed(work.num_devices * work.micro_batch_tokens / seconds, share)
