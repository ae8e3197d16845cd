"""Base models from folders and from a hub cache made on the spot; no network."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config import CommercialUse, ModelConfig
from finetune.errors import FinetuneError, ModelError, ResourceError
from finetune.model.hub import explain_download_error, is_cached, resolve_base
from finetune.model.shape import read_model_config, shape_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def base(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {"name": "tiny", "hub_id": "owner/tiny", "license": "MIT", "context_length": 512}
    return ModelConfig(**(values | changes))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, with the hub's client set to offline."""
    import huggingface_hub.constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def fill(cache: Path, source: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Lay out `source` as the hub's client does: blobs by hash, a snapshot of links, refs/main."""
    repository = cache / "models--owner--tiny"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for path in source.iterdir():
        if path.name not in without:
            blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copy(path, blob)
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


# --- local folders ----------------------------------------------------------------------------------------------------


def test_a_local_folder_is_used_instead_of_the_hub(tiny_model_dir: Path) -> None:
    shape = shape_of(read_model_config(tiny_model_dir))
    model = base(path=str(tiny_model_dir), shape=shape)
    assert resolve_base(model, offline=False) == tiny_model_dir
    assert is_cached(model)
    with pytest.raises(ModelError, match=r"num_layers is declared as 3 but config\.json has 2"):
        resolve_base(replace(model, shape=replace(shape, num_layers=3)), offline=False)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    model = base(path=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="no such folder"):
        resolve_base(model, offline=True)
    assert not is_cached(model)


def test_neither_folder_nor_hub_id() -> None:
    with pytest.raises(ModelError, match=r"model\.path: not set"):
        resolve_base(base(hub_id=None), offline=True)


# --- the hub's cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_cached_model_is_used_without_network_or_notice(
    offline: bool, revision: str, cache: Path, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = fill(cache, tiny_model_dir)
    model = base(revision=revision, shape=shape_of(read_model_config(tiny_model_dir)))
    with caplog.at_level(logging.INFO, logger="finetune"):
        assert resolve_base(model, offline=offline) == snapshot
    assert is_cached(model)
    assert not caplog.records


def test_what_is_not_cached_is_not_downloaded_offline(cache: Path) -> None:
    assert not is_cached(base())
    for offline in (True, False):
        with pytest.raises(ModelError, match=r"owner/tiny \(main\): not downloaded yet.*finetune prefetch …"):
            resolve_base(base(), offline=offline)


def test_an_interrupted_download_does_not_count(cache: Path, tiny_model_dir: Path) -> None:
    fill(cache, tiny_model_dir, without=("model.safetensors",))
    assert not is_cached(base())
    with pytest.raises(ModelError, match="not downloaded yet"):
        resolve_base(base(), offline=True)


def test_another_revision_is_another_model(cache: Path, tiny_model_dir: Path) -> None:
    fill(cache, tiny_model_dir)
    assert not is_cached(base(revision="v2"))


@pytest.mark.slow
def test_offline_in_a_process_of_its_own(tmp_path: Path, tiny_model_dir: Path) -> None:
    """The same through the environment variables that users set, in a process whose sockets raise."""
    snapshot = fill(tmp_path / "home" / "hub", tiny_model_dir)
    script = (
        "import socket\n"
        "def refuse(*_, **__): raise SystemExit('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from finetune.config import ModelConfig\n"
        "from finetune.model.hub import resolve_base\n"
        "print(resolve_base(ModelConfig(name='tiny', hub_id='owner/tiny', context_length=512), offline=False))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = dict(os.environ, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", PYTHONPATH=root)
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.stdout.strip() == str(snapshot), result.stderr


# --- downloads, with the hub's client replaced ------------------------------------------------------------------------


@pytest.fixture
def pretend(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Replace snapshot_download: nothing is cached, and a download raises or returns what the test says."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def install(outcome: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def snapshot_download(hub_id: str, **options: Any) -> str:
            calls.append({"hub_id": hub_id, **options})
            if options["local_files_only"]:
                raise LocalEntryNotFoundError("not cached")
            if isinstance(outcome, BaseException):
                raise outcome
            return str(outcome)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return install


def test_a_first_download_shows_the_licence(
    pretend: Callable[[Any], list[dict[str, Any]]], tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = pretend(tiny_model_dir)
    model = base(license="llama3.1", commercial_use=CommercialUse.conditional)
    with caplog.at_level(logging.INFO, logger="finetune"):
        assert resolve_base(model, offline=False) == tiny_model_dir
    assert "Built with Llama" in caplog.text
    assert [call["local_files_only"] for call in calls] == [True, False]
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_only_files_that_are_used_are_downloaded(
    pretend: Callable[[Any], list[dict[str, Any]]], tiny_model_dir: Path
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    options = pretend(tiny_model_dir)
    resolve_base(base(), offline=False)
    files = [
        *("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"),
        *("tokenizer.model", "merges.txt", "vocab.json", "chat_template.jinja", "generation_config.json"),
        *("pytorch_model.bin", "consolidated.safetensors", "original/params.json", "onnx/model.safetensors"),
        *("tiny.gguf", "modeling_tiny.py", "README.md", "rust_model.ot"),
    ]
    kept = filter_repo_objects(
        files, allow_patterns=options[1]["allow_patterns"], ignore_patterns=options[1]["ignore_patterns"]
    )
    assert list(kept) == files[:9]


def test_a_repository_of_pickles_is_refused(
    pretend: Callable[[Any], list[dict[str, Any]]], tiny_model_dir: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    pretend(tmp_path)
    with pytest.raises(ModelError, match="holds no safetensors weights, and pickles are not loaded"):
        resolve_base(base(), offline=False)


def test_a_disk_too_small_is_found_before_the_download(
    pretend: Callable[[Any], list[dict[str, Any]]], tiny_model_dir: Path
) -> None:
    calls = pretend(tiny_model_dir)
    shape = replace(shape_of(read_model_config(tiny_model_dir)), num_layers=10**9)
    with pytest.raises(ResourceError, match=r"needs about .* GB.*HF_HOME"):
        resolve_base(base(shape=shape), offline=False)
    assert len(calls) == 1


# --- what the hub's client raises -------------------------------------------------------------------------------------


def http_error(kind: str, status: int) -> BaseException:
    import httpx2
    from huggingface_hub import errors

    request = httpx2.Request("GET", "https://huggingface.co/api/models/owner/tiny")
    return getattr(errors, kind)(f"{status} Client Error", response=httpx2.Response(status, request=request))


GATED = r"Visit https://huggingface\.co/owner/tiny, accept the licence.*HF_TOKEN"


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("GatedRepoError", 401, GATED),
        ("GatedRepoError", 403, GATED),
        ("HfHubHTTPError", 401, GATED),
        ("HfHubHTTPError", 403, GATED),
        ("RepositoryNotFoundError", 401, r"owner/tiny.*knows no such model, or it is private"),
        ("RevisionNotFoundError", 404, r"has no revision 'main'"),
        ("HfHubHTTPError", 503, r"HTTP status 503; try again later"),
    ],
)
def test_refusals_of_the_hub_say_what_to_do(
    kind: str, status: int, message: str, pretend: Callable[[Any], list[dict[str, Any]]]
) -> None:
    pretend(http_error(kind, status))
    with pytest.raises(ModelError, match=message) as caught:
        resolve_base(base(), offline=False)
    assert caught.value.__cause__ is None


def test_a_refusal_hidden_behind_a_missing_cache_is_still_a_refusal() -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    error = LocalEntryNotFoundError("an error happened while trying to locate the files")
    error.__cause__ = http_error("HfHubHTTPError", 403)
    assert "accept the licence" in str(explain_download_error(error, base()))
    error.__cause__ = None
    assert "cannot be reached" in str(explain_download_error(error, base()))


def transport_errors() -> list[BaseException]:
    import httpx2

    return [
        httpx2.ConnectError("no route"),
        httpx2.ReadTimeout("slow"),
        httpx2.ProxyError("no"),
        ConnectionError("reset"),
    ]


@pytest.mark.parametrize("error", transport_errors(), ids=lambda error: type(error).__name__)
def test_no_connection_leads_to_prefetch(error: BaseException) -> None:
    explained = explain_download_error(error, base())
    assert "the hub cannot be reached" in str(explained)
    assert "finetune prefetch …" in str(explained)


def test_a_full_disk_is_named() -> None:
    explained = explain_download_error(OSError(28, "No space left on device"), base())
    assert isinstance(explained, ResourceError)
    assert "disk is full" in str(explained)


def test_a_token_never_reaches_the_message() -> None:
    import httpx2

    secret = "hf_" + "aBcD1234" * 4
    for text in (f"Illegal header value b'Bearer {secret}\\n'", f"url?token={secret}", "Bearer some-other-secret"):
        for error in (httpx2.LocalProtocolError(text), RuntimeError(text)):
            explained: FinetuneError = explain_download_error(error, base())
            assert "download failed" in str(explained)
            assert secret not in str(explained)
            assert "some-other-secret" not in str(explained)
