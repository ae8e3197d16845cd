"""From a checkpoint's names and shapes to the tensors of the GGUF file. Standard library only."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from finetune.errors import ExportError
from finetune.export.gguf.architectures.entries import Architecture, falcon_norms
from finetune.export.gguf.architectures.rope import rope_tensors
from finetune.export.gguf.architectures.settings import Settings
from finetune.export.gguf.tensors import GgufTensor, Rows

_DROPPABLE = ("*.rotary_emb.inv_freq", "*.attention.masked_bias", "*.attn.masked_bias")
"""Constants that old checkpoints carry along."""

_SHAPES = {
    "token_embd": "VH",
    "output": "VH",
    "output_norm": "H",
    "attn_norm": "H",
    "attn_norm_2": "H",
    "ffn_norm": "H",
    "post_attention_norm": "H",
    "post_ffw_norm": "H",
    "attn_q": "QH",
    "attn_k": "KH",
    "attn_v": "KH",
    "attn_qkv": "SH",
    "attn_output": "HQ",
    "ffn_gate": "FH",
    "ffn_up": "FH",
    "ffn_down": "HF",
    "ffn_gate_inp": "EH",
}
"""Sizes of a module's weight: V vocabulary, H hidden, Q all query heads, K all key heads, S the three together, F MLP,
E experts, I an expert's MLP, D one head."""

_MANY = 5


@dataclass(frozen=True, slots=True)
class _Expert:
    """Where a checkpoint tensor of experts goes: the GGUF tensors, and the expert's number or None for all of them."""

    targets: tuple[str, ...]
    number: int | None


class _Plan:
    """The names that a checkpoint of this model has, and the sizes that they must have."""

    def __init__(self, entry: Architecture, settings: Settings) -> None:
        self.entry = entry
        self.settings = settings
        self.kv_heads = num_kv_heads(entry, settings)
        self.targets = dict(self._modules())
        self.experts = dict(self._experts())
        self.sizes = self._sizes()

    def _modules(self) -> Iterator[tuple[str, tuple[str, bool]]]:
        """Yield checkpoint name -> (GGUF name, whether it must be there)."""
        entry = self.entry
        for module, target in entry.top.items():
            if target != "output":
                yield from self._parts(module, target, target)
        yield _weight(entry, "output"), ("output.weight", not self.settings.flag("tie_word_embeddings"))
        layer = dict(entry.layer)
        if entry.experts:
            layer[entry.experts.router] = "ffn_gate_inp"
        if entry.name == "falcon":
            raw = self.settings.raw
            layer |= falcon_norms(bool(raw.get("new_decoder_architecture")), raw.get("num_ln_in_parallel_attn"))
        for number in range(self.settings.layers):
            for module, target in layer.items():
                yield from self._parts(f"{entry.prefix}{number}.{module}", f"blk.{number}.{target}", target)

    def _parts(self, module: str, target: str, kind: str) -> Iterator[tuple[str, tuple[str, bool]]]:
        yield f"{module}.weight", (f"{target}.weight", True)
        if kind in self.entry.biases or kind in self.entry.possible_biases:
            yield f"{module}.bias", (f"{target}.bias", kind in self.entry.biases)

    def _experts(self) -> Iterator[tuple[str, _Expert]]:
        experts = self.entry.experts
        if experts is None:
            return
        count = self.settings.integer(*experts.count_keys)
        for number in range(self.settings.layers):
            start, names = f"{self.entry.prefix}{number}.{experts.prefix}", expert_names(number)
            for module, target in zip((experts.gate, experts.up, experts.down), names, strict=True):
                for expert in range(count):
                    yield f"{start}{expert}.{module}.weight", _Expert((target,), expert)
            yield f"{start}gate_up_proj", _Expert(names[:2], None)
            yield f"{start}down_proj", _Expert(names[2:], None)

    def _sizes(self) -> dict[str, int]:
        settings, entry = self.settings, self.entry
        queries, keys = settings.heads * settings.head_dim, self.kv_heads * settings.head_dim
        sizes = {"H": settings.hidden, "Q": queries, "K": keys, "S": queries + 2 * keys, "D": settings.head_dim}
        sizes["F"] = feed_forward(entry, settings)
        if entry.experts:
            sizes["E"] = settings.integer(*entry.experts.count_keys)
            sizes["I"] = settings.integer(entry.experts.width_key)
        return sizes

    def expect_head_alone(self, names: Iterable[str]) -> None:
        """Take a tied output head for the embedding where the checkpoint holds the pair under the head's name."""
        embedding, head = _weight(self.entry, "token_embd"), _weight(self.entry, "output")
        known = {canonical(self.entry, name) for name in names}
        if self.settings.flag("tie_word_embeddings") and head in known and embedding not in known:
            self.targets[head] = self.targets.pop(embedding)

    def expected(self, target: str) -> tuple[int | None, ...]:
        """Return the shape of a GGUF tensor; None stands for a size that any value may have (the vocabulary)."""
        kind, part = target.removeprefix("blk.").rsplit(".", 1)
        kind = kind.rpartition(".")[2]
        letters = _SHAPES.get(kind, "")
        if kind in ("attn_q_norm", "attn_k_norm"):
            letters = {"attn_q_norm": "Q", "attn_k_norm": "K"}[kind] if self.entry.whole_norms else "D"
        shape = [self.sizes.get(letter) for letter in letters]
        if self.entry.name == "phi3" and kind == "ffn_up":
            shape[0] = 2 * self.sizes["F"]
        return tuple(shape[:1] if part == "bias" else shape)

    def tensor(self, target: str, source: str, shape: tuple[int, ...]) -> GgufTensor:
        """Make the GGUF tensor that a checkpoint tensor becomes.

        Raises:
            ExportError: its shape contradicts config.json.
        """
        wanted = self.expected(target)
        _check_shape(source, shape, wanted)
        kind = target.rsplit(".", 2)[-2]
        rows = (Rows(source, 0, shape[0]),)
        if self.entry.name == "falcon" and kind == "attn_qkv":
            rows = _falcon_rows(source, self.settings.heads, self.kv_heads, self.settings.head_dim)
        return GgufTensor(
            name=target,
            shape=shape,
            rows=rows,
            interleave=self.settings.head_dim if self.entry.interleaved and kind in ("attn_q", "attn_k") else 0,
            plus=self.entry.norm_plus if target.endswith("_norm.weight") else 0.0,
            always_f32=len(shape) < 2 or kind == "ffn_gate_inp",
        )


