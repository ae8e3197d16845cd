"""Writes a random Llama and a random LoRA adapter of any size, a block at a time; used by bench_export.py."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

EMBEDDED = Path(__file__).resolve().parent.parent / "models" / "embedded"
RANK = 16
SHARD_BYTES = 5_000_000_000
Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    tied: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each tensor."""
        hidden, inner, keys = self.hidden, self.inner, self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocabulary, hidden)
        for layer in range(self.layers):
            for part, shape in {
                "self_attn.q_proj": (hidden, hidden),
                "self_attn.k_proj": (keys, hidden),
                "self_attn.v_proj": (keys, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
            }.items():
                yield f"model.layers.{layer}.{part}.weight", shape
        yield "model.norm.weight", (hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, hidden)

    def config(self) -> Found:
        """The model's config.json."""
        return json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8")) | {
            "dtype": "bfloat16",
            "head_dim": self.hidden // self.heads,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "tie_word_embeddings": self.tied,
            "vocab_size": self.vocabulary,
        }


SHAPES = {
    "100m": Shape(hidden=768, layers=8, heads=12, kv_heads=4, inner=2048, vocabulary=32000),
    "1b": Shape(hidden=2048, layers=16, heads=32, kv_heads=8, inner=8192, vocabulary=128256, tied=True),
    "7b": Shape(hidden=4096, layers=32, heads=32, kv_heads=32, inner=11008, vocabulary=32000),
    "15gb": Shape(hidden=4096, layers=32, heads=32, kv_heads=8, inner=14336, vocabulary=128256),
}
"""100m stands for `--quick`; the others have the shapes of Llama 3.2 1B, Llama 2 7B and Llama 3.1 8B (16.1 GB)."""


def write_model(shape: Shape, folder: Path) -> None:
    """Write configuration, tokenizer and shards; every value comes from one block of Gaussian numbers."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape.config()), encoding="utf-8")
    for path in EMBEDDED.glob("*token*"):
        shutil.copyfile(path, folder / path.name)
    numbers = (0.02 * torch.randn((1 << 24) + 1, generator=torch.manual_seed(0))).bfloat16().view(torch.int16).numpy()
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, size in shape.tensors():
        if filled + 2 * math.prod(size) > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, size))
        filled += 2 * math.prod(size)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys((name for name, _ in shard), path.name)
        _write_shard(path, shard, numbers)
    index = {"metadata": {"total_size": filled}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_shard(path: Path, shard: list[tuple[str, tuple[int, ...]]], numbers: Any) -> None:
    header: Found = {}
    position = 0
    for name, size in shard:
        end = position + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(len(text))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, size in shard:
            left = math.prod(size)
            while left:
                start = int(random.integers(0, len(numbers) // 2))
                block = numbers[start : start + min(left, len(numbers) // 2)]
                file.write(block.data.cast("B"))
                left -= len(block)
        file.flush()
        os.fsync(file.fileno())


def write_adapter(shape: Shape, folder: Path) -> None:
    """Write a LoRA adapter in PEFT's format: both halves of every linear layer's pair are random."""
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    weights: dict[str, torch.Tensor] = {}
    for name, size in shape.tensors():
        if "_proj" in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            weights[f"{module}.lora_A.weight"] = 0.02 * torch.randn(RANK, size[1])
            weights[f"{module}.lora_B.weight"] = 0.02 * torch.randn(size[0], RANK)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    options = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": sorted({name.split(".")[-3] for name in weights}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(options), encoding="utf-8")
