"""What plain PEFT computes, the oracle of every merge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
