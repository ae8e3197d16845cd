"""benchmarks/bench_data.py: each check's cost is measured apart, on a stated number of rows."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_data.py"


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_data", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(bench: ModuleType, tmp_path: Path) -> Path:
    source, path = tmp_path / "source.jsonl", tmp_path / "rows.jsonl"
    pairs = [
        {"question": f"Who is number {n}?\u2028", "answer": f"It is {'abcdefgh'[n % 8] * n}"} for n in range(1, 60)
    ]
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    bench.write_rows(source, path, 120)
    return path


@pytest.mark.parametrize(
    "name", ["near-duplicates", "contamination", pytest.param("personal data", marks=pytest.mark.slow)]
)
def test_a_check_is_measured_beside_reading(bench: ModuleType, rows: Path, name: str) -> None:
    pytest.importorskip(bench.NEEDS.get(name, "json").replace("-", "_"))
    found = bench.check(name, rows)
    assert found["rows"] == 120
    assert found["reading_seconds"] >= 0 and found["seconds"] > 0


def test_the_table_says_what_is_measured_and_what_is_projected(bench: ModuleType) -> None:
    found = {"rows": 2000, "reading_seconds": 0.2, "seconds": 10.0}
    assert bench.check_table({"personal data": found}, 50_000).splitlines()[1].split()[2:] == [
        *("2,000", "0.2", "10.0", "200", "250.0", "(projected)"),
    ]
    assert "projected" not in bench.check_table({"contamination": found}, 2000)
