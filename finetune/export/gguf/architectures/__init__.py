"""From a model's config.json and the names of its tensors to the metadata and tensors of a GGUF file.

Called before training (is the model known?) and by the GGUF writer. Standard library only: costs nothing to ask.
"""

from collections.abc import Mapping
from typing import Any

from finetune.errors import ConfigError
from finetune.export.gguf.architectures import plan as _plan
from finetune.export.gguf.architectures.entries import ARCHITECTURES, Architecture
from finetune.export.gguf.architectures.keys import Signed, Value, architecture_keys, sampling_keys
from finetune.export.gguf.architectures.refusals import differences_of, problems_of
from finetune.export.gguf.architectures.settings import Settings
from finetune.export.gguf.tensors import GgufTensor

__all__ = [
    "Signed",
    "Value",
    "architecture_name",
    "check_architecture",
    "differences",
    "known_classes",
    "left_out",
    "metadata",
    "plan_tensors",
    "supported",
]

_WAY_OUT = "use export.formats=[safetensors] and llama.cpp's convert_hf_to_gguf.py"


def known_classes() -> list[str]:
    """List the model classes that GGUF files are written for."""
    return [name for entry in ARCHITECTURES for name in entry.classes]


def supported(config: Mapping[str, Any]) -> bool:
    """Say whether a GGUF file can be written for a model with this config.json, exactly."""
    try:
        check_architecture(config, "config.json")
    except ConfigError:
        return False
    return True


def check_architecture(config: Mapping[str, Any], where: str) -> None:
    """Refuse a model that no exact GGUF file can be written for; `where` names its config.json in the message.

    Raises:
        ConfigError: unknown architecture, a variant that llama.cpp computes otherwise, or a key that is missing.
    """
    entry = _find(config, where)
    settings = Settings(config, entry.defaults, where)
    problems = problems_of(entry, settings)
    if problems:
        raise ConfigError(f"{where}: GGUF export cannot write {'; '.join(problems)} of {_class(config)}; {_WAY_OUT}")
    architecture_keys(entry, settings)


def architecture_name(config: Mapping[str, Any]) -> str:
    """Return GGUF's name of the architecture, such as llama.

    Raises:
        ConfigError: the architecture is unknown.
    """
    return _find(config, "config.json").name


def plan_tensors(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[GgufTensor]:
    """List the file's tensors for a checkpoint whose tensors have these names and shapes (rows first).

    A tied output head that the checkpoint leaves out is not written: llama.cpp takes the embedding.

    Raises:
        ConfigError: the architecture is unknown.
        ExportError: a tensor is unknown, missing, or of another shape than config.json says.
    """
    entry = _find(config, "config.json")
    return _plan.plan_tensors(entry, Settings(config, entry.defaults), shapes)


def left_out(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Name the checkpoint tensors that the file does not hold: vision towers, constants, a repeated output head."""
    return _plan.left_out(_find(config, "config.json"), shapes)


def differences(config: Mapping[str, Any]) -> list[str]:
    """Say in a sentence each where llama.cpp's answers differ, for texts of some lengths: windows, LongRoPE."""
    entry = _find(config, "config.json")
    return differences_of(entry, Settings(config, entry.defaults))


def metadata(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> dict[str, Value]:
    """Return the architecture's keys, and the recommended sampling of generation_config.json if it is given.

    Numbers without a point are unsigned 32-bit, `Signed` ones signed, numbers with a point 32-bit floats.
    `vocab_size` is config.json's: where tokens were added, pass a config.json that says so.

    Raises:
        ConfigError: the architecture is unknown, or a key is missing.
    """
    entry = _find(config, "config.json")
    keys = architecture_keys(entry, Settings(config, entry.defaults))
    return {f"{entry.name}.{key}": value for key, value in keys.items()} | sampling_keys(generation)


def _class(config: Mapping[str, Any]) -> str:
    classes = config.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else classes
    return str(first or config.get("model_type") or "a model without a name")


def _find(config: Mapping[str, Any], where: str) -> Architecture:
    name = _class(config)
    for entry in ARCHITECTURES:
        if name in (entry.classes if config.get("architectures") else entry.model_types):
            return entry
    raise ConfigError(f"{where}: GGUF export does not know {name} (it writes {', '.join(known_classes())}); {_WAY_OUT}")
