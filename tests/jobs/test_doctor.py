"""Doctor as a user meets it: every trouble is provoked, and must show as a line with its level and its cure."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune import load_config
from finetune.__main__ import main
from finetune.config import ModelConfig
from finetune.diagnosis import backends, hub, machine, packages
from finetune.diagnosis.finding import Finding, Level, ok, run_check
from finetune.errors import FinetuneError, ModelError
from finetune.jobs import doctor as job

Findings = Iterator[Finding]
DISK = namedtuple("DISK", "total used free")


def worst(findings: Findings) -> Finding:
    return max(findings, key=lambda finding: list(Level).index(finding.level))


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions that seem to be installed instead of the real ones; None: not installed."""
    changed: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = changed.get(name, "real")
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if found == "real" else found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return changed


# Python and packages


def test_an_old_python_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(packages.check_python()).level is Level.ok
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    found = worst(packages.check_python())
    assert found.level is Level.error and "3.11" in found.cure


def test_a_missing_required_package_names_the_command(versions: dict[str, str | None]) -> None:
    versions["peft"] = None
    found = worst(packages.check_required())
    assert found.level is Level.error
    assert found.text == "peft is not installed" and found.cure.startswith("pip install 'peft")


def test_a_version_outside_the_range_is_an_error(versions: dict[str, str | None]) -> None:
    versions["trl"] = "0.9.6"
    found = worst(packages.check_required())
    assert found.level is Level.error and "trl 0.9.6" in found.text and "trl<1.17,>=1.16" in found.cure


def test_an_absent_extra_is_no_problem_and_a_half_installed_one_is(versions: dict[str, str | None]) -> None:
    versions |= {"gguf": None, "xllamacpp": None, "lxml": None, "pypdf": "7.1.0"}
    lines = {finding.subject: finding for finding in packages.check_required()}
    assert lines["extra gguf"].level is Level.ok and "pip install 'finetune[gguf]'" in lines["extra gguf"].text
    assert lines["extra documents"].level is Level.warning
    assert lines["extra documents"].text == "lxml is not installed"
    assert "extra dev" not in lines


def test_another_llama_cpp_than_the_pinned_one_is_told(versions: dict[str, str | None]) -> None:
    versions |= {"gguf": "0.19.0", "xllamacpp": "2027.1.1"}
    lines = {finding.subject: finding for finding in packages.check_required()}
    assert lines["extra gguf"].level is Level.warning and "xllamacpp 2027.1.1" in lines["extra gguf"].text


def test_sources_that_are_not_installed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PROJECT", "finetune-not-there")
    found = worst(packages.check_required())
    assert found.level is Level.warning and "pip install" in found.cure


