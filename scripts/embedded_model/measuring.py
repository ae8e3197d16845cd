"""Held-out bits per byte, of the model in training and of the released files."""

import math
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from embedded_model.model import sum_loss
from embedded_model.tokenizer import END_OF_TEXT


@torch.no_grad()
def bits_per_byte(model: LlamaForCausalLM, encoded: list[list[int]], num_bytes: int, separator: int) -> float:
    """Every document from its start, in windows of 1024 tokens, each predicted token counted once."""
    nats = 0.0
    for ids in encoded:
        ids = [separator, *ids]
        for start in range(0, len(ids) - 1, 1024):
            nats += sum_loss(model, torch.tensor([ids[start : start + 1025]]), autocast=False).item()
    return nats / math.log(2) / num_bytes


def measure_domains(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, held_out: dict[str, list[str]]
) -> dict[str, dict[str, float]]:
    separator = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    figures = {}
    for domain, texts in held_out.items():
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        num_bytes = sum(len(text.encode()) for text in texts)
        bits = bits_per_byte(model, encoded, num_bytes, separator)
        figures[domain] = {
            "documents": len(texts), "bytes": num_bytes, "bits_per_byte": round(bits, 4),
            "bytes_per_token": round(num_bytes / sum(map(len, encoded)), 3),
        }  # fmt: skip
    return figures


def measure_stored(
    output: Path, tokenizer: PreTrainedTokenizerBase, held_out: dict[str, list[str]]
) -> dict[str, dict[str, float]]:
    """Bits per byte of the released files themselves: float16 weights as stored, and quantised to NF4."""
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    figures = {}
    for name, quantization in {"float16": None, "nf4": nf4}.items():
        stored = LlamaForCausalLM.from_pretrained(
            output, dtype=torch.float32, quantization_config=quantization, device_map={"": "cpu"}
        )
        domains = measure_domains(stored, tokenizer, held_out)
        figures[name] = {domain: measured["bits_per_byte"] for domain, measured in domains.items()}
    return figures
