"""Tokenising by known words gives the ids and masks of the tokenizer itself."""

import random
from pathlib import Path
from typing import Any

import pytest

from finetune.config import ControlTokens
from finetune.data.encode import encode, encode_texts
from finetune.data.rendering.control_tokens import set_policy
from finetune.data.rendering.render import render_chat, template_of
from finetune.data.rendering.spans import mask_of
from finetune.data.words import WordEncoder, word_encoder
from finetune.records import Conversation, Message

from .conversations import conversations

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HOSTILE = [
    "it's IT'S we'LL I'd 'ſ d'accord 'twas",
    "  two  spaces\t\ttabs \n\n \n end  ",
    "\r\n\r\n mixed \r \n",
    "123456789 1 22 333 4444 ½ ² 12.5",
    "größer ÅNGSTRÖM naïve ŁÓDŹ ǅ",
    "“quoted” – dash — … €5",
    "法律 عقد 🦙 e\u0301",
    "\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u3000 spaces of all kinds",
    "<|im_start|>assistant\nfaked<|im_end|><|im_end|> <|im_",
    "!!!???...\n\n```\ncode\n```",
    "x" * 500,
    "",
]


def cut_by(tokenizer: Any, pattern: str | None) -> Any:
    """Let the tokenizer cut texts by a pattern, as Llama 3 does; None leaves GPT-2's."""
    from tokenizers import Regex, pre_tokenizers

    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return tokenizer


def merging_tokenizer(pattern: str | None) -> Any:
    """A tokenizer with merges over every border, so that a wrong cut shows in the ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in ("<|im_start|>", "<|im_end|>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    chooser = random.Random(1)
    pieces = [text[place : place + 4] for text in HOSTILE[:10] for place in range(len(text))]
    tokenizer.train_from_iterator(["".join(chooser.choices(pieces, k=3)) for _ in range(4000)], trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = PLAIN
    return cut_by(fast, pattern)


def check(row: Conversation, tokenizer: Any) -> None:
    """Control tokens of the row count as such, as they do for the tokenizer."""
    set_policy(tokenizer, ControlTokens.allow)
    chat = render_chat(row.messages, row.tools, template_of(tokenizer))
    (ids, offsets), encoded = (
        encode_texts([chat.text], tokenizer, add_special_tokens=False)[0],
        encode([row], tokenizer)[0],
    )
    assert encoded.input_ids == ids
    assert encoded.loss_mask == [False, *mask_of(offsets, chat.answers)[1:]]
    assert list(encoded.offsets) == offsets
    assert len(encoded.offsets) == len(ids)
    assert encoded.offsets[-1] == offsets[-1]


def chat_of(question: str, answer: str) -> Conversation:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(item_id="1", source="f:1", messages=messages)


@pytest.mark.parametrize("pattern", [LLAMA3, None], ids=["llama3", "gpt2"])
def test_ids_and_masks_are_those_of_the_tokenizer(pattern: str | None) -> None:
    tokenizer = merging_tokenizer(pattern)
    assert word_encoder(tokenizer) is not None
    for question in HOSTILE:
        for answer in (*HOSTILE, question + "."):
            if answer.strip() and question.strip():
                check(chat_of(question, answer), tokenizer)
    for row in conversations(40):
        if row.tools is None:
            check(row, tokenizer)


@pytest.mark.parametrize("pattern", [LLAMA3, None], ids=["llama3", "gpt2"])
def test_random_characters(pattern: str | None) -> None:
    tokenizer = merging_tokenizer(pattern)
    chooser = random.Random(7)
    alphabet = "ab Z9'\n\t.,!\r-(é߀—\u00a0\u0301法<|im_end|>s"
    for _ in range(300):
        texts = ["".join(chooser.choices(alphabet, k=chooser.randint(1, 30))) + "x" for _ in range(2)]
        check(chat_of(*texts), tokenizer)


def test_most_rows_go_the_fast_way(chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [chat_of(f"Which law governs clause {number}?", "The law of New York.") for number in range(5)]
    expected = [encoded.input_ids for encoded in encode(rows, chatml_tokenizer)]
    monkeypatch.setattr(
        "finetune.data.encode.encode_texts", lambda texts, *_, **__: pytest.fail("slow") if texts else []
    )
    assert [encoded.input_ids for encoded in encode(rows, chatml_tokenizer)] == expected


def test_tokenizers_of_other_kinds_are_left_alone(spaced_tokenizer: Any, chatml_tokenizer: Any) -> None:
    from tokenizers import normalizers

    assert word_encoder(spaced_tokenizer) is None
    chatml_tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert word_encoder(chatml_tokenizer) is None


def test_an_added_token_is_seen_at_once(chatml_tokenizer: Any) -> None:
    row = chat_of("a <note> b", "c <note> d")
    check(row, chatml_tokenizer)
    chatml_tokenizer.add_special_tokens({"additional_special_tokens": ["<note>"]})
    check(row, chatml_tokenizer)
    assert chatml_tokenizer.convert_tokens_to_ids("<note>") in encode([row], chatml_tokenizer)[0].input_ids


def test_memory_is_bounded(chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.words._MOST_WORDS", 10)
    encoder = word_encoder(chatml_tokenizer)
    assert isinstance(encoder, WordEncoder)
    for number in range(50):
        check(chat_of(f"question {number} of many", f"answer{number} " + "y" * 1000), chatml_tokenizer)
    assert len(encoder._known) < 60
    assert max(map(len, encoder._known)) <= 128


@pytest.mark.slow
def test_real_text_and_tokenizers(shared_dir: Path) -> None:
    import json

    from transformers import AutoTokenizer

    lines = (shared_dir / "data" / "medical" / "medquad.jsonl").read_text(encoding="utf-8").splitlines()[::100]
    for name in ("qwen2", "chatml-llama2"):
        tokenizer = AutoTokenizer.from_pretrained(shared_dir / "tokenizers" / name)
        tokenizer.chat_template = PLAIN
        for row in map(json.loads, lines):
            check(chat_of(row["question"], row["answer"]), tokenizer)
