"""Bar S3: recipes and overrides are data. Each hostile one is refused with exit 2; nothing runs, no secret is shown."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from finetune.__main__ import main
from finetune.compose import load_config
from finetune.errors import ConfigError
from finetune.recipe_content import MOST_BYTES, reference_problems

SECRET = "canary-5f3a91c0de"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{f'*{chr(97 + n)}, ' * 9}]\n" for n in range(20))
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{f'*{chr(97 + n)}, ' * 9}]}}\n" for n in range(20)
)
CALL = "{_target_: os.system, _args_: ['touch CANARY']}"
LAYERS = ["name", "hub_id", "license", "license_url", "revision", "chat_template", "path"]
BOMB = "model:\n" + "".join(f"  {name}: '{f'${{model.{after}}}' * 200}'\n" for name, after in pairwise(LAYERS))
RECIPES = {
    "target in a section": f"training: {CALL}",
    "target at the top": "_target_: os.system\n_args_: ['touch CANARY']",
    "target in a new section": f"callbacks: {{evil: {CALL}}}",
    "target as optimizer": f"training: {{optimizer: {CALL}}}",
    "target in sources": f"data: {{sources: [{CALL}]}}",
    "target in a source's path": f"data: {{sources: [{{path: {CALL}}}]}}",
    "target in the shape": f"model: {{shape: {CALL}}}",
    "partial": "adapter: {_partial_: true, _target_: subprocess.Popen}",
    "environment": "model: {name: '${oc.env:TOKEN}'}",
    "environment with default": "output_dir: 'outputs/${oc.env:TOKEN,none}'",
    "environment in a number": "seed: ${oc.env:TOKEN}",
    "environment in a list": "adapter: {target_modules: ['${oc.env:TOKEN}']}",
    "environment, old name": "model: {name: '${env:TOKEN}'}",
    "environment behind a name": "model: {name: '${oc.${adapter.method}:TOKEN}'}",
    "environment behind backslashes": "model: {name: '\\\\${oc.env:TOKEN}'}",
    "environment, nested": "model: {name: '${model.${oc.env:TOKEN}}'}",
    "decode": "seed: \"${oc.decode:'${oc.env:TOKEN}'}\"",
    "create": "data: \"${oc.create:{path: '${oc.env:TOKEN}'}}\"",
    "select": "seed: ${oc.select:hydra.runtime.cwd}",
    "deprecated": "seed: ${oc.deprecated:seed}",
    "dictionary of keys": "adapter: {target_modules: '${oc.dict.keys:model}'}",
    "Hydra's resolver": "output_dir: ${hydra:runtime.cwd}",
    "the clock": "output_dir: outputs/${now:%Y}",
    "own resolver": 'seed: \'${eval:__import__("os").system("touch CANARY")}\'',
    "relative reference": "seed: ${.training}",
    "reference without end": "model: {name: '${model.name'}",
    "reference to itself": "seed: ${seed}",
    "references in a circle": "model: {name: '${model.license}', license: '${model.name}'}",
    "reference bomb": BOMB,
    "Hydra's folder": "hydra: {run: {dir: /tmp/CANARY}}",
    "Hydra's logging": "hydra: {job_logging: {version: 1, handlers: {x: {(): os.system, command: touch CANARY}}}}",
    "Hydra's callbacks": f"hydra: {{callbacks: {{evil: {CALL}}}}}",
    "Hydra's launcher": f"hydra: {{launcher: {CALL}}}",
    "Hydra's environment": "hydra: {job: {env_set: {LD_PRELOAD: /tmp/CANARY.so}}}",
    "search path": "hydra: {searchpath: [file:///tmp]}",
    "defaults: launcher": "defaults: [override hydra/launcher: joblib]",
    "defaults: a package's file": "defaults: ['pkg://evil.conf/x']",
    "defaults: outside": "defaults: [override /model: ../../../../etc/passwd]",
    "defaults: into Hydra": "defaults: ['/model@hydra.job_logging: embedded']",
    "defaults: unknown group": "defaults: [/secrets: all]",
    "defaults: reference": "defaults: [override /model: '${oc.env:TOKEN}']",
    "defaults: no list": "defaults: {model: embedded}",
    "tag apply": "seed: !!python/object/apply:os.system ['touch CANARY']",
    "tag new": "seed: !!python/object/new:subprocess.Popen [['touch', 'CANARY']]",
    "tag module": "seed: !!python/module:antigravity",
    "tag name": "seed: !!python/name:os.system",
    "tag of its own": "seed: !env TOKEN",
    "tag binary": "model: {name: !!binary aGVsbG8=}",
    "billion laughs": LAUGHS,
    "billion merges": MERGES,
    "deep": "seed: " + "[" * 2000 + "]" * 2000,
    "deep blocks": "\n".join(f"{' ' * n}a:" for n in range(300)),
    "large": f"seed: 1\n#{'x' * MOST_BYTES}",
    "huge number": f"seed: {'9' * 6000}",
    "two documents": "seed: 1\n---\nseed: !!python/name:os.system",
    "no text": "\x00\x01\x02",
    "half a character": "seed: \udcff",
    "list": "[1, 2]",
}
OVERRIDES = {
    "environment in a number": "seed=${oc.env:TOKEN}",
    "environment in a text": "model.name=\\${oc.env:TOKEN}",
    "environment in a nested text": "model.name=${a${oc.env:TOKEN}}",
    "environment in a list": "adapter.target_modules=[${oc.env:TOKEN}]",
    "environment in a section": "model.shape={num_layers: ${oc.env:TOKEN}}",
    "environment in sources": "data.sources=[{path: '${oc.env:TOKEN}', weight: '${oc.env:TOKEN}'}]",
    "decode": "training.max_steps=${oc.decode:${oc.env:TOKEN}}",
    "new key": "+evil._target_=os.system",
    "target": "++training._target_=os.system",
    "Hydra's folder": "hydra.run.dir=/tmp/CANARY",
    "launcher": "hydra/launcher=joblib",
    "search path": "hydra.searchpath=[file:///tmp]",
    "callbacks": "+hydra.callbacks.evil._target_=os.system",
    "logging": "hydra/job_logging=custom",
    "package": "model@hydra.job=embedded",
    "group outside": "model=../../etc/passwd",
    "recipe outside": "recipe=../../../etc/passwd",
    "recipe behind a null": "recipe=a\x00.yaml",
    "sources with a tag": "data.sources=!!python/object/apply:os.system ['touch CANARY']",
    "itself": "seed=${seed}",
}


def refused(words: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    before = sorted(folder.iterdir())
    code = main(words)
    said = "".join(capfd.readouterr())
    assert code == 2, said
    assert SECRET not in said
    assert sorted(folder.iterdir()) == before and not Path("/tmp/CANARY").exists()
    (line,) = said.splitlines()
    assert line.startswith("finetune: ") and len(line) < 2000
    return line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an environment with a secret."""
    for name in ("TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.bar("S3")
@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_refused(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "hostile.yaml").write_text(RECIPES[name], encoding="utf-8", errors="surrogateescape")
    line = refused(["inspect", "recipe=hostile.yaml", "data=legal", "model=embedded"], folder, capfd)
    assert "hostile" in line


@pytest.mark.few(6)
@pytest.mark.bar("S3")
@pytest.mark.parametrize("name", OVERRIDES)
def test_a_hostile_override_is_refused(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(["inspect", "data=legal", "model=embedded", OVERRIDES[name]], folder, capfd)


@pytest.mark.bar("S3")
@pytest.mark.parametrize("word", ["seed=1,${oc.env:TOKEN}", "model.name=a,${oc.env:TOKEN}"])
def test_a_hostile_sweep_is_refused(word: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(["inspect", "-m", "data=legal", "model=embedded", word], folder, capfd)


@pytest.mark.bar("S3")
@pytest.mark.parametrize("stem", ["${oc.env:TOKEN}", "a,b", "x y", "-m", "legal_lora=1"])
def test_the_name_of_a_recipe_means_nothing_else(stem: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / f"{stem}.yaml").write_text("seed: 1\n")
    assert "rename" in refused(["inspect", f"recipe={stem}.yaml", "data=legal", "model=embedded"], folder, capfd)


@pytest.mark.bar("S3")
@pytest.mark.parametrize("flag", ["--cfg", "--info"])
def test_showing_a_hostile_recipe_shows_no_secret(flag: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "hostile.yaml").write_text("model: {name: '${oc.env:TOKEN}'}")
    refused(["inspect", "recipe=hostile.yaml", flag, "job" if flag == "--cfg" else "config"], folder, capfd)


@pytest.mark.bar("S3")
def test_plain_references_and_escaped_ones_are_still_taken(folder: Path) -> None:
    (folder / "mine.yaml").write_text(
        "defaults: [override /model: embedded, override /data: legal, _self_]\n"
        "output_dir: outputs/${recipe}_${seed}\nmodel: {name: 'costs \\${amount}'}\n"
    )
    config = load_config("mine.yaml", "seed=7")
    assert (config.output_dir, config.model.name) == ("outputs/mine_7", "costs ${amount}")
    assert reference_problems({"seed": "${training.max_steps}"}) == []
    with pytest.raises(ConfigError, match=r"seed_: there is no such option. Did you mean 'seed'"):
        (folder / "mine.yaml").write_text("seed_: 1")
        load_config("mine.yaml")
    assert "TOKEN" in os.environ
