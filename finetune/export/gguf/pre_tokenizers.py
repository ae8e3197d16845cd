"""Which of llama.cpp's pre-tokenizers a byte-level BPE tokenizer uses, decided by its own patterns. For vocabulary.py.

llama.cpp's converter recognises tokenizers by a hash of what they encode; here the steps that tokenizer.json names are
compared, so that a tokenizer nobody has seen before exports too, if it splits text as a known one does.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.errors import ExportError

WAY_OUT = "Export with export.formats=[safetensors]"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPELLINGS = (
    r"'(?i:[sdmt]|ll|ve|re)",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    r"(?i:'s|'t|'re|'ve|'m|'d|'ll)",
)
"""Other ways to write the English contractions, in whatever case."""

_POSSESSIVE = re.compile(r"\\p\{\w+\}|\\.|\[(?:\\.|[^\]\\])*\]|([?+*]|\{\d+(?:,\d*)?\})\+")
"""A quantifier that never backs off, its greedy part as a group; escapes and classes are passed over."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _LETTERS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
_QWEN2 = _LETTERS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _END
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ANY_CASE = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_TEKKEN = _ANY_CASE % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END
_GPT4O = _ANY_CASE % ((_CONTRACTIONS + "?",) * 2) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END
_JAIS2 = _LETTERS + (
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)"
    r"|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
)
_SEED = _LETTERS + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+" + _END
_WORDS = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
_CJK_WIDE = "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*"
) + _END
_MINICPM5 = _LETTERS + r"|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END

EACH_DIGIT, DIGIT_RUNS, PUNCTUATION_RUNS, BYTES = "each digit", "runs of digits", "runs of punctuation", "bytes"

_MARKS_NOTE = "combining marks (decomposed accents, Arabic vowels, Hindi, Thai) part words"
_FALCON_NOTE = "a space stays with the number behind it, and bytes that look like fractions part no words"

_Steps = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One of llama.cpp's: its name in `tokenizer.ggml.pre`, and what goes with the name there."""

    name: str
    steps: _Steps
    """Patterns that isolate their matches, or one of the words above; `bytes` stands where bytes become characters."""
    whole_words: bool = False
    """Whether a word that is a token as it stands is taken without merging (`ignore_merges` in tokenizer.json)."""
    difference: str = ""
    """Text that llama.cpp splits otherwise than the tokenizer's own pattern does, though it goes by this name."""
    splits_marks: bool = False
    """Whether that is text with combining marks."""


KNOWN: Sequence[PreTokenizer] = (
    PreTokenizer("gpt-2", (_GPT2,)),
    PreTokenizer("llama-bpe", (_LLAMA3,), whole_words=True),
    PreTokenizer("smaug-bpe", (_LLAMA3,)),
    PreTokenizer("qwen2", (_QWEN2,)),
    PreTokenizer("qwen35", (_QWEN35,)),
    PreTokenizer("starcoder", (EACH_DIGIT, _GPT2)),
    PreTokenizer("falcon", (PUNCTUATION_RUNS, _GPT2, BYTES, DIGIT_RUNS, "[0-9][0-9][0-9]"), difference=_FALCON_NOTE),
    PreTokenizer(
        "deepseek-coder",
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_WIDE, EACH_DIGIT),
        difference="wide spaces (U+2000 and up) before a word stay with the word",
    ),
    PreTokenizer("deepseek-v3", (r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    PreTokenizer("tekken", (_TEKKEN,), whole_words=True, difference=_MARKS_NOTE, splits_marks=True),
    PreTokenizer("gpt-4o", (_GPT4O,), difference=_MARKS_NOTE, splits_marks=True),
    PreTokenizer("jais-2", (_JAIS2,)),
    PreTokenizer("seed-coder", (_SEED,)),
    PreTokenizer("bloom", (_WORDS,)),
    PreTokenizer("viking", (_WORDS, EACH_DIGIT)),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", _MINICPM5), whole_words=True),
    PreTokenizer("ufakzeka", (_QWEN2.removeprefix(_CONTRACTIONS + "|"),)),
)


def find_pre_tokenizer(description: Mapping[str, Any], merges_make_words: Callable[[], bool]) -> PreTokenizer:
    """Return llama.cpp's pre-tokenizer for a byte-level tokenizer (`description`: its tokenizer.json).

    `merges_make_words` tells whether merging alone turns each token's text into that token; it is asked only where
    llama.cpp takes whole words and the tokenizer does not, or the other way round.

    Raises:
        ExportError: llama.cpp has no such pre-tokenizer.
    """
    steps = _steps_of(description.get("pre_tokenizer"))
    whole_words = bool(description["model"].get("ignore_merges"))
    fitting = [known for known in KNOWN if tuple(map(canonical, known.steps)) == steps]
    for known in fitting:
        if known.whole_words == whole_words:
            return known
    if fitting and merges_make_words():
        return fitting[0]
    shown = " then ".join(repr(step) for step in steps) or "nothing"
    if fitting:
        raise ExportError(
            f"tokenizer.json: ignore_merges is {whole_words} with the pattern {shown}, and llama.cpp knows the pattern "
            f"only with {not whole_words}. {WAY_OUT}"
        )
    raise ExportError(f"tokenizer.json: llama.cpp knows no pre-tokenizer that splits by {shown}. {WAY_OUT}")


def canonical(pattern: str) -> str:
    """Spell a pattern one way: contractions, line breaks, quantifiers that never back off (they match the same here).

    `\\s*[\\r\\n]` takes all line breaks it can reach, hence the same as with `+` behind it.
    """
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
    for spelling in _SPELLINGS:
        pattern = pattern.replace(spelling, _CONTRACTIONS)
    pattern = _POSSESSIVE.sub(lambda found: found[1] or found[0], pattern)
    pattern = pattern.replace(r"\p{N}{1}", r"\p{N}").replace(r"\"", '"')
    return pattern.replace(r"|\s*[\r\n]|", r"|\s*[\r\n]+|")


def _steps_of(pre_tokenizer: Mapping[str, Any] | None) -> _Steps:
    steps = tuple(_walk(pre_tokenizer))
    return steps[:-1] if steps[-1:] == (BYTES,) else steps


def _walk(part: Mapping[str, Any] | None) -> Iterator[str]:
    """The steps of a pre-tokenizer, sequences flattened; a step that llama.cpp lacks comes out under its own name."""
    if part is None:
        return
    kind = part["type"]
    if kind == "Sequence":
        for inner in part["pretokenizers"]:
            yield from _walk(inner)
    elif kind == "ByteLevel":
        if part.get("add_prefix_space"):
            yield "a space put before the text (ByteLevel add_prefix_space)"
        if part.get("use_regex", True):
            yield canonical(_GPT2)
        yield BYTES
    elif kind == "Digits":
        yield EACH_DIGIT if part.get("individual_digits") else DIGIT_RUNS
    elif kind == "Punctuation" and part.get("behavior") == "Contiguous":
        yield PUNCTUATION_RUNS
    elif kind == "Split" and "Regex" in part["pattern"] and _isolates(part):
        yield canonical(part["pattern"]["Regex"])
    else:
        yield str({key: value for key, value in part.items() if value is not None})


def _isolates(split: Mapping[str, Any]) -> bool:
    """Whether matches become pieces of their own. Throwing away what does not match is the same for these patterns,
    which match everything."""
    return (split["behavior"], bool(split.get("invert"))) in (("Isolated", False), ("Removed", True))
