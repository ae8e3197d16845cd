"""How much memory a training takes, part by part, from the model's shape; no torch. Formulas: docs/plan.md.

`plan` asks it for every method, length and micro-batch. Legend: L layers, D hidden size, I feed-forward, Q query width,
K key/value width, V vocabulary, r rank, P trainable weights, T tokens of a micro-batch, b bytes of a number.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum

from finetune.config import AdapterConfig, AdapterMethod, QuantizationConfig, QuantizationMethod, ShapeConfig, Sharding
from finetune.model.sizes import Sizes, adapted_layers, num_adapter_parameters, sizes_of

NF4_BYTES, NF4_DOUBLE_BYTES = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in NF4: 4 bits, and per block of 64 a float32 scale, or an 8-bit one with a float32 for 256 of
them (Dettmers et al. 2023, section 3): 0.5625 and 0.5159."""
CUDA_CONTEXT = 1.25e9
"""CUDA's context and kernels, cuBLAS workspaces, rounding of the caching allocator."""
CPU_PROCESS = 0.65e9
"""Python with torch, transformers, trl and what their first pass loads; measured by benchmarks/bench_plan.py."""
HOLES_LAYERS = 2
"""Layers whose blocks lie free in glibc's heap at the peak; measured likewise, on models of 20 million weights."""
MAPPED_BYTES = 32 * 2**20
"""Blocks from here on glibc maps one by one: they leave no hole in its heap (`malloc(3)`, `M_MMAP_THRESHOLD`)."""
CHUNKED_LOGITS = 256 * 2**20
"""Where the logits are made a chunk at a time, the size of a chunk and its gradient."""


class Stack(Enum):
    """Whose code trains, since that decides which intermediate results are kept."""

    project = "project"
    """This project: transformers and PEFT, logits for supervised tokens alone."""
    naive = "naive"
    """transformers and PEFT with logits for all tokens in float32, as peers on Hugging Face's trainer have it."""
    fused = "fused"
    """Fused LoRA layers and chunked logits (torchtune compiled, Unsloth); published figures are checked with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is to be trained, and how: all that memory depends on."""

    shape: ShapeConfig
    adapter: AdapterConfig
    quantization: QuantizationConfig
    micro_batch_tokens: int
    recomputed_layers: int
    """Layers whose activations are computed again in the backward pass, counted from the first one."""
    supervised_share: float = 1.0
    """Share of the tokens of a micro-batch that carry loss, at most."""
    number_bytes: int = 2
    """Bytes of a number in weights and arithmetic: 2, or 4 in float32."""
    is_cuda: bool = True
    num_devices: int = 1
    sharding: Sharding = Sharding.none
    offloads: bool = False
    """Whether inputs of recomputed layers wait in the host's memory."""
    state_bytes: float = 16
    """Per trainable weight: float32 weight, gradient and two moments of AdamW; 8-bit Adam 10.06, all bfloat16 8."""
    stack: Stack = Stack.project


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Bytes on one device at the peak of a training step."""

    weights: float
    adapter: float
    activations: float
    """Kept from the forward to the backward pass."""
    working: float
    """For a moment: one layer's backward pass, or the logits with their gradients, whichever is more."""
    gathered: float
    """Whole layers and buffers that several devices exchange."""
    context: float

    @property
    def total(self) -> float:
        return sum(value for _, value in self)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        for field in fields(self):
            yield field.name, getattr(self, field.name)


