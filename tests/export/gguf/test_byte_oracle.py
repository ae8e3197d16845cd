"""llama.cpp's own converter as the oracle of whole files: every tensor's bytes, and every metadata key.

What differs is on a list, with the reason. The converter comes from llama_cpp_sources.py.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from finetune.export.companions import exported_config, generation_config
from finetune.export.gguf.build import FileLayout, ModelFacts, lay_out
from finetune.export.gguf.vocabulary import CONTROL, UNKNOWN, portable_template
from finetune.export.gguf.write import write_gguf
from finetune.export.merge import MergePlan, plan_base, plan_merge
from finetune.export.safetensors import write_safetensors

from .llama_cpp_sources import find_sources
from .small_bases import BASES, ROOT, save_base

pytestmark = pytest.mark.slow

UNKNOWN_PRE = "unknown-to-the-converter"
"""What the driver writes where the converter does not know a tokenizer by its hash."""

GENERAL = {
    "general.name": "ours is the run's; the converter makes one of the folder's name",
    "general.license": "ours is the model's in the run; the converter reads the card's",
    "general.size_label": "a label for people, which the name already says",
    "general.basename": "guessed from the folder's name",
    "general.version": "guessed from the folder's name",
    "general.tags": "ours are the run's; the converter reads the card's",
    "general.languages": "read from the base's card, which says nothing of the tuned model",
}
STATED = {
    "tokenizer.ggml.add_bos_token": "stated always, where the converter leaves llama.cpp's default",
    "tokenizer.ggml.add_eos_token": "stated always, where the converter leaves llama.cpp's default",
    "tokenizer.ggml.add_space_prefix": "stated always, where the converter leaves llama.cpp's default",
    "tokenizer.ggml.add_sep_token": "never read for these kinds of tokenizers; the converter says false",
}
"""Keys that one side leaves out; where both have them, they are equal."""
JSON_ONLY = {
    "tokenizer.ggml.model": "the converter takes SentencePiece without its tokenizer.model for byte-level BPE",
    "tokenizer.ggml.pre": "follows from the kind",
    "tokenizer.ggml.merges": "SentencePiece has scores instead",
    "tokenizer.ggml.scores": "the converter has none without tokenizer.model, or gives all tokens one",
    "tokenizer.ggml.token_type": "the converter knows no unknown, byte and pad tokens without tokenizer.model",
}
TEMPLATE = {"tokenizer.chat_template": "the marks of what is trained on are taken off, which no runtime knows"}
PRE = {"tokenizer.ggml.pre": "the converter does not know the tokenizer by its hash"}
CONTROL_SCORES = {"tokenizer.ggml.scores": "of control tokens and the unknown one, which no text is merged into"}
GEMMA = CONTROL_SCORES | {
    "tokenizer.ggml.add_space_prefix": "the converter says false of every Gemma; this tokenizer puts a space in front"
}
PHI3 = CONTROL_SCORES | {"tokenizer.ggml.token_type": "the converter takes the unknown token for a control token"}
CHARACTERS = {
    "tokenizer.ggml.model": "without byte tokens llama.cpp's SentencePiece cannot encode; its unigram model can",
    "tokenizer.ggml.scores": "follow from the kind",
    "tokenizer.ggml.token_type": "follow from the kind",
}
BYTE_TOKENS = {"tokenizer.ggml.tokens": "added tokens keep their text; the converter decodes them as bytes"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model folder that both convert, and how the files' metadata differ."""

    differences: Mapping[str, str]
    """Beyond GENERAL and STATED."""
    tokenizer: str | None = None
    """In the place of the table's: the converter wants a tokenizer.model for some architectures."""
    types: tuple[str, ...] = ("F16", "Q8_0")
    output_only: bool = False
    """Whether the converter writes the embedding as the output head alone, which llama.cpp does not load."""


