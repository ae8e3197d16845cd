"""From a live tokenizer to GGUF's tokenizer metadata. Called by the export job; the proof is in the runtime.

What counts is what the live tokenizer does, for that is what was trained: its own description (tokenizer.json as it
would be saved) decides everything but the scores of SentencePiece pieces; those come from tokenizer.model if it agrees.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import ExportError, FinetuneError
from finetune.export.gguf.hard_text import HARD_TEXT
from finetune.export.gguf.pieces import Pieces, byte_level_pieces, is_space_marked, space_marked_pieces
from finetune.export.gguf.pre_tokenizers import WAY_OUT

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's token types."""

_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
}
"""Names of the special tokens; GGUF itself spells the separator so."""

_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
_PHI3_TOKENS = frozenset(("</s>", "<unk>", "<s>", "<|endoftext|>"))
"""llama.cpp lets special tokens swallow white space only where the name has phi-3 in it, and then needs these."""
_GENERATION = re.compile(r"(\{%[-+]?)\s*(end)?generation\s*([-+]?%\})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """All that a GGUF file says about the tokenizer; the lists have one entry per row of the embedding matrix."""

    model: str
    """gpt2 (byte-level BPE), llama (SentencePiece BPE) or t5 (here: single characters only)."""
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    special_ids: Mapping[str, int] = field(default_factory=dict)
    """bos, eos, eot, unk, sep, pad, mask: those that there are."""
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool | None = None
    """Whether a space is put before text at the start and behind special tokens; None for gpt2, which never does."""
    chat_template: str | None = None
    other_templates: Mapping[str, str] = field(default_factory=dict)
    normalization: str | None = None
    """NFC where the tokenizer normalises text, which llama.cpp does not: there, texts must come normalised."""
    alphabet: frozenset[str] | None = None
    """The only characters that llama.cpp can encode: any other ends its request in an error. None: all."""
    lead: str = ""
    """Special token behind which text is encoded as the tokenizer does it, as in the chats; "": everywhere."""
    differs_on: str = ""
    """Regular expression of how texts begin that llama.cpp cannot encode as the tokenizer does; "": none."""
    strips_after: bool = False
    """Whether special tokens swallow the white space behind them, as Phi-3's do; llama.cpp goes by the model's name
    (`fitting_name`)."""
    differences: tuple[str, ...] = ()
    """Texts that llama.cpp cannot encode as the tokenizer does, one sentence each."""

    def metadata(self) -> dict[str, Any]:
        """Return the keys and values of the file: booleans, numbers, texts and lists of one of these."""
        values: dict[str, Any] = {
            "tokenizer.ggml.model": self.model,
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": list(self.tokens),
            "tokenizer.ggml.scores": list(self.scores),
            "tokenizer.ggml.token_type": list(self.types),
            "tokenizer.ggml.merges": list(self.merges),
        }
        values = {key: value for key, value in values.items() if value != []}
        for name, token in self.special_ids.items():
            values[f"tokenizer.ggml.{_ID_KEYS[name]}"] = token
        values["tokenizer.ggml.add_bos_token"] = self.add_bos
        values["tokenizer.ggml.add_eos_token"] = self.add_eos
        if self.add_space_prefix is not None:
            values["tokenizer.ggml.add_space_prefix"] = self.add_space_prefix
        if self.chat_template is not None:
            values["tokenizer.chat_template"] = self.chat_template
        if self.other_templates:
            values["tokenizer.chat_templates"] = sorted(self.other_templates)
            for name, text in sorted(self.other_templates.items()):
                values[f"tokenizer.chat_template.{name}"] = text
        return values

    def hard_text(self) -> list[str]:
        """Return the hard texts that the runtime must encode as the tokenizer does: normalised where the tokenizer
        would normalise, behind the special token that it needs, and without those that are known to differ."""
        texts = HARD_TEXT
        if self.normalization == "NFC":
            texts = tuple(unicodedata.normalize("NFC", text) for text in texts)
        return [
            self.lead + text
            for text in texts
            if (self.alphabet is None or self.alphabet.issuperset(text))
            and not (self.differs_on and re.match(self.differs_on, text))
        ]

    def fitting_name(self, name: str) -> str:
        """Return a model name that llama.cpp reads rightly: one with phi-3 in it makes special tokens swallow spaces,
        and needs tokens that other vocabularies lack."""
        if self.strips_after:
            return name if re.search("phi-?3", name, re.IGNORECASE) else f"{name} (Phi-3)"
        return re.sub("(phi)-?(3)", r"\1_\2", name, flags=re.IGNORECASE)


def read_vocabulary(tokenizer_dir: Path, tokenizer: Any, vocab_size: int) -> Vocabulary:
    """Describe a fast tokenizer, with the chat template that was trained, for a model with `vocab_size` embedding rows.

    `tokenizer_dir` may hold the tokenizer.model that the tokenizer was made from.

    Raises:
        ExportError: the tokenizer is not a fast one or of a kind that llama.cpp does not have, or it has more tokens
            than the model has rows.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            f"{tokenizer_dir}: {type(tokenizer).__name__} is not a fast tokenizer, and GGUF needs its tokenizer.json. "
            f"{WAY_OUT}"
        )
    description: dict[str, Any] = json.loads(backend.to_str())
    model = description["model"]["type"]
    if model != "BPE":
        raise ExportError(
            f"{tokenizer_dir}: tokenizers of the kind {model} cannot be written as GGUF; byte-level and SentencePiece "
            f"BPE can. {WAY_OUT}"
        )
    tokens = _tokens(tokenizer, vocab_size, tokenizer_dir)
    template = _main_template(tokenizer)
    opening, trained_end = _trained(tokenizer, template)
    if is_space_marked(description):
        pieces = space_marked_pieces(description, tokenizer, tokens, tokenizer_dir, _opens_special(opening, tokenizer))
    else:
        pieces = byte_level_pieces(description)
    differences = list(pieces.differences)
    add_bos, add_eos = _added_ends(tokenizer)
    if template is not None and add_bos and not opening.startswith(tokenizer.bos_token):
        add_bos = False
        differences.append("plain text gets no BOS token, for the chat template that was trained writes none")
    if template is not None and add_eos:
        add_eos = False
        differences.append("plain text gets no EOS token at its end, where a chat's answer has to follow")
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    strips_after = any(token.rstrip and token.special for token in added.values())
    if strips_after and not _PHI3_TOKENS.issubset(token.content for token in added.values()):
        strips_after = False
        differences.append("white space behind special tokens is kept")
    normalized_away = [token.content for token in added.values() if token.lstrip or token.single_word]
    if normalized_away:
        differences.append(
            f"white space and words around {', '.join(sorted(normalized_away)[:3])} are kept as they are"
        )
    types = _types(tokens, added, pieces, tokenizer.unk_token_id)
    vocabulary = Vocabulary(
        model=pieces.model,
        pre=pieces.pre,
        tokens=[_text(token, number, types[number]) for number, token in enumerate(tokens)],
        types=types,
        scores=_scores(tokens, types, pieces),
        merges=pieces.merges,
        special_ids=_special_ids(tokenizer, trained_end),
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=pieces.add_space_prefix,
        chat_template=None
        if template is None
        else portable_template(template, has_bos=tokenizer.bos_token is not None),
        other_templates=_other_templates(tokenizer),
        normalization=pieces.normalization,
        alphabet=pieces.alphabet,
        lead=pieces.lead,
        differs_on=pieces.differs_on,
        strips_after=strips_after,
        differences=tuple(differences),
    )
    _check_unique(vocabulary.tokens, tokenizer_dir)
    return vocabulary