def training_parts(work: Workload) -> Parts:
    """Return what a training step takes at its peak.

    Where all layers are recomputed, a layer's own activations count to `working`, since one layer at a time has them.
    Where only the first ones are, the others have given theirs back before the first is computed again.
    """
    shape, tokens = work.shape, work.micro_batch_tokens
    sizes, trainable = sizes_of(shape), num_adapter_parameters(shape, work.adapter)
    share = work.num_devices if work.sharding is Sharding.fsdp else 1
    kept = layer_bytes(work) * tokens
    recomputed = min(work.recomputed_layers, shape.num_layers)
    inputs = work.number_bytes * shape.hidden_size * tokens * (min(2, recomputed) if work.offloads else recomputed)
    last = 2 * work.number_bytes * shape.hidden_size * tokens  # the last hidden state and its gradient
    layer = (kept if recomputed == shape.num_layers else 0) + backward_bytes(work) * tokens + dequantized_bytes(work)
    return Parts(
        weights=weight_bytes(work, sizes) / share,
        adapter=work.state_bytes * trainable / share + _casts(work, trainable),
        activations=(shape.num_layers - recomputed) * kept + inputs + last,
        working=max(layer, logits_bytes(work)),
        gathered=_exchanged(work, sizes, trainable),
        context=_context(work) + _holes(work, layer),
    )


def weight_bytes(work: Workload, sizes: Sizes) -> float:
    """Return the bytes of the frozen weights: linear layers as quantised, all else as numbers of arithmetic."""
    per_linear = {
        QuantizationMethod.nf4: NF4_DOUBLE_BYTES if work.quantization.double_quantization else NF4_BYTES,
        QuantizationMethod.int8: 1.0,
        QuantizationMethod.none: work.number_bytes,
    }[work.quantization.method]
    return per_linear * sizes.linear + work.number_bytes * (sizes.experts + sizes.embedding + sizes.head)


def layer_bytes(work: Workload) -> float:
    """Return what one layer keeps for its backward pass, per token.

    Counted from the tensors that autograd saves (tests/model/test_memory.py counts them again): inputs of both norms
    in float32; inputs of the adapted layers; query, key, value, output and two copies of it; four of the feed-forward.
    """
    shape, size = work.shape, work.number_bytes
    hidden, query, key, inner = _widths(shape)
    if work.stack is Stack.fused:
        return 4 * query + 4 * key + 8 * hidden + 4 * inner + 4 * shape.num_heads + 14 * work.adapter.rank
    # 16-bit layers cast their input for every adapter anew; with NF4 on a GPU, and in float32, they share it.
    shares = size == 4 or (work.is_cuda and work.quantization.method is QuantizationMethod.nf4)
    kept = 8 * hidden + size * ((2 if shares else 5) * hidden + 4 * query + 2 * key) + 4 * shape.num_heads + 8
    kept += size * work.adapter.rank * len(adapted_layers(shape, work.adapter))
    kept += size * (4 * inner if not shape.num_experts else shape.experts_per_token * (3 * inner + 2 * hidden))
    if work.adapter.method is AdapterMethod.dora:
        kept += 2 * size * sum(outputs for _, outputs in adapted_layers(shape, work.adapter))
    if work.adapter.dropout:
        kept += (size + 1) * sum(inputs for inputs, _ in adapted_layers(shape, work.adapter))
    return kept


def backward_bytes(work: Workload) -> float:
    """Return the gradients that exist at once in one layer's backward pass, per token."""
    hidden, _, _, inner = _widths(work.shape)
    inner *= max(work.shape.experts_per_token, 1)
    return work.number_bytes * (2 * inner + 3 * hidden)


def dequantized_bytes(work: Workload) -> float:
    """Return the largest weight matrix in numbers of arithmetic, which bitsandbytes makes for each product."""
    if work.quantization.method is QuantizationMethod.none:
        return 0
    return work.number_bytes * work.shape.hidden_size * work.shape.intermediate_size


def logits_bytes(work: Workload) -> float:
    """Return what logits, loss and their gradients take at most.

    This project: logits of supervised tokens alone, in float32 three at a time (12 V): forward logits, the indexed
    copy, log-probabilities; backward log-probabilities and two gradients. Others: 18 V for all tokens, or chunks.
    """
    tokens, vocabulary = work.micro_batch_tokens, work.shape.vocab_size
    if work.stack is Stack.fused:
        return CHUNKED_LOGITS + 6 * work.shape.hidden_size * tokens
    if work.stack is Stack.naive:
        return 18 * vocabulary * tokens
    return 12 * vocabulary * tokens * work.supervised_share


