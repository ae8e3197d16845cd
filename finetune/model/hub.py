"""Finds the base model on this machine, or downloads it from the Hugging Face hub; called by jobs and `model.load`."""

import errno
import logging
import os
import re
import shutil
from pathlib import Path

from finetune.config import ModelConfig
from finetune.errors import FinetuneError, ModelError, ResourceError, one_line
from finetune.model.license import license_notice
from finetune.model.shape import check_shape, num_parameters, read_model_config

logger = logging.getLogger(__name__)

ALLOW_PATTERNS = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.jinja", "merges.txt", "vocab*"]
IGNORE_PATTERNS = ["*/*", "consolidated*"]
"""Other formats of the same weights: subfolders (original/, onnx/) and Mistral's own file, as large again."""
BYTES_PER_PARAMETER = 2


def resolve_base(model: ModelConfig, *, offline: bool) -> Path:
    """Return the local folder with the model's config.json, 16-bit weights and tokenizer, downloading it if needed.

    A complete download is used as it is, without asking the hub; `offline` never asks it.

    Raises:
        ModelError: no such model, no access to it, no network, or a folder that cannot be trained on or does not
            have the declared sizes.
        ResourceError: too little disk for the download.
    """
    if model.path is not None:
        folder = Path(model.path).expanduser()
    elif model.hub_id is None:
        raise ModelError("model.path: not set; give the folder of the base model (model.path=…) or choose model=<name>")
    else:
        folder = _cached_folder(model) or _download(model, offline=offline)
    config = read_model_config(folder)
    if model.shape is not None:
        check_shape(model.shape, config)
    return folder


def is_cached(model: ModelConfig) -> bool:
    """Say whether the whole model lies on this machine; never uses the network."""
    if model.path is not None:
        return _is_whole(Path(model.path).expanduser())
    return _cached_folder(model) is not None


def _cached_folder(model: ModelConfig) -> Path | None:
    """Return the snapshot in the hub's cache if it is whole; an interrupted download is not."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = _snapshot(model, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    try:
        read_model_config(folder)
    except ModelError:
        return False
    return True


def _snapshot(model: ModelConfig, *, local_files_only: bool) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    assert model.hub_id is not None
    return Path(
        snapshot_download(
            model.hub_id,
            revision=model.revision,
            allow_patterns=ALLOW_PATTERNS,
            ignore_patterns=IGNORE_PATTERNS,
            local_files_only=local_files_only,
        )
    )


def _download(model: ModelConfig, *, offline: bool) -> Path:
    if offline:
        raise _not_downloaded(model, "not downloaded yet, and offline=true")
    _check_disk(model)
    logger.info("Downloading %s", license_notice(model))
    try:
        folder = _snapshot(model, local_files_only=False)
    except Exception as error:
        raise explain_download_error(error, model) from None
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{model.hub_id} ({model.revision}): holds no safetensors weights, and pickles are not loaded because they "
            "can run any code; choose a converted model, or convert it at "
            "https://huggingface.co/spaces/safetensors/convert and name the result with model.revision=refs/pr/…"
        )
    return folder


def _check_disk(model: ModelConfig) -> None:
    from huggingface_hub import constants

    if model.shape is None:
        return
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    needed, free = BYTES_PER_PARAMETER * num_parameters(model.shape), shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"{model.hub_id}: needs about {needed / 1e9:.1f} GB in {cache}, where {free / 1e9:.1f} GB are free; "
            "make room, or set HF_HOME to a folder on a larger disk"
        )


def explain_download_error(error: BaseException, model: ModelConfig) -> FinetuneError:
    """Turn what the hub's client raised into one line with what to do; an access token never stands in it."""
    from huggingface_hub import errors

    source = f"{model.hub_id} ({model.revision})"
    status = _status(error) or _status(error.__cause__)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{model.hub_id}: has no revision {model.revision!r}; correct model.revision, or use main")
    if isinstance(error, errors.GatedRepoError) or (status in (401, 403) and not _not_found(error)):
        return ModelError(
            f"{source}: the hub refuses access. Visit https://huggingface.co/{model.hub_id}, accept the licence there, "
            "then set the variable HF_TOKEN to a token with read access (https://huggingface.co/settings/tokens)"
        )
    if _not_found(error):
        return ModelError(
            f"{source}: the hub knows no such model, or it is private; correct model.hub_id, or set the variable "
            "HF_TOKEN to a token that may read it"
        )
    if status is not None:
        return ModelError(f"{source}: the hub answered with HTTP status {status}; try again later")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ResourceError(f"{source}: the disk is full; make room, or set HF_HOME to a folder on a larger disk")
    if isinstance(error, (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)) or _is_network(error):
        return _not_downloaded(model, "not downloaded yet, and the hub cannot be reached")
    return ModelError(f"{source}: download failed: {_without_tokens(one_line(error) or type(error).__name__)}")


def _not_found(error: BaseException) -> bool:
    from huggingface_hub import errors

    return isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError)


def _is_network(error: BaseException) -> bool:
    """Recognise the failures of the HTTP library that huggingface_hub uses (httpx or its successor) by their names."""
    names = {base.__name__ for base in type(error).__mro__}
    return "TransportError" in names and not names & {"LocalProtocolError", "UnsupportedProtocol"}


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _without_tokens(text: str) -> str:
    return re.sub(r"hf_\w+|(?<=Bearer )[^\s'\"]+", "hf_…", text)


def _not_downloaded(model: ModelConfig, reason: str) -> ModelError:
    return ModelError(
        f"{model.hub_id} ({model.revision}): {reason}; run `python -m finetune prefetch …` with the same options on a "
        "machine with network and copy its hub cache here (HF_HOME, else ~/.cache/huggingface), or give the model's "
        "folder with model.path=…"
    )