ALL_TYPES = ("F32", "F16", "BF16", "Q8_0")
CASES: Mapping[str, Case] = {
    "embedded": Case(differences=PRE | TEMPLATE, types=ALL_TYPES),
    "stories260k": Case(differences=CONTROL_SCORES, types=ALL_TYPES),
    "babyllama-1m": Case(differences=CHARACTERS),
    "tinystories-656k": Case(differences=JSON_ONLY, types=ALL_TYPES, output_only=True),
    "Llama": Case(differences=JSON_ONLY),
    "Llama 3 (rope scaling)": Case(differences={}),
    "Mistral": Case(differences=JSON_ONLY),
    "Mixtral": Case(differences=JSON_ONLY),
    "Qwen2": Case(differences={}, types=ALL_TYPES),
    "Qwen3": Case(differences=PRE | TEMPLATE),
    "Qwen3-MoE": Case(differences=PRE | TEMPLATE),
    "Gemma 2": Case(differences=GEMMA),
    "Gemma 3": Case(differences=JSON_ONLY, types=ALL_TYPES),
    "Phi-3": Case(differences=PHI3, tokenizer="stories260k", types=ALL_TYPES),
    "Phi-4-mini (LongRoPE)": Case(differences=PHI3, tokenizer="stories260k"),
    "Falcon 7B": Case(differences={}, types=ALL_TYPES),
    "Falcon3": Case(differences=BYTE_TOKENS),
    "SmolLM3": Case(differences=PRE | TEMPLATE),
    "Granite": Case(differences={}),
    "OLMo 2": Case(differences=BYTE_TOKENS),
}
assert set(BASES) <= set(CASES)
MERGED = ("embedded", "stories260k", "Mixtral", "Phi-3")


@pytest.fixture(scope="session")
def sources() -> Path:
    """The folder with llama.cpp's converter."""
    found = find_sources()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="module")
