"""Several sources mixed by weight, the ledger per source, related rows, and memory that does not grow with the file."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config import DataConfig, DataFormat, NearDuplicates, SourceConfig
from finetune.data.check import Ledger
from finetune.data.read import read_splits
from finetune.errors import ConfigError, DataError
from finetune.records import Splits

Write = Callable[..., str]

LAWS = ("Delaware", "Texas", "Ohio", "Nevada", "Utah", "Iowa", "Maine")


def qa(count: int, word: str) -> list[dict[str, object]]:
    return [
        {"question": f"{word} {number} {LAWS[number % 7]}?", "answer": f"{word}-{number}"} for number in range(count)
    ]


def read(seed: int = 0, **options: Any) -> tuple[Splits, Ledger]:
    return read_splits(DataConfig(**options), seed=seed)


def everything(splits: Splits) -> Counter[str]:
    return Counter(row.answer.split("-")[0] for part in (splits.train, splits.validation, splits.test) for row in part)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1.0, 1.0), {"law": 40, "code": 40}),
        ((3.0, 1.0), {"law": 100, "code": 33}),
        ((1.0, 4.0), {"law": 10, "code": 40}),
        ((0.5, 0.1), {"law": 100, "code": 20}),
    ],
)
def test_sources_are_mixed_by_weight_and_no_row_is_repeated(
    write: Write, weights: tuple[float, float], expected: dict[str, int]
) -> None:
    paths = write("law.jsonl", qa(100, "law")), write("code.jsonl", qa(40, "code"))
    sources = [SourceConfig(path=path, weight=weight) for path, weight in zip(paths, weights, strict=True)]
    splits, ledger = read(path="", sources=sources)
    assert everything(splits) == expected
    found: Any = ledger.to_json()
    assert found["rows_in"] == found["rows_used"] == sum(expected.values())
    assert found["rows_not_drawn"] == 140 - sum(expected.values())
    assert {label: entry["used"] for label, entry in found["sources"].items()} == {
        "train[1]": expected["law"],
        "train[2]": expected["code"],
    }
    again, _ = read(path="", sources=sources)
    assert list(again.train) == list(splits.train)


def test_each_source_has_its_own_format_and_mapping(write: Write) -> None:
    table = write("clauses.csv", "Clause,Law\n" + "".join(f"Clause number {n},{LAWS[n % 7]}\n" for n in range(30)))
    chats = write(
        "chats.jsonl",
        [
            {"messages": [{"role": "user", "content": f"hello {n}"}, {"role": "assistant", "content": f"chat-{n}"}]}
            for n in range(30)
        ],
    )
    mapped = SourceConfig(path=table, prompt="Which law? {Clause}", completion="law-{Law}", system="Be brief.")
    splits, ledger = read(path="", sources=[mapped, SourceConfig(path=chats)])
    assert everything(splits) == {"law": 30, "chat": 30}
    assert [entry["format"] for entry in ledger.sources.values()] == ["prompt_completion", "messages"]
    systems = {row.messages[0].role == "system" for row in splits.train if row.answer.startswith("law")}
    assert systems == {True}


def test_rejections_are_counted_per_source(write: Write) -> None:
    bad = [*qa(20, "bad"), {"question": "Q", "answer": ""}, {"question": None, "answer": "A"}]
    good = [*qa(20, "good"), *qa(3, "bad")]
    paths = [write("bad.jsonl", bad), write("good.jsonl", good)]
    _, ledger = read(path="", sources=[SourceConfig(path=path) for path in paths], test_share=0.0)
    found: Any = ledger.to_json()
    assert found["sources"]["train[1]"]["rejected"] == {"empty_answer": 1, "null": 1}
    assert found["sources"]["train[2]"]["rejected"] == {"exact_duplicate": 3}
    for entry in found["sources"].values():
        assert entry["rows"] >= entry["used"] + sum(entry["rejected"].values())


def test_an_empty_or_useless_source_is_named(write: Write) -> None:
    good = SourceConfig(path=write("good.jsonl", qa(20, "good")))
    bad = SourceConfig(path=write("bad.jsonl", [{"question": "Q", "answer": ""}] * 4))
    with pytest.raises(DataError, match=r"^bad.jsonl: all 4 rows have an empty answer"):
        read(path="", sources=[good, bad])
    assert "weight: -1" in " ".join(DataConfig(path="", sources=[SourceConfig(path="a", weight=-1.0)]).problems())


@pytest.mark.slow
def test_a_recipe_names_sources_and_the_command_line_replaces_them(
    tmp_path: Path, monkeypatch: Any, write: Write
) -> None:
    from finetune.compose import load_config

    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "# Own sources.\ndefaults: []\ndata:\n  sources:\n  - {path: law.jsonl, weight: 2}\n  - {path: code.jsonl}\n"
    )
    law, code = write("law.jsonl", qa(9, "law")), write("code.jsonl", qa(9, "code"))
    config = load_config(str(recipe), "model=embedded")
    assert [(source.path, source.weight) for source in config.data.sources] == [(law, 2.0), (code, 1.0)]
    monkeypatch.chdir(tmp_path)
    assert load_config(str(recipe), "model=embedded", "data.path=law.jsonl").data.sources == []
    typed = load_config("legal_qlora", "model=embedded", "data.sources=[law.jsonl,{path: code.jsonl, weight: 3}]")
    assert [(source.path, source.weight) for source in typed.data.sources] == [(law, 1.0), (code, 3.0)]
    assert (typed.data.path, typed.data.test_path, typed.data.format) == ("", None, DataFormat.auto)
    for words, message in (
        ("data.sources=law.jsonl", "no list of sources"),
        ("data.sources=[{path: law.jsonl, wieght: 2}]", "no option 'wieght'. Did you mean 'weight'"),
        ("data.sources=[{weight: 2}]", "names no path"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("legal_qlora", "model=embedded", words)


def words(count: int, seed: int) -> str:
    chooser = random.Random(seed)
    return " ".join("".join(chooser.choices("abcdefghij", k=6)) for _ in range(count))


def test_rows_about_one_text_are_kept_and_stay_on_one_side(write: Write) -> None:
    asked = ("Who delivers?", "What is the deadline?", "Which item comes last?", "How many parts?", "Who pays the fee?")
    rows = [
        {"context": f"{words(150, seed=n)}.", "question": question, "answer": f"{words(2, seed=place * 40 + n)} {n}"}
        for n in range(12)
        for place, question in enumerate(asked)
    ]
    splits, ledger = read(path=write("rows.jsonl", rows), validation_share=0.2, test_share=0.2)
    assert ledger.rows_used == 60 and ledger.rejected["near_duplicate"] == 0
    assert ledger.related_rows == 60
    sides = [{row.answer.split()[-1] for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


@pytest.mark.parametrize("policy", list(NearDuplicates))
def test_near_duplicates_are_dropped_reported_or_ignored(write: Write, policy: NearDuplicates) -> None:
    rows = [{"text": f"{LAWS[n % 7]} agreement: {words(120, seed=n)}"} for n in range(40)]
    planted = [{"text": str(rows[n]["text"]).upper().replace("AGREEMENT:", "AGREEMENT -")} for n in range(6)]
    splits, ledger = read(path=write("rows.jsonl", [*rows, *planted]), near_duplicates=policy)
    found: Any = ledger.to_json()
    assert found["rows_in"] == 46 == found["rows_used"] + sum(found["rejected"].values())
    assert found["duplicates"]["near"] == (0 if policy is NearDuplicates.ignore else 6)
    assert found["rejected"]["near_duplicate"] == (6 if policy is NearDuplicates.drop else 0)
    if policy is NearDuplicates.report:
        sides = [{row.answer.lower()[-20:] for row in part} for part in (splits.train, splits.validation, splits.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_rejected_rows_are_kept_with_their_content(write: Write, tmp_path: Path) -> None:
    _, ledger = read(path=write("rows.jsonl", [*qa(20, "law"), *qa(2, "law"), {"question": "who?", "answer": " "}]))
    path = tmp_path / "data" / "rejected.jsonl"
    ledger.write_rejected(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert Counter(line["reason"] for line in lines) == {"exact_duplicate": 2, "empty_answer": 1}
    assert all(line["source"].startswith("rows.jsonl:") and line["detail"] for line in lines)
    assert any("law 0 Delaware?" in line.get("content", "") for line in lines)


WORDS = ("agreement", "tenant", "payment", "notice", "party", "term", "law", "court", "damages", "rent")
MEASURE = """
import resource, sys
from finetune.config import DataConfig, NearDuplicates
from finetune.data.read import read_splits
splits, ledger = read_splits(DataConfig(path=sys.argv[1], near_duplicates=NearDuplicates[sys.argv[2]]), seed=0)
for row in splits.train:
    pass
