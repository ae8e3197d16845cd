"""Random adapters for tiny models, made with plain PEFT, which is also the oracle of every merge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
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
def peft_logits() -> Callable[..., Any]:
    """Return a function that runs base + adapter in float32, unmerged, under plain PEFT."""

    def run(base_dir: Path, adapter_dir: Path, ids: Any) -> Any:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, adapter_dir).eval()
        with torch.no_grad():
            return model(input_ids=ids).logits

    return run


@pytest.fixture(scope="session")
def peft_merged() -> Callable[..., dict[str, Any]]:
    """Return a function that merges with PEFT's own `merge_and_unload` in float32 and returns the weights."""

    def merge(base_dir: Path, adapter_dir: Path) -> dict[str, Any]:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
        return PeftModel.from_pretrained(base, adapter_dir).merge_and_unload().state_dict()

    return merge


@pytest.fixture(scope="session")
def plain_adapter_dir(tiny_model_dir: Path, make_adapter: MakeAdapter) -> Path:
    """A LoRA adapter on all linear layers of the tiny model."""
    return make_adapter(tiny_model_dir)
