"""Small base models with real tokenizers, one per architecture, that already speak a little: for the end-to-end test.

A random model's logits are near ties, and whoever compares its most likely tokens compares rounding. These are trained
in full on sentences of one kind first; the test then tunes them on another.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import real_tokenizers

ROOT = Path(__file__).resolve().parents[3]
STATES = ("Texas", "Ohio", "Nevada")
THINGS = ("lease", "loan", "sale", "merger", "trust", "license")

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + number / 12 for number in range(24)],
    "long_factor": [1.0 + number for number in range(24)],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """One row of the table."""

    kind: str
    """transformers' name before `Config` and `ForCausalLM`."""
    tokenizer: str
    """A key of TOKENIZERS."""
    dtype: str = "float32"
    """Number type of its file."""
    arguments: Mapping[str, Any]


def sizes(hidden: int, **changes: Any) -> dict[str, Any]:
    """Sizes of a model of heads of 64, with two query heads per key head, and changes to them."""
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 128,
        "max_position_embeddings": 512,
        **changes,
    }


_COMMON_SHARE = 0.7
"""How much the experts of a mixture have in common. A router on the edge takes another expert after the least rounding;
between experts that have nothing in common the comparison would be about such edges alone."""

_NARROW_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_GEMMA = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 48}
_FALCON = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_kv_heads": 1, "bias": False}
_GRANITE = {
    "attention_multiplier": 0.0625,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7,
    "logits_scaling": 2.0,
    "tie_word_embeddings": True,
}

BASES: Mapping[str, Base] = {
    "Llama": Base(kind="Llama", tokenizer="Llama 2 with ChatML", arguments=sizes(256)),
    "Llama 3 (rope scaling)": Base(
        kind="Llama",
        tokenizer="GPT-2",
        dtype="bfloat16",
        arguments=sizes(64, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True, **_NARROW_HEADS),
    ),
    "Mistral": Base(kind="Mistral", tokenizer="Mistral v3", dtype="bfloat16", arguments=sizes(256, head_dim=128)),
    "Mixtral": Base(
        kind="Mixtral", tokenizer="Llama 2", arguments=sizes(128, num_local_experts=4, num_experts_per_tok=2)
    ),
    "Qwen2": Base(
        kind="Qwen2",
        tokenizer="Qwen2",
        dtype="bfloat16",
        arguments=sizes(64, tie_word_embeddings=True, **_NARROW_HEADS),
    ),
    "Qwen3": Base(kind="Qwen3", tokenizer="embedded", dtype="bfloat16", arguments=sizes(256, head_dim=128)),
    "Qwen3-MoE": Base(
        kind="Qwen3Moe",
        tokenizer="embedded",
        arguments=sizes(
            256, head_dim=64, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=256, norm_topk_prob=True
        ),
    ),
    "Gemma 2": Base(kind="Gemma2", tokenizer="stories260k", arguments=sizes(256, **_GEMMA)),
    "Gemma 3": Base(
        kind="Gemma3Text",
        tokenizer="tinystories-656k",
        dtype="bfloat16",
        arguments=sizes(256, **_GEMMA, num_hidden_layers=7),
    ),
    "Phi-3": Base(kind="Phi3", tokenizer="Phi-3", dtype="bfloat16", arguments=sizes(256, num_key_value_heads=4)),
    "Phi-4-mini (LongRoPE)": Base(
        kind="Phi3",
        tokenizer="embedded",
        arguments=sizes(
            128,
            rope_parameters=LONGROPE,
            original_max_position_embeddings=256,
            tie_word_embeddings=True,
        ),
    ),
    "Falcon 7B": Base(kind="Falcon", tokenizer="Falcon", dtype="bfloat16", arguments=_FALCON),
    "Falcon3": Base(kind="Llama", tokenizer="DeepSeek-Coder", dtype="bfloat16", arguments=sizes(256, head_dim=128)),
    "SmolLM3": Base(kind="SmolLM3", tokenizer="embedded", dtype="bfloat16", arguments=sizes(256, num_hidden_layers=5)),
    "Granite": Base(kind="Granite", tokenizer="StarCoder", arguments=sizes(128) | _GRANITE),
    "OLMo 2": Base(kind="Olmo2", tokenizer="DeepSeek-Coder", dtype="float16", arguments=sizes(128)),
}


def _vocabulary(name: str) -> Callable[[Path], Any]:
    return lambda shared: real_tokenizers.from_gguf(shared / "tokenizers" / f"ggml-vocab-{name}.gguf")


def _folder(name: str) -> Callable[[Path], Any]:
    def load(shared: Path) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(ROOT / "models/embedded" if name == "embedded" else shared / name)

    return load


