"""From files to splits: the ledger's conservation law, duplicates, drawing, and the errors that stop a run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.config import DataConfig, DataFormat
from finetune.data.check import REASONS, Ledger
from finetune.data.read import read_splits
from finetune.errors import DataError
from finetune.records import Rejection, Splits

Write = Callable[..., str]


def qa(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"question": f"Q{number}?", "answer": f"A{number}"} for number in range(start, start + count)]


def read(path: str, seed: int = 0, **options: Any) -> tuple[Splits, Ledger]:
    return read_splits(DataConfig(path=path, **options), seed=seed)


def everything(splits: Splits) -> list[str]:
    return [row.source for part in (splits.train, splits.validation, splits.test) for row in part]


def test_clean_rows_are_all_used(write: Write) -> None:
    splits, ledger = read(write("train.jsonl", qa(30)))
    found = ledger.to_json()
    assert found["rows_in"] == found["rows_used"] == 30
    assert found["splits"] == {"train": 24, "validation": 3, "test": 3}
    assert found["rejected"] == dict.fromkeys(REASONS, 0)
    assert found["duplicates"] == {"exact": 0, "near": 0, "across_splits": 0}
    assert found["tokens"] == {"total": 0, "supervised": 0, "truncated": 0}
    assert found["pii"] == {}
    assert sorted(everything(splits)) == sorted(f"train.jsonl:{line}" for line in range(1, 31))
    json.dumps(found)


cells = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "A1", "Q?", "[]"]),
    st.text(max_size=5),
    st.integers(0, 3),
    st.lists(st.text(max_size=2), max_size=2),
    st.booleans(),
)
dirty_lines = st.one_of(
    st.dictionaries(st.sampled_from(["question", "answer", "id", "group", "extra"]), cells, max_size=5).map(json.dumps),
    st.sampled_from(["[]", "3", "null", '"x"', "", "   ", '{"question": "\\ud800", "answer": "x"}']),
).map(str.encode)
broken_lines = st.sampled_from([b'{"question": "\xff"}', b"\xc3"])


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(dirty_lines, broken_lines), max_size=30), st.integers(0, 2**31), st.one_of(st.none(), st.just(5))
)
def test_rows_in_are_rows_used_plus_rows_rejected(
    tmp_path: Path, lines: list[bytes], seed: int, max_rows: int | None
) -> None:
    """R12, the conservation law, on generated dirty files."""
    clean = [json.dumps(row).encode() for row in qa(6)]
    path = tmp_path / "dirty.jsonl"
    path.write_bytes(b"\n".join(clean + lines))
    splits, ledger = read(str(path), seed, max_rejected_share=1.0, max_rows=max_rows, format=DataFormat.question_answer)
    found: Any = ledger.to_json()
    assert found["rows_read"] == sum(bool(line.strip()) for line in clean + lines)
    assert found["rows_in"] == found["rows_used"] + sum(found["rejected"].values())
    assert found["rows_in"] + found["rows_not_drawn"] == found["rows_read"]
    assert found["rows_used"] == sum(found["splits"].values()) == len(everything(splits))
    ids = [row.item_id for part in (splits.train, splits.validation, splits.test) for row in part]
    assert len(set(ids)) == len(ids)


def test_the_ledger_refuses_to_be_written_when_a_row_is_lost() -> None:
    ledger = Ledger(rows_read=3, rows_used=1)
    ledger.reject(Rejection(source="f:2", reason="null", detail="d"))
    with pytest.raises(AssertionError, match="3 rows in, 1 \\+ 1 out"):
        ledger.to_json()


def test_examples_keep_the_first_three_of_each_reason(write: Write) -> None:
    rows = [*qa(20), *({"question": f"Q{number}", "answer": " "} for number in range(5)), {"question": "x"}]
    _, ledger = read(write("train.jsonl", rows))
    assert ledger.rejected["empty_answer"] == 5
    assert [entry["source"] for entry in ledger.examples["empty_answer"]] == [f"train.jsonl:{n}" for n in (21, 22, 23)]
    table = "\n".join(ledger.lines())
    assert "26 in" in table.replace("  ", " ")
    assert "empty_answer" in table
    assert "first: train.jsonl:21: the answer is empty" in table
    assert "null" not in table


def test_duplicates_inside_a_file_keep_the_first(write: Write) -> None:
    splits, ledger = read(write("train.jsonl", [*qa(10), *qa(10)]))
    assert ledger.duplicates == {"exact": 10, "near": 0, "across_splits": 0}
    assert ledger.rejected["exact_duplicate"] == 10
    assert sorted(everything(splits)) == sorted(f"train.jsonl:{line}" for line in range(1, 11))
    assert ledger.examples["exact_duplicate"][0]["detail"] == "the same as train.jsonl:1"


def test_training_rows_that_stand_in_a_test_file_are_removed_from_training(write: Write) -> None:
    path = write("train.jsonl", qa(20))
    validation, test = write("validation.jsonl", qa(3, start=19)), write("test.jsonl", qa(4, start=17))
    splits, ledger = read(path, validation_path=validation, test_path=test)
    assert len(splits.test) == 4
    assert [row.source for row in splits.validation] == ["validation.jsonl:3"]
    assert len(splits.train) == 17
    assert ledger.duplicates["across_splits"] == ledger.rejected["exact_duplicate"] == 5
    assert ledger.rows_in == 27


def test_test_file_equal_to_the_training_file_leaves_nothing(write: Write) -> None:
    path = write("train.jsonl", qa(20))
    with pytest.raises(DataError, match=r"^train.jsonl: no training rows are left; all of them also stand"):
        read(path, test_path=path)


def test_own_files_take_no_share_and_their_ids_stay_unique(write: Write) -> None:
    rows = [row | {"id": number} for number, row in enumerate(qa(10))]
    other = [row | {"id": number} for number, row in enumerate(qa(4, start=50))]
    splits, ledger = read(write("a/train.jsonl", rows), test_path=write("b/train.jsonl", other))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (9, 1, 4)
    ids = [row.item_id for part in (splits.train, splits.validation, splits.test) for row in part]
    assert len(set(ids)) == 14
    assert {"4", "9", "test/train.jsonl:1", "train/train.jsonl:1"} <= set(ids)
    assert set(ledger.sources) == {"train", "test"}


def test_max_rows_draws_usable_rows_with_the_seed(write: Write) -> None:
    path = write("train.jsonl", [*qa(50), {"question": "Q", "answer": ""}])
    first, ledger = read(path, seed=1, max_rows=20)
    assert (ledger.rows_in, ledger.rows_used, ledger.rows_not_drawn) == (21, 20, 30)
    assert everything(first) == everything(read(path, seed=1, max_rows=20)[0])
    assert everything(first) != everything(read(path, seed=2, max_rows=20)[0])
    assert "30 more rows are left out by data.max_rows" in "\n".join(ledger.lines())


def test_groups_stay_together(choice_rows: Path) -> None:
    splits, _ = read(str(choice_rows))
    sides = [{row.group for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sum(map(len, sides)) == 20


def test_one_document_is_cut_before_the_split_and_counts_as_one_row(write: Write) -> None:
    splits, ledger = read(
        write("book.txt", "\n\n".join(f"Paragraph {number} " + "word " * 60 for number in range(200)))
    )
    assert (ledger.rows_in, ledger.rows_used) == (1, 1)
    assert sum(ledger.splits.values()) > 20
    assert all(ledger.splits.values())
    assert splits.test[0].source.startswith("book.txt#")


def test_documents_of_a_folder_stay_whole(write: Write) -> None:
    for number in range(10):
        folder = Path(write(f"docs/{number}.txt", f"Document {number}. " * 500)).parent
    splits, ledger = read(str(folder))
    assert ledger.splits == {"train": 8, "validation": 1, "test": 1}
    assert {row.group for row in splits.test} == {row.source for row in splits.test}


def test_mapping_makes_prompt_and_completion_from_any_columns(write: Write) -> None:
    rows = [{"QUESTION": f"Q{number}", "final_decision": "yes", "LONG_ANSWER": "x"} for number in range(5)]
    splits, ledger = read(write("p.jsonl", rows), prompt=r"{QUESTION}\n", completion="{final_decision}")
    assert splits.train[0].messages[0].content.endswith("\n")
    assert splits.train[0].answer == "yes"
    assert ledger.sources["train"]["format"] == "prompt_completion"


PUBMED = [{"QUESTION": "Q", "CONTEXTS": ["c"], "LONG_ANSWER": "L", "final_decision": "yes"}]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            PUBMED,
            {},
            r"^t.jsonl: cannot tell the format from the columns QUESTION, CONTEXTS, LONG_ANSWER, final_decision. "
            r"Map them, such as data.prompt='{QUESTION}' data.completion='{final_decision}', or name the format: "
            r"data.format=messages\|",
        ),
        ([{}] * 3, {}, r"^t.jsonl: cannot tell the format from the columns \(none\)"),
        (
            qa(3),
            {"prompt": "{question}", "completion": "{anwser}"},
            "^data.completion: t.jsonl has no column 'anwser'. Did",
        ),
        (qa(3), {"group": "contract"}, r"^data.group: t.jsonl has no column 'contract'. Columns: question, answer"),
        (qa(3), {"text_column": "body"}, r"^data.text_column: t.jsonl has no column 'body'"),
        (
            qa(3),
            {"format": DataFormat.alpaca, "prompt": "{question}", "completion": "x"},
            "^data.prompt and data.completion have no effect on format alpaca",
        ),
        (qa(2), {}, "^2 usable rows cannot be divided into train, validation and test"),
        (
            [{"question": f"Q{number}", "answer": ""} for number in range(500)],
            {},
            r"^t.jsonl: all 500 rows have an empty answer \(first: t.jsonl:1: the answer is empty\). Mend the rows, or",
        ),
        (
            [{"question": "Q", "answer": ""}, {"question": None, "answer": "A"}] * 2,
            {},
            r"^t.jsonl: all 4 rows are unusable: 2 have an empty answer, 2 have an empty cell .*first: t.jsonl:1",
        ),
        (
            [*qa(4), *[{"question": "Q", "answer": ""}] * 6],
            {},
            r"^t.jsonl: 6 of 10 rows \(60.0 %\) are unusable, more than data.max_rejected_share=0.5 allows: "
            r"6 have an empty answer \(first: t.jsonl:5: ",
        ),
        ([{"chosen": "a", "rejected": "b", "prompt": "c"}], {}, r"^t.jsonl:1: preference data"),
    ],
)
def test_errors_that_stop_a_run(
    write: Write, rows: list[dict[str, object]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write("t.jsonl", rows), **options)
    assert "\n" not in str(caught.value)


def test_a_share_of_bad_rows_up_to_the_limit_is_accepted(write: Write) -> None:
    _, ledger = read(write("t.jsonl", [*qa(5), *[{"question": "Q", "answer": ""}] * 5]))
    assert ledger.rejected["empty_answer"] == 5


def test_reading_needs_neither_torch_nor_transformers_nor_datasets(write: Write) -> None:
    path = write("train.jsonl", qa(30))
    code = (
        "import sys; from finetune.config import DataConfig; from finetune.data.read import read_splits\n"
        "import finetune.data.tokenize, finetune.data.rendering.chat_template, finetune.data.rendering.preview\n"
        f"read_splits(DataConfig(path={path!r}), seed=0)\n"
        "heavy = ('torch', 'transformers', 'datasets', 'pyarrow', 'scipy', 'rich')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_groups_that_stand_in_two_files_of_the_user_are_named(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    train = write("train.jsonl", [row | {"contract": f"c{number}"} for number, row in enumerate(qa(10))])
    test = write(
        "test.jsonl", [row | {"contract": f"c{number}"} for number, row in enumerate(qa(3, start=30), start=8)]
    )
    _, ledger = read(train, test_path=test, group="contract")
    assert (
        "data.group=contract: 2 rows of data.test_path belong to groups of the training file, such as 'c8'"
        in caplog.text
    )
    assert ledger.rows_used == 13
