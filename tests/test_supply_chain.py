"""What is installed is what was locked: hashes stop a changed archive, and the bill of materials lists every pin."""

import base64
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from finetune.diagnosis.packages import find_lock, read_lock

ROOT = Path(__file__).resolve().parent.parent
LOCK, HASHES = ROOT / "requirements.lock", ROOT / "requirements.hashes"
PIN = re.compile(r"^([\w.-]+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def script(name: str) -> ModuleType:
    """Import a script, which has no suffix; nothing is cached beside it."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def make_wheel(folder: Path, content: str) -> Path:
    """Write a minimal wheel of a package `tiny`."""
    files = {
        "tiny.py": content,
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {name: hashlib.sha256(text.encode()).digest() for name, text in files.items()}
    encoded = {name: base64.urlsafe_b64encode(digest).rstrip(b"=").decode() for name, digest in digests.items()}
    record = "".join(f"{name},sha256={encoded[name]},{len(text)}\n" for name, text in files.items())
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (files | {"tiny-1.0.dist-info/RECORD": record + "tiny-1.0.dist-info/RECORD,,\n"}).items():
            archive.writestr(name, text)
    return path


@pytest.mark.bar("S13")
def test_every_pin_has_hashes() -> None:
    assert find_lock() == LOCK
    pins = read_lock(LOCK)
    hashed = {name: version for name, version, _ in PIN.findall(HASHES.read_text(encoding="utf-8"))}
    assert len(pins) > 100 and pins["torch"] == "2.13.0"
    assert {name: version for name, version in pins.items() if name != "torch"} == hashed


@pytest.mark.bar("S13")
@pytest.mark.slow
def test_an_archive_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    """With the options that scripts/setup gives to pip."""
    (call,) = [line for line in (ROOT / "scripts/setup").read_text().splitlines() if "requirements.hashes" in line]
    options = call.split("install ")[1].replace("requirements.hashes", str(tmp_path / "pins")).split()
    assert "--require-hashes" in options
    wheel = make_wheel(tmp_path, "x = 1\n")
    (tmp_path / "pins").write_text(f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")

    def install() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "--isolated", "install", "--no-index", "--find-links", str(tmp_path)]
        more = ["--no-cache-dir", "--target", str(tmp_path / "target"), "--upgrade", *options]
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    done = install()
    assert done.returncode == 0, done.stderr
    make_wheel(tmp_path, "x = 2\n")
    done = install()
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr
    assert (tmp_path / "target" / "tiny.py").read_text() == "x = 1\n"


def test_the_lock_follows_requirements_through_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    packages: dict[str, Any] = {
        "finetune": ("finetune", ["Alpha[fast]>=1", "beta; extra == 'more'", "gone", "never; python_version < '3'"]),
        "alpha": ("Alpha", ["gamma; extra == 'fast'", "delta; extra == 'slow'"]),
        "beta": ("beta", ["alpha"]),
        "gamma": ("gamma", []),
        "stray": ("stray", []),
        "hatchling": ("hatchling", []),
        "setuptools": ("setuptools", []),
    }

    def distribution(name: str) -> SimpleNamespace:
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(name=packages[name][0], requires=packages[name][1])

    lock = script("lock")
    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    monkeypatch.setattr(
        importlib.metadata, "metadata", lambda _: SimpleNamespace(get_all=lambda _: ["more"], get=lambda _: None)
    )
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.0+cpu")
    text, missing = lock.new_lock("# head\nbeta==1.0\ngone==0.5\ndropped==3\n")
    assert missing == ["gone"]
    assert text.splitlines() == [
        "# head", "Alpha==2.0", "beta==2.0", "gamma==2.0", "gone==0.5", "hatchling==2.0", "setuptools==2.0",
    ]  # fmt: skip


@pytest.mark.bar("S13")
@pytest.mark.slow
def test_bill_of_materials(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        subprocess.run([sys.executable, str(ROOT / "scripts/bill_of_materials"), str(path)], check=True)
    text = paths[0].read_text(encoding="utf-8")
    assert text == paths[1].read_text(encoding="utf-8"), "the same lock gives the same bytes"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "finetune"
    components = {component["name"]: component for component in bill["components"]}
    pins = read_lock(LOCK)
    assert {name: component["version"] for name, component in components.items()} == pins
    assert all(components[name]["purl"].lower() == f"pkg:pypi/{name}@{version}" for name, version in pins.items())
    peft, safetensors = components["peft"], components["safetensors"]
    assert "Apache" in json.dumps(peft["licenses"]) and "Apache" in json.dumps(safetensors["licenses"])
    named = {one["content"] for one in peft["externalReferences"][0]["hashes"]}
    (pin,) = [hashes for name, _, hashes in PIN.findall(HASHES.read_text(encoding="utf-8")) if name == "peft"]
    assert named == set(re.findall(r"[0-9a-f]{64}", pin))
    assert re.fullmatch(r"[0-9a-f]{64}", peft["properties"][0]["value"])
    depends = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert f"torch=={pins['torch']}" in depends[f"peft=={pins['peft']}"]
    assert f"peft=={pins['peft']}" in depends["finetune"]