def evaluation_bytes(work: Workload, batch_tokens: int) -> float:
    """Return what scoring test rows takes beside nothing else: weights, adapter, one layer, and the logits.

    Logits are made for answer tokens alone, in 16 or 32 bits, and raised to float32 a thousand rows at a time.
    """
    shape, sizes = work.shape, sizes_of(work.shape)
    tokens = max(batch_tokens, 1)
    layer = tokens * work.number_bytes * (4 * shape.intermediate_size + 6 * shape.hidden_size)
    logits = shape.vocab_size * (work.number_bytes * tokens * work.supervised_share + 3 * 4 * 1024)
    state = work.state_bytes * num_adapter_parameters(shape, work.adapter)
    return weight_bytes(work, sizes) + state + dequantized_bytes(work) + max(layer, logits) + _context(work)


def loading_bytes(work: Workload) -> float:
    """Return what loading shows on a CPU: the weights, the largest matrix once more while it is converted, and pages of
    the 16-bit files, which the system takes back.
    """
    sizes = sizes_of(work.shape)
    largest = work.number_bytes * max(sizes.embedding, work.shape.hidden_size * work.shape.intermediate_size)
    return weight_bytes(work, sizes) + largest + 2 * sizes.total + _context(work)


def export_host_bytes(shape: ShapeConfig) -> float:
    """Return the host memory that verifying an export takes where the GPU has no room: the 16-bit model and a layer."""
    sizes = sizes_of(shape)
    return 2 * sizes.total + 4 * max(sizes.embedding, 3 * shape.hidden_size * shape.intermediate_size) + 1e9


def _context(work: Workload) -> float:
    return CUDA_CONTEXT if work.is_cuda else CPU_PROCESS


def _holes(work: Workload, layer: float) -> float:
    """Return what glibc's heap holds beyond what is alive in a training step on a CPU.

    Blocks that one layer's forward and backward pass have given back do not all suit the next, so that the heap holds
    some layers' worth of them; those above its limit are mapped one by one and leave no hole. Nor do the logits take
    the place of a layer's backward pass: it stays in the heap while they are mapped.
    """
    if work.is_cuda:
        return 0
    hidden, _, _, inner = _widths(work.shape)
    per_token = layer_bytes(work) + backward_bytes(work)
    one_number = work.number_bytes * work.micro_batch_tokens
    if one_number * hidden >= MAPPED_BYTES:
        return 0
    if one_number * inner >= MAPPED_BYTES:
        per_token -= 6 * work.number_bytes * inner
    return HOLES_LAYERS * per_token * work.micro_batch_tokens + min(layer, logits_bytes(work))


def _casts(work: Workload, trainable: int) -> float:
    """16-bit arithmetic keeps a 16-bit copy of the adapter during a step; on a CPU the first values are kept too."""
    copies = 2 if work.number_bytes == 2 and work.stack is not Stack.fused else 0
    return trainable * (copies + (0 if work.is_cuda else 4))


def _exchanged(work: Workload, sizes: Sizes, trainable: int) -> float:
    if work.num_devices == 1:
        return 0
    if work.sharding is Sharding.none:
        return 4 * trainable  # DDP's buckets of gradients
    layers = sizes.linear + sizes.experts
    whole = weight_bytes(work, Sizes(layers, 0, 0, 0, 0)) / work.shape.num_layers
    return 2 * whole + work.number_bytes * (sizes.embedding + sizes.head)


def _widths(shape: ShapeConfig) -> tuple[int, int, int, int]:
    return (
        shape.hidden_size,
        shape.num_heads * shape.head_dim,
        shape.num_kv_heads * shape.head_dim,
        shape.intermediate_size,
    )
