"""Reads a model folder's config.json: sizes, context, and whether its weights are there; no torch.

Called by `compose` (sizes of local models), `model.hub` (every base model) and the memory planner.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from finetune.config import AUTO, MISSING, RecommendedConfig, ShapeConfig
from finetune.errors import ModelError
from finetune.headers import HeaderProblem
from finetune.headers.safetensors import check_safetensors_folder

INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "model.safetensors"
PICKLE_PATTERNS = ("*.bin", "*.pth", "*.pt", "*.ckpt")

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
FEED_FORWARD = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
EXPERTS = ("num_local_experts", "num_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts")
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")

FALCON_TYPES = ("falcon", "RefinedWeb", "RefinedWebModel")
FOUR_TIMES_TYPES = (*FALCON_TYPES, "gpt2", "gpt_bigcode", "gptj", "gpt_neo", "bloom")
"""Families whose config.json may leave the feed-forward width out: it is four times the hidden size."""
OMITTED: dict[str, dict[str, object]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
    **{kind: {"max_position_embeddings": 2048} for kind in FALCON_TYPES},
}
"""Defaults of the architecture that published config.json files rely on (gemma-3-4b-it names none of its heads)."""
TIED_TYPES = (
    *(*FALCON_TYPES, "gpt2", "gpt_bigcode", "gpt_neo", "bloom", "opt", "starcoder2", "cohere", "cohere2"),
    *("gemma", "gemma2", "gemma3", "gemma3_text", "smollm3"),
)
"""Families whose output head is the embedding unless config.json says otherwise."""

WIDE_HIDDEN, WIDE_LEARNING_RATE = 4096, 2e-4
NARROW_HIDDEN, NARROW_LEARNING_RATE = 256, 3e-3
MAX_LEARNING_RATE = 5e-3
SMALL_HIDDEN = 1024


def read_model_config(folder: Path, *, needs_weights: bool = True) -> dict[str, object]:
    """Return the content of `folder`/config.json after checking that the folder holds a model that can be trained.

    A plan needs no weights; all else does.

    Raises:
        ModelError: no folder, no readable config.json, a quantised model, or weights that are missing, cut short
            or no safetensors.
    """
    if not folder.is_dir():
        raise ModelError(f"model folder {str(folder)!r}: there is no such folder")
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"model folder {str(folder)!r}: {_why_no_config(folder)}")
    config = _read_json(path)
    if config.get("quantization_config"):
        raise ModelError(
            f"{path}: the weights are already quantised; give the original 16-bit model, and choose the "
            "quantisation of the training with quantization=nf4"
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model folder {str(folder)!r}: holds an adapter (adapter_config.json) beside the model, which would be "
            "put on it unasked; move it to a folder of its own, and give that as adapter.path"
        )
    _check_is_data(config, path)
    if needs_weights:
        _check_weights(folder)
    return config


def _check_is_data(config: Mapping[str, object], path: Path, depth: int = 0) -> None:
    """Refuse what would make transformers fetch native code, or read weights other than those that are checked."""
    for key, value in config.items():
        if isinstance(value, Mapping) and depth < 4 and not key.endswith("_implementation"):
            _check_is_data(value, path, depth + 1)  # type: ignore[arg-type]
        if key == "transformers_weights" and value:
            raise ModelError(f"{path}: {key} names other weights ({value!r}); take it out, or rename the weights")
        if not key.endswith(("attn_implementation", "attn_implementation_internal", "experts_implementation")):
            continue
        for name in value.values() if isinstance(value, Mapping) else [value]:
            if name is not None and not (isinstance(name, str) and re.fullmatch(r"\w{1,40}", name)):
                raise ModelError(
                    f"{path}: {key} names code of a repository ({str(name)[:80]!r}), which is never fetched or run; "
                    "take it out"
                )


def _why_no_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "holds an adapter, no base model; give it as adapter.path, and its base model as model.path"
    if any(folder.glob("*.gguf")):
        return "holds GGUF files, which cannot be trained; give the folder of the original safetensors model"
    return "has no config.json; give the folder that holds config.json, *.safetensors and the tokenizer"


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: must be a JSON object, not {type(content).__name__}")
    return content


def _check_weights(folder: Path) -> None:
    if (folder / INDEX_NAME).is_file():
        weight_map = _read_json(folder / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{folder / INDEX_NAME}: names no weight files")
        names = sorted({str(name) for name in weight_map.values()})
        outside = next((name for name in names if Path(name).name != name), None)
        if outside is not None:
            raise ModelError(f"{folder / INDEX_NAME}: names a file outside its folder: {outside!r}")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"model folder {str(folder)!r}: {len(missing)} of {len(names)} weight files are missing: "
                f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}; download or copy it again"
            )
    elif not (folder / WEIGHTS_NAME).is_file():
        raise ModelError(f"model folder {str(folder)!r}: {_why_no_weights(folder)}")
    try:
        check_safetensors_folder(folder)
    except HeaderProblem as problem:
        raise ModelError(f"{problem}; download or copy it again") from None


def _why_no_weights(folder: Path) -> str:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return f"has {others[0]} but neither {WEIGHTS_NAME} nor {INDEX_NAME}; the download or copy is incomplete"
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if pickles:
        return (
            f"its weights are pickles ({pickles[0]}), which are not loaded because they can run any code; where you "
            "trust them, convert them to safetensors with transformers: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    return "has no weights (*.safetensors)"


def shape_of(config: Mapping[str, object]) -> ShapeConfig:
    """Return the sizes that a config.json describes; of a multimodal model, those of its language model.

    Raises:
        ModelError: naming the field that is missing or no positive whole number.
    """
    text = _text_part(config)
    kind = str(text.get("model_type", ""))
    num_experts = _find(text, EXPERTS) or 0
    hidden_size = _need(text, HIDDEN)
    num_heads = _need(text, HEADS)
    head_dim = _find(text, ("head_dim",))
    if head_dim is None:
        if hidden_size % num_heads:
            raise ModelError(f"config.json: hidden_size {hidden_size} is no multiple of {num_heads} heads")
        head_dim = hidden_size // num_heads
    names = ("moe_intermediate_size", *FEED_FORWARD) if num_experts else FEED_FORWARD
    intermediate_size = _find(text, names)
    if intermediate_size is None:
        intermediate_size = 4 * hidden_size if kind in FOUR_TIMES_TYPES else _need(text, names)
    return ShapeConfig(
        num_layers=_need(text, LAYERS),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(text, kind, num_heads),
        head_dim=head_dim,
        vocab_size=_need(text, ("vocab_size",)),
        tied_embeddings=bool(text.get("tie_word_embeddings", kind in TIED_TYPES)),
        num_experts=num_experts,
        experts_per_token=(_find(text, EXPERTS_PER_TOKEN) or 2) if num_experts else 0,
    )


def context_of(config: Mapping[str, object]) -> int:
    """Return the longest input in tokens that a config.json allows.

    Raises:
        ModelError: it names none.
    """
    return _need(_text_part(config), CONTEXT)


def _text_part(config: Mapping[str, object]) -> dict[str, object]:
    """Return the language model's section with what published files leave out filled in."""
    text = dict(config)
    nested = config.get("text_config")
    if isinstance(nested, Mapping):
        text = {key: config[key] for key in ("tie_word_embeddings", "vocab_size") if key in config} | dict(nested)
    present = {key: value for key, value in text.items() if value is not None}
    return OMITTED.get(str(text.get("model_type", "")), {}) | present