TOKENIZERS: Mapping[str, tuple[str, Callable[[Path], Any]]] = {
    "embedded": ("byte-level", _folder("embedded")),
    "stories260k": ("SentencePiece", _folder("models/stories260k")),
    "tinystories-656k": ("SentencePiece", _folder("models/tinystories-656k")),
    "babyllama-1m": ("characters", _folder("models/babyllama-1m")),
    "Llama 2 with ChatML": ("SentencePiece", _folder("tokenizers/chatml-llama2")),
    "Llama 2": ("SentencePiece", _vocabulary("llama-spm")),
    "Mistral v3": (
        "SentencePiece",
        lambda shared: real_tokenizers.from_sentencepiece(shared / "tokenizers/mistral-v3/tokenizer.model.v3"),
    ),
    "Qwen2": ("byte-level", _folder("tokenizers/qwen2")),
    "Phi-3": ("SentencePiece", _vocabulary("phi-3")),
    "GPT-2": ("byte-level", _vocabulary("gpt-2")),
    "Falcon": ("byte-level", _vocabulary("falcon")),
    "DeepSeek-Coder": ("byte-level", _vocabulary("deepseek-coder")),
    "StarCoder": ("byte-level", _vocabulary("starcoder")),
}
"""Name -> (its kind, a function from ../shared to the live tokenizer)."""


def question(number: int) -> tuple[str, str]:
    """A question, and the state that its answer is about."""
    thing, state = THINGS[number % 6], STATES[number * 7 % 11 % 3]
    return f"Clause {number}. The law of {state} governs this {thing}. Which law is it?", state


def long_answer(state: str) -> str:
    """The answer that the adapter is trained to give."""
    return f"{state} law governs it, and no other law does, for so the clause says."


def write_rows(folder: Path) -> tuple[Path, Path]:
    """Write what the model is tuned on and what it is held to, as prompt and completion."""
    paths = []
    for name, numbers in (("train", range(200, 440)), ("test", range(500, 524))):
        path = folder / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for text, state in map(question, numbers):
                row = {"prompt": text, "completion": long_answer(state)}
                file.write(json.dumps(row) + "\n")
        paths.append(path)
    return paths[0], paths[1]


def save_base(name: str, shared: Path, folder: Path, *, tokenizer_name: str | None = None, num_steps: int = 50) -> None:
    """Make a model of BASES, teach it to answer the questions in another way, and write its folder.

    `tokenizer_name` replaces the tokenizer of the table; without steps the model stays random.
    """
    import torch

    base = BASES[name]
    tokenizer = TOKENIZERS[tokenizer_name or base.tokenizer][1](shared)
    torch.manual_seed(0)
    short, long = _chats(tokenizer, short=True), _chats(tokenizer, short=False)
    known = sorted({token for ids in [*short, *long] for token in ids})
    places = {token: place for place, token in enumerate(known)}
    num_others = len(tokenizer) - len(known)
    small = _model(base, vocab_size=len(known) + 1, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    with torch.no_grad():
        for weight in small.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
        for weight_name, weight in small.named_parameters():
            if ".experts." in weight_name:
                weight.lerp_(weight[:1].clone(), _COMMON_SHARE)
    if num_steps:
        _teach(small, [torch.tensor([places[token] for token in ids]) for ids in short], num_others, num_steps)
    special = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    model = _model(base, vocab_size=len(tokenizer), **special)
    rows = torch.tensor([places.get(token, len(known)) for token in range(len(tokenizer))])
    with torch.no_grad():
        learned = small.state_dict()
        for weight_name, weight in model.state_dict().items():
            value = learned[weight_name]
            weight.copy_(value if value.shape == weight.shape else value[rows])
    model.to(getattr(torch, base.dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _model(base: Base, **arguments: Any) -> Any:
    import torch
    import transformers

    scale = base.arguments["hidden_size"] ** -0.5
    config = getattr(transformers, f"{base.kind}Config")(**base.arguments, **arguments, initializer_range=scale)
    model_class = getattr(transformers, base.kind.removesuffix("Text") + "ForCausalLM")
    return model_class._from_config(config, dtype=torch.float32)


def _chats(tokenizer: Any, *, short: bool) -> list[list[int]]:
    """Token ids of questions and answers as the chat template writes them."""
    import copy

    from finetune.data.rendering.chat_template import ensure_chat_template

    chats = copy.deepcopy(tokenizer)
    ensure_chat_template(chats, "auto")
    rows = []
    for text, state in map(question, range(120) if short else range(200, 524)):
        answer = f"That of {state}." if short else long_answer(state)
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        rendered = chats.apply_chat_template(turns, tokenize=False)
        rows.append(chats(rendered, add_special_tokens=False)["input_ids"])
    return rows


def _teach(model: Any, rows: list[Any], num_others: int, num_steps: int) -> None:
    """Train all weights; the last of the vocabulary stands for all tokens that no row has, `num_others` of them."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps, pct_start=0.1)
    last = math.inf
    for step in range(num_steps):
        chosen = [rows[(step * 8 + number) % len(rows)] for number in range(8)]
        ids_BT = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-100)
        logits_BTV = model(input_ids=ids_BT.clamp(min=0), use_cache=False).logits
        logits_BTV[..., -1] += math.log(max(1, num_others))
        loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        last = loss.item()
    assert last < 1.5, f"the base learned nothing: its loss is {last:.2f}"
