"""Every recipe runs from end to end on the embedded model, with shortened steps; so do the notebook and the wheel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.__main__ import main
from finetune.recipes import list_recipes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["training.max_steps=3", "evaluation.max_items=12", "export.verification_items=3"]


@pytest.mark.parametrize("recipe", sorted(list_recipes()))
def test_every_recipe_runs_on_the_embedded_model(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([f"recipe={recipe}", "model=embedded", f"output_dir={out}", *SHORT]) == 0
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["validation_loss"] < losses[0]["validation_loss"]
    assert json.loads((out / "export/verification.json").read_text())["safetensors"]["passed"]
    assert json.loads((out / "evaluation/summary.json").read_text())["main_metric"] == "choice_accuracy"


@pytest.mark.enable_socket
@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in content.cells), "strip the outputs before committing"
    NotebookClient(content, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_a_built_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, timeout=300)
    assert {path.name for path in site.iterdir() if "dist-info" not in path.name} <= {"finetune", "bin"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "recipe=quickstart", *SHORT],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "outputs/quickstart/report.html").is_file()
    assert str(site) in (elsewhere / "outputs/quickstart/config.yaml").read_text()
