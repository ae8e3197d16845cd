"""What a run needs from the Hugging Face hub: what is on this machine already, and what the environment decides."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from finetune.config import ModelConfig
from finetune.data.load import is_hub_id
from finetune.diagnosis.finding import Finding, error, ok, warning
from finetune.log import megabytes
from finetune.model.hub import BYTES_PER_PARAMETER, is_cached
from finetune.model.shape import num_parameters

_TRUE = ("1", "ON", "YES", "TRUE")
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_TELEMETRY = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
_OFFICIAL = "https://huggingface.co"


def check_environment(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Tell the variables that steer downloads; of tokens and proxies only whether they are set."""
    said = [f"{name}={environment[name]}" for name in (*_FOLDERS, *OFFLINE_VARIABLES) if environment.get(name)]
    said += [f"{name} set" for name in _SECRETS if environment.get(name)]
    said += [f"{name} set" for name in _PROXIES if environment.get(name) or environment.get(name.lower())]
    endpoint = environment.get("HF_ENDPOINT", "")
    if endpoint and endpoint.rstrip("/") != _OFFICIAL:
        said.append(f"HF_ENDPOINT: downloads come from {urlsplit(endpoint).hostname}")
    yield ok("environment", ", ".join(said) if said else "no variables of the hub or of proxies are set")
    sending = [name for name in _TELEMETRY if environment.get(name) and not _is_true(environment[name])]
    if sending:
        text = f"{', '.join(f'{name}={environment[name]}' for name in sending)} allows libraries to report usage"
        yield warning("environment", text, f"unset {' '.join(sending)}: this project turns such reports off")


def check_base_model(
    model: ModelConfig, *, offline: bool, environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Check whether the base model lies on this machine, else whether it could be downloaded."""
    name = model.path or model.hub_id or model.name
    if is_cached(model):
        yield ok("base model", f"{name} is on this machine: ready without network")
        return
    if model.path is not None:
        text = f"{name} holds no complete model (config.json, safetensors weights, tokenizer)"
        yield error("base model", text, "correct model.path")
        return
    size = "" if model.shape is None else f" ({megabytes(num_model_bytes(model) or 0)})"
    if offline or is_offline(environment):
        text = f"{name}{size} is not on this machine, and {'offline=true' if offline else 'HF_HUB_OFFLINE is set'}"
        yield error("base model", text, "python -m finetune prefetch with the same words where there is a network")
        return
    if model.gated and not has_token(environment):
        text = f"{name}{size} is not downloaded, the hub asks for an account that accepted its licence, no token is set"
        yield error("base model", text, f"accept it at {_OFFICIAL}/{model.hub_id} and set HF_TOKEN")
        return
    text = f"{name}{size} is not downloaded yet; the first run needs the network"
    yield warning("base model", text, "python -m finetune prefetch with the same words loads it now")


def check_data_sets(
    paths: Sequence[str], *, offline: bool, environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Check that files of rows are there, and which data sets of the hub are on this machine."""
    for path in dict.fromkeys(paths):
        if not is_hub_id(path):
            if Path(path).exists():
                yield ok("data", f"{path} is on this machine")
            else:
                yield error("data", f"{path} does not exist", "correct data.path")
        elif _data_cache(environment).joinpath(path.replace("/", "___").lower()).is_dir():
            yield ok("data", f"{path} is on this machine: ready without network")
        else:
            cure = "python -m finetune prefetch with the same words loads it"
            stop = offline or is_offline(environment)
            yield (error if stop else warning)("data", f"{path} (hub) is not on this machine", cure)


def check_cache() -> Iterator[Finding]:
    """Say where downloads are kept, and whether they can be written there."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(place for place in (cache, *cache.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield warning("hub cache", f"{existing} cannot be written", "set HF_HOME to a folder of your own")
        return
    held = sorted(entry.name for entry in cache.glob("models--*")) if cache.is_dir() else []
    yield ok("hub cache", f"{cache}, {len(held)} models begun or complete")


def num_model_bytes(model: ModelConfig) -> int | None:
    """Return the size of the model's weights in 16 bits, None where its sizes are not known."""
    return None if model.shape is None else BYTES_PER_PARAMETER * num_parameters(model.shape)


def is_offline(environment: Mapping[str, str]) -> bool:
    """Whether a variable forbids the hub's client to use the network."""
    return any(_is_true(environment.get(name, "")) for name in OFFLINE_VARIABLES)


def has_token(environment: Mapping[str, str]) -> bool:
    """Whether a token for the hub is set, in the environment or in its file; its value is not looked at."""
    if any(environment.get(name) for name in _SECRETS[:2]):
        return True
    named = environment.get("HF_TOKEN_PATH")
    return (Path(named) if named else _home(environment) / "token").is_file()


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HF_HOME") or "~/.cache/huggingface").expanduser()


def _data_cache(environment: Mapping[str, str]) -> Path:
    named = environment.get("HF_DATASETS_CACHE")
    return Path(named).expanduser() if named else _home(environment) / "datasets"


def _is_true(value: str) -> bool:
    return value.upper() in _TRUE