def portable_template(template: str, *, has_bos: bool = True) -> str:
    """Return a chat template that renders the same where {% generation %} is unknown, and where a missing BOS token
    would be filled in with whatever token has the runtime's default id."""
    text = _GENERATION.sub(lambda tag: f"{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}", template)
    return text if has_bos or "bos_token" not in text else "{%- set bos_token = '' -%}" + text


def _tokens(tokenizer: Any, vocab_size: int, where: Path) -> list[str | None]:
    """The text of each id; None for the rows that no token uses."""
    tokens: list[str | None] = [None] * vocab_size
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values(), default=-1)
    if largest >= vocab_size:
        raise ExportError(
            f"{where}: the tokenizer has ids up to {largest}, and the model's embedding {vocab_size} rows. "
            "Take the tokenizer that belongs to the model, or resize the embedding"
        )
    for text, token in vocabulary.items():
        tokens[token] = text
    return tokens


def _text(token: str | None, number: int, token_type: int) -> str:
    if token is None:
        return f"[PAD{number}]"
    return token.replace("▁", " ") if token_type == USER_DEFINED else token


def _types(tokens: Sequence[str | None], added: Mapping[int, Any], pieces: Pieces, unk: int | None) -> list[int]:
    types = []
    for number, token in enumerate(tokens):
        if token is None:
            types.append(UNUSED)
        elif number == unk and pieces.model != "gpt2":
            types.append(UNKNOWN)
        elif number in added:
            is_control = added[number].special or _LOOKS_SPECIAL.fullmatch(token)
            is_space = not added[number].normalized and token.strip("▁") == "" and pieces.model == "llama"
            types.append(NORMAL if is_space else CONTROL if is_control else USER_DEFINED)
        else:
            types.append(BYTE if pieces.model == "llama" and re.fullmatch("<0x[0-9A-F]{2}>", token) else NORMAL)
    return types


