"""What a model says: log-probabilities of given answers, and greedy answers of its own; `evaluate` calls this.

Shapes: B rows of a batch, T tokens, G prompts of P tokens, N supervised positions of a batch, V vocabulary.
"""

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from finetune.evaluation.batching import Fitting, make_batches, share_prompts, track
from finetune.model.llama_cpp import LlamaCpp
from finetune.records import Example

SOFTMAX_ROWS = 1024
"""Positions whose logits are raised to float32 at once; bounds memory at V x 4 KiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerScore:
    """Summed log-probability of an example's supervised tokens, in nats, and how many they are."""

    log_probability_nats: float
    num_tokens: int


def score_examples(
    model: Any, examples: Sequence[Example], *, batch_tokens: int, pad_token_id: int, progress: str | None = None
) -> list[AnswerScore]:
    """Score the supervised tokens of each example, in the order given.

    The first token of a row has no predecessor and is never scored. Sums are float64 over float32 log-probabilities.
    Examples with the same prompt (the options of a choice item) run it once, many prompts at a time, where the model's
    cache allows.
    `progress` labels a progress bar; None shows none. The model's training mode is restored. `model` may be a file that
    runs in llama.cpp.
    """
    if isinstance(model, LlamaCpp):
        return [
            AnswerScore(
                log_probability_nats=model.score(example.input_ids, example.loss_mask),
                num_tokens=sum(example.loss_mask[1:]),
            )
            for [place] in track([[place] for place in range(len(examples))], len(examples), progress)
            for example in [examples[place]]
        ]
    scores: list[AnswerScore] = [AnswerScore(log_probability_nats=0.0, num_tokens=0)] * len(examples)
    lengths = [len(example.input_ids) for example in examples]
    prompts = [tuple(example.input_ids[: _prompt_length(example)]) for example in examples]
    shared = share_prompts(prompts, lengths, batch_tokens) if _can_share(model) else []
    alone = sorted(set(range(len(examples))).difference(*shared))
    batches = [[alone[place] for place in batch] for batch in make_batches([lengths[at] for at in alone], batch_tokens)]
    fitting = Fitting()
    with _evaluating(model):
        for number, batch in enumerate(track([*batches, *shared], len(examples), progress)):
            score = _score_batch if number < len(batches) else _score_after_prompts

            def work(part: Sequence[int], score: Any = score) -> list[AnswerScore]:
                return score(model, [examples[index] for index in part], pad_token_id)

            found = fitting.run(batch, work)
            for index, found_score in zip(batch, found, strict=True):
                scores[index] = found_score
    return scores