def _num_kv_heads(text: Mapping[str, object], kind: str, num_heads: int) -> int:
    if kind in FALCON_TYPES and not text.get("new_decoder_architecture"):
        return 1 if text.get("multi_query", True) else num_heads
    if kind == "gpt_bigcode":
        return 1 if text.get("multi_query", True) else num_heads
    return _find(text, KV_HEADS) or num_heads


def _find(config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"config.json: {name} is {value!r}, which is no positive whole number")
        return value
    return None


def _need(config: Mapping[str, object], names: tuple[str, ...]) -> int:
    value = _find(config, names)
    if value is None:
        kind = config.get("model_type", "unknown")
        raise ModelError(f"config.json: {names[0]} is missing (model_type {kind!r})")
    return value


def check_shape(declared: ShapeConfig, config: Mapping[str, object]) -> None:
    """Compare the sizes in a model's YAML with its config.json.

    Raises:
        ModelError: listing each field that differs.
    """
    differences = list(_differences(declared, shape_of(config)))
    if differences:
        raise ModelError(
            f"model.shape does not describe this model: {'; '.join(differences)}. "
            "Correct model.shape, or use model=local with model.path=…, which reads the sizes from config.json"
        )


def _differences(declared: ShapeConfig, found: ShapeConfig) -> Iterator[str]:
    for field in fields(ShapeConfig):
        ours, theirs = getattr(declared, field.name), getattr(found, field.name)
        if ours not in (theirs, MISSING):
            yield f"{field.name} is declared as {ours} but config.json has {theirs}"


def recommend(shape: ShapeConfig, context_length: int) -> RecommendedConfig:
    """Return training sizes for a model that is known by its config.json only.

    The learning rate follows a power of the width through 3e-3 at 256 and 2e-4 at 4096, which is nearly 1/width
    (Yang et al. 2022, "Tensor Programs V", for Adam).
    """
    exponent = math.log(NARROW_LEARNING_RATE / WIDE_LEARNING_RATE) / math.log(WIDE_HIDDEN / NARROW_HIDDEN)
    rate = min(WIDE_LEARNING_RATE * (WIDE_HIDDEN / shape.hidden_size) ** exponent, MAX_LEARNING_RATE)
    small = shape.hidden_size <= SMALL_HIDDEN
    return RecommendedConfig(
        learning_rate=float(f"{rate:.1e}"),
        max_length=min(512 if small else 2048, context_length),
        micro_batch_tokens=1024 if small else AUTO,
        batch_tokens=2048 if small else 16_384,
    )


def num_parameters(shape: ShapeConfig) -> int:
    """Return the number of weights of a Llama-like model (gated feed-forward, no biases).

    Exact for Llama, Mistral and Mixtral, 0.01 % low where small norms and biases are added (Qwen, Gemma), and up to a
    third too high for feed-forwards of two matrices (GPT-2, the first Falcons).
    """
    width = shape.hidden_size
    attention = 2 * width * shape.head_dim * (shape.num_heads + shape.num_kv_heads)
    feed_forward = 3 * width * shape.intermediate_size * max(shape.num_experts, 1)
    layer = attention + feed_forward + shape.num_experts * width + 2 * width
    embeddings = shape.vocab_size * width * (1 if shape.tied_embeddings else 2)
    return shape.num_layers * layer + embeddings + width
