"""How much of a seeded set of made-up personal data is found, kind by kind, and how fast.

    python benchmarks/bench_pii.py [--files a.jsonl b.txt]

Prints one table; writes benchmarks/pii.json, and finetune/data/privacy/measured.json, which the report quotes.
`--files` adds false alarms to look at: findings per 1,000 rows of your own files, and rows per second.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "data" / "privacy")]

from importlib.metadata import version  # noqa: E402

import pii_synthetic  # noqa: E402

from finetune.data.privacy.engine import Finding  # noqa: E402
from finetune.data.privacy.fields import Field  # noqa: E402
from finetune.data.privacy.personal_data import NOT_FOUND, find  # noqa: E402


def measure(samples: list[pii_synthetic.Sample], decoys: tuple[str, ...]) -> dict[str, dict[str, float | int]]:
    """Return n, recall, right_kind and precision by kind.

    recall: planted values that are covered whole by findings of any kind, hence gone after redaction.
    right_kind: planted values covered by a finding of their own kind. precision: of all findings of a kind, over all
    sentences and decoys, those that touch a planted value of that kind.
    """
    planted, covered, named = Counter[str](), Counter[str](), Counter[str]()
    found_of, right_of = Counter[str](), Counter[str]()
    for sample in samples:
        findings = _find(sample.text)
        planted[sample.kind] += 1
        hits = [one for one in findings if one.start <= sample.start and one.end >= sample.end]
        covered[sample.kind] += bool(hits)
        named[sample.kind] += any(one.kind == sample.kind for one in hits)
        for one in findings:
            found_of[one.kind] += 1
            right_of[one.kind] += one.kind == sample.kind and one.start < sample.end and one.end > sample.start
    for text in decoys:
        for one in _find(text):
            found_of[one.kind] += 1
    return {
        kind: {
            "n": planted[kind],
            "recall": round(covered[kind] / planted[kind], 3),
            "right_kind": round(named[kind] / planted[kind], 3),
            "precision": round(right_of[kind] / max(found_of[kind], 1), 3),
        }
        for kind in planted
    }


def _find(text: str) -> list[Finding]:
    return find([Field(label="", text=text)])[0]


def measure_file(path: Path) -> dict[str, object]:
    """Return rows, findings per 1,000 rows by kind, rows per second; a .txt file is one row, a .jsonl line another."""
    texts = _texts(path)
    started = time.perf_counter()
    counts = Counter(one.kind for text in texts for one in _find(text))
    seconds = time.perf_counter() - started
    return {
        "rows": len(texts),
        "characters": sum(map(len, texts)),
        "rows_per_second": round(len(texts) / seconds, 1),
        "findings_per_1000_rows": {kind: round(1000 * n / len(texts), 2) for kind, n in counts.most_common()},
    }


def _texts(path: Path) -> list[str]:
    if path.is_dir():
        return [one.read_text(encoding="utf-8", errors="replace") for one in sorted(path.glob("*.txt"))]
    content = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".jsonl":
        return [_strings(json.loads(line)) for line in content.splitlines() if line.strip()]
    if path.suffix == ".json":
        rows = json.loads(content)
        return [_strings(row) for row in (rows.values() if isinstance(rows, dict) else rows)]
    return [content]


def _strings(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(_strings(inner) for inner in value.values())
    if isinstance(value, list):
        return "\n".join(map(_strings, value))
    return value if isinstance(value, str) else ""


def main() -> None:
    """Measure, print the table, write the JSON files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--files", type=Path, nargs="*", default=[], help=".jsonl, .json or .txt files, folders of .txt"
    )
    arguments = parser.parse_args()
    kinds = measure(pii_synthetic.samples(), pii_synthetic.DECOYS)
    known = measure(pii_synthetic.samples(held_out=False), ())
    print(f"{'kind':24}{'n':>6}{'recall':>9}{'right kind':>12}{'precision':>11}{'known sentences':>25}")
    for kind, row in sorted(kinds.items()):
        row["recall_known_sentences"] = known[kind]["recall"]
        print(
            f"{kind:24}{row['n']:6}{row['recall']:9.3f}{row['right_kind']:12.3f}{row['precision']:11.3f}"
            f"{row['recall_known_sentences']:25.3f}"
        )
    result: dict[str, object] = {
        "seed": pii_synthetic.SEED,
        "per_kind": pii_synthetic.PER_KIND,
        "decoys": len(pii_synthetic.DECOYS),
        "presidio_analyzer": version("presidio-analyzer"),
        "phonenumbers": version("phonenumbers"),
        "not_found": NOT_FOUND,
        "kinds": dict(sorted(kinds.items())),
    }
    measured = ROOT / "finetune" / "data" / "privacy" / "measured.json"
    measured.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    files = {path.name: measure_file(path) for path in arguments.files}
    for name, row in files.items():
        print(f"{name}: {row['rows']} rows, {row['rows_per_second']} rows/s")
        print(f"  findings per 1,000 rows: {row['findings_per_1000_rows']}")
    if files:
        result["files"] = files
    (ROOT / "benchmarks" / "pii.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