def generate_greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    eos_token_ids: Sequence[int],
    progress: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Continue each prompt with the most probable tokens until one of `eos_token_ids`; special tokens are left out.

    With a `temperature` above 0, tokens are drawn instead, the same for the same seed and batches.

    Sampling settings and penalties of the model's own generation config are not applied. `model` and `progress` as
    above.
    """
    if isinstance(model, LlamaCpp):
        assert not temperature, "llama.cpp is asked for the most probable tokens only"
        found = [
            model.generate(prompts[place], max_new_tokens=max_new_tokens, ends=eos_token_ids)[0]
            for [place] in track([[place] for place in range(len(prompts))], len(prompts), progress)
        ]
        return [_decoded(tokenizer, tokens, eos_token_ids) for tokens in found]
    answers = [""] * len(prompts)
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]

    def work(part: Sequence[int]) -> list[list[int]]:
        return _generate_batch(model, [prompts[index] for index in part], max_new_tokens).tolist()

    fitting = Fitting()
    pad_token_id = _pad_token_id(tokenizer, eos_token_ids)
    with (
        _evaluating(model),
        _plain_generation(unwrap(model), eos_token_ids, pad_token_id, temperature),
        _random_state(model, seed if temperature else None),
    ):
        for batch in track(make_batches(lengths, batch_tokens), len(prompts), progress):
            for index, new_ids in zip(batch, fitting.run(batch, work), strict=True):
                answers[index] = _decoded(tokenizer, new_ids, eos_token_ids)
    return answers


def _decoded(tokenizer: Any, new_ids: Sequence[int], eos_token_ids: Sequence[int]) -> str:
    end = next((at for at, token in enumerate(new_ids) if token in eos_token_ids), len(new_ids))
    return tokenizer.decode(list(new_ids[:end]), skip_special_tokens=True)


def end_of_turn_ids(model: Any, tokenizer: Any, examples: Sequence[Example]) -> list[int]:
    """Every token that ends an answer: the tokenizer's, the generation config's, and the one that examples end with.

    The last is the chat template's own, such as <|im_end|> where the tokenizer says <|endoftext|>.
    """
    ids: set[int] = set()
    if isinstance(model, LlamaCpp):
        configured = list(model.facts.ends)
    else:
        configured = getattr(unwrap(model).generation_config, "eos_token_id", None)
    for source in (tokenizer.eos_token_id, configured):
        ids.update(source if isinstance(source, list | tuple) else [] if source is None else [source])
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    for example in examples:
        supervised = [token for token, loss in zip(example.input_ids, example.loss_mask, strict=True) if loss]
        while supervised and not tokenizer.decode(supervised[-1:]).strip():
            supervised.pop()
        if supervised and supervised[-1] in special:
            ids.add(supervised[-1])
    return sorted(ids)


def context_of(model: Any) -> float:
    """Longest sequence in tokens that a model was made for."""
    if isinstance(model, LlamaCpp):
        return model.facts.trained_context
    return getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", None) or math.inf


def unwrap(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper; its adapter layers stay in place and stay switched as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _prompt_length(example: Example) -> int:
    """Tokens before the last one that no loss depends on; 0 where all do."""
    return max(0, example.loss_mask.index(True) - 1) if any(example.loss_mask) else 0


def _can_share(model: Any) -> bool:
    """Whether the model keeps plain keys and values only, which may be repeated for several continuations."""
    inner = unwrap(model)
    return (
        _skips_logits(inner)
        and "position_ids" in inspect.signature(inner.forward).parameters
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=inner.config.get_text_config()).layers)
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """Prompts that have been run: keys and values of each row's, and which of their P places are no padding."""

    cache: DynamicCache
    mask_BP: torch.Tensor


