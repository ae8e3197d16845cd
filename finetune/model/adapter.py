"""The trainable adapter on a frozen base, by PEFT: made new, or taken from a folder and trained further."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.config import AdapterConfig, AdapterMethod
from finetune.errors import ModelError, did_you_mean, one_line
from finetune.headers.safetensors import load_file
from finetune.model.adapter_folder import check_adapter_folder

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"


def linear_names(model: Any) -> set[str]:
    """Return the last name parts of a model's linear layers, the output head left out (q_proj, down_proj, …)."""
    import torch

    head = model.get_output_embeddings()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def check_targets(model: Any, targets: Iterable[str]) -> None:
    """Refuse targets that match no layer.

    Raises:
        ModelError: naming each such target and the linear layers that the model has.
    """
    names = [name for name, _ in model.named_modules()]
    missing = [
        target
        for target in targets
        if target != ALL_LINEAR and not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        known = sorted(linear_names(model))
        raise ModelError(
            f"adapter.target_modules: {', '.join(map(repr, missing))} match no layer of the model."
            f"{did_you_mean(missing[0], known)} Its linear layers: {', '.join(known)} (or all-linear for all of them)"
        )


def add_adapter(model: Any, adapter: AdapterConfig, *, seed: int) -> Any:
    """Return a PeftModel with fp32 adapter weights on the frozen `model` (which it changes in place).

    Raises:
        ModelError: targets match nothing, or `adapter.path` does not fit the base.
    """
    import torch

    check_targets(model, [*adapter.target_modules, *adapter.modules_to_save])
    torch.manual_seed(seed)
    if adapter.path is not None:
        return _continued(model, Path(adapter.path))
    from peft import LoraConfig, get_peft_model

    every = ALL_LINEAR in adapter.target_modules
    start: Any = "pissa_niter_16" if adapter.method is AdapterMethod.pissa else True
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=ALL_LINEAR if every else list(adapter.target_modules),
        modules_to_save=list(adapter.modules_to_save) or None,
        use_rslora=adapter.method is AdapterMethod.rslora,
        use_dora=adapter.method is AdapterMethod.dora,
        init_lora_weights=start,
        ensure_weight_tying=bool(adapter.modules_to_save),
    )
    try:
        return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise ModelError(f"adapter={adapter.method.name}: {one_line(error)}") from error


def load_adapter(model: Any, path: Path, *, trainable: bool) -> Any:
    """Put the adapter in `path` on the frozen `model`, in fp32.

    Raises:
        ModelError: it was made for another base, has tensors too few or too many, or values that are no numbers.
    """
    import torch
    from peft import PeftModel

    check_adapter_folder(path)
    stored = load_file(path / "adapter_model.safetensors")
    for name, tensor in stored.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"adapter.path: {path}: tensor {name} holds values that are no numbers")
    try:
        loaded = PeftModel.from_pretrained(model, path, is_trainable=trainable, autocast_adapter_dtype=True)
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"adapter.path: {path} does not fit this base model (was it made for another one?): {one_line(error)[:300]}"
        ) from error
    _check_complete(stored, loaded, path)
    return loaded


def _check_complete(stored: Iterable[str], loaded: Any, path: Path) -> None:
    """Compare the file's tensors with those that PEFT would save.

    PEFT starts missing ones at random, passes over foreign ones, and puts one that bears the name of a base weight over
    that weight, all silently. Embeddings alone it saves beside an adapter by itself.
    """
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    embeddings = {id(loaded.get_input_embeddings()), id(loaded.get_output_embeddings())}
    parts = {name: module for name, module in loaded.named_modules() if id(module) in embeddings}
    allowed = {f"{name.removesuffix('.base_layer')}{part}.weight" for name in parts for part in ("", ".base_layer")}
    missing, extra = sorted(expected - set(stored)), sorted(set(stored) - expected - allowed)
    if missing or extra:
        what, names = ("lacks", missing) if missing else ("has no place for", extra)
        who = "the file" if missing else "this base model"
        raise ModelError(
            f"adapter.path: {path} does not fit this base model (was it made for another one?): {who} {what} "
            f"{len(names)} tensors, such as {names[0][:120]}"
        )


def _continued(model: Any, path: Path) -> Any:
    peft_model = load_adapter(model, path, trainable=True)
    logger.info("adapter: going on from %s; its rank, alpha and targets are kept", path)
    return peft_model


def trainable_parameters(model: Any) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters; 4-bit weights count as what they stand for."""
    return model.get_nb_trainable_parameters()


def adapter_state(model: Any) -> dict[str, Any]:
    """Return copies of the trainable tensors by name, on the CPU and in their own type."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.named_parameters() if tensor.requires_grad}


def restore_adapter_state(model: Any, state: dict[str, Any]) -> None:
    """Put tensors of `adapter_state` back, in the type in which they were taken."""
    parameters = dict(model.named_parameters())
    for name, tensor in state.items():
        parameter = parameters[name]
        parameter.data = tensor.to(parameter.device, copy=True)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter in PEFT's own format, as safetensors."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)


def convert_pissa(folder: Path, initial: dict[str, Any]) -> None:
    """Rewrite a saved PiSSA adapter as the plain LoRA adapter of the unchanged base weights.

    PiSSA trains B A on a base from which B0 A0 was taken off, so the update of the base is B A - B0 A0: a plain
    adapter of twice the rank (Meng et al. 2024, section 3). `initial` is `adapter_state` before the first step.
    """
    import torch
    from safetensors.torch import save_file

    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    before = {name.replace(".default.weight", ".weight"): tensor for name, tensor in initial.items()}
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            tensors[name] = torch.cat([tensor, before[name].to(tensor)], dim=0).contiguous()
        elif ".lora_B." in name:
            tensors[name] = torch.cat([tensor, -before[name].to(tensor)], dim=1).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"], "init_lora_weights": True}
    config_file.write_text(json.dumps(config, indent=2), encoding="utf-8")
