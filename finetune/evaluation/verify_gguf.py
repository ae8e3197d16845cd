"""Compares a GGUF file in llama.cpp with the merge base + adapter under plain PEFT; called by the export job.

Shapes: T positions of one prompt, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.errors import ExportError
from finetune.evaluation.tokenizer_match import renders_alike
from finetune.evaluation.verify import Differences, Reference, agrees
from finetune.model.llama_cpp import LlamaCpp
from finetune.records import Verification


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a file must reach to be called the model that was trained."""

    clear_agreement: float
    """Least share of an answer's places without a clear disagreement; 0 where the figure is stated only."""
    kl_mean: float
    """Largest mean KL divergence in nats."""


GATES: Mapping[str, Gate] = {
    "F32": Gate(clear_agreement=0.999, kl_mean=1e-4),
    "F16": Gate(clear_agreement=0.999, kl_mean=1e-3),
    "BF16": Gate(clear_agreement=0.99, kl_mean=5e-3),
    "Q8_0": Gate(clear_agreement=0.99, kl_mean=0.01),
    "Q6_K": Gate(clear_agreement=0, kl_mean=0.05),
    "Q5_K_M": Gate(clear_agreement=0, kl_mean=0.1),
    "Q5_K_S": Gate(clear_agreement=0, kl_mean=0.1),
    "Q4_K_M": Gate(clear_agreement=0, kl_mean=0.3),
    "Q4_K_S": Gate(clear_agreement=0, kl_mean=0.3),
    "Q4_0": Gate(clear_agreement=0, kl_mean=0.4),
    "IQ4_XS": Gate(clear_agreement=0, kl_mean=0.4),
    "Q3_K_M": Gate(clear_agreement=0, kl_mean=0.8),
    "Q2_K": Gate(clear_agreement=0, kl_mean=2.0),
}
"""By the name of the format. Coarse types are gated by their divergence, and by every tensor when it is read back."""

TIE_NATS = 0.1
"""The file may prefer another token than base + adapter where that holds both to be as likely, to so many nats.

Between near ties rounding decides, and a model asked about what it does not know has many: of 265 places in answers to
general questions the embedded model's Q8_0 file chose another token at 8, at a mean divergence of 0.0005 nats.
"""

MAX_NEW_TOKENS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What the file must say as the training did."""

    tokenizer: Any
    end_ids: Sequence[int]
    """Tokens that end an answer; llama.cpp must stop at each."""
    hard_texts: Sequence[str]
    """Texts without special meaning that llama.cpp must encode as the tokenizer does."""
    golden: Sequence[Mapping[str, Any]]
    """Conversations rendered and tokenised at the training."""
    golden_problems: Callable[..., list[str]]
    """Compares them with a runtime's `encode_text`, `bos`, `is_end` and `render`."""


def verify_gguf(
    path: Path,
    format: str,
    reference: Reference,
    trained: Trained,
    *,
    lora: Path | None = None,
    problems: Sequence[str] = (),
    quantization_shift_kl_mean: float | None = None,
) -> Verification:
    """Load a file in llama.cpp, with the adapter `lora` on it if one is given, and compare it with the reference.

    `problems` are faults that were found before (tensors that are not the merged ones); any fails the file.

    Raises:
        ExportError: llama.cpp cannot load or run the file.
    """
    longest = max(len(prompt) for prompt in reference.prompts) + MAX_NEW_TOKENS
    with LlamaCpp(path, lora=lora, context=longest) as runtime:
        compared = _compare(runtime, reference)
        num_equal, num_greedy, seconds = _compare_greedy(runtime, reference)
        token_problems = list(_token_problems(runtime, trained, reference))
        same_template = renders_alike(trained.tokenizer, runtime.facts.chat_template)
    kl_T = torch.cat(compared.differences.kl)
    found = Verification(
        passed=False,
        max_abs_logit_difference=compared.differences.max_abs,
        top1_agreement=compared.num_agreeing / max(1, compared.num_answer_tokens),
        clear_agreement=1 - compared.num_clear / max(1, compared.num_answer_tokens),
        greedy_match=num_equal / max(1, num_greedy),
        tokenizer_match=not token_problems,
        template_match=same_template,
        kl_mean=float(kl_T.mean()),
        kl_p99=float(kl_T.quantile(0.99)),
        num_tokens=len(kl_T),
        quantization_shift_kl_mean=quantization_shift_kl_mean,
        flips_to_wrong=compared.to_wrong,
        flips_to_right=compared.to_right,
        tokens_per_second=round(1 / seconds, 1) if seconds else None,
        num_bytes=(lora or path).stat().st_size,
    )
    reasons = [*problems[:3], *token_problems[:2], *_failures(found, GATES[format], compared.num_answer_tokens)]
    return replace(found, passed=not reasons, reason="; ".join(reasons))


