"""models/embedded as it ships: small, 16-bit, quantisable, its template with generation markers, its card complete."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "models" / "embedded"
BUILDER = ROOT / "scripts" / "embedded_model"
DOMAINS = ("legal", "medical", "code")
SPLITS = ("train", "validation", "test")
QUANTIZATION_BLOCK = 256
"""Weights of one superblock of llama.cpp's k-quants; a width that it does not divide cannot be quantised."""
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenizer: `pre_tokenizer` in tokenizer.json of meta-llama/Llama-3.1-8B."""
CHAT = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Which law governs?"},
    {"role": "assistant", "content": "Let me look."},
    {"role": "tool", "content": "§ 12: Delaware"},
    {"role": "assistant", "content": "Delaware."},
]


def read_json(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def read_header() -> dict[str, Any]:
    """Names, types and shapes of the stored tensors, from the first bytes of model.safetensors."""
    with (FOLDER / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return header


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(FOLDER)


def test_it_is_small_and_stored_in_16_bits() -> None:
    tensors = read_header()
    num_parameters = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    assert {tensor["dtype"] for tensor in tensors.values()} <= {"F16", "BF16"}
    assert num_parameters <= 8_000_000
    assert num_parameters == read_json("training.json")["parameters"]
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 20_000_000


def test_it_is_a_llama_whose_widths_quantise() -> None:
    config = read_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert config["hidden_size"] % QUANTIZATION_BLOCK == 0
    assert config["intermediate_size"] % QUANTIZATION_BLOCK == 0
    for name, tensor in read_header().items():
        if len(tensor["shape"]) == 2:
            assert tensor["shape"][1] % QUANTIZATION_BLOCK == 0, name


def test_model_yaml_says_what_the_folder_holds() -> None:
    declared = yaml.safe_load((ROOT / "finetune/conf/model/embedded.yaml").read_text(encoding="utf-8"))
    assert declared["context_length"] == read_json("config.json")["max_position_embeddings"]
    assert declared["license"].lower() == card_header()["license"] == "apache-2.0"


def test_pre_tokenizer_is_llama_3s() -> None:
    stored = read_json("tokenizer.json")
    split, byte_level = stored["pre_tokenizer"]["pretokenizers"]
    assert stored["normalizer"] is None and stored["model"]["type"] == "BPE" and stored["model"]["ignore_merges"]
    assert (split["type"], split["pattern"], split["behavior"]) == ("Split", {"Regex": LLAMA3_SPLIT}, "Isolated")
    assert not split["invert"]
    assert byte_level["type"] == "ByteLevel"
    assert not byte_level["add_prefix_space"] and not byte_level["use_regex"]


@pytest.mark.parametrize("text", ["§ 12.3 (b): € 1,250.00\r\n\tdef f(x): return x", "Müller", "العقد", "合同", "🙂"])
def test_every_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_template_renders_every_role_in_order(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in CHAT]
    assert text == "".join(turns)
    assert tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True) == (
        "".join(turns[:2]) + "<|im_start|>assistant\n"
    )


def test_template_refuses_an_unknown_role(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="unknown role: narrator"):
        tokenizer.apply_chat_template([{"role": "narrator", "content": "x"}], tokenize=False)


def test_template_marks_the_assistants_tokens_and_their_end(tokenizer: Any) -> None:
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == "Let me look.<|im_end|>Delaware.<|im_end|>"


def test_template_offers_tools_and_writes_calls(tokenizer: Any) -> None:
    tools = [{"type": "function", "function": {"name": "find_clause", "parameters": {"type": "object"}}}]
    call = {"type": "function", "function": {"name": "find_clause", "arguments": {"topic": "law"}}}
    chat = [CHAT[0], CHAT[1], {"role": "assistant", "content": "", "tool_calls": [call]}, *CHAT[3:]]
    text = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False)
    assert text.count("Answer briefly.") == 1 and '"name": "find_clause", "parameters"' in text
    expected = '<tool_call>\n{"name": "find_clause", "arguments": {"topic": "law"}}\n</tool_call><|im_end|>'
    assert f"<|im_start|>assistant\n{expected}" in text


def test_generation_ends_at_the_end_of_a_turn(tokenizer: Any) -> None:
    ends = read_json("generation_config.json")["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token not in (None, tokenizer.eos_token)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_sample_question_fits_the_training_length(domain: str) -> None:
    """Question, its longest option and the template's own tokens, as recipes and choice accuracy read them."""
    declared = yaml.safe_load((ROOT / "finetune/conf/model/embedded.yaml").read_text(encoding="utf-8"))
    encoder = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    rows = [
        json.loads(line)
        for split in SPLITS
        for line in (ROOT / "data" / domain / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    turns = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
    texts = [turns.format(row["question"], max(row["options"], key=len)) for row in rows]
    lengths = [len(encoded.ids) for encoded in encoder.encode_batch(texts)]
    longest = max(range(len(rows)), key=lengths.__getitem__)
    assert lengths[longest] <= declared["recommended"]["max_length"], rows[longest]["id"]


def card_header() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---")[1])


def test_card_names_texts_licences_figures_and_limits() -> None:
    card, report = (FOLDER / "README.md").read_text(encoding="utf-8"), read_json("training.json")
    for text, licence in {
        "CUAD": "CC BY 4.0",
        "licence texts": "PSF",
        "MedQuAD": "CC BY 4.0",
        "GPTeacher Codegen": "MIT",
        "Python's standard library": "Python Software Foundation License",
    }.items():
        line = next((line for line in card.splitlines() if line.startswith("|") and text in line), "")
        assert licence in line, text
    for domain in ("law", "medicine", "code"):
        assert f"| {domain} | {report['held_out'][domain]['documents']} |" in card
        assert f"| {report['held_out'][domain]['bits_per_byte']:.3f} |" in card
    assert f"{report['parameters']:,}" in card and f"{report['tokens']:,} tokens in {report['steps']:,} steps" in card
    assert "For demonstrations and tests only" in card and "Apache-2.0" in card


def test_the_builder_has_the_template_and_the_command_that_ship() -> None:
    assert (BUILDER / "chat_template.jinja").read_bytes() == (FOLDER / "chat_template.jinja").read_bytes()
    assert "scripts/build_embedded_model" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert os.access(ROOT / "scripts" / "build_embedded_model", os.X_OK)