def _score_after_prompts(model: Any, examples: Sequence[Example], pad_token_id: int) -> list[AnswerScore]:
    """Run each prompt of the batch once, padded on the left, then all continuations on copies of keys and values."""
    inner = unwrap(model)
    device = inner.get_input_embeddings().weight.device
    lengths = [_prompt_length(example) for example in examples]
    prompts = [tuple(example.input_ids[:length]) for example, length in zip(examples, lengths, strict=True)]
    place = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    input_ids_GP, mask_GP = _left_padded(list(place), pad_token_id)
    cache = DynamicCache(config=inner.config.get_text_config())
    inner(
        input_ids=input_ids_GP.to(device),
        attention_mask=mask_GP.to(device),
        position_ids=(mask_GP.cumsum(dim=1) - 1).clamp(min=0).to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    rows_B = torch.tensor([place[prompt] for prompt in prompts])
    cache.batch_select_indices(rows_B.to(device))
    answers = [
        replace(example, input_ids=example.input_ids[length:], loss_mask=example.loss_mask[length:])
        for example, length in zip(examples, lengths, strict=True)
    ]
    return _score_batch(model, answers, pad_token_id, _Seen(cache, mask_GP[rows_B]))


def _left_padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask (both B x T) of rows that end together."""
    width = max(map(len, rows))
    input_ids_BT = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        input_ids_BT[number, width - len(row) :] = torch.tensor(row)
        attention_mask_BT[number, width - len(row) :] = 1
    return input_ids_BT, attention_mask_BT


def _score_batch(
    model: Any, examples: Sequence[Example], pad_token_id: int, seen: _Seen | None = None
) -> list[AnswerScore]:
    device = unwrap(model).get_input_embeddings().weight.device
    num_rows, width = len(examples), max(len(example.input_ids) for example in examples)
    input_ids_BT = torch.full((num_rows, width), pad_token_id, dtype=torch.long)
    attention_mask_BT = torch.zeros((num_rows, width), dtype=torch.long)
    keep_BT = torch.zeros((num_rows, width), dtype=torch.bool)  # positions that predict a supervised token
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids_BT[row, :length] = torch.tensor(example.input_ids)
        attention_mask_BT[row, :length] = 1
        keep_BT[row, : length - 1] = torch.tensor(example.loss_mask[1:], dtype=torch.bool)
    counts_B = keep_BT.sum(dim=1)
    sums_B = torch.zeros(num_rows, dtype=torch.float64)
    if counts_B.sum() > 0:
        logits_NV = _logits_at(model, input_ids_BT.to(device), attention_mask_BT.to(device), keep_BT.to(device), seen)
        targets_N = input_ids_BT.roll(-1, dims=1)[keep_BT].to(logits_NV.device)
        log_probabilities_N = _log_probabilities(logits_NV, targets_N)
        sums_B.index_add_(0, keep_BT.nonzero()[:, 0], log_probabilities_N)
    return [
        AnswerScore(log_probability_nats=total, num_tokens=count)
        for total, count in zip(sums_B.tolist(), counts_B.tolist(), strict=True)
    ]


def _logits_at(
    model: Any,
    input_ids_BT: torch.Tensor,
    attention_mask_BT: torch.Tensor,
    keep_BT: torch.Tensor,
    seen: _Seen | None,
) -> torch.Tensor:
    """Logits (N, V) at the kept positions; the output head runs on these alone where the architecture can do that."""
    inner = unwrap(model)
    inputs: dict[str, Any] = {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT, "use_cache": False}
    if seen is not None:
        mask_BP = seen.mask_BP.to(attention_mask_BT.device)
        places_T = torch.arange(input_ids_BT.shape[1], device=mask_BP.device)
        inputs["attention_mask"] = torch.cat([mask_BP, attention_mask_BT], dim=1)
        inputs["position_ids"] = mask_BP.sum(dim=1, keepdim=True) + places_T
        inputs |= {"past_key_values": seen.cache, "use_cache": True}
    if _skips_logits(inner):
        inputs["logits_to_keep"] = keep_BT
    logits = inner(**inputs).logits
    return logits[keep_BT.to(logits.device)] if logits.ndim == 3 else logits


def _skips_logits(inner: Any) -> bool:
    """Whether the architecture takes a mask of positions as `logits_to_keep` (transformers 5)."""
    return hasattr(sys.modules[type(inner).__module__], "slice_logits_to_keep")


def _log_probabilities(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    parts = [
        torch.log_softmax(chunk_NV.float(), dim=-1).gather(1, chunk_targets_N[:, None])[:, 0].double()
        for chunk_NV, chunk_targets_N in zip(logits_NV.split(SOFTMAX_ROWS), targets_N.split(SOFTMAX_ROWS), strict=True)
    ]
    return torch.cat(parts).cpu()


def _generate_batch(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> torch.Tensor:
    inner = unwrap(model)
    device = inner.get_input_embeddings().weight.device
    width = max(map(len, prompts))
    input_ids_BT, attention_mask_BT = _left_padded(prompts, inner.generation_config.pad_token_id)
    output_BT = inner.generate(
        input_ids=input_ids_BT.to(device), attention_mask=attention_mask_BT.to(device), max_new_tokens=max_new_tokens
    )
    return output_BT[:, width:]


def _pad_token_id(tokenizer: Any, eos_token_ids: Sequence[int]) -> int:
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return eos_token_ids[0] if eos_token_ids else 0


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


@contextmanager
def _random_state(model: Any, seed: int | None) -> Iterator[None]:
    """Draw from a generator of this seed; what was drawn from before goes on afterwards. None draws from nothing."""
    if seed is None:
        yield
        return
    device = unwrap(model).get_input_embeddings().weight.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _plain_generation(
    inner: Any, eos_token_ids: Sequence[int], pad_token_id: int, temperature: float = 0.0
) -> Iterator[None]:
    """Put a bare generation config in the place of the model's own: greedy, or plain sampling at a temperature."""
    own = inner.generation_config
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    inner.generation_config = type(own)(
        **(sampling or {"do_sample": False}),
        use_cache=True,
        eos_token_id=list(eos_token_ids) or None,
        pad_token_id=pad_token_id,
    )
    try:
        yield
    finally:
        inner.generation_config = own
