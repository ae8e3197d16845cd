"""Batched scoring and generation give what one row at a time gives, whatever the wrapper."""

import contextlib
import dataclasses
import math

import pytest
import torch

from finetune.evaluation import batching, scorers
from finetune.records import Example

CLOSE = {"abs": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices; more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for parameter in model.parameters():  # far from uniform, so that a wrong position or mask shows
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    return model


def example(text, tokenizer, *, prompt_tokens=3):
    ids = tokenizer.encode(text)
    mask = [index >= prompt_tokens for index in range(len(ids))]
    return Example(item_id=text, input_ids=ids, loss_mask=mask, num_supervised_bytes=len(text))


@pytest.fixture
def examples(tokenizer):
    texts = [
        "the law of the state",
        "of",
        "governs",
        "this agreement is governed by the law of Delaware" * 3,
        "New York",
    ]
    return [example(text, tokenizer) for text in texts]


def by_hand(model, example):
    """Log-probability by the definition: full logits, one row, float64."""
    with torch.inference_mode():
        logits_TV = model(torch.tensor([example.input_ids])).logits[0].double()
    log_probabilities_TV = torch.log_softmax(logits_TV, dim=-1)
    return sum(
        log_probabilities_TV[at - 1, token].item()
        for at, token in enumerate(example.input_ids)
        if at > 0 and example.loss_mask[at]
    )


@pytest.mark.parametrize("batch_tokens", [8, 100, 100_000])
def test_batches_score_like_the_definition(model, tokenizer, examples, batch_tokens):
    found = scorers.score_examples(model, examples, batch_tokens=batch_tokens, pad_token_id=tokenizer.pad_token_id)
    expected = [by_hand(model, item) for item in examples]
    assert [score.log_probability_nats for score in found] == pytest.approx(expected, **CLOSE)
    assert [score.num_tokens for score in found] == [item.num_supervised for item in examples]


def test_options_after_one_prompt_score_like_the_definition(model, tokenizer, monkeypatch):
    prompt = "this agreement is governed by the law of the state of New York; which law governs it? "
    rows = [prompt + option for option in ("New York", "Delaware, without regard to conflicts", "", "Texas")]
    rows += ["another question about the same agreement of the parties, which is long enough too: " + answer
             for answer in ("yes", "no")] + ["a row that stands alone"]  # fmt: skip
    examples = [example(text, tokenizer, prompt_tokens=0) for text in rows]
    for place, text in enumerate((prompt,) * 4 + (rows[4][:-3],) * 2):
        length = len(tokenizer.encode(text)) - 2  # the prompt's last tokens count as answer, as a template's do
        mask = [at >= length for at in range(len(examples[place].input_ids))]
        examples[place] = dataclasses.replace(examples[place], loss_mask=mask)
    monkeypatch.setattr(batching, "SHARED_PROMPTS_SAVE_TOKENS", 20)
    prompts, score_after_prompts = [], scorers._score_after_prompts
    monkeypatch.setattr(
        scorers, "_score_after_prompts", lambda *inputs: prompts.append(len(inputs[1])) or score_after_prompts(*inputs)
    )
    found = scorers.score_examples(model, examples, batch_tokens=2000, pad_token_id=tokenizer.pad_token_id)
    assert prompts == [6]  # two prompts of different lengths, padded on the left
    expected = [by_hand(model, item) for item in examples]
    assert [score.log_probability_nats for score in found] == pytest.approx(expected, **CLOSE)
    small = scorers.score_examples(model, examples, batch_tokens=8, pad_token_id=tokenizer.pad_token_id)
    assert prompts == [6]  # a prompt is not shared where its options would not fit together
    assert [score.log_probability_nats for score in small] == pytest.approx(expected, **CLOSE)


def test_models_with_other_memories_run_every_row_in_full(tokenizer):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    assert not scorers._can_share(Gemma2ForCausalLM(config))


def test_unsupervised_rows_score_nothing(model, tokenizer):
    silent = Example(item_id="x", input_ids=[5, 6, 7], loss_mask=[True, False, False], num_supervised_bytes=0)
    [score] = scorers.score_examples(model, [silent], batch_tokens=64, pad_token_id=0)
    assert score == scorers.AnswerScore(log_probability_nats=0.0, num_tokens=0)
    assert scorers.score_examples(model, [], batch_tokens=64, pad_token_id=0) == []


def test_the_head_runs_on_supervised_positions_alone(model, tokenizer, examples):
    rows = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].numel() // 64))
    try:
        scorers.score_examples(model, examples, batch_tokens=100_000, pad_token_id=tokenizer.pad_token_id)
    finally:
        hook.remove()
    assert sum(rows) == sum(item.num_supervised for item in examples)


