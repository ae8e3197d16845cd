"""The importance matrix against sums made by hand, under PEFT, with a tied head, and what is left out."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import ExportError
from finetune.export.gguf.importance import collect_importance
from finetune.export.gguf.quantize import dequantize_rows, quantize_rows

ROOT = Path(__file__).resolve().parents[3]

ROWS = [[5, 9, 4, 100, 7, 33], [8, 2, 250], [1]]


@pytest.fixture
def load(make_tiny_model: Callable[..., Path]) -> Callable[..., Any]:
    """Return a function that loads a tiny random Llama in float32."""

    def load_model(**changes: object) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(make_tiny_model(**changes), dtype=torch.float32)

    return load_model


def with_adapter(model: Any, **options: Any) -> Any:
    """Wrap in a LoRA whose update is large enough to be seen."""
    from peft import LoraConfig, get_peft_model

    options = {"target_modules": ["q_proj", "o_proj", "down_proj"], "r": 4, "lora_dropout": 0.3} | options
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options))
    return tuned.train()


def by_hand(model: Any, rows: list[list[int]]) -> dict[str, np.ndarray]:
    """Mean squares of what the first layer's and the head's matrices are multiplied with."""
    first, last = [], []
    with torch.no_grad():
        for ids in rows:
            tokens = torch.tensor([ids])
            first.append(model.model.layers[0].input_layernorm(model.model.embed_tokens(tokens))[0])
            last.append(model.model(tokens).last_hidden_state[0])
    means = {"first": torch.cat(first).double().square().mean(0), "head": torch.cat(last).double().square().mean(0)}
    return {name: mean.numpy() for name, mean in means.items()}


def test_mean_squares_over_all_tokens(load: Callable[..., Any]) -> None:
    model = load(tie_word_embeddings=False).eval()
    found, expected = collect_importance(model, ROWS), by_hand(model, ROWS)
    for part in ("q_proj", "k_proj", "v_proj"):
        np.testing.assert_allclose(found[f"model.layers.0.self_attn.{part}.weight"], expected["first"], rtol=1e-5)
    np.testing.assert_allclose(found["lm_head.weight"], expected["head"], rtol=1e-5)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(found) == linear
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    for name, mean in found.items():
        assert mean.dtype == np.float32
        assert mean.shape == (shapes[name][1],)
        assert (mean > 0).all()


def test_a_tied_head_stands_under_both_names(load: Callable[..., Any]) -> None:
    model = load(tie_word_embeddings=True)
    found = collect_importance(model, ROWS)
    np.testing.assert_allclose(found["lm_head.weight"], by_hand(model.eval(), ROWS)["head"], rtol=1e-5)
    np.testing.assert_array_equal(found["model.embed_tokens.weight"], found["lm_head.weight"])
    assert "model.embed_tokens.weight" not in collect_importance(load(tie_word_embeddings=False), ROWS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"target_modules": ["q_proj", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["v_proj", "embed_tokens"]},
    ],
)
def test_an_adapter_counts_and_leaves_no_trace_in_the_names(load: Callable[..., Any], options: dict[str, Any]) -> None:
    """Base + adapter gives what the merged model gives, under the names of the checkpoint."""
    tuned = with_adapter(load(tie_word_embeddings=False), **options)
    found = collect_importance(tuned, ROWS)
    plain = collect_importance(load(tie_word_embeddings=False), ROWS)
    merged = collect_importance(tuned.merge_and_unload(), ROWS)
    assert set(found) == set(merged) == set(plain)
    for name, mean in found.items():
        np.testing.assert_allclose(mean, merged[name], rtol=1e-3, atol=1e-6)
    last = "model.layers.1.mlp.down_proj.weight"
    assert options.get("modules_to_save") or not np.allclose(found[last], plain[last], rtol=0.01)


def test_the_model_comes_back_as_it_was(load: Callable[..., Any]) -> None:
    tuned = with_adapter(load())
    tuned.model.model.layers[0].eval()
    modes = [module.training for module in tuned.modules()]
    collect_importance(tuned, ROWS)
    assert [module.training for module in tuned.modules()] == modes
    assert not any(module._forward_pre_hooks for module in tuned.modules())
    assert tuned(input_ids=torch.tensor([ROWS[0]])).logits.shape[1] == len(ROWS[0])


def test_a_failure_leaves_no_hooks(load: Callable[..., Any]) -> None:
    model = load().train()
    with pytest.raises(IndexError):
        collect_importance(model, [[10**6]])
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_no_more_logits_are_made_than_one_token_has(load: Callable[..., Any]) -> None:
    """A vocabulary of 128 000 for 2 000 tokens would cost a gigabyte that nobody reads."""
    model, shapes = load(), []
    with model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape))):
        collect_importance(model, ROWS)
    assert shapes == [(1, 1, model.config.vocab_size)] * len(ROWS)


def test_a_layer_that_no_token_reached_is_left_out(load: Callable[..., Any]) -> None:
    model = load()
    model.unused = torch.nn.Linear(4, 4)
    assert "unused.weight" not in collect_importance(model, ROWS)


def test_long_rows_are_summed_in_blocks(load: Callable[..., Any]) -> None:
    model = load(tie_word_embeddings=False).eval()
    rows = [list(np.random.default_rng(0).integers(0, 250, 400))]
    found = collect_importance(model, rows)["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_allclose(found, by_hand(model, rows)["first"], rtol=1e-5)


def test_rows_are_told_and_empty_ones_skipped(load: Callable[..., Any]) -> None:
    told: list[int] = []
    model = load()
    found = collect_importance(model, iter([*ROWS, []]), on_row=lambda: told.append(1))
    assert len(told) == len(ROWS)
    np.testing.assert_array_equal(found["lm_head.weight"], collect_importance(model, ROWS)["lm_head.weight"])


@pytest.mark.parametrize("rows", [[], [[]]])
def test_no_text(load: Callable[..., Any], rows: list[list[int]]) -> None:
    with pytest.raises(ExportError, match="no text to measure importance on"):
        collect_importance(load(), rows)


def test_nan_names_the_layer(load: Callable[..., Any]) -> None:
    model = load()
    model.model.layers[1].input_layernorm.weight.data[3] = torch.nan
    with pytest.raises(ExportError, match=r"the inputs of model\.layers\.1\.self_attn\.q_proj\.weight are no numbers"):
        collect_importance(model, ROWS)


def test_stacked_experts_are_skipped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    with caplog.at_level(logging.WARNING, "finetune"):
        found = collect_importance(MixtralForCausalLM(config), [[1, 2, 3]])
    assert "model.layers.0.mlp.experts.gate_up_proj" in caplog.text
    assert "4 stacked expert tensors" in caplog.text
    assert "model.layers.1.self_attn.o_proj.weight" in found
    assert not any("expert" in name for name in found)


@pytest.mark.slow
@pytest.mark.parametrize(("type_name", "share"), [("Q2_K", 0.9), ("Q4_0", 0.97)])
def test_importance_of_training_text_helps_on_other_text_of_the_domain(type_name: str, share: float) -> None:
    """The embedded model, all matrices in one type: the divergence from the unquantised model falls."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "models/embedded"
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def rows(split: str, count: int) -> list[list[int]]:
        lines = (ROOT / f"data/medical/{split}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        return [tokenizer(json.loads(line)["question"])["input_ids"][:256] for line in lines]

    def log_probabilities(model: Any) -> torch.Tensor:
        with torch.no_grad():
            found = [model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for ids in rows("test", 20)]
        return torch.cat(found)

    def divergence(importance: dict[str, np.ndarray]) -> float:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                stored = quantize_rows(weight.detach().numpy(), type_name, importance.get(name))
                weight.data.copy_(torch.from_numpy(dequantize_rows(stored, type_name)))
        return float((expected.exp() * (expected - log_probabilities(model))).sum(-1).mean())

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = log_probabilities(model)
    assert divergence(collect_importance(model, rows("train", 60))) < share * divergence({})
