"""Drawn answers: as random as the model says, the same for the same seed, and nothing else is drawn differently."""

import contextlib

import pytest
import torch

from finetune.config import EvaluationConfig
from finetune.errors import ConfigError
from finetune.evaluation import scorers
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.sandbox.isolation import find_isolation
from finetune.records import Conversation, Message


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.generation_config.repetition_penalty = 5.0  # of the model's own; not to be applied
    model.generation_config.top_k = 1
    return model


def draw(model, tokenizer, prompts, *, temperature, seed=0, max_new_tokens=8):
    return scorers.generate_greedy(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_tokens=100_000,
        eos_token_ids=(2,),
        temperature=temperature,
        seed=seed,
    )


def test_same_seed_same_answers(model, tokenizer):
    prompts = [tokenizer.encode("the law of")] * 4
    first = draw(model, tokenizer, prompts, temperature=1.0)
    assert first == draw(model, tokenizer, prompts, temperature=1.0)
    assert first != draw(model, tokenizer, prompts, temperature=1.0, seed=1)
    assert len(set(first)) > 1


def test_low_temperature_is_greedy(model, tokenizer):
    prompts = [tokenizer.encode("the law of"), tokenizer.encode("a")]
    assert draw(model, tokenizer, prompts, temperature=1e-4) == draw(model, tokenizer, prompts, temperature=0.0)


def test_other_random_numbers_stay(model, tokenizer):
    own = model.generation_config
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    draw(model, tokenizer, [tokenizer.encode("a")], temperature=1.0)
    assert torch.equal(torch.rand(3), expected)
    assert model.generation_config is own


def test_tokens_are_drawn_as_the_model_says(model, tokenizer):
    """Shares of the first token of 4,000 answers against the softmax at that temperature."""
    prompt = tokenizer.encode("the law of")
    with torch.inference_mode():
        expected_V = torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / 0.3, dim=-1)
    drawn = []
    original = scorers._decoded
    try:
        scorers._decoded = lambda tokenizer, ids, ends: drawn.append(ids[0]) or ""
        draw(model, tokenizer, [prompt] * 4000, temperature=0.3, max_new_tokens=1)
    finally:
        scorers._decoded = original
    shares_V = torch.bincount(torch.tensor(drawn), minlength=len(expected_V)) / len(drawn)
    error_V = (expected_V * (1 - expected_V) / len(drawn)).sqrt()
    assert ((shares_V - expected_V).abs() <= 5 * error_V + 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize("num_samples, metrics", [(1, ["auto"]), (5, ["pass_at_1", "pass_at_5"])])
def test_evaluation_runs_what_the_models_write(model, tokenizer, num_samples, metrics, caplog):
    """From rows to the table with a real model, whose answers are no code."""
    try:
        find_isolation()
    except ConfigError as error:
        pytest.skip(str(error))
    turns = (Message(role="user", content="the law of"), Message(role="assistant", content="def f(): return 1"))
    rows = [
        Conversation(item_id=name, source=name, messages=turns, tests=("assert f() == 1",), entry_point="f")
        for name in "ab"
    ]
    config = EvaluationConfig(
        metrics=metrics, run_code=True, code_samples=num_samples, max_code_tokens=6, bootstrap_samples=100
    )
    contestants = {name: lambda: contextlib.nullcontext(model) for name in ("base", "tuned")}
    with caplog.at_level("INFO"):
        items, result = evaluate(contestants, tokenizer, rows, config, 0, max_length=120)
    values = {(item.item_id, item.model): item.value for item in items if item.metric == "pass_at_1"}
    assert values == dict.fromkeys([(name, kind) for name in "ab" for kind in ("base", "tuned")], 0.0)
    assert result.main_metric == "pass_at_1"
    assert f"base: {2 * num_samples} programs: " in caplog.text