def plan_tensors(entry: Architecture, settings: Settings, shapes: Mapping[str, tuple[int, ...]]) -> list[GgufTensor]:
    """List the tensors of the file for a checkpoint whose tensors have these names and shapes (rows first).

    Raises:
        ExportError: a tensor is unknown, missing, or of another shape than config.json says.
    """
    if not entry.has_output and not settings.flag("tie_word_embeddings"):
        raise ExportError(
            f"a GGUF file of architecture {entry.name} has no place for an output head apart from the embedding; "
            "tune both or neither, or use export.formats=[safetensors]"
        )
    plan = _Plan(entry, settings)
    plan.expect_head_alone(shapes)
    dropped = set(left_out(entry, shapes))
    tensors = rope_tensors(entry, settings)
    stacks: dict[str, dict[int | None, list[Rows]]] = {}
    seen: set[str] = set()
    unknown: list[str] = []
    for name, shape in shapes.items():
        if name in dropped:
            continue
        known = canonical(entry, name)
        if known in seen:
            raise ExportError(f"the checkpoint holds {known} twice under different names; one of them is {name}")
        seen.add(known)
        if known in plan.targets:
            tensors.append(plan.tensor(plan.targets[known][0], name, shape))
        elif known in plan.experts:
            _add_expert(plan, plan.experts[known], name, shape, stacks)
        else:
            unknown.append(name)
    if unknown:
        raise ExportError(
            f"{_some(unknown)} of the checkpoint: no place for it in a GGUF file of architecture {entry.name}; "
            "use export.formats=[safetensors]"
        )
    missing = [name for name, (_, must) in plan.targets.items() if must and name not in seen]
    missing += _missing_experts(plan, stacks)
    if missing:
        raise ExportError(f"{_some(missing)} is missing from the checkpoint; fetch the model again")
    tensors += _stacked(plan, stacks)
    if entry.needs_output and not any(tensor.name == "output.weight" for tensor in tensors):
        embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
        tensors.append(GgufTensor(name="output.weight", shape=embedding.shape, rows=embedding.rows))
    return tensors


def _weight(entry: Architecture, target: str) -> str:
    """Return the checkpoint name of a weight outside the layers."""
    return next(f"{module}.weight" for module, own in entry.top.items() if own == target)


def canonical(entry: Architecture, name: str) -> str:
    """Return the name by which the entry knows a checkpoint tensor."""
    for part, replacement in entry.renames:
        if "*" not in part:
            name = name.replace(part, replacement)
        elif fnmatch.fnmatchcase(name, f"*{part}*"):
            name = name.replace(part.rpartition("*")[2], replacement.rpartition("*")[2], 1)
    return name


