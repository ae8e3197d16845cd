"""The release folder: float16 weights, tokenizer and figures, each file moved into place whole."""

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from embedded_model.files import write_json


def release(model: LlamaForCausalLM, staging: Path, output: Path, report: dict[str, object]) -> None:
    """Writes float16 weights, tokenizer files, figures and card beside the output, then moves each into place."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.config.dtype = torch.float16
    ends = [model.config.eos_token_id, report["end_of_text_id"]]
    half.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=model.config.pad_token_id, max_length=None
    )
    half.save_pretrained(staging)
    write_json(staging / "training.json", report)
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(staging.iterdir()):
        temporary = output / f".{path.name}.new"
        temporary.write_bytes(path.read_bytes())
        temporary.replace(output / path.name)
