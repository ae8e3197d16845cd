"""Whether two tokenizers encode, decode and render conversations alike; called by `verify`."""

from collections.abc import Sequence
from typing import Any

from finetune.data.rendering.bounds import bounded

HARD_TEXTS = (
    "The quick brown fox, 1234567890 times: don't, won't, I'LL!",
    "  leading,   inner    and trailing spaces   \n\n\ttabs\t\tand\r\nreturns\n",
    "Größe, naïve, Ελληνικά, русский, العربية, 日本語の文, 한국어, ไทย",
    "emoji 👩‍👩‍👧‍👦🏳️‍🌈, zero\u200bwidth, e\u0301 against é, ﬁ ligature, \u00a0non-breaking",
    "def f(x):\n    return {'a': [x ** 2, 0x1F, 1e-9]}  # §3(a)(ii) \\n <tag/> </s> [INST] <|im_start|>",
)
"""Spaces, digits, scripts, combining marks, code, and text that looks like special tokens."""

GOLDEN_MESSAGES = (
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Which law governs?\n"},
    {"role": "assistant", "content": "Delaware"},
    {"role": "user", "content": "And  the venue?"},
    {"role": "assistant", "content": " Texas "},
)


def tokenizers_match(trained: Any, exported: Any, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether both give the same ids for hard texts and the prompts' texts, and have the same special tokens."""
    if trained.get_added_vocab() != exported.get_added_vocab() or len(trained) != len(exported):
        return False
    if (trained.eos_token_id, trained.bos_token_id) != (exported.eos_token_id, exported.bos_token_id):
        return False
    if set(trained.all_special_ids) != set(exported.all_special_ids):
        return False
    texts = [*HARD_TEXTS, *(trained.decode(list(prompt), skip_special_tokens=False) for prompt in prompts)]
    texts += [f"a{token}b" for token in trained.get_added_vocab()]
    return all(
        trained(text, add_special_tokens=special)["input_ids"]
        == exported(text, add_special_tokens=special)["input_ids"]
        for text in texts
        for special in (True, False)
    ) and all(trained.decode(list(prompt)) == exported.decode(list(prompt)) for prompt in prompts)


def templates_match(trained: Any, exported: Any) -> bool:
    """Whether both carry the same chat template, and it renders the golden conversation alike."""
    if trained.chat_template != exported.chat_template:
        return False
    return all(
        _rendered(trained, messages, prompt) == _rendered(exported, messages, prompt)
        for messages in (GOLDEN_MESSAGES, GOLDEN_MESSAGES[1:])
        for prompt in (False, True)
    )


def renders_alike(trained: Any, template: str | None) -> bool:
    """Whether a template's text renders the golden conversation as the one that was trained with does.

    The texts may differ: an export leaves out the marks of what was trained on, which a runtime need not know.
    """
    if template is None or trained.chat_template is None:
        return template is None and trained.chat_template is None
    return all(
        _rendered(trained, messages, prompt) == _rendered(trained, messages, prompt, template)
        for messages in (GOLDEN_MESSAGES, GOLDEN_MESSAGES[1:], GOLDEN_MESSAGES[1:3])
        for prompt in (False, True)
    )


def _rendered(
    tokenizer: Any, messages: Sequence[dict[str, str]], add_generation_prompt: bool, template: str | None = None
) -> str | None:
    """Render messages, or None where the template has none of it (no template, no system role)."""
    try:
        with bounded():
            return tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
            )
    except Exception:  # templates raise their own errors for roles that they do not know
        return None
