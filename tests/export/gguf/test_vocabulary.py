"""Vocabularies as GGUF, encoded by llama.cpp itself and compared with the live tokenizer."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ExportError
from finetune.export.gguf.hard_text import HARD_TEXT
from finetune.export.gguf.pre_tokenizers import KNOWN
from finetune.export.gguf.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, Vocabulary, portable_template
from finetune.export.gguf.vocabulary import read_vocabulary as read

from . import llama_vocab
from . import made_tokenizers as made
from . import real_tokenizers as real

ROOT = Path(__file__).resolve().parents[3]


CHATML = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
FIRST = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def write_vocabulary(path: Path, vocabulary: Vocabulary, name: str = "test") -> Path:
    """A GGUF file without tensors: enough for llama.cpp to load the vocabulary alone."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"):
        writer.add_uint32(f"llama.{key}", 64)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in vocabulary.metadata().items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def differing(
    tokenizer: Any, vocabulary: Vocabulary, path: Path, texts: list[str] | None = None, name: str = "test"
) -> list[str]:
    """The texts whose ids differ between the runtimes, with or without the special tokens that are added."""
    pytest.importorskip("xllamacpp")
    texts = vocabulary.hard_text() if texts is None else texts
    answers = llama_vocab.ask(write_vocabulary(path / "vocabulary.gguf", vocabulary, name), texts)
    plain = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    before = [tokenizer.bos_token_id] if vocabulary.add_bos else []
    assert answers.num_tokens == len(vocabulary.tokens)
    assert answers.add_bos == vocabulary.add_bos
    return [
        text
        for text, wanted, got, got_added in zip(texts, plain, answers.ids, answers.ids_added, strict=True)
        if wanted != got or before + wanted != got_added
    ]