print(ledger.rows_used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_large(path: Path, megabytes: int) -> int:
    text = " ".join(WORDS) * 12
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(json.dumps({"question": f"{rows} {WORDS[rows % 10]}?", "answer": f"{rows} {text}"}) + "\n")
            rows += 1
    return rows


@pytest.mark.exhaustive
def test_memory_is_flat_from_100_megabytes_to_one_gigabyte(tmp_path: Path) -> None:
    peaks = []
    for megabytes in (100, 1000):
        path = tmp_path / "rows.jsonl"
        rows = write_large(path, megabytes)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), "ignore"],
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        used, peak = map(int, done.stdout.split())
        assert used == rows
        peaks.append(peak)
        path.unlink()
    # some fifty bytes a row stay in memory: 900,000 rows more are 45 MB
    assert peaks[1] - peaks[0] < 120, peaks


def test_of_a_very_large_test_set_an_even_part_is_compared(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.leaks._MOST_CHARACTERS", 4000)
    rows = [{"text": f"agreement {n}: {words(40, seed=n)}"} for n in range(400)]
    splits, ledger = read(path=write("rows.jsonl", rows), near_duplicates=NearDuplicates.ignore)
    report: Any = ledger.to_json()
    found = report["contamination"]["test"]
    assert 0 < found["items"] < len(splits.test) == found["items"] + found["items_not_compared"]
    assert any("an even part was compared" in line for line in ledger.lines())
