"""Loads base model and tokenizer from a local folder; called by the jobs after every cheap check has passed."""

import logging
import sys
from pathlib import Path
from typing import Any

from finetune.config import ModelConfig, QuantizationConfig, QuantizationMethod
from finetune.errors import ModelError, one_line
from finetune.headers.safetensors import check_safetensors_folder
from finetune.model.hardware import Hardware
from finetune.model.quantize import keep_differentiable, quantization_arguments
from finetune.records import LoadedModel

logger = logging.getLogger(__name__)


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer, with a padding token set in memory where the model has none.

    Raises:
        ModelError: the folder holds no tokenizer, or one without fast offsets.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{folder}: cannot load a tokenizer: {_reason(error)}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: its tokenizer has no tokenizer.json; convert it with save_pretrained first")
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so that any token serves; the stored tokenizer stays as it was.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def load_base(
    folder: Path, model: ModelConfig, quantization: QuantizationConfig, hardware: Hardware, tokenizer: Any
) -> LoadedModel:
    """Load the frozen base weights onto this process's device, quantised when asked.

    Raises:
        ModelError: the weights do not fit the configuration, or need code from outside.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        check_safetensors_folder(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=hardware.dtype,
            quantization_config=quantization_arguments(quantization, hardware.dtype),
            device_map={"": hardware.device},
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise ModelError(f"{folder}: cannot load the model: {_reason(error)}") from error
    loaded.requires_grad_(False)
    keep_differentiable(loaded)
    loaded.config.use_cache = True
    rows = loaded.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"{folder}: its tokenizer has {len(tokenizer)} entries but the embedding only {rows} rows; "
            "tokenizer and weights do not belong together"
        )
    quantized = quantization.method is not QuantizationMethod.none
    return LoadedModel(model=loaded, tokenizer=tokenizer, folder=folder, quantized=quantized)


def _reason(error: Exception) -> str:
    """The libraries advise to trust the repository's code; here the way out is another model."""
    text = one_line(error)
    if "trust_remote_code" not in text and "custom code" not in text:
        return text[:1000]
    return (
        "it needs Python code from its own repository (auto_map), which is never run; choose a model whose "
        "architecture transformers itself has, or a converted version of this one"
    )