def load(folder: Path) -> Any:
    """The live tokenizer of a folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def num_rows(tokenizer: Any) -> int:
    """Rows that the embedding must have at least."""
    return max(tokenizer.get_vocab().values()) + 1


def test_the_embedded_model_encodes_alike(tmp_path: Path) -> None:
    folder = ROOT / "models" / "embedded"
    tokenizer = load(folder)
    vocabulary = read(folder, tokenizer, num_rows(tokenizer) + 3)
    assert (vocabulary.model, vocabulary.pre, vocabulary.add_bos) == ("gpt2", "llama-bpe", False)
    assert vocabulary.hard_text() == list(HARD_TEXT)
    assert vocabulary.differences == ()
    assert list(vocabulary.tokens[-3:]) == ["[PAD4096]", "[PAD4097]", "[PAD4098]"]
    assert list(vocabulary.types[-4:]) == [CONTROL, UNUSED, UNUSED, UNUSED]
    chat = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nThat.<|im_end|>\n"
    assert differing(tokenizer, vocabulary, tmp_path, [*vocabulary.hard_text(), chat]) == []


def test_the_end_token_ends_a_generation(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = ROOT / "models" / "embedded"
    tokenizer = load(folder)
    path = write_vocabulary(tmp_path / "v.gguf", read(folder, tokenizer, num_rows(tokenizer)))
    answers = llama_vocab.ask(path, ["a <|im_end|>"])
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in answers.ends
    assert answers.eos == tokenizer.eos_token_id
    assert answers.texts == ["a <|im_end|>"]


@pytest.mark.parametrize(
    ("name", "model", "num_texts"),
    [("stories260k", "llama", 54), ("babyllama-1m", "t5", 51), ("tinystories-656k", "llama", 18)],
)
def test_small_models_encode_alike(shared_dir: Path, tmp_path: Path, name: str, model: str, num_texts: int) -> None:
    folder = shared_dir / "models" / name
    tokenizer = load(folder)
    vocabulary = read(folder, tokenizer, num_rows(tokenizer))
    assert (vocabulary.model, vocabulary.add_bos) == (model, True)
    assert len(vocabulary.hard_text()) == num_texts
    assert differing(tokenizer, vocabulary, tmp_path) == []


def test_only_the_texts_named_are_left_out(shared_dir: Path, tmp_path: Path) -> None:
    """babyllama-1m has 105 characters: as an unigram model they encode alike but where there is nothing but spaces."""
    folder = shared_dir / "models" / "babyllama-1m"
    tokenizer = load(folder)
    vocabulary = read(folder, tokenizer, num_rows(tokenizer))
    assert differing(tokenizer, vocabulary, tmp_path, list(HARD_TEXT)) == [" ", "  ", "   "]
    assert vocabulary.differences == ("text of nothing but spaces gets no further space in front",)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(real.PRE_TOKENIZERS))
def test_real_byte_level_vocabularies_encode_alike(shared_dir: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("gguf")
    tokenizer = real.from_gguf(shared_dir / "tokenizers" / f"ggml-vocab-{name}.gguf")
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert vocabulary.pre == name
    assert differing(tokenizer, vocabulary, tmp_path, [*vocabulary.hard_text(), *hard_inputs(shared_dir, name)]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_real_sentencepiece_vocabularies_encode_alike(shared_dir: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("gguf")
    tokenizer = real.from_gguf(shared_dir / "tokenizers" / f"ggml-vocab-{name}.gguf")
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert (vocabulary.model, vocabulary.add_space_prefix) == ("llama", True)
    assert differing(tokenizer, vocabulary, tmp_path, [*vocabulary.hard_text(), *hard_inputs(shared_dir, name)]) == []


def hard_inputs(shared_dir: Path, name: str) -> list[str]:
    """llama.cpp's own hard strings for a vocabulary."""
    text = (shared_dir / "tokenizers" / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8")
    return text.split("\n__ggml_vocab_test__\n")


@pytest.mark.slow
def test_other_real_tokenizers_encode_alike(shared_dir: Path, tmp_path: Path) -> None:
    for name in ("qwen2", "chatml-llama2"):
        tokenizer = load(shared_dir / "tokenizers" / name)
        vocabulary = read(shared_dir / "tokenizers" / name, tokenizer, num_rows(tokenizer) + 10)
        assert differing(tokenizer, vocabulary, tmp_path) == [], name
    path = shared_dir / "tokenizers" / "mistral-v3" / "tokenizer.model.v3"
    tokenizer = real.from_sentencepiece(path)
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert differing(tokenizer, vocabulary, tmp_path) == []


@pytest.mark.few(4)
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_each_pattern_splits_as_llama_cpp_does(tmp_path: Path, known: Any) -> None:
    """With merges that cross every border a wrong split shows. Where llama.cpp itself departs, it is said."""
    tokenizer = made.make(steps=known.steps, model={"ignore_merges": known.whole_words})
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert vocabulary.pre == known.name
    num_differing = len(differing(tokenizer, vocabulary, tmp_path))
    assert num_differing == {"falcon": 8, "deepseek-coder": 1}.get(known.name, 0)
    assert bool(vocabulary.differences) == bool(num_differing or known.splits_marks)


def test_a_wrong_pre_tokenizer_shows(tmp_path: Path) -> None:
    """The comparison itself: qwen2's splitting of digits is not llama-bpe's."""
    tokenizer = made.make(steps=KNOWN[3].steps)
    vocabulary = dataclasses.replace(read(tmp_path, tokenizer, num_rows(tokenizer)), pre="smaug-bpe")
    assert "x2 2x v1.2.3 A4 4a 10th 1st No. 5" not in differing(tokenizer, vocabulary, tmp_path)
    assert "0 1 12 123 1234 12345 123456 1234567890" in differing(tokenizer, vocabulary, tmp_path)


CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (made.BYTE_LEVEL | {"use_regex": True}, "gpt-2"),
        (made.pre_tokenizer([CL100K]), "smaug-bpe"),
        (made.pre_tokenizer([KNOWN[1].steps[0].replace(r"\r\n", "\r\n")]), "smaug-bpe"),
    ],
)
def test_other_spellings_of_a_pattern(tmp_path: Path, steps: dict[str, Any], name: str) -> None:
    tokenizer = made.make(pre_tokenizer=steps)
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert vocabulary.pre == name
    assert differing(tokenizer, vocabulary, tmp_path) == []


def test_matches_may_also_be_what_is_kept(tmp_path: Path) -> None:
    """Throwing away what is between the matches: nothing, for the pattern matches everything."""
    inverted = made.step(KNOWN[3].steps[0]) | {"behavior": "Removed", "invert": True}
    tokenizer = made.make(pre_tokenizer={"type": "Sequence", "pretokenizers": [inverted, made.BYTE_LEVEL]})
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert vocabulary.pre == "qwen2"
    assert differing(tokenizer, vocabulary, tmp_path) == []


def test_unknown_splitting_is_refused(tmp_path: Path) -> None:
    refused = {
        r"knows no pre-tokenizer that splits by '\\\\w\+'": {"pre_tokenizer": made.pre_tokenizer([r"\w+"])},
        "space put before the text": {"pre_tokenizer": made.BYTE_LEVEL | {"add_prefix_space": True}},
        "no normalizer Lowercase": {"normalizer": {"type": "Lowercase"}},
        "neither byte-level nor": {"pre_tokenizer": {"type": "Whitespace"}},
    }
    for message, parts in refused.items():
        with pytest.raises(ExportError, match=message):
            read(tmp_path, made.make(**parts), 2000)


