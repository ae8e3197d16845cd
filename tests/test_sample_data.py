"""The sample sets that ship in data/: what their cards promise, checked on the files themselves."""

import contextlib
import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILDER = ROOT / "scripts" / "build_sample_data"
MODULES = {"legal": "legal", "medical": "medical", "code": "code_tasks"}
SPLIT_SIZES = {"train": (600, 800), "validation": (80, 100), "test": (200, 240)}
FIELDS = {"id": str, "task": str, "question": str, "options": list, "answer": str, "group": str}
CODE_FIELDS = {"tests": list, "entry_point": str}

Row = dict[str, object]


def domain_parameters() -> list[object]:
    """A domain is skipped only as long as nobody has written its module."""
    return [
        pytest.param(
            domain,
            marks=pytest.mark.skipif(
                not (ROOT / "scripts" / "sample_data" / f"{module}.py").is_file(),
                reason=f"scripts/sample_data/{module}.py is not written yet",
            ),
        )
        for domain, module in MODULES.items()
    ]


each_domain = pytest.mark.parametrize("domain", domain_parameters())


def read_splits(domain: str) -> dict[str, list[Row]]:
    """The rows of a domain's three files."""
    return {
        split: [
            json.loads(line) for line in (ROOT / "data" / domain / f"{split}.jsonl").read_text("utf-8").splitlines()
        ]
        for split in SPLIT_SIZES
    }


def strings(value: object) -> list[str]:
    """The value, asserted to be a list of strings."""
    assert isinstance(value, list)
    assert all(isinstance(item, str) for item in value)
    return value


@each_domain
def test_each_split_has_the_promised_size(domain: str) -> None:
    for split, rows in read_splits(domain).items():
        low, high = SPLIT_SIZES[split]
        assert low <= len(rows) <= high, f"{split}: {len(rows)} rows"


@each_domain
def test_every_row_has_the_schema(domain: str) -> None:
    expected = FIELDS | (CODE_FIELDS if domain == "code" else {})
    for split, rows in read_splits(domain).items():
        for row in rows:
            assert list(row) == list(expected), row
            assert all(isinstance(row[name], kind) and row[name] for name, kind in expected.items()), row
            assert str(row["id"]).startswith(f"{domain}-{split}-"), row["id"]


@each_domain
def test_the_answer_is_one_of_three_to_eight_different_options(domain: str) -> None:
    for rows in read_splits(domain).values():
        for row in rows:
            options = strings(row["options"])
            assert 3 <= len(options) <= 8, row["id"]
            assert len(set(options)) == len(options), row["id"]
            assert options.count(str(row["answer"])) == 1, row["id"]


@each_domain
def test_prose_answers_start_with_a_capital_and_have_no_full_stop(domain: str) -> None:
    if domain == "code":
        return
    for rows in read_splits(domain).values():
        for row in rows:
            for option in strings(row["options"]):
                assert re.match(r"[A-Z0-9]", option), (row["id"], option)
                assert not option.endswith("."), (row["id"], option)
                assert option == option.strip(), (row["id"], option)


@each_domain
def test_no_question_and_no_id_stands_twice(domain: str) -> None:
    rows = [row for split in read_splits(domain).values() for row in split]
    questions = Counter(" ".join(str(row["question"]).lower().split()) for row in rows)
    ids = Counter(row["id"] for row in rows)
    assert [question for question, count in questions.items() if count > 1] == []
    assert [name for name, count in ids.items() if count > 1] == []


@each_domain
def test_no_group_stands_in_two_splits(domain: str) -> None:
    groups = {split: {row["group"] for row in rows} for split, rows in read_splits(domain).items()}
    assert groups["train"].isdisjoint(groups["test"])
    assert groups["train"].isdisjoint(groups["validation"])
    assert groups["validation"].isdisjoint(groups["test"])


@each_domain
def test_no_answer_and_no_place_among_the_options_is_a_good_guess(domain: str) -> None:
    for split, rows in read_splits(domain).items():
        for task in {row["task"] for row in rows}:
            chosen = [row for row in rows if row["task"] == task]
            answer, count = Counter(str(row["answer"]) for row in chosen).most_common(1)[0]
            assert count <= 0.45 * len(chosen), f"{split} {task}: {count} of {len(chosen)} answers are {answer!r}"
        places = Counter(strings(row["options"]).index(str(row["answer"])) for row in rows)
        assert max(places.values()) <= 0.5 * len(rows), f"{split}: places of the answer {places}"


@each_domain
def test_the_card_counts_what_is_there(domain: str) -> None:
    card = (ROOT / "data" / domain / "README.md").read_text("utf-8")
    assert "Apache-2.0" in card
    assert "{counts}" not in card
    splits = read_splits(domain)
    for task in {row["task"] for rows in splits.values() for row in rows}:
        counts = [sum(row["task"] == task for row in rows) for rows in splits.values()]
        assert f"\n| {task} | " + " | ".join(map(str, counts)) + " |" in card, task


@pytest.mark.slow
@each_domain
def test_building_again_gives_the_same_bytes(domain: str) -> None:
    result = subprocess.run(
        [sys.executable, str(BUILDER), "--check", domain], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_check_tells_which_file_differs(tmp_path: Path) -> None:
    """Another seed makes other files, so --check must not pass."""
    command = [sys.executable, str(BUILDER), "--check", "--seed", "2", "legal"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 1
    assert "data/legal/test.jsonl differs" in result.stderr


def passes(source: str, tests: list[str], entry_point: str) -> bool:
    """Whether a candidate of our own making defines the entry point and every assertion holds."""
    namespace: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(source, namespace)
            if not callable(namespace.get(entry_point)):
                return False
            for test in tests:
                exec(test, namespace)
        except Exception:
            return False
    return True


@each_domain
def test_code_answers_pass_their_tests_and_distractors_do_not(domain: str) -> None:
    for rows in read_splits(domain).values() if domain == "code" else ():
        for row in rows:
            tests, entry_point = strings(row["tests"]), str(row["entry_point"])
            assert tests, row["id"]
            for option in strings(row["options"]):
                passed = passes(option, tests, entry_point)
                assert passed == (option == row["answer"]), f"{row['id']}: passes={passed}\n{option}"


def test_legal_distractors_stand_in_the_clause() -> None:
    """Reading any place or number out of the clause is not enough: at least one wrong option is mentioned too."""
    for rows in read_splits("legal").values():
        for row in rows:
            if row["task"] == "clause_type":
                continue
            mentioned = [option for option in strings(row["options"]) if stands_in(option, str(row["question"]))]
            assert row["answer"] in mentioned, row
            assert len(mentioned) >= 2, row


def stands_in(option: str, text: str) -> bool:
    """Whether a clause mentions the jurisdiction ("England" is enough) or the number of days."""
    return re.search(rf"\b{re.escape(option.removesuffix(' days').split(' and ')[0])}\b", text) is not None


def test_no_governing_law_is_asked_for_in_two_splits() -> None:
    """The card promises that the jurisdictions of test were never seen in training, as answer or as distractor."""
    places = {
        split: {option for row in rows if row["task"] == "governing_law" for option in strings(row["options"])}
        for split, rows in read_splits("legal").items()
    }
    assert len(set.union(*places.values())) == sum(map(len, places.values())) >= 40