def left_out(entry: Architecture, names: Iterable[str]) -> list[str]:
    """Name the checkpoint tensors that the file has no place for and the text model does not need."""
    known = {name: canonical(entry, name) for name in names}
    patterns = [*(f"*{part}*" for part in entry.dropped), *_DROPPABLE]
    dropped = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not entry.has_output and _weight(entry, "token_embd") in known.values():
        dropped += [name for name, own in known.items() if own == _weight(entry, "output")]
    return dropped


def num_kv_heads(entry: Architecture, settings: Settings) -> int:
    """Return the number of key and value heads; Falcon 7B shares one among all queries."""
    if entry.name != "falcon":
        return settings.kv_heads
    if not settings.flag("new_decoder_architecture") and settings.flag("multi_query"):
        return 1
    return settings.integer("num_kv_heads", "n_head_kv", default=settings.heads)


def feed_forward(entry: Architecture, settings: Settings) -> int:
    """Return the width of the MLP; Falcon's is four times the hidden size unless stated."""
    if entry.name != "falcon":
        return settings.integer("intermediate_size")
    return settings.integer("ffn_hidden_size", default=4 * settings.hidden)


def expert_names(layer: int) -> tuple[str, str, str]:
    """Name the stacked tensors of a layer's experts: gate, up, down."""
    return tuple(f"blk.{layer}.ffn_{part}_exps.weight" for part in ("gate", "up", "down"))  # type: ignore[return-value]


def _add_expert(
    plan: _Plan,
    expert: _Expert,
    source: str,
    shape: tuple[int, ...],
    stacks: dict[str, dict[int | None, list[Rows]]],
) -> None:
    """Note the rows of one expert, or of all experts where the checkpoint stacks them, gate above up."""
    hidden, width, count = plan.sizes["H"], plan.sizes["I"], plan.sizes["E"]
    outputs, inputs = (hidden, width) if "_down_" in expert.targets[0] else (width, hidden)
    if expert.number is not None:
        _check_shape(source, shape, (outputs, inputs))
        stacks.setdefault(expert.targets[0], {})[expert.number] = [Rows(source, 0, outputs)]
        return
    parts = len(expert.targets)
    _check_shape(source, shape, (count, parts * outputs, inputs))
    for part, target in enumerate(expert.targets):
        stacks.setdefault(target, {})[None] = [
            Rows(source, (number * parts + part) * outputs, (number * parts + part + 1) * outputs)
            for number in range(count)
        ]


def _missing_experts(plan: _Plan, stacks: Mapping[str, Mapping[int | None, list[Rows]]]) -> list[str]:
    missing = []
    for name, expert in plan.experts.items():
        there = stacks.get(expert.targets[0], {})
        if expert.number is not None and None not in there and expert.number not in there:
            missing.append(name)
    return missing


def _stacked(plan: _Plan, stacks: Mapping[str, Mapping[int | None, list[Rows]]]) -> Iterator[GgufTensor]:
    for name, pieces in stacks.items():
        if None in pieces and len(pieces) > 1:
            raise ExportError(f"the checkpoint holds the experts of {name} both stacked and one by one")
        hidden, width, count = plan.sizes["H"], plan.sizes["I"], plan.sizes["E"]
        outputs, inputs = (hidden, width) if "_down_" in name else (width, hidden)
        ordered = pieces[None] if None in pieces else [pieces[number][0] for number in range(count)]
        yield GgufTensor(name=name, shape=(count, outputs, inputs), rows=tuple(ordered))


def _falcon_rows(source: str, heads: int, kv_heads: int, width: int) -> tuple[Rows, ...]:
    """Put all queries first, then all keys, then all values.

    Falcon keeps them in `kv_heads` groups: the queries that share a key, the key, the value, `width` rows each.
    """
    queries = heads // kv_heads
    pieces = [(0, queries), (queries, queries + 1), (queries + 1, queries + 2)]
    rows: list[Rows] = []
    for first, last in pieces:
        for group in range(kv_heads):
            start = group * (queries + 2)
            rows.append(Rows(source, (start + first) * width, (start + last) * width))
    return tuple(rows) if kv_heads > 1 else (Rows(source, 0, (heads + 2) * width),)


def _check_shape(source: str, shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    fits = len(shape) == len(wanted) and all(
        want is None or size == want for size, want in zip(shape, wanted, strict=True)
    )
    if not fits:
        text = " x ".join("any" if want is None else str(want) for want in wanted)
        raise ExportError(
            f"{source} is {' x '.join(map(str, shape)) or 'a scalar'}, config.json says {text}; "
            "weights and configuration belong to different models"
        )


def _some(names: list[str]) -> str:
    more = len(names) - _MANY
    return ", ".join(names[:_MANY]) + (f" and {more} more" if more > 0 else "")