def test_whole_words_are_refused_where_merging_gives_something_else(tmp_path: Path) -> None:
    """llama.cpp knows qwen2's pattern without ignore_merges only."""
    steps = KNOWN[3].steps
    tokenizer = made.make(steps=steps, model={"ignore_merges": True})
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert differing(tokenizer, vocabulary, tmp_path) == []
    merges = made.trained(True)["merges"]
    with pytest.raises(ExportError, match="ignore_merges is True"):
        read(tmp_path, made.make(steps=steps, model={"ignore_merges": True, "merges": merges[:-40]}), 2000)


def test_nfc_is_left_to_the_caller(tmp_path: Path) -> None:
    tokenizer = made.make(normalizer={"type": "NFC"})
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert vocabulary.differences == ("text that is not in Unicode's form NFC is not put into it",)
    assert differing(tokenizer, vocabulary, tmp_path) == []
    decomposed = next(text for text in HARD_TEXT if "e\u0301" in text)
    assert differing(tokenizer, vocabulary, tmp_path, [decomposed]) == [decomposed]


def test_added_tokens_have_their_types(tmp_path: Path) -> None:
    added = [{"content": "<tool_call>"}, {"content": "<|fim_prefix|>"}, {"content": "two words"}]
    tokenizer = made.make(added=added)
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert [types[token["content"]] for token in added] == [USER_DEFINED, CONTROL, USER_DEFINED]
    assert types["<|im_end|>"] == CONTROL
    assert types["a"] == NORMAL
    texts = ["a<tool_call>b <|im_end|> two words<|fim_prefix|>"]
    assert differing(tokenizer, vocabulary, tmp_path, texts) == []


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    tokenizer = made.make()
    with pytest.raises(ExportError, match=f"ids up to 1602, and the model's embedding {1602} rows"):
        read(tmp_path, tokenizer, 1602)


def test_two_tokens_of_one_text_are_refused(tmp_path: Path) -> None:
    tokenizer = made.make(special=["[PAD1601]", "<|im_end|>"])
    vocabulary = read(tmp_path, tokenizer, 1602)
    assert vocabulary.tokens[1600] == "[PAD1601]"
    tokenizer = made.make(special=["[PAD1602]", "<|im_end|>"])
    with pytest.raises(ExportError, match="two ids have the same text"):
        read(tmp_path, tokenizer, 1603)


def test_other_kinds_of_tokenizers_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    unigram = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram([("a", -1.0)])))
    with pytest.raises(ExportError, match="kind Unigram cannot"):
        read(tmp_path, unigram, 1)
    with pytest.raises(ExportError, match="not a fast tokenizer"):
        read(tmp_path, object(), 1)


