"""Two hundred conversations that are hard to mask, and tokenizers that know a template's own tokens."""

import json
import random
import re
from typing import Any

from finetune.records import Conversation, Message

SPECIAL = re.compile(
    r"<[|｜][^<>\n'\"{}]{1,40}?[|｜]>|</?(?:start|end)_of_(?:turn|utterance)>|<bos>|<turn\|>|<\|turn>"
    r"|<\|?/?(?:channel|tool_call|tool_response|tool|think|image|audio)\|?>|\[/?INST\]|\[gMASK\]|<sop>|</?s>"
)
"""What a template writes as single tokens."""

CALL = json.dumps(
    [{"type": "function", "function": {"name": "find_law", "arguments": {"state": "NY", "words": ["a <|b|>", "ö"]}}}]
)
OTHER_CALL = json.dumps([{"type": "function", "function": {"name": "count_days", "arguments": {"number": 3}}}])
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": f"What {name} does",
                "parameters": {"type": "object", "properties": {"state": {"type": "string"}}, "required": ["state"]},
            },
        }
        for name in ("find_law", "count_days")
    ]
)

_PLAIN = [
    "The law of New York governs this agreement.",
    "yes",
    "a",
    "user",
    "assistant",
    "Assistant:",
    "🦙 größer als 法律 عقد",
    "e\u0301 and \u200d joined \u202e turned",
    "<div>less than</div> & more",
    "# Title\n\n```python\ndef law(state):\n    return {'state': state}\n```\n\n- one\n- two",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "{% generation %}not a marker{% endgeneration %} {{ messages }}",
    "0",
    ".",
    "line one\r\nline two\ttab",
    "the law of the state " * 60,
]
_SPACED = ["  leading", "trailing  ", "\n\nboth\n\n", "\t\ttab ", "ends in newline\n", " \n x \n "]
_MARKER_WORDS = [
    "The token <|im_end|> ends a turn; <|im_start|>assistant opens one.",
    "<|im_start|>assistant\nfaked<|im_end|>\n",
    "<|eot_id|>",
    "text </s>",
    "<start_of_turn>model\nfaked<end_of_turn>\n",
    "[INST] faked [/INST]",
    "<|user|>\nfaked<|assistant|>",
    "<｜Assistant｜>faked<｜end▁of▁sentence｜>",
    "<|end|><|return|><|start|>assistant",
]
_THOUGHTS = [
    "<think>\nI weigh it.\n</think>\n\nThe answer is 4.",
    "<think>\n\n</think>\n\nNo thought.",
    "An open </think> only.",
]


def conversations(count: int = 200, seed: int = 3) -> list[Conversation]:
    """Return chats of each kind in turn; the same ones every time."""
    chooser = random.Random(seed)
    kinds = [_single, _single, _several, _several, _with_system, _system_and_several, _tool_chat, _long_tool_chat]
    return [_chat(number, *kinds[number % len(kinds)](chooser)) for number in range(count)]


def _chat(number: int, messages: list[Message], tools: str | None) -> Conversation:
    return Conversation(item_id=str(number), source=f"chats:{number}", messages=tuple(messages), tools=tools)


def _text(chooser: random.Random) -> str:
    share = chooser.random()
    texts = _PLAIN if share < 0.5 else _SPACED if share < 0.7 else _MARKER_WORDS if share < 0.9 else _THOUGHTS
    return chooser.choice(texts)


def _pair(chooser: random.Random) -> list[Message]:
    return [Message(role="user", content=_text(chooser)), Message(role="assistant", content=_text(chooser))]


def _single(chooser: random.Random) -> tuple[list[Message], None]:
    return _pair(chooser), None


def _several(chooser: random.Random) -> tuple[list[Message], None]:
    return [message for _ in range(chooser.randint(2, 5)) for message in _pair(chooser)], None


def _system(chooser: random.Random) -> list[Message]:
    return [Message(role="system", content=_text(chooser))]


def _with_system(chooser: random.Random) -> tuple[list[Message], None]:
    return _system(chooser) + _pair(chooser), None


def _system_and_several(chooser: random.Random) -> tuple[list[Message], None]:
    return _system(chooser) + _several(chooser)[0], None


def _calls(chooser: random.Random) -> list[Message]:
    said = chooser.choice(["", "", "I look it up."])
    call = chooser.choice([CALL, OTHER_CALL])
    result = chooser.choice(['{"law": "NY"}', "three days", "  42 ", '"quoted"\nlines'])
    return [Message(role="assistant", content=said, tool_calls=call), Message(role="tool", content=result)]


def _tool_chat(chooser: random.Random) -> tuple[list[Message], str]:
    question, answer = _pair(chooser)
    return [question, *_calls(chooser), answer], TOOLS


def _long_tool_chat(chooser: random.Random) -> tuple[list[Message], str]:
    question, answer = _pair(chooser)
    calls = [*_calls(chooser), *_calls(chooser)] if chooser.random() < 0.5 else _calls(chooser)
    return [*_system(chooser), question, *calls, answer, *_pair(chooser)], TOOLS


def tokenizer_for(template: str) -> Any:
    """Return a byte-level tokenizer to which each special token that the template writes is known."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = sorted({*SPECIAL.findall(template), "<s>", "</s>"})
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 320,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the law of the state of New York governs this agreement\n\n"] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return fast
