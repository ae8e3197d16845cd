"""The mixes of types: tables for four kinds of model, and the rules that a table does not reach.

The tables were read off llama.cpp's src/llama-quant.cpp and agree with what that file, compiled, answers for them.
"""

import random

import pytest

from finetune.errors import ConfigError
from finetune.export.gguf.mix import FILE_TYPES, ModelShape, choose_types
from finetune.export.gguf.quantize import BLOCK_TYPES
from finetune.export.gguf.tensors import GgufTensor

MORE = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
"""Layers of 32 that get more bits in the _M formats."""

Split = tuple[set[int], str, str]
"""Some layers, their type, the type of the others."""

LLAMA_8B = ModelShape(architecture="llama", num_layers=32, num_heads=32, num_kv_heads=8)
SMALL = ModelShape(architecture="llama", num_layers=4, num_heads=5, num_kv_heads=5)
MIXTRAL = ModelShape(architecture="llama", num_layers=32, num_heads=32, num_kv_heads=8, num_experts=8)
FALCON_7B = ModelShape(architecture="falcon", num_layers=32, num_heads=71, num_kv_heads=1)

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


def tensors_of(shape: ModelShape, hidden: int, feed_forward: int, *, tied: bool = False) -> list[GgufTensor]:
    """Tensors of a Llama, Mixtral or Falcon, in the order in which a converter writes them."""
    head = hidden // shape.num_heads
    keys = head * shape.num_kv_heads
    sizes: dict[str, tuple[int, ...]] = {
        "token_embd": (512, hidden),
        "output_norm": (hidden,),
        "rope_freqs": (head // 2,),
    }
    if not tied:
        sizes["output"] = (512, hidden)
    wide, narrow = (feed_forward, hidden), (hidden, feed_forward)
    for layer in range(shape.num_layers):
        block = f"blk.{layer}"
        sizes |= {f"{block}.attn_norm": (hidden,), f"{block}.attn_output": (hidden, hidden)}
        if shape.architecture == "falcon":
            sizes |= {f"{block}.attn_qkv": (hidden + 2 * keys, hidden)}
        else:
            sizes |= {f"{block}.attn_q": (hidden, hidden), f"{block}.attn_k": (keys, hidden)}
            sizes |= {f"{block}.attn_v": (keys, hidden), f"{block}.attn_q_norm": (head,)}
        if shape.num_experts:
            sizes |= {f"{block}.ffn_gate_inp": (shape.num_experts, hidden)}
            sizes |= {f"{block}.ffn_{part}_exps": (shape.num_experts, *wide) for part in ("gate", "up")}
            sizes |= {f"{block}.ffn_down_exps": (shape.num_experts, *narrow)}
        else:
            sizes |= {f"{block}.ffn_up": wide, f"{block}.ffn_down": narrow}
            sizes |= {} if shape.architecture == "falcon" else {f"{block}.ffn_gate": wide}
    return [GgufTensor(name=f"{name}.weight", shape=size) for name, size in sizes.items()]


def check(types: dict[str, str], common: str, exceptions: dict[str, str | Split]) -> None:
    """Compare a mix with a table: vectors and routers F32, `exceptions` by part, all else `common`."""
    expected = {}
    for name in types:
        part = name.removesuffix(".weight").split(".")[-1]
        wanted = exceptions.get(part, "F32" if part.endswith(("norm", "gate_inp", "rope_freqs")) else common)
        if isinstance(wanted, tuple):
            layers, inside, outside = wanted
            wanted = inside if int(name.split(".")[1]) in layers else outside
        expected[name] = wanted
    assert types == expected


@pytest.mark.parametrize(
    ("format_name", "common", "exceptions"),
    [
        ("F32", "F32", {}),
        ("F16", "F16", {}),
        ("BF16", "BF16", {}),
        ("Q8_0", "Q8_0", {}),
        ("Q6_K", "Q6_K", {}),
        ("Q5_K_S", "Q5_K", {"output": "Q6_K"}),
        ("Q5_K_M", "Q5_K", {"output": "Q6_K", "attn_v": (MORE, "Q6_K", "Q5_K"), "ffn_down": (MORE, "Q6_K", "Q5_K")}),
        ("Q4_K_M", "Q4_K", {"output": "Q6_K", "attn_v": (MORE, "Q6_K", "Q4_K"), "ffn_down": (MORE, "Q6_K", "Q4_K")}),
        (
            "Q4_K_S",
            "Q4_K",
            {"output": "Q6_K", "attn_v": ({0, 1, 2, 3}, "Q5_K", "Q4_K"), "ffn_down": ({0, 1, 2, 3}, "Q5_K", "Q4_K")},
        ),
        ("Q4_0", "Q4_0", {"output": "Q6_K"}),
        (
            "Q3_K_M",
            "Q3_K",
            {
                "output": "Q6_K",
                "attn_output": "Q4_K",
                "attn_v": ({0, 1}, "Q5_K", "Q4_K"),
                "ffn_down": ({0, 1}, "Q5_K", "Q4_K"),
            },
        ),
        ("Q2_K", "Q2_K", {"output": "Q6_K", "attn_output": "Q3_K", "attn_v": "Q4_K", "ffn_down": "Q3_K"}),
        ("IQ4_XS", "IQ4_XS", {"output": "Q6_K", "attn_v": "Q5_K", "ffn_down": ({0, 1, 2, 3}, "Q5_K", "IQ4_XS")}),
    ],
)
def test_llama_of_8_billion(format_name: str, common: str, exceptions: dict[str, str | Split]) -> None:
    check(choose_types(tensors_of(LLAMA_8B, 4096, 14336), format_name, LLAMA_8B), common, exceptions)


@pytest.mark.parametrize(
    ("format_name", "common", "exceptions"),
    [
        ("F16", "F16", {}),
        ("Q8_0", "Q8_0", {}),
        ("Q6_K", "Q8_0", {"ffn_down": "Q6_K"}),
        ("Q5_K_S", "Q5_1", {"ffn_down": "Q5_K"}),
        ("Q5_K_M", "Q5_1", {"attn_v": ({2, 3}, "Q8_0", "Q5_1"), "ffn_down": ({2, 3}, "Q6_K", "Q5_K")}),
        ("Q4_K_M", "Q5_0", {"attn_v": ({2, 3}, "Q8_0", "Q5_0"), "ffn_down": ({2, 3}, "Q6_K", "Q4_K")}),
        ("Q4_K_S", "Q5_0", {"attn_v": "Q5_1", "ffn_down": "Q4_K"}),
        ("Q4_0", "Q4_0", {}),
        ("Q3_K_M", "Q4_0", {"attn_v": ({0, 1}, "Q5_1", "Q5_0"), "attn_output": "Q5_0", "ffn_down": "Q4_K"}),
        ("Q2_K", "Q4_0", {"ffn_down": "Q3_K"}),
        ("IQ4_XS", "IQ4_NL", {"ffn_down": "IQ4_XS"}),
    ],
)
def test_small_tied_model_with_an_odd_width(format_name: str, common: str, exceptions: dict[str, str | Split]) -> None:
    """Rows of 320 fit blocks of 32 only; the embedding is the output too, and gets the output's type."""
    embedding = {"token_embd": "F16" if format_name == "F16" else "Q8_0"}
    check(choose_types(tensors_of(SMALL, 320, 768, tied=True), format_name, SMALL), common, embedding | exceptions)


@pytest.mark.parametrize(
    ("format_name", "common", "exceptions"),
    [
        ("F16", "F16", {}),
        ("Q8_0", "Q8_0", {}),
        ("Q6_K", "Q6_K", {"attn_k": "Q8_0", "attn_v": "Q8_0"}),
        ("Q5_K_S", "Q5_K", {}),
        ("Q5_K_M", "Q5_K", {"ffn_down_exps": (MORE, "Q6_K", "Q5_K")}),
        ("Q4_K_M", "Q4_K", {"attn_output": "Q5_K", "ffn_down_exps": (MORE, "Q6_K", "Q4_K")}),
        ("Q4_K_S", "Q4_K", {"attn_output": "Q5_K", "ffn_down_exps": ({0, 1, 2, 3}, "Q5_K", "Q4_K")}),
        ("Q4_0", "Q4_0", {}),
        ("Q3_K_M", "Q3_K", {"attn_output": "Q5_K", "ffn_down_exps": ({0, 1}, "Q5_K", "Q4_K")}),
        ("Q2_K", "Q2_K", {"attn_output": "Q5_K", "ffn_down_exps": "Q3_K"}),
        ("IQ4_XS", "IQ4_XS", {"attn_output": "Q5_K", "ffn_down_exps": ({0, 1, 2, 3}, "Q5_K", "IQ4_XS")}),
    ],
)
def test_mixtral_keeps_keys_and_values_in_8_bits(
    format_name: str, common: str, exceptions: dict[str, str | Split]
) -> None:
    always = {"output": "Q6_K", "attn_k": "Q8_0", "attn_v": "Q8_0"} if common not in ("F16", "Q8_0") else {}
    tensors = tensors_of(MIXTRAL, 4096, 14336)
    check(choose_types(tensors, format_name, MIXTRAL), common, always | exceptions)
    shuffled = random.Random(0).sample(tensors, len(tensors))
    check(choose_types(shuffled, format_name, MIXTRAL), common, always | exceptions)


@pytest.mark.parametrize(
    ("format_name", "common", "exceptions"),
    [
        ("F16", "F16", {"output": "F16"}),
        ("Q8_0", "Q8_0", {}),
        ("Q6_K", "Q8_0", {"ffn_down": "Q6_K"}),
        ("Q5_K_S", "Q5_1", {"ffn_down": "Q5_K"}),
        ("Q5_K_M", "Q5_1", {"attn_qkv": (MORE, "Q8_0", "Q5_1"), "ffn_down": (MORE, "Q6_K", "Q5_K")}),
        ("Q4_K_S", "Q5_0", {"attn_qkv": ({0, 1, 2, 3}, "Q5_1", "Q5_0"), "ffn_down": "Q4_K"}),
        ("Q4_0", "Q4_0", {}),
        ("Q2_K", "Q4_0", {"attn_qkv": "Q5_0", "ffn_down": "Q3_K"}),
        ("IQ4_XS", "IQ4_NL", {"attn_qkv": "Q5_1", "ffn_down": ({0, 1, 2, 3}, "Q5_K", "IQ4_XS")}),
    ],
)
def test_falcon(format_name: str, common: str, exceptions: dict[str, str | Split]) -> None:
    """Rows of 4544 fit blocks of 32 only, those of the second feed-forward matrix blocks of 256."""
    types = choose_types(tensors_of(FALCON_7B, 4544, 18176), format_name, FALCON_7B)
    check(types, common, {"output": "Q8_0"} | exceptions)


@pytest.mark.parametrize(("format_name", "first", "more", "rest"), [("Q4_K_M", 6, 5, 4), ("Q3_K_M", 5, 4, 3)])
def test_falcon_has_three_steps_in_feed_forward(format_name: str, first: int, more: int, rest: int) -> None:
    types = choose_types(tensors_of(FALCON_7B, 4544, 18176), format_name, FALCON_7B)
    for layer in range(32):
        bits = first if layer < 2 else more if layer in MORE else rest
        assert types[f"blk.{layer}.ffn_down.weight"] == f"Q{bits}_K"


def test_falcon_of_even_width() -> None:
    """The head keeps 8 bits and the attention output gets no more than the rest, whatever the width."""
    shape = ModelShape(architecture="falcon", num_layers=4, num_heads=8, num_kv_heads=1)
    tensors = tensors_of(shape, 512, 1024)
    for format_name, common in (("Q4_K_M", "Q4_K"), ("Q3_K_M", "Q3_K"), ("Q2_K", "Q2_K")):
        types = choose_types(tensors, format_name, shape)
        assert (types["output.weight"], types["blk.0.attn_output.weight"]) == ("Q8_0", common)


def test_the_order_of_the_tensors_does_not_matter() -> None:
    """Layers are counted by their numbers: 10 comes after 2, and what is written first counts for nothing."""
    tensors = tensors_of(LLAMA_8B, 4096, 14336)
    shuffled = random.Random(0).sample(tensors, len(tensors))
    for format_name in ("Q4_K_M", "Q3_K_M", "Q4_K_S"):
        types = choose_types(shuffled, format_name, LLAMA_8B)
        assert list(types) == [tensor.name for tensor in shuffled]
        assert types == choose_types(tensors, format_name, LLAMA_8B)


def test_experts_go_by_the_number_of_their_layer() -> None:
    """Where the first layers have no experts, the first experts are not those of a first layer."""
    shape = ModelShape(architecture="qwen3moe", num_layers=32, num_heads=32, num_kv_heads=8, num_experts=64)
    tensors = [GgufTensor(name=f"blk.{layer}.ffn_down_exps.weight", shape=(64, 512, 256)) for layer in range(4, 32)]
    check(choose_types(tensors, "Q4_K_M", shape), "", {"ffn_down_exps": (MORE, "Q6_K", "Q4_K")})


@pytest.mark.parametrize(("architecture", "kv_heads", "wanted"), [("llama", 8, "Q5_K"), ("granite", 8, "Q4_K")])
def test_70_billion_keep_shared_values_in_5_bits(architecture: str, kv_heads: int, wanted: str) -> None:
    shape = ModelShape(architecture=architecture, num_layers=80, num_heads=64, num_kv_heads=kv_heads)
    types = choose_types(tensors_of(shape, 8192, 28672), "Q4_K_M", shape)
    values = [types[f"blk.{layer}.attn_v.weight"] for layer in range(80)]
    assert set(values) == {"Q6_K", wanted}


def test_importance_changes_the_first_layers() -> None:
    with_importance = ModelShape(architecture="llama", num_layers=32, num_heads=32, num_kv_heads=8, has_importance=True)
    tensors = tensors_of(LLAMA_8B, 4096, 14336)
    assert choose_types(tensors, "IQ4_XS", with_importance)["blk.0.ffn_down.weight"] == "IQ4_XS"
    types = choose_types(tensors, "Q4_0", with_importance)
    assert [types[f"blk.{layer}.ffn_down.weight"] for layer in (0, 3, 4, 31)] == ["Q4_1", "Q4_1", "Q4_0", "Q4_0"]
    assert choose_types(tensors, "Q4_K_M", with_importance) == choose_types(tensors, "Q4_K_M", LLAMA_8B)


@pytest.mark.parametrize(
    ("width", "q8_0", "q4_k_m"), [(288, "Q8_0", "Q5_0"), (40, "F16", "F16"), (512, "Q8_0", "Q4_K")]
)
def test_widths(width: int, q8_0: str, q4_k_m: str) -> None:
    tensors = [GgufTensor(name=name, shape=(64, width)) for name in ("output.weight", "blk.0.attn_q.weight")]
    assert choose_types(tensors, "Q8_0", SMALL)["blk.0.attn_q.weight"] == q8_0
    assert choose_types(tensors, "Q4_K_M", SMALL)["blk.0.attn_q.weight"] == q4_k_m


@pytest.mark.parametrize("format_name", FILE_TYPES)
def test_what_is_never_quantized(format_name: str) -> None:
    kept = [
        GgufTensor(name="output_norm.weight", shape=(512,)),
        GgufTensor(name="blk.0.attn_q.bias", shape=(512,)),
        GgufTensor(name="blk.0.ffn_gate_inp.weight", shape=(8, 512)),
        GgufTensor(name="blk.0.attn_q_norm.weight", shape=(8, 512)),
        GgufTensor(name="rope_factors_long.weight", shape=(48,), values=[1.0] * 48),
        GgufTensor(name="blk.0.attn_q.weight", shape=(512, 512), always_f32=True),
    ]
    assert set(choose_types(kept, format_name, SMALL).values()) == {"F32"}


def test_file_types_are_llama_cpps() -> None:
    gguf = pytest.importorskip("gguf")
    for name, number in FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name == ("ALL_F32" if name == "F32" else f"MOSTLY_{name}")


def test_every_type_of_a_mix_can_be_made() -> None:
    used = set()
    for shape, hidden, feed_forward in ((LLAMA_8B, 4096, 14336), (SMALL, 320, 768), (FALCON_7B, 4544, 18176)):
        for format_name in FILE_TYPES:
            used |= set(choose_types(tensors_of(shape, hidden, feed_forward), format_name, shape).values())
    assert used <= set(BLOCK_TYPES)


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match=r"'Q4_K' is no GGUF format that can be written\. Did you mean 'Q4_K_S'"):
        choose_types([], "Q4_K", SMALL)
