"""What an export needs, checked before the training: packages, architecture, tokenizer, disk. Called by jobs."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import ExportFormat, RunConfig
from finetune.errors import ResourceError
from finetune.export.gguf.architectures import check_architecture
from finetune.export.placing import check_disk
from finetune.log import megabytes
from finetune.model.llama_cpp import check_runtime
from finetune.run import read_json

if TYPE_CHECKING:  # brings torch, which takes seconds
    from finetune.export.gguf.build import FileLayout

logger = logging.getLogger(__name__)


def check_formats(config: RunConfig) -> None:
    """Check what is known without the base model: that the packages for GGUF are there, and a local model's kind.

    Raises:
        ConfigError: a package is missing, or llama.cpp does not know the model.
    """
    formats = [format for format in config.export.formats if format.is_gguf]
    if not formats:
        return
    check_runtime("export.formats")
    if config.model.path is not None:
        path = Path(config.model.path).expanduser() / "config.json"
        if path.is_file():
            check_architecture(json.loads(path.read_text(encoding="utf-8")), str(path))


def check_base(config: RunConfig, base_dir: Path, tokenizer: Any) -> None:
    """Lay out every file from the base's headers, so that a training cannot end in an export that fails.

    Raises:
        ConfigError, ExportError: a format cannot be written for this model and tokenizer.
        ResourceError: the disk has no room for the files.
    """
    from finetune.export.tensor_files import read_checkpoint

    stored = read_checkpoint(base_dir) if config.export.formats else {}
    sizes = []
    for format in config.export.formats:
        if format is ExportFormat.safetensors:
            sizes.append(sum(tensor.num_bytes for tensor in stored.values()))
        elif format is not ExportFormat.gguf_lora:
            shapes = {name: tensor.shape for name, tensor in stored.items()}
            layout = lay_out_file(config, format, read_json(base_dir / "config.json"), shapes, tokenizer, base_dir)
            sizes.append(layout.num_bytes)
            for difference in layout.differences:
                logger.warning("export.formats=%s: in llama.cpp %s", format.name, difference)
    if sizes:
        _check_memory(sum(tensor.num_bytes for tensor in stored.values()))
        check_disk(sum(sizes), Path(config.output_dir).absolute() / "export")


def lay_out_file(
    config: RunConfig,
    format: ExportFormat,
    model_config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    tokenizer: Any,
    base_dir: Path,
) -> "FileLayout":
    """Plan a GGUF file of a model with this config.json and checkpoint.

    Raises:
        ConfigError, ExportError: it cannot be written exactly.
    """
    from finetune.export.companions import generation_config
    from finetune.export.gguf.build import ModelFacts, lay_out

    return lay_out(
        format.value,
        model_config,
        shapes,
        tokenizer=tokenizer,
        tokenizer_dir=base_dir,
        facts=ModelFacts(
            name=Path(config.output_dir).absolute().name,
            license=config.model.license,
            base_model=config.model.hub_id,
            tags=("finetune", config.adapter.method.name),
        ),
        generation=generation_config(base_dir, model_config, {}),
        with_importance=config.export.imatrix,
    )


def _check_memory(num_bytes: int) -> None:
    """Check that the comparison can hold the base model in the numbers that it is stored in."""
    import psutil

    total = psutil.virtual_memory().total
    if num_bytes > total:
        raise ResourceError(
            f"export.formats: comparing the export with base + adapter needs {megabytes(num_bytes)} of memory, this "
            f"machine has {megabytes(total)}; train with export=adapter_only and export on a larger one"
        )