def folders(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a case, making it where it is not there yet."""
    root = tmp_path_factory.mktemp("models")

    def folder_of(name: str) -> Path:
        case, folder = CASES[name], root / name.replace(" ", "_")
        if folder.exists():
            return folder
        if name in BASES:
            save_base(name, shared_dir, folder, tokenizer_name=case.tokenizer, num_steps=0)
            if (case.tokenizer or BASES[name].tokenizer) == "stories260k":
                shutil.copy(shared_dir / "models" / "stories260k" / "tokenizer.model", folder)
            return folder
        return Path(
            shutil.copytree(ROOT / "models" / name if name == "embedded" else shared_dir / "models" / name, folder)
        )

    return folder_of


def convert(sources: Path, folder: Path, types: tuple[str, ...], target: Path) -> dict[str, Path]:
    """Run the converter on one folder; returns its files by type."""
    files = {name: target / f"theirs-{name}.gguf" for name in types}
    tasks = [
        {"folder": str(folder), "type": name.lower(), "target": str(file), "pre": UNKNOWN_PRE}
        for name, file in files.items()
    ]
    (target / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    driver = Path(__file__).with_name("convert_whole.py")
    command = [sys.executable, str(driver), str(sources), str(target / "tasks.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=400)
    for file in files.values():
        failed = Path(f"{file}.failed")
        assert not failed.exists(), failed.read_text(encoding="utf-8")
    return files


def write(plan: MergePlan, format: str, target: Path) -> FileLayout:
    """Write our file in one pass."""
    from transformers import AutoTokenizer

    folder = plan.base_dir
    config = exported_config(plan, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    layout = lay_out(
        format,
        config,
        {tensor.name: tensor.shape for tensor in plan.tensors},
        tokenizer=AutoTokenizer.from_pretrained(folder),
        tokenizer_dir=folder,
        facts=ModelFacts(name=folder.name, license="MIT"),
        generation=generation_config(folder, config, {}),
    )
    write_gguf(plan, target, tensors=layout.tensors, types=layout.types, metadata=layout.metadata)
    return layout


def assert_same_tensors(ours: Any, theirs: Any, output_only: bool = False) -> None:
    """Every tensor has the same name, type, shape and bytes in both files."""
    expected = {str(tensor.name): tensor for tensor in theirs.tensors}
    if output_only:
        expected["token_embd.weight"] = expected.pop("output.weight")
    assert sorted(tensor.name for tensor in ours.tensors) == sorted(expected)
    for tensor in ours.tensors:
        other = expected[tensor.name]
        assert (tensor.tensor_type, tensor.shape.tolist()) == (other.tensor_type, other.shape.tolist()), tensor.name
        assert np.array_equal(tensor.data.view(np.uint8), other.data.view(np.uint8)), tensor.name


def differing_keys(case: Case, ours: Any, theirs: Any) -> Iterator[str]:
    """Keys that one file lacks or that have other types or values; of STATED, only where the case says so."""
    for key in sorted({*ours.fields, *theirs.fields}):
        one, other = ours.fields.get(key), theirs.fields.get(key)
        if key.startswith("GGUF."):
            continue
        if one is None or other is None:
            yield key
        elif one.types != other.types or one.contents() != other.contents():
            assert key not in STATED or key in case.differences, f"{key}: {one.contents()} and {other.contents()}"
            yield key


@pytest.mark.few(4, rest="exhaustive")
@pytest.mark.parametrize("name", CASES)
def test_files_of_a_base_are_those_of_the_converter(
    name: str, sources: Path, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from gguf import GGUFReader

    case, folder = CASES[name], folders(name)
    plan = plan_base(folder)
    for format, file in convert(sources, folder, case.types, tmp_path).items():
        write(plan, format, tmp_path / "ours.gguf")
        ours, theirs = GGUFReader(tmp_path / "ours.gguf"), GGUFReader(file)
        assert_same_tensors(ours, theirs, case.output_only)
        unexplained = set(differing_keys(case, ours, theirs)) - {*GENERAL, *STATED, *case.differences}
        assert not unexplained, format
        assert_as_explained(case, ours, theirs)


def assert_as_explained(case: Case, ours: Any, theirs: Any) -> None:
    """The differences are no more than their reasons say."""

    def both(key: str) -> tuple[Any, Any]:
        return ours.fields[f"tokenizer.{key}"].contents(), theirs.fields[f"tokenizer.{key}"].contents()

    if "tokenizer.chat_template" in case.differences:
        assert both("chat_template")[0] == portable_template(both("chat_template")[1])
    if case.differences.items() >= PRE.items():
        assert both("ggml.pre")[1] == UNKNOWN_PRE
    if case.differences.items() >= CONTROL_SCORES.items():
        kinds = both("ggml.token_type")[0]
        scores = zip(*both("ggml.scores"), kinds, strict=True)
        assert all(one == other for one, other, kind in scores if kind not in (CONTROL, UNKNOWN))
    if case.differences == PHI3:
        pairs = [pair for pair in zip(*both("ggml.token_type"), strict=True) if pair[0] != pair[1]]
        assert pairs == [(UNKNOWN, CONTROL)]
    if case.differences == BYTE_TOKENS:
        pairs = [pair for pair in zip(*both("ggml.tokens"), strict=True) if pair[0] != pair[1]]
        assert pairs and all("\N{REPLACEMENT CHARACTER}" in other for _, other in pairs)


@pytest.mark.few(2, rest="exhaustive")
@pytest.mark.parametrize("name", MERGED)
def test_one_pass_gives_the_bytes_of_a_merge_in_32_bits_and_a_conversion(
    name: str,
    sources: Path,
    folders: Callable[[str], Path],
    make_adapter: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from gguf import GGUFReader

    base = folders(name)
    plan = plan_merge(base, make_adapter(base))
    write_safetensors(plan.as_type("F32"), tmp_path / "merged", tokenizer=None, card="")
    for format, file in convert(sources, tmp_path / "merged", ("F16", "Q8_0"), tmp_path).items():
        write(plan, format, tmp_path / "ours.gguf")
        assert_same_tensors(GGUFReader(tmp_path / "ours.gguf"), GGUFReader(file))