def test_a_model_that_cannot_skip_logits_is_scored_in_full(model, tokenizer, examples, monkeypatch):
    import sys

    monkeypatch.delattr(sys.modules[type(model).__module__], "slice_logits_to_keep")
    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, input_ids, attention_mask, use_cache: _full(self, input_ids, attention_mask),
    )
    found = scorers.score_examples(model, examples, batch_tokens=200, pad_token_id=tokenizer.pad_token_id)
    monkeypatch.undo()
    assert [score.log_probability_nats for score in found] == pytest.approx(
        [by_hand(model, item) for item in examples], **CLOSE
    )


def _full(model, input_ids, attention_mask):
    from types import SimpleNamespace

    hidden = model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return SimpleNamespace(logits=model.lm_head(hidden))


def test_soft_capped_logits(tokenizer, examples):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=2.0, initializer_range=0.5,
    )  # fmt: skip
    gemma = Gemma2ForCausalLM(config).eval()
    found = scorers.score_examples(gemma, examples, batch_tokens=100, pad_token_id=tokenizer.pad_token_id)
    expected = [by_hand(gemma, item) for item in examples]
    assert [score.log_probability_nats for score in found] == pytest.approx(expected, **CLOSE)


def test_adapter_on_and_off(tiny_model_dir, tokenizer, examples):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def score(subject):
        found = scorers.score_examples(subject, examples, batch_tokens=200, pad_token_id=tokenizer.pad_token_id)
        return [score.log_probability_nats for score in found]

    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    before = score(plain)
    wrapped = get_peft_model(plain, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    wrapped.train()
    tuned = score(wrapped)
    assert wrapped.training
    with wrapped.disable_adapter():
        assert score(wrapped) == pytest.approx(before, **CLOSE)
    assert max(abs(a - b) for a, b in zip(tuned, before, strict=True)) > 0.01


def prompts(tokenizer):
    return [tokenizer.encode(text) for text in ("the law of", "a", "this agreement is governed by", "New York, New")]


def generate(model, tokenizer, given, *, batch_tokens=10_000, eos=(2,), max_new_tokens=12):
    return scorers.generate_greedy(
        model, tokenizer, given, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens, eos_token_ids=eos
    )


def test_left_padding_changes_no_answer(model, tokenizer):
    given = prompts(tokenizer)
    together = generate(model, tokenizer, given)
    assert together == [generate(model, tokenizer, [prompt])[0] for prompt in given]
    assert together == [by_hand_greedy(model, tokenizer, prompt, 12, (2,)) for prompt in given]
    assert all(together)


def by_hand_ids(model, prompt, max_new_tokens, eos):
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token in eos:
                break
            ids.append(token)
    return ids[len(prompt) :]


def by_hand_greedy(model, tokenizer, prompt, max_new_tokens, eos):
    return tokenizer.decode(by_hand_ids(model, prompt, max_new_tokens, eos), skip_special_tokens=True)


def test_generation_stops_at_any_end_token(model, tokenizer):
    given = prompts(tokenizer)
    free = by_hand_ids(model, given[0], 12, ())
    end = free[3]
    stopped = generate(model, tokenizer, given, eos=(2, end), max_new_tokens=12)
    assert stopped[0] == tokenizer.decode(free[: free.index(end)], skip_special_tokens=True)
    assert stopped == [by_hand_greedy(model, tokenizer, prompt, 12, (2, end)) for prompt in given]


def test_the_models_own_penalties_do_not_apply(model, tokenizer):
    given = prompts(tokenizer)
    expected = generate(model, tokenizer, given)
    own = model.generation_config
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, model, "generation_config", own)
        model.generation_config = type(own)(do_sample=True, temperature=5.0, repetition_penalty=3.0)
        assert generate(model, tokenizer, given) == expected
        assert model.generation_config.repetition_penalty == 3.0


def test_end_tokens_come_from_tokenizer_config_and_template(model, tokenizer):
    end, other, newline = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "Ċ"])
    templated = Example(
        item_id="x",
        input_ids=[9, 10, other, newline],
        loss_mask=[False, True, True, True],
        num_supervised_bytes=1,
    )
    assert scorers.end_of_turn_ids(model, tokenizer, []) == [end]
    assert scorers.end_of_turn_ids(model, tokenizer, [templated]) == sorted([end, other])


def test_log_probabilities_are_summed_in_chunks(monkeypatch):
    monkeypatch.setattr(scorers, "SOFTMAX_ROWS", 2)
    logits_NV = torch.zeros(5, 4)
    found_N = scorers._log_probabilities(logits_NV, torch.arange(5) % 4)
    assert found_N.tolist() == pytest.approx([-math.log(4)] * 5)