def test_versions_other_than_the_locked_ones_are_listed(
    versions: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# pins\nJinja2==3.1.6\ntorch==2.13.0\nabsent-package==1\nnumpy==2.0.0 --hash=sha256:00\n")
    monkeypatch.setattr(packages, "find_lock", lambda: lock)
    versions |= {"jinja2": "3.1.6", "torch": "2.13.0+cpu", "numpy": "2.4.6", "absent-package": None}
    found = worst(packages.check_lock())
    assert found.level is Level.warning
    assert found.text.startswith("1 of 3 packages differ: numpy 2.4.6 (tested: 2.0.0)")
    assert found.cure == "pip install numpy==2.0.0"
    versions["numpy"] = "2.0.0"
    assert worst(packages.check_lock()).level is Level.ok


def test_a_missing_lock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_lock", lambda: None)
    assert worst(packages.check_lock()).level is Level.warning


def test_packages_that_contradict_each_other_are_named(
    versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torchvision for another torch, which makes transformers fail when it is imported."""
    real = importlib.metadata.requires
    wants = {"torchvision": ["torch==2.9.0", "never-there; extra == 'scipy'", "numpy; python_version < '3'"]}
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wants.get(name) or real(name))
    versions |= {"torchvision": "0.24.0", "torch": "2.13.0+cpu"}
    found = [finding for finding in packages.check_conflicts() if "torchvision" in finding.text]
    assert [finding.text for finding in found] == ["torchvision does not fit: torch 2.13.0+cpu is not ==2.9.0"]
    assert found[0].level is Level.warning and found[0].cure == "pip install 'torch==2.9.0'"


def test_known_trouble_is_named(versions: dict[str, str | None]) -> None:
    versions |= {trouble.package: None for trouble in packages.KNOWN_TROUBLE}
    assert not list(packages.check_known_trouble())
    versions["kernels"] = "0.12.0"
    (found,) = packages.check_known_trouble()
    assert found.level is Level.warning and "kernels 0.12.0" in found.text and "uninstall" in found.cure


# Disk, memory, threads


@pytest.mark.parametrize(
    ("free", "model_bytes", "level"),
    [
        (400_000_000, None, Level.error),
        (9_000_000_000, 16_000_000_000, Level.warning),
        (20_000_000_000, 16_000_000_000, Level.ok),
    ],
)
def test_little_disk(
    free: int, model_bytes: int | None, level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK(10**12, 10**12 - free, free))
    monkeypatch.setattr(machine, "_file_system", lambda _: "ext4")
    found = next(iter(machine.check_disk(tmp_path / "outputs" / "run", model_bytes)))
    assert found.subject == "disk" and found.level is level
    assert bool(found.cure) is (level is not Level.ok)
    assert not (tmp_path / "outputs").exists(), "doctor writes nothing that stays"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    for found in machine.check_disk(tmp_path, None):
        assert found.level is Level.error and "cannot be written: Permission denied" in found.text


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert next(iter(machine.check_disk(tmp_path / "x", None))).level is Level.error


def test_a_file_in_the_place_of_the_folder_and_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(machine.tempfile, "gettempdir", none_usable)
    disk, temporary = machine.check_disk(tmp_path / "taken" / "run", None)
    assert disk.level is Level.error and "is a file" in disk.text
    assert temporary.level is Level.error and "TMPDIR" in temporary.cure


def test_a_disk_in_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_file_system", lambda _: "tmpfs")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK(10**12, 0, 10**12))
    found = next(iter(machine.check_disk(tmp_path, None)))
    assert found.level is Level.warning and "in memory" in found.text


def test_memory_swap_and_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(machine, "container_limit_bytes", lambda: None)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16e9, available=12e9))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=4e9, used=3e9))
    memory, swap = machine.check_memory()
    assert (memory.level, swap.level) == (Level.ok, Level.warning)
    monkeypatch.setattr(machine, "container_limit_bytes", lambda: 1_500_000_000)
    memory, _ = machine.check_memory()
    assert memory.level is Level.warning and "1.5 GB available (limit of this container)" in memory.text


@pytest.mark.parametrize(
    "variables",
    [{"OMP_WAIT_POLICY": "active"}, {"OMP_NUM_THREADS": "4096"}, {"CUDA_LAUNCH_BLOCKING": "1"}],
)
def test_variables_that_slow_down(variables: dict[str, str]) -> None:
    (found,) = machine.check_threads(variables)
    assert found.level is Level.warning and next(iter(variables)) in found.cure
    assert [finding.level for finding in machine.check_threads({})] == [Level.ok]


# Native libraries


@pytest.mark.parametrize(
    ("capability", "compiled", "covered"),
    [
        ((8, 0), ["sm_75", "sm_80", "sm_90"], True),
        ((8, 9), ["sm_80"], True),
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((12, 0), ["sm_80", "sm_90a"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((12, 1), ["sm_120"], True),
    ],
)
def test_code_for_a_gpu(capability: tuple[int, int], compiled: list[str], covered: bool) -> None:
    assert backends.is_covered(capability, compiled) is covered


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Run check_torch on a machine with a made-up GPU, or one that torch does not see."""
    import torch

    def check(*, available: bool, cuda: str | None, arches: tuple[str, ...] = ("sm_80",), free: float = 20e9):
        monkeypatch.setattr(backends, "gpu_seems_present", lambda: True)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(arches))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card X")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 24e9))
        return list(backends.check_torch(job._ANY_MODEL))

    return check


def test_gpu_in_order(fake_gpu: Callable[..., list[Finding]]) -> None:
    lines = {finding.subject: finding for finding in fake_gpu(available=True, cuda="12.8")}
    assert {finding.level for finding in lines.values()} == {Level.ok}
    assert "Card X, 20.0 GB of 24.0 GB free, compute capability 8.6" in lines["GPU"].text
    assert lines["number type"].text == "bfloat16 on cuda:0: Card X multiplies bfloat16 natively"


@pytest.mark.parametrize(
    ("state", "level", "told"),
    [
        ({"available": False, "cuda": None}, Level.warning, "CUDA build of torch"),
        ({"available": False, "cuda": "12.8"}, Level.error, "update the driver"),
        ({"available": True, "cuda": "12.8", "arches": ("sm_90",)}, Level.error, "another CUDA version"),
        ({"available": True, "cuda": "12.8", "free": 2e9}, Level.warning, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpu_out_of_order(
    state: dict[str, object], level: Level, told: str, fake_gpu: Callable[..., list[Finding]]
) -> None:
    found = worst(iter(fake_gpu(**state)))
    assert found.subject == "GPU" and found.level is level and told in found.cure


@pytest.mark.slow
def test_four_bits_that_fail_or_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.model import quantize

    def broken(weight: object) -> None:
        raise RuntimeError("libbitsandbytes_cuda128.so: cannot open shared object file")

    assert worst(backends.check_bitsandbytes(job._ANY_MODEL)).level is Level.ok
    monkeypatch.setattr(quantize, "round_trip_nf4", broken)
    found = worst(backends.check_bitsandbytes(job._ANY_MODEL))
    assert found.level is Level.error and "libbitsandbytes_cuda128.so" in found.text
    monkeypatch.setattr(quantize, "round_trip_nf4", lambda weight: weight * 0)
    found = worst(backends.check_bitsandbytes(job._ANY_MODEL))
    assert found.level is Level.error and "1.000 of their size" in found.text


@pytest.mark.slow
def test_llama_cpp_self_test() -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    assert worst(backends.check_llama_cpp()).level is Level.ok


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [(1, "another version of xllamacpp\n", "another version of xllamacpp"), (-4, "", "ended by signal 4")],
)
def test_llama_cpp_that_refuses_or_crashes(code: int, said: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, said, ""))
    found = worst(backends.check_llama_cpp())
    assert found.level is Level.error and told in found.text and "finetune[gguf]" in found.cure


# The hub


def test_tokens_and_proxies_are_never_printed() -> None:
    environment = {
        "HF_TOKEN": "hf_canary", "WANDB_API_KEY": "canary-key", "https_proxy": "http://me:canary@proxy:3128",
        "HF_ENDPOINT": "https://me:canary@mirror.example/hf", "HF_HOME": "/big/hub", "DO_NOT_TRACK": "0",
    }  # fmt: skip
    lines = [finding.line() for finding in hub.check_environment(environment)]
    assert "canary" not in "".join(lines)
    for part in ("HF_TOKEN set", "WANDB_API_KEY set", "HTTPS_PROXY set", "mirror.example", "HF_HOME=/big/hub"):
        assert part in lines[0]
    assert lines[1].startswith("warning") and "DO_NOT_TRACK=0" in lines[1]


def hub_model(*, gated: bool) -> ModelConfig:
    return ModelConfig(name="tiny", hub_id="owner/tiny", context_length=512, gated=gated)


@pytest.mark.parametrize(
    ("gated", "offline", "variables", "level", "told"),
    [
        (False, False, {}, Level.warning, "prefetch"),
        (False, True, {}, Level.error, "prefetch"),
        (False, False, {"HF_HUB_OFFLINE": "1"}, Level.error, "prefetch"),
        (True, False, {"HF_TOKEN_PATH": "/nowhere/token"}, Level.error, "set HF_TOKEN"),
        (True, False, {"HF_TOKEN": "hf_canary"}, Level.warning, "prefetch"),
    ],
)
def test_a_model_that_is_not_downloaded(
    gated: bool,
    offline: bool,
    variables: dict[str, str],
    level: Level,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "is_cached", lambda _: False)
    (found,) = hub.check_base_model(hub_model(gated=gated), offline=offline, environment=variables)
    assert found.level is level and told in found.cure and "canary" not in found.line()


def test_a_model_that_is_here(tiny_model_dir: Path, tmp_path: Path) -> None:
    local = ModelConfig(name="local", path=str(tiny_model_dir), context_length=512)
    assert worst(hub.check_base_model(local, offline=True)).level is Level.ok
    local.path = str(tmp_path)
    assert worst(hub.check_base_model(local, offline=True)).level is Level.error


def test_data_of_the_hub_and_files(choice_rows: Path, tmp_path: Path) -> None:
    environment = {"HF_DATASETS_CACHE": str(tmp_path)}
    paths = [str(choice_rows), "owner/rows", str(tmp_path / "gone.jsonl")]
    for offline, level in ((False, Level.warning), (True, Level.error)):
        here, absent, gone = hub.check_data_sets(paths, offline=offline, environment=environment)
        assert (here.level, absent.level, gone.level) == (Level.ok, level, Level.error)
    (tmp_path / "owner___rows").mkdir()
    assert list(hub.check_data_sets(paths, offline=True, environment=environment))[1].level is Level.ok


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    found = worst(hub.check_cache())
    assert found.level is Level.warning and "HF_HOME" in found.cure


# The command


def test_a_check_that_breaks_is_an_error_and_the_others_still_run() -> None:
    def raising(problem: Exception) -> Callable[[], Findings]:
        def check() -> Findings:
            yield ok("first", "seen")
            raise problem

        return check

    for problem, text in (
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (ModuleNotFoundError("No module named 'psutil'", name="psutil"), "pip install psutil"),
        (ModelError("model=x needs a GPU"), "model=x needs a GPU"),
    ):
        first, second = run_check("disk", raising(problem))
        assert first.level is Level.ok
        assert second.level is Level.error and second.subject == "disk" and text in second.line()


def only(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(job, "_checks", lambda *_: [("made up", lambda: iter(findings))])


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    warning = Finding(Level.warning, "disk", "9 GB free\nhere", "make room")
    only(monkeypatch, ok("Python", "3.11"), warning)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "warning  disk             9 GB free here; make room"
    assert out[-1] == "ok: 1, warning: 1, error: 0"
    only(monkeypatch, warning, Finding(Level.error, "GPU", "too old", "update the driver"))
    assert main(["doctor"]) == 1
    assert "errors found: 1" in capsys.readouterr().err
    assert main(["doctor", "recipe=quickstrat"]) == 2


def test_without_words_it_needs_no_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    only(monkeypatch, ok("Python", "3.11"))
    assert main(["doctor"]) == 0


@pytest.mark.slow
def test_a_recipe_adds_its_own_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "check_torch", lambda _: iter(()))
    monkeypatch.setattr(backends, "check_bitsandbytes", lambda _: iter(()))
    monkeypatch.setattr(backends, "check_llama_cpp", lambda: iter(()))
    general = {finding.subject for finding in job._findings(load_config(None, f"output_dir={tmp_path}"))}
    assert not general & {"recipe", "base model", "data"}
    lines = {finding.subject: finding for finding in job._findings(load_config("quickstart"))}
    assert lines["recipe"].level is Level.ok and "quickstart with model embedded" in lines["recipe"].text
    assert lines["base model"].level is Level.ok and lines["data"].level is Level.ok


def test_a_recipe_that_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = load_config("legal_qlora")
    (found,) = run_check("recipe", lambda: job._check_recipe(config))
    assert found.level is Level.error and "needs a GPU" in found.text and "model=embedded" in found.text


WITHOUT_NETWORK = """
import os, runpy, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        os._exit(99)

sys.addaudithook(watch)
sys.argv = ["finetune", "doctor", "recipe=quickstart"]
runpy.run_module("finetune", run_name="__main__")
"""


@pytest.mark.slow
def test_the_whole_command_leaves_nothing_and_opens_no_socket(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    subjects = {line[9:24].strip() for line in done.stdout.splitlines()}
    assert {"Python", "lock", "disk", "memory", "torch", "bitsandbytes", "base model", "hub cache"} <= subjects
    assert not list(tmp_path.iterdir())


def test_the_error_is_one_that_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Finding(Level.error, "disk", "full", "make room"))
    with pytest.raises(FinetuneError) as caught:
        job.doctor(None)
    assert caught.value.exit_code == 1
