"""GGUF from the command line: a whole run, an adapter made elsewhere, and what ends in one line before or after."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from finetune.__main__ import main
from finetune.export.gguf import write as writer

pytestmark = pytest.mark.slow

FORMATS = "export.formats=[safetensors,gguf_f16,gguf_q8_0,gguf_lora]"
QUICK = (
    "training.max_steps=4",
    "training.learning_rate=0.01",
    "evaluation.max_items=12",
    "export.verification_items=4",
    "export.task_items=4",
)


def words_of(model: Path, rows: Path, out: Path, *more: str) -> list[str]:
    return ["model=local", f"model.path={model}", f"data.path={rows}", f"output_dir={out}", *QUICK, *more]


def test_a_run_writes_and_verifies_every_format(tiny_model_dir: Path, choice_rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "law"
    assert main(words_of(tiny_model_dir, choice_rows, out, "quantization=nf4", FORMATS, "export.imatrix=true")) == 0
    names = {path.name for path in (out / "export/gguf").rglob("*.gguf*")}
    assert names == {"law-F16.gguf", "law-Q8_0.gguf", "law-LoRA.gguf"}
    verified = json.loads((out / "export/verification.json").read_text())
    assert set(verified) == {"safetensors", "gguf_f16", "gguf_q8_0", "gguf_lora"}
    for found in verified.values():
        assert found["passed"] and found["tokenizer_match"] and found["template_match"], found
        assert found["quantization_shift_kl_mean"] > 0
    manifest = json.loads((out / "export/manifest.json").read_text())
    assert manifest["gguf_f16"]["law-F16.gguf"]["bytes"] == (out / "export/gguf/law-F16.gguf").stat().st_size
    assert (out / "export/Modelfile").read_text().startswith("FROM ./gguf/law-F16.gguf\n")
    linked = out / "export/lm_studio/models/finetune/law/law-Q8_0.gguf"
    assert linked.samefile(out / "export/gguf/law-Q8_0.gguf")
    summary = json.loads((out / "evaluation/summary.json").read_text())["metrics"]["choice_accuracy"]
    assert summary["gguf_q8_0"]["n"] == 4 and "gguf_lora" not in summary and summary["tuned"]["n"] > 4
    items = [json.loads(line) for line in (out / "evaluation/items.jsonl").read_text().splitlines()]
    asked = {row["item_id"] for row in items if row["model"] == "gguf_f16"}
    assert asked < {row["item_id"] for row in items if row["model"] == "tuned"}
    report = (out / "report.html").read_text()
    assert "gguf_q8_0" in report and "Tokens per second in llama.cpp" in report
    golden = json.loads((out / "data/golden.json").read_text())
    assert golden and all(item["whole"]["ids"] for item in golden)


def test_an_adapter_made_elsewhere_needs_no_run(
    tiny_model_dir: Path, plain_adapter_dir: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["export", "model=local", f"model.path={tiny_model_dir}", f"adapter.path={plain_adapter_dir}"]
    out = tmp_path / "theirs"
    assert main([*words, "export.formats=[gguf_q8_0,safetensors]", f"output_dir={out}"]) == 0
    assert (out / "export/gguf/theirs-Q8_0.gguf").is_file() and (out / "export/safetensors/config.json").is_file()
    assert main([*words, "export.formats=[gguf_q8_0]", "export.imatrix=true", f"output_dir={out}"]) == 2
    assert "needs the training rows" in capsys.readouterr().err


def test_the_wrong_base_is_told_before_anything_is_written(
    make_tiny_model: Any, plain_adapter_dir: Path, tmp_path: Path, capsys: Any
) -> None:
    other = make_tiny_model(hidden_size=128)
    out = tmp_path / "theirs"
    words = ["export", "model=local", f"model.path={other}", f"adapter.path={plain_adapter_dir}", f"output_dir={out}"]
    assert main([*words, "export.formats=[gguf_f16]"]) != 0
    assert "was made for another base" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()


@pytest.mark.bar("R14")
def test_a_file_that_is_not_the_model_keeps_its_ending(
    tiny_model_dir: Path, plain_adapter_dir: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "theirs"
    words = ["export", "model=local", f"model.path={tiny_model_dir}", f"adapter.path={plain_adapter_dir}"]
    words += ["export.formats=[gguf_f16]", f"output_dir={out}"]
    assert main(words) == 0
    good = (out / "export/gguf/theirs-F16.gguf").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(writer, "interleaved", lambda rows, head_rows: rows)
        assert main(words) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "gguf_f16 is not the model that was trained" in told and "attn_" in told
    assert (out / "export/gguf/theirs-F16.gguf.unverified").is_file()
    assert (out / "export/gguf/theirs-F16.gguf").read_bytes() == good
    assert not json.loads((out / "export/verification.json").read_text())["gguf_f16"]["passed"]
    assert main(words) == 0
    assert [path.name for path in (out / "export/gguf").iterdir()] == ["theirs-F16.gguf"]


def test_an_unknown_architecture_ends_before_the_training(
    tiny_model_dir: Path, choice_rows: Path, tmp_path: Path, capsys: Any
) -> None:
    import shutil

    model, out = tmp_path / "model", tmp_path / "law"
    shutil.copytree(tiny_model_dir, model)
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["MambaForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))
    assert main(words_of(model, choice_rows, out, "export.formats=[gguf_q8_0]")) == 2
    told = capsys.readouterr().err.strip()
    assert "MambaForCausalLM" in told and "convert_hf_to_gguf.py" in told
    assert not out.exists()


def test_a_full_disk_is_told_before_the_training(
    tiny_model_dir: Path, choice_rows: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.export import placing

    monkeypatch.setattr(placing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert main(words_of(tiny_model_dir, choice_rows, tmp_path / "law", "export.formats=[gguf_q8_0]")) == 1
    assert "the disk has" in capsys.readouterr().err
    assert not (tmp_path / "law/metrics.jsonl").exists()


@pytest.mark.bar("R15")
def test_a_repeated_export_gives_the_same_bytes(tiny_model_dir: Path, plain_adapter_dir: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        words = ["export", "model=local", f"model.path={tiny_model_dir}", f"adapter.path={plain_adapter_dir}"]
        assert main([*words, "export.formats=[gguf_q8_0]", f"output_dir={tmp_path / name / 'same'}"]) == 0
        found.append((tmp_path / name / "same/export/manifest.json").read_text())
    assert found[0] == found[1]