def _scores(tokens: Sequence[str | None], types: Sequence[int], pieces: Pieces) -> list[float]:
    """One score per token for the models that have scores: higher merges first."""
    if pieces.model == "gpt2":
        return []
    kept = (NORMAL, UNKNOWN, BYTE)
    return [
        -10000.0 if token is None else pieces.scores.get(token, 0.0) if kind in kept else -1000.0
        for token, kind in zip(tokens, types, strict=True)
    ]


def _special_ids(tokenizer: Any, trained_end: int | None) -> dict[str, int]:
    ids: dict[str, int | None] = {
        name: getattr(tokenizer, f"{name}_token_id", None) for name in _ID_KEYS if name != "eot"
    }
    if trained_end is not None and trained_end != ids["eos"]:
        ids["eot"] = trained_end
    return {name: token for name in _ID_KEYS if (token := ids.get(name)) is not None}


def _added_ends(tokenizer: Any) -> tuple[bool, bool]:
    """Whether encoding adds a BOS token in front and an EOS token behind.

    Raises:
        ExportError: it adds something else.
    """
    whole, plain = tokenizer("x")["input_ids"], tokenizer("x", add_special_tokens=False)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for front, back in (([], []), ([bos], []), ([], [eos]), ([bos], [eos])):
        if whole == front + plain + back:
            return bool(front), bool(back)
    raise ExportError(
        f"the tokenizer turns 'x' into {whole}; llama.cpp can add the BOS token {bos} and the EOS token {eos} only. "
        f"{WAY_OUT}"
    )


def _trained(tokenizer: Any, template: str | None) -> tuple[str, int | None]:
    """What the chat template writes first, and the token that it writes behind an answer; "" and None without one."""
    if template is None:
        return "", None
    from finetune.data.rendering.chat_template import end_of_turn
    from finetune.data.rendering.render import render_text, template_of
    from finetune.records import Message

    try:
        opening = render_text([Message(role="user", content="x")], None, template_of(tokenizer))
        ending = tokenizer(end_of_turn(tokenizer), add_special_tokens=False)["input_ids"]
    except FinetuneError as error:
        raise ExportError(f"the chat template cannot be tried out: {error}") from error
    is_token = bool(ending) and ending[0] in tokenizer.added_tokens_decoder
    return opening, ending[0] if is_token else None


def _opens_special(opening: str, tokenizer: Any) -> bool:
    return any(opening.startswith(str(token)) for token in tokenizer.added_tokens_decoder.values())


def _main_template(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template or None


def _other_templates(tokenizer: Any) -> dict[str, str]:
    template = tokenizer.chat_template
    if not isinstance(template, dict):
        return {}
    return {name: portable_template(text) for name, text in template.items() if name != "default"}


def _check_unique(tokens: Sequence[str], where: Path) -> None:
    if len(set(tokens)) == len(tokens):
        return
    seen: set[str] = set()
    twice = next(token for token in tokens if token in seen or seen.add(token))
    raise ExportError(f"{where}: two ids have the same text {twice!r}, which llama.cpp does not load. {WAY_OUT}")
