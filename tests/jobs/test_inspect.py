"""`inspect`: what a user sees and what lies in the folder before anything is trained."""

import json
from pathlib import Path

import pytest

from finetune.compose import load_config
from finetune.jobs.inspect import inspect
from finetune.run import plain_config

ROWS = [
    {"question": f"Which law governs contract {number}?", "answer": law, "contract": f"c{number // 2}"}
    for number, law in enumerate(["New York", "Delaware", "Texas", "Ohio"] * 10)
]


def write_rows(path: Path, *more: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, *more]), encoding="utf-8")
    return path


def look(folder: Path, *words: str) -> dict[str, object]:
    rows = write_rows(
        folder / "rows.jsonl",
        {"question": "Who wrote to jane.roe@example.org?", "answer": "jane.roe@example.org did", "contract": "c99"},
        {"question": "empty", "answer": "", "contract": "c0"},
    )
    config = load_config(
        "quickstart",
        "model=embedded",
        f"data.path={rows}",
        f"output_dir={folder / 'run'}",
        "data.group=contract",
        *words,
    )
    inspect(config)
    return json.loads((folder / "run/data/ledger.json").read_text())


def test_the_folder_is_private_and_accounts_for_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = look(tmp_path)
    run = tmp_path / "run"
    assert sorted(path.name for path in run.iterdir()) == ["data"]
    assert run.stat().st_mode & 0o077 == 0
    assert (ledger["rows_in"], ledger["rows_used"]) == (42, 41)
    assert ledger["end_token_supervised_share"] == 1.0
    assert sum(ledger["lengths"].values()) == ledger["splits"]["train"] + ledger["splits"]["validation"]
    (rejected,) = [json.loads(line) for line in (run / "data/rejected.jsonl").read_text().splitlines()]
    assert (rejected["source"], rejected["reason"]) == ("rows.jsonl:42", "empty_answer")
    assert "empty" in rejected["content"]
    shown = capsys.readouterr().out
    assert "⟦" in shown and "42 in" in shown.replace("   ", " ").replace("  ", " ")
    assert "# Is it enough?" in shown and "training rows are few" in shown and "optimizer steps are few" in shown
    page = (run / "data/preview.html").read_text()
    assert page.count("<figure") == 3 and "<script" not in page


def test_personal_data_is_redacted_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer")
    ledger = look(tmp_path, "data.pii=redact")
    assert ledger["pii"] == {"email": 2} and ledger["pii_rows"] == 1
    written = [path for path in [*tmp_path.rglob("*")] if path.is_file() and path.name != "rows.jsonl"]
    assert any(path.name == "ids.uint32" for path in written)
    for path in written:
        assert b"jane.roe" not in path.read_bytes(), path
    assert "content" not in (tmp_path / "run/data/rejected.jsonl").read_text()


def test_personal_data_can_stop_the_run(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer")
    from finetune.errors import DataError

    with pytest.raises(DataError, match=r"rows\.jsonl:41") as caught:
        look(tmp_path, "data.pii=refuse")
    assert "jane" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_second_look_takes_the_tokens_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = look(tmp_path)
    capsys.readouterr()
    assert look(tmp_path) == first
    assert "tokenised train rows are taken from" in capsys.readouterr().err
    look(tmp_path, "training.max_length=100")
    assert "are taken from" not in capsys.readouterr().err


def test_a_benchmark_file_is_looked_for(tmp_path: Path) -> None:
    clause = (
        "The parties agree that the seller delivers two hundred blue barrels of oil to the northern harbour by June"
    )
    bench = tmp_path / "bench.jsonl"
    bench.write_text(
        json.dumps({"question": clause, "answer": "yes"}) + "\n" + json.dumps({"question": "a", "answer": "b"})
    )
    rows = write_rows(
        tmp_path / "own.jsonl", {"question": f"Read: {clause}. True?", "answer": "yes", "contract": "c77"}
    )
    config = load_config(
        "quickstart", "model=embedded", f"data.path={rows}", f"output_dir={tmp_path / 'run'}",
        f"data.contamination_paths=[{bench}]", "data.test_share=0.1", "data.validation_share=0.1", "seed=1",
    )  # fmt: skip
    inspect(config)
    entry = json.loads((tmp_path / "run/data/ledger.json").read_text())["contamination"][str(bench)]
    assert (entry["items"], entry["contaminated"]) == (2, 1)
    assert entry["examples"][0]["item"] == "bench.jsonl:1"


def test_a_rejected_row_tells_nothing_where_personal_data_is_removed(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer")
    from finetune.config import DataConfig
    from finetune.data.read import read_splits

    good = [{"question": f"Q{n}?", "options": ["yes", "no"], "answer": "yes", "id": str(n)} for n in range(12)]
    bad = {"question": "Who?", "options": ["yes", "no"], "answer": "jane.roe@example.org"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*good, bad]), encoding="utf-8")
    for policy, is_told in (("off", True), ("redact", False)):
        _, ledger = read_splits(DataConfig(path=str(path), pii=policy), seed=0)
        ledger.write_rejected(tmp_path / "rejected.jsonl")
        told = json.dumps(ledger.to_json()) + "\n".join(ledger.lines()) + (tmp_path / "rejected.jsonl").read_text()
        assert ("jane.roe" in told) == is_told
        assert sum(ledger.rejected.values()) == 1


def test_the_data_come_first_and_the_configuration_is_short_and_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    look(tmp_path, "training.max_length=100", "data.prompt=null")
    shown = capsys.readouterr().out
    places = [shown.index(heading) for heading in ("# Data", "# What is learned", "# Configuration")]
    assert places == sorted(places) and shown.startswith("# Data")
    lines = shown[places[-1] :].splitlines()[1:]
    assert len(lines) < 40 and max(map(len, lines)) < 250
    printed = yaml.safe_load("\n".join(lines))
    stored = plain_config(load_config("quickstart", "model=embedded", "training.max_length=100"))
    assert printed["training"]["max_length"] == 100
    assert printed["data"]["group"] == "contract" and "system" not in printed["data"]
    assert [*printed] == [key for key, value in stored.items() if value not in (None, [])]
    for section in ("model", "adapter", "training", "evaluation", "export"):
        assert printed[section] == {key: value for key, value in stored[section].items() if value not in (None, [])}