def test_an_eos_token_that_the_chat_lacks_is_the_end_of_turn(tmp_path: Path) -> None:
    tokenizer = made.make()
    tokenizer.eos_token = "<|endoftext|>"
    assert "eot" not in read(tmp_path, tokenizer, 1603).special_ids
    tokenizer.chat_template = CHATML
    vocabulary = read(tmp_path, tokenizer, 1603)
    assert vocabulary.special_ids["eot"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert vocabulary.special_ids["eos"] == tokenizer.eos_token_id


def test_a_chat_template_without_bos_switches_it_off(tmp_path: Path) -> None:
    """The rows that were trained had none, and llama.cpp puts one before every prompt if the file says so."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = made.make()
    tokenizer.bos_token = "<|endoftext|>"
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    assert read(tmp_path, tokenizer, 1603).add_bos
    tokenizer.chat_template = CHATML
    vocabulary = read(tmp_path, tokenizer, 1603)
    assert not vocabulary.add_bos
    assert vocabulary.differences == (
        "plain text gets no BOS token, for the chat template that was trained writes none",
    )
    tokenizer.chat_template = "{{- bos_token -}}" + CHATML
    assert read(tmp_path, tokenizer, 1603).add_bos


def test_spaces_are_never_put_in_front_for_gemma(tmp_path: Path) -> None:
    """Gemma 3's tokenizer.json: spaces replaced, none added, a split that finds nothing, runs of ▁ as added tokens."""
    steps = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    added = [{"content": "▁" * 3}, {"content": "<start_of_turn>", "special": True}]
    tokenizer = made.make(False, normalizer=REPLACE, pre_tokenizer=steps, added=added, special=())
    vocabulary = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert (vocabulary.model, vocabulary.add_space_prefix, vocabulary.differences) == ("llama", False, ())
    texts = [*vocabulary.hard_text(), "<start_of_turn>user\nx <start_of_turn> y"]
    assert differing(tokenizer, vocabulary, tmp_path, texts) == []


def test_a_space_at_the_start_only_follows_the_chats(tmp_path: Path) -> None:
    """Llama 2 and Mistral since 2024: behind a special token comes no space; in llama.cpp it is all or none."""
    tokenizer = made.make(False, pre_tokenizer=FIRST, special=("<|im_start|>", "<|im_end|>"))
    plain = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert plain.add_space_prefix
    assert differing(tokenizer, plain, tmp_path) == []
    tokenizer.chat_template = CHATML
    chat = read(tmp_path, tokenizer, num_rows(tokenizer))
    assert not chat.add_space_prefix
    assert chat.hard_text()[1] == "<unk>x"
    texts = [*chat.hard_text(), "<|im_start|>user\nx  y<|im_end|>\n<|im_start|> z"]
    assert differing(tokenizer, chat, tmp_path, texts) == []
    assert chat.differences == ("text that begins without a special token gets no space in front",)


def test_scores_come_from_the_model_file_if_it_is_the_tokenizers(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "models" / "stories260k"
    tokenizer = load(folder)
    from_file, from_merges = read(folder, tokenizer, 512), read(tmp_path, tokenizer, 512)
    assert list(from_file.scores) != list(from_merges.scores)
    assert differing(tokenizer, from_file, tmp_path) == []
    assert differing(tokenizer, from_merges, tmp_path) == []
    (tmp_path / "tokenizer.model").write_bytes((shared_dir / "models/babyllama-1m/tokenizer.model").read_bytes())
    assert list(read(tmp_path, tokenizer, 512).scores) == list(from_merges.scores)


def test_templates_render_the_same_without_generation_markers() -> None:
    from jinja2 import Environment

    source = (ROOT / "models" / "embedded" / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer = load(ROOT / "models" / "embedded")
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    wanted = tokenizer.apply_chat_template(messages, tokenize=False)
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    assert environment.from_string(portable_template(source)).render(messages=messages) == wanted
    assert "generation %}" not in portable_template(source).replace("add_generation_prompt %}", "")


def test_a_missing_bos_stays_missing() -> None:
    assert portable_template("{{ bos_token }}a", has_bos=False) == "{%- set bos_token = '' -%}{{ bos_token }}a"
    assert portable_template("a", has_bos=False) == "a"


def test_names_that_llama_cpp_reads_something_into(tmp_path: Path) -> None:
    tokenizer = made.make()
    vocabulary = read(tmp_path, tokenizer, 1603)
    assert vocabulary.fitting_name("My Phi-3 tune") == "My Phi_3 tune"


def test_white_space_behind_special_tokens_goes_by_the_models_name(tmp_path: Path) -> None:
    """Phi-3: <|end|> and its like swallow what follows them, in llama.cpp only if the name says Phi-3."""
    swallowing = [{"content": text, "special": True, "rstrip": True} for text in ("</s>", "<|user|>", "<|end|>")]
    phi = made.make(special=["<unk>", "<s>", "<|endoftext|>"], added=swallowing)
    vocabulary = read(tmp_path, phi, num_rows(phi))
    assert vocabulary.fitting_name("contracts") == "contracts (Phi-3)"
    assert vocabulary.fitting_name("phi-3 contracts") == "phi-3 contracts"
    texts = ["<|user|>\nWhat?<|end|>\n<|user|> \n a<|endoftext|>\nb"]
    assert differing(phi, vocabulary, tmp_path, texts, name="contracts") == texts
    assert differing(phi, vocabulary, tmp_path, texts, name=vocabulary.fitting_name("contracts")) == []
    other = made.make(added=swallowing[1:])
    vocabulary = read(tmp_path, other, num_rows(other))
    assert vocabulary.differences == ("white space behind special tokens is kept",)
    assert vocabulary.fitting_name("contracts") == "contracts"


def test_scores_of_another_order_are_not_taken(shared_dir: Path) -> None:
    folder = shared_dir / "models" / "stories260k"
    tokenizer = load(folder)
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["model"]["merges"].reverse()
    reversed_ = type(tokenizer)(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(description)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    vocabulary = read(folder, reversed_, 512)
    scores = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    made_pieces = ["".join(merge) for merge in description["model"]["merges"]]
    assert scores[made_pieces[0]] == 0.0
    assert scores[made_pieces[-1]] == 1 - len(made_pieces)
    assert scores["</s>"] == -1000.0
