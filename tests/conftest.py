"""Fixtures for all tests: a tiny model made on the spot, and the real material beside the checkout, if it is there."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .bar_table import choose_bars, pytest_addoption, pytest_configure  # noqa: F401
from .few_cases import send_on

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    send_on(items)
    choose_bars(config, items)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests of the project's promises have measured, also where they ran in processes of their own."""
    for report in [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]:
        for key, value in report.user_properties:
            if key == "figures" and report.when == "call":
                terminalreporter.write_line(str(value))


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Leave no handler of this test's command line to the next one."""
    yield
    own = logging.getLogger("finetune")
    own.handlers[:] = []
    own.propagate = True
    own.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real public material; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared is not there")
    return SHARED


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of 300 entries with a ChatML template that marks the assistant's tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_tokenizer")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(text, special=True) for text in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the law of the state of New York governs this agreement"] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_tiny_model(tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a random Llama of two layers (keyword arguments change its LlamaConfig)."""

    def make(**changes: object) -> Path:
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        folder = tmp_path_factory.mktemp("tiny_model")
        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
        sizes: dict[str, object] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**(sizes | changes))).to(torch.float16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_model_dir(make_tiny_model: Callable[..., Path]) -> Path:
    """A random Llama of two layers, stored in float16, with tokenizer and chat template."""
    return make_tiny_model()


@pytest.fixture
def choice_rows(tmp_path: Path) -> Path:
    """A jsonl file of 60 choice items in 20 groups."""
    path = tmp_path / "rows.jsonl"
    laws = ["New York", "Delaware", "Texas"]
    rows = [
        {
            "id": f"item-{number}",
            "question": f"Clause {number}: the law of {laws[number % 3]} governs. Which law governs?",
            "options": laws,
            "answer": laws[number % 3],
            "group": f"contract-{number // 3}",
        }
        for number in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a LoRA adapter with random values in all that training could have changed."""

    def make(base_dir: Path, *, std: float = 0.05, **options: Any) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        model = get_peft_model(base, LoraConfig(**(settings | options)))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "magnitude" in name:
                    weight.mul_(1 + 0.1 * torch.randn_like(weight))
                elif "lora_" in name:
                    weight.normal_(std=std)
                elif weight.requires_grad:
                    weight.add_(0.1 * torch.randn_like(weight))
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def plain_adapter_dir(tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> Path:
    """A LoRA adapter on all linear layers of the tiny model."""
    return make_adapter(tiny_model_dir)