@dataclass(slots=True)
class _Compared:
    """Running comparison over all prompts; what is counted, is counted where answers are."""

    differences: Differences
    num_answer_tokens: int = 0
    num_agreeing: int = 0
    """Places with the same most likely token."""
    num_clear: int = 0
    """Places where the file prefers a token that base + adapter holds to be clearly less likely."""
    to_wrong: int = 0
    to_right: int = 0


def _compare(runtime: LlamaCpp, reference: Reference) -> _Compared:
    """Compare the logits of all positions, and the most likely tokens where the answers are.

    Nobody tuned what the model would have asked: between the tokens of a prompt most of its choices are near ties, and
    rounding decides them.
    """
    compared = _Compared(Differences())
    for index, (prompt, start) in enumerate(zip(reference.prompts, reference.starts, strict=True)):
        expected_TV = reference.logits(index)
        actual_TV = torch.from_numpy(_same_width(runtime.logits(prompt), expected_TV.shape[-1]))
        compared.differences.add(expected_TV, actual_TV)
        first = max(1, start)
        answer_T = torch.tensor(prompt[first:])
        expected_T, actual_T = expected_TV[first - 1 : -1].argmax(dim=-1), actual_TV[first - 1 : -1].argmax(dim=-1)
        compared.num_answer_tokens += len(answer_T)
        compared.num_agreeing += int((expected_T == actual_T).sum())
        log_probabilities_TV = expected_TV[first - 1 : -1].log_softmax(dim=-1)
        lost_T = log_probabilities_TV.amax(dim=-1) - log_probabilities_TV.gather(1, actual_T[:, None])[:, 0]
        compared.num_clear += int((lost_T > TIE_NATS).sum())
        compared.to_wrong += int(((expected_T == answer_T) & (actual_T != answer_T)).sum())
        compared.to_right += int(((expected_T != answer_T) & (actual_T == answer_T)).sum())
    return compared


def _same_width(logits_TV: np.ndarray[Any, Any], vocab_size: int) -> np.ndarray[Any, Any]:
    if logits_TV.shape[-1] != vocab_size:
        raise ExportError(f"the file has {logits_TV.shape[-1]} tokens, the trained model {vocab_size}")
    return logits_TV.copy()


def _compare_greedy(runtime: LlamaCpp, reference: Reference) -> tuple[int, int, float]:
    """Return how many of the reference's greedy tokens llama.cpp chooses too, of how many; and seconds a token."""
    num_equal, num_tokens = 0, 0
    for index, (prompt, start) in enumerate(zip(reference.prompts, reference.starts, strict=True)):
        expected = reference.continuations[index]
        history = [*prompt[: max(1, start)], *expected[:-1]]
        chosen = runtime.logits(history, first=len(history) - len(expected)).argmax(axis=-1).tolist()
        num_equal += sum(one == other for one, other in zip(expected, chosen, strict=True))
        num_tokens += len(expected)
    prompt = reference.prompts[0][: max(1, reference.starts[0])]
    _, seconds = runtime.generate(prompt, max_new_tokens=MAX_NEW_TOKENS)
    return num_equal, num_tokens, seconds


def _token_problems(runtime: LlamaCpp, trained: Trained, reference: Reference) -> Iterator[str]:
    tokenizer, facts = trained.tokenizer, runtime.facts
    texts = [
        *trained.hard_texts,
        *(tokenizer.decode(prompt, skip_special_tokens=False) for prompt in reference.prompts),
    ]
    for text, ids in zip(texts, runtime.tokenize(texts, add_special=False), strict=True):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids != expected:
            place = next((at for at, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), 0)
            yield f"llama.cpp encodes {text[:40]!r} differently from token {place} on"
            break
    for name, told, wanted in (
        ("EOS", facts.eos, tokenizer.eos_token_id),
        ("BOS", facts.bos, tokenizer.bos_token_id),
    ):
        if wanted is not None and told != wanted:
            yield f"the file's {name} token is {told}, the trained tokenizer's is {wanted}"
    deaf = sorted(set(trained.end_ids) - set(facts.ends))
    if deaf:
        yield f"llama.cpp does not stop at {', '.join(repr(tokenizer.decode([token])) for token in deaf)}"
    yield from trained.golden_problems(
        trained.golden,
        lambda text: runtime.tokenize([text], add_special=True)[0],
        bos=facts.bos if facts.add_bos else None,
        is_end=lambda token: token in facts.ends,
        render=lambda messages, tools: tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=facts.chat_template, tokenize=False, add_generation_prompt=True
        ),
    )


def _failures(found: Verification, gate: Gate, num_answer_tokens: int) -> Iterator[str]:
    if not agrees(found.clear_agreement or 0, num_answer_tokens, gate.clear_agreement):
        yield (
            f"it clearly prefers another token at {1 - (found.clear_agreement or 0):.2%} of {num_answer_tokens} places "
            f"in answers, more than {1 - gate.clear_agreement:.1%}"
        )
    if not found.kl_mean <= gate.kl_mean:
        yield f"the mean KL divergence is {found.kl_mean:.2g} nats, more than {gate.kl_mean:g}"
    if not found.template_match:
        yield "the chat template differs from the one that was trained with"
