"""Attention over several documents in one row without a T x T mask, on every device; used while training.

Documents of similar length are padded into one small batch for the attention product alone; all other layers see
the dense row. Legend: T tokens of the row, N documents of a bucket, M longest document of a bucket, H heads, D head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "finetune_packed"
_LONGEST_TO_SHORTEST = 1.5
"""Documents whose lengths differ by more go to another bucket: padding costs time, further buckets cost calls."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Documents of similar length: where their tokens stand in the row, and where in the padded batch."""

    gather_NM: torch.Tensor
    """Row position of each padded slot; slots behind a document's end point at its last token."""
    padded_slots: torch.Tensor
    """Flat slots (of N*M) that hold real tokens."""
    row_positions: torch.Tensor
    """Row position of each of these slots."""

    def to(self, device: torch.device) -> "Bucket":
        return Bucket(self.gather_NM.to(device), self.padded_slots.to(device), self.row_positions.to(device))


def make_buckets(lengths: Sequence[int]) -> list[Bucket]:
    """Group the documents of a row, given their lengths in order, into buckets of similar length."""
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    for index in order:
        if groups and lengths[groups[-1][0]] <= _LONGEST_TO_SHORTEST * lengths[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [_bucket([starts[i] for i in group], [lengths[i] for i in group]) for group in groups]


def _bucket(starts: list[int], lengths: list[int]) -> Bucket:
    longest = lengths[0]
    start_N1 = torch.tensor(starts)[:, None]
    length_N1 = torch.tensor(lengths)[:, None]
    offset_1M = torch.arange(longest)[None, :]
    gather_NM = start_N1 + torch.minimum(offset_1M, length_N1 - 1)
    real_NM = offset_1M < length_N1
    return Bucket(gather_NM, real_NM.flatten().nonzero()[:, 0], gather_NM[real_NM])


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    document_buckets: Sequence[Bucket] | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document; query, key and value are 1 x H x T x D, the result is 1 x T x H x D."""
    assert document_buckets is not None, "packed attention needs the documents' places"
    num_tokens, num_heads, width = query.shape[2], query.shape[1], value.shape[3]
    result_THD = query.new_empty(num_tokens, num_heads, width)
    for bucket in document_buckets:
        num_documents, longest = bucket.gather_NM.shape
        flat = bucket.gather_NM.flatten()
        parts_NHMD = [
            tensor[0].index_select(1, flat).unflatten(1, (num_documents, longest)).transpose(0, 1)
            for tensor in (query, key, value)
        ]
        attended_NHMD = F.scaled_dot_product_attention(
            *parts_NHMD,
            attn_mask=_window_mask(longest, sliding_window, query.device),
            is_causal=sliding_window is None or sliding_window >= longest,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        flat_slots = attended_NHMD.transpose(1, 2).flatten(0, 1)
        result_THD = result_THD.index_copy(0, bucket.row_positions, flat_slots.index_select(0, bucket.padded_slots))
    return result_THD[None], None


def _window_mask(longest: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    if window is None or window >= longest:
        return None
    distance = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)[None, :]
    return (distance >= 0) & (distance < window)


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Switch a transformers model to packed attention for the duration of the block."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def supports_packing(model: Any, *, tolerance: float = 2e-3) -> bool:
    """Whether documents in one packed row get the logits that the model gives each of them alone.

    Architectures that do not pass the documents' places on, or whose attention has extra terms, fail this and are
    trained on padded rows instead. `tolerance` is relative to the largest logit.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    device = model.get_input_embeddings().weight.device
    lengths = (7, 12, 5)
    documents = [torch.arange(5, 5 + length, device=device)[None] * 37 % vocabulary for length in lengths]
    was_training = model.training
    model.eval()
    try:
        alone = torch.cat([model(document, use_cache=False).logits for document in documents], dim=1)
        buckets = [bucket.to(device) for bucket in make_buckets(lengths)]
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
        with packed(model):
            together = model(
                torch.cat(documents, dim=1), position_ids=positions, document_buckets=buckets, use_cache=False
            ).logits
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError):
        return False
    finally:
        model.train(was_training)
    if alone.dtype != torch.float32:
        tolerance = max(tolerance, 0.03)
    return bool((alone - together).abs().max() <= tolerance * alone.abs().max())
