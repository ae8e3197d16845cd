"""The whole life of a run on a tiny model: the folder's contract, plain loading, resuming, several processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.__main__ import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "training.max_steps=4",
    "evaluation.max_items=12",
    "export.verification_items=4",
    "training.learning_rate=0.01",
]


def words_of(model: Path, rows: Path, out: Path, *more: str) -> list[str]:
    return ["model=local", f"model.path={model}", f"data.path={rows}", f"output_dir={out}", *QUICK, *more]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    laws = ["New York", "Delaware", "Texas"]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        {
            "question": f"Clause {n}: the law of {laws[n % 3]} governs. Which law?",
            "options": laws,
            "answer": laws[n % 3],
        }
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module", params=["none", "nf4"])
def finished(request: pytest.FixtureRequest, tiny_model_dir: Path, rows: Path, tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("runs") / request.param
    assert main(words_of(tiny_model_dir, rows, out, f"quantization={request.param}")) == 0
    return out


def test_the_run_folder_keeps_its_contract(finished: Path) -> None:
    assert finished.stat().st_mode & 0o777 == 0o700
    ledger = json.loads((finished / "data/ledger.json").read_text())
    assert ledger["rows_in"] == ledger["rows_used"] + sum(ledger["rejected"].values()) == 60
    assert set(ledger["splits"]) == {"train", "validation", "test"} and ledger["tokens"]["supervised"] > 0
    summary = json.loads((finished / "evaluation/summary.json").read_text())
    assert summary["main_metric"] == "choice_accuracy"
    for metric in summary["metrics"].values():
        assert {"value", "low", "high", "n"} == metric["base"].keys() == metric["tuned"].keys()
        assert metric["comparison"]["verdict"] in {"better", "worse", "equivalent", "not_enough_data"}
    items = [json.loads(line) for line in (finished / "evaluation/items.jsonl").read_text().splitlines()]
    assert {"item_id", "cluster_id", "model", "metric", "value"} <= items[0].keys()
    found = json.loads((finished / "export/verification.json").read_text())["safetensors"]
    assert found["passed"] and found["greedy_match"] >= 0.99 and found["tokenizer_match"] and found["template_match"]
    for name in ("config.yaml", "versions.json", "metrics.jsonl", "report.html", "README.md", "export/manifest.json"):
        assert (finished / name).stat().st_size > 0, name


def test_the_report_shows_what_the_models_write_unless_it_must_not(
    finished: Path, tiny_model_dir: Path, rows: Path, tmp_path: Path
) -> None:
    shown = [json.loads(line) for line in (finished / "evaluation/examples.jsonl").read_text().splitlines()]
    assert 2 <= len(shown) <= 12
    assert all(example["answers"].keys() == {"base", "tuned"} for example in shown)
    assert all(example["reference"] in {"New York", "Delaware", "Texas"} for example in shown)
    question = shown[0]["question"]
    assert question.startswith("Clause ") and question in (finished / "report.html").read_text()
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    words = words_of(tiny_model_dir, rows, out, f"quantization={finished.name}", "report.examples=false")
    assert main(["report", *words]) == 0
    assert "Clause " not in (out / "report.html").read_text()


def test_the_numbers_of_the_summary_are_those_of_the_item_table(finished: Path) -> None:
    items = [json.loads(line) for line in (finished / "evaluation/items.jsonl").read_text().splitlines()]
    summary = json.loads((finished / "evaluation/summary.json").read_text())["metrics"]
    for model in ("base", "tuned"):
        values = [row["value"] for row in items if (row["model"], row["metric"]) == (model, "choice_accuracy")]
        assert summary["choice_accuracy"][model]["value"] == pytest.approx(sum(values) / len(values))
        assert summary["choice_accuracy"][model]["n"] == len(values)


def test_adapter_and_merged_model_load_without_us_and_agree(finished: Path, tiny_model_dir: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, finished / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(finished / "export/safetensors", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "export/safetensors")
    equal = total = 0
    for number in range(20):
        chat = [{"role": "user", "content": f"Clause {number}: the law of Texas governs. Which law?"}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        one, other = (
            model.generate(**ids, max_new_tokens=16, min_new_tokens=16, do_sample=False) for model in (tuned, merged)
        )
        start = ids["input_ids"].shape[1]
        equal += int((one[0, start:] == other[0, start:]).sum())
        total += 16
    assert equal / total >= 0.99


def test_a_finished_run_is_refused_and_resume_does_what_is_missing(
    finished: Path, tiny_model_dir: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    words = words_of(tiny_model_dir, rows, out, f"quantization={finished.name}")
    assert main(words) == 2
    assert "resume=true" in capsys.readouterr().err
    (out / "evaluation/summary.json").unlink()
    shutil.rmtree(out / "export")
    (out / "report.html").unlink()
    adapter = (out / "adapter/adapter_model.safetensors").stat().st_mtime_ns
    assert main([*words, "resume=true"]) == 0
    assert (out / "adapter/adapter_model.safetensors").stat().st_mtime_ns == adapter
    assert all(
        (out / name).is_file() for name in ("evaluation/summary.json", "export/verification.json", "report.html")
    )


def test_parts_can_be_done_again_alone(finished: Path, tiny_model_dir: Path, rows: Path) -> None:
    words = words_of(tiny_model_dir, rows, finished, f"quantization={finished.name}")
    for command in ("evaluate", "export", "report"):
        assert main([command, *words]) == 0
    assert main(["evaluate", *words, "seed=5"]) == 2


@pytest.mark.bar("R14")
def test_a_wrong_export_fails_the_run(
    finished: Path, tiny_model_dir: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.export.merged_rows import MergedRows

    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    original = MergedRows._updated

    def sabotaged(*arguments: Any, **named: Any) -> Any:
        return original(*arguments, **named) * 1.5

    monkeypatch.setattr(MergedRows, "_updated", sabotaged)
    words = words_of(tiny_model_dir, rows, out, f"quantization={finished.name}")
    assert main(["export", *words]) == 1
    assert not json.loads((out / "export/verification.json").read_text())["safetensors"]["passed"]
    assert (out / "export/safetensors.unverified").is_dir()


@pytest.mark.parametrize("choice", ["dequantized", "auto"])
def test_other_merge_bases(choice: str, tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    words = words_of(tiny_model_dir, rows, tmp_path / "run", "quantization=nf4", f"export.merge_base={choice}")
    assert main(words) == 0
    assert json.loads((tmp_path / "run/export/verification.json").read_text())["safetensors"]["passed"]


def test_plain_text_and_inspect(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    for number in range(12):
        sentence = f"This agreement number {number} is governed by the laws of the State of New York. "
        (folder / f"contract_{number}.txt").write_text(sentence * 8)
    words = words_of(tiny_model_dir, folder, tmp_path / "run")
    assert main(["inspect", *words]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate: 0.01" in shown and "⟦" in shown and "rows" in shown
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data"]
    assert main(words) == 0
    summary = json.loads((tmp_path / "run/evaluation/summary.json").read_text())
    assert summary["main_metric"] == "bits_per_byte"
    assert summary["metrics"]["bits_per_byte"]["tuned"]["value"] < summary["metrics"]["bits_per_byte"]["base"]["value"]


def torchrun(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "finetune"]
    return subprocess.run(
        [*launch, *words],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.few(1, rest="exhaustive")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_two_processes_give_one_run_folder(quantization: str, tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = words_of(tiny_model_dir, rows, out, f"quantization={quantization}", "training.batch_tokens=4096")
    done = torchrun(words, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((out / "versions.json").read_text())["num_processes"] == 2
    assert json.loads((out / "export/verification.json").read_text())["safetensors"]["passed"]
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in losses] == sorted({row["step"] for row in losses})
    assert losses[-1]["validation_loss"] < losses[0]["validation_loss"]
    from safetensors import safe_open

    with safe_open(out / "adapter/adapter_model.safetensors", "pt") as file:
        assert len(list(file.keys())) == 2 * 2 * 7
    again = torchrun(words, tmp_path)
    assert again.returncode != 0 and again.stderr.count("finetune: output_dir") == 1, again.stderr[-3000:]


def test_two_processes_learn_what_one_learns(tiny_model_dir: Path, rows: Path, tmp_path: Path) -> None:
    """The loss is the mean over all processes' tokens: one step over everything is the same step."""
    everything = ("training.batch_tokens=100000", "training.max_steps=2", "model.dtype=float32")
    assert main(["train", *words_of(tiny_model_dir, rows, tmp_path / "one", *everything)]) == 0
    done = torchrun(["train", *words_of(tiny_model_dir, rows, tmp_path / "two", *everything)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert one[-1]["validation_loss"] == pytest.approx(two[-1]["validation_loss"], rel=2e-3)
    assert one[0]["validation_loss"] == pytest.approx(two[0]["validation_loss"], rel=1e-5)
    assert one[1]["tokens"] == two[1]["tokens"]


def test_a_sweep_makes_a_run_each(
    tiny_model_dir: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in words_of(tiny_model_dir, rows, tmp_path) if not word.startswith("output_dir")]
    assert main(["train", "-m", *words, "seed=1,2", f"output_dir={tmp_path}/seed_${{seed}}"]) == 0
    assert all((tmp_path / name / "adapter").is_dir() for name in ("seed_1", "seed_2"))
    assert capsys.readouterr().err.count("trained 4 steps") == 2, "each run of a sweep reports"
