"""Files as people have them, drawn by Hypothesis: every row of every format is used or rejected, and nothing crashes.

A file has ten good rows and some damaged ones. Good rows must be used whatever stands beside them; `test_anything`
drops that and reads rows of nothing but junk.
"""

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.config import DataConfig, DataFormat, NearDuplicates
from finetune.data.check import Ledger
from finetune.data.formats import CONVERTERS, detect_format, to_conversation
from finetune.data.preferences import read_preferences
from finetune.data.read import read_splits
from finetune.data.readers.raw import RawRow
from finetune.errors import DataError
from finetune.records import Conversation, Message, PreferencePair

pytestmark = pytest.mark.bar("R12")

NUM_GOOD = 10
ROLES = {"system", "user", "assistant", "tool"}
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
Row = dict[str, Any]

quick = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
thorough = settings(quick, max_examples=200, derandomize=False)


def _chat(number: int, role: str = "role", content: str = "content") -> list[Row]:
    user, assistant = ("user", "assistant") if role == "role" else ("human", "gpt")
    return [{role: user, content: f"What is {number}?"}, {role: assistant, content: f"It is {number * 7919}."}]


def _tool_chat(number: int) -> Row:
    call = {"type": "function", "function": {"name": "look_up", "arguments": json.dumps({"key": number})}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "found"}]
    chat = _chat(number)
    return {"messages": [chat[0], *turns, chat[1]], "tools": [{"type": "function", "function": {"name": "look_up"}}]}


GOOD: dict[str, Callable[[int], Row]] = {
    "messages": lambda n: {"messages": _chat(n)},
    "messages tools": _tool_chat,
    "messages prompt": lambda n: {"prompt": _chat(n)[:1], "completion": _chat(n)[1:]},
    "sharegpt": lambda n: {"conversations": _chat(n, "from", "value"), "system": "Be brief.", "tools": "[]"},
    "alpaca": lambda n: {"instruction": f"Add {n}.", "input": "", "output": f"{n + 1}", "history": [["a", "b"]]},
    "prompt_completion": lambda n: {"prompt": f"Add {n}.", "completion": f"Sum {n + 1}"},
    "question_answer": lambda n: {"id": f"q{n}", "context": "C", "question": f"Which {n}?", "answer": f"Number {n}"},
    "choices": lambda n: {"question": f"Which {n}?", "options": ["a", f"b{n}", "c"], "answer": f"b{n}"},
    "squad": lambda n: {
        "context": f"It is {n}.",
        "question": "What is it?",
        "answers": {"text": [f"It is {n}"], "answer_start": [0]},
    },
    "text": lambda n: {"text": f"Paragraph {n} of a contract."},
    "preference": lambda n: {"prompt": f"Add {n}.", "chosen": f"{n + 1}", "rejected": f"{n + 2}"},
    "preference chats": lambda n: {"chosen": _chat(n), "rejected": [_chat(n)[0], _chat(n + 1)[1]]},
    "kto": lambda n: {"prompt": f"Add {n}.", "completion": f"{n + 1}", "label": n % 2 == 0},
}
"""A good row of each format by its number; the first word names the format."""

texts = st.sampled_from(
    [
        "",
        " \n\t",
        "x",
        "A. x\nB. y",
        "[",
        "{'a': 1}",
        '[{"role": "user"}]',
        "\ud83d",
        "Größe 大小 حجم 😀",
        "\u2028a\r\n",
        '"',
    ]
)
numbers = st.sampled_from([0, -1, 2, 10**30, 1.5, float("nan"), float("inf"), 1e300])
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, st.text(max_size=8))
keys = st.sampled_from(
    ["role", "from", "content", "value", "text", "type", "tool_calls", "name", "label", "A", "B", ""]
)
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
known_columns = {name for make in GOOD.values() for name in make(0)}
columns = st.sampled_from(sorted(known_columns | {"group", "weight", "A", "is_impossible", "answer_key"}))


@st.composite
def damaged(draw: st.DrawFn, row: Row) -> Row:
    """A good row with a cell replaced, put in, taken out, or replaced somewhere inside."""
    kind = draw(st.sampled_from(["cell", "extra", "missing", "inside", "inside"]))
    name = draw(st.sampled_from(sorted(row)))
    if kind == "missing":
        return {column: value for column, value in row.items() if column != name}
    if kind == "extra":
        return row | {draw(columns): draw(nested)}
    return row | {name: draw(nested) if kind == "cell" else draw(changed(row[name]))}


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A value with one node anywhere inside it replaced."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: draw(changed(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(changed(value[place])), *value[place + 1 :]]
    return draw(nested)


@st.composite
def files(draw: st.DrawFn, make: Callable[[int], Row]) -> list[Row]:
    """Ten good rows, up to six damaged ones, and up to two repetitions, in any order."""
    good = [make(number) for number in range(NUM_GOOD)]
    bad = [draw(damaged(make(NUM_GOOD + number))) for number in range(draw(st.integers(1, 6)))]
    again = draw(st.lists(st.sampled_from(good), max_size=2))
    return draw(st.permutations([*good, *bad, *again]))


def write_file(folder: str, suffix: str, rows: list[Any]) -> Path:
    """Write rows in the way that the ending asks for; tables hold nested cells as JSON text."""
    path = Path(folder) / f"dirty{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        _write_parquet(path, rows)
    else:
        path.write_bytes(_table(rows, "\t" if suffix == ".tsv" else ",").encode("utf-8", "surrogatepass"))
    return path


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _table(rows: list[Row], delimiter: str) -> str:
    names = _names(rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *([_cell(row.get(name)) for name in names] for row in rows)])
    return text.getvalue()


def _write_parquet(path: Path, rows: list[Row]) -> None:
    """Write columns with types of their own where Arrow finds one for all cells, else as text."""
    import pyarrow
    import pyarrow.parquet

    arrays: dict[str, Any] = {}
    for name in _names(rows):
        cells = [row.get(name) for row in rows]
        try:
            arrays[name] = pyarrow.array(cells)
            pyarrow.parquet.write_table(pyarrow.table({name: arrays[name]}), path)
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
            written = [None if cell is None else _cell(cell).encode("utf-8", "replace").decode() for cell in cells]
            arrays[name] = pyarrow.array(written, type=pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)


def check_law(ledger: Ledger, num_rows: int) -> None:
    """Rows in = rows written = rows used + rows rejected by reason, and the ledger can be written as UTF-8."""
    assert ledger.rows_in == num_rows
    assert ledger.rows_in == ledger.rows_used + sum(ledger.rejected.values())
    assert json.dumps(ledger.to_json(), ensure_ascii=False).encode()
    assert "\n".join(ledger.lines()).encode()


def check_conversation(row: Conversation) -> None:
    """What a trainer relies on: known roles, answers that say something, and text that UTF-8 can hold."""
    repr(row)
    for text in (row.item_id, row.source, row.text, row.tools, row.group, *row.options):
        (text or "").encode()
    if row.text is not None:
        assert row.text.strip()
        return
    check_turns(row.messages)
    assert row.messages[-1].role == "assistant"
    assert not row.options or row.answer in row.options
    assert row.tools is None or isinstance(json.loads(row.tools), list)


def check_turns(turns: tuple[Message, ...]) -> None:
    for turn in turns:
        turn.content.encode()
        assert turn.role in ROLES
        if turn.role != "tool":
            assert turn.content.strip() or turn.tool_calls
        if turn.tool_calls:
            assert all(isinstance(call["function"]["arguments"], dict) for call in json.loads(turn.tool_calls))


def check_file(suffix: str, rows: list[Any], format: DataFormat) -> None:
    """Read a supervised file with at least ten good rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(folder, suffix, rows)
        data = DataConfig(path=str(path), format=format, max_rejected_share=1.0, near_duplicates=NearDuplicates.ignore)
        splits, ledger = read_splits(data, seed=0)
        check_law(ledger, len(rows))
        assert ledger.rows_used >= NUM_GOOD
        for part in (splits.train, splits.validation, splits.test):
            for row in part:
                check_conversation(row)


def check_preferences(suffix: str, rows: list[Any], format: DataFormat) -> None:
    """Read a file of pairs or rated answers with at least ten good rows; a supervised run refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(folder, suffix, rows)
        data = DataConfig(path=str(path), format=format, max_rejected_share=1.0)
        items, ledger = read_preferences(data)
        check_law(ledger, len(rows))
        assert len(items) == ledger.rows_used >= NUM_GOOD
        for item in items:
            answers = (item.chosen, item.rejected) if isinstance(item, PreferencePair) else (item.completion,)
            for answer in answers:
                check_turns((*item.prompt, *answer))
                assert (answer[0].role, answer[-1].role) == ("assistant", "assistant")
        with pytest.raises(DataError, match="preference data"):
            read_splits(data, seed=0)


def read_drawn(data: st.DataObject, kind: str) -> None:
    rows = data.draw(files(GOOD[kind]))
    suffix = data.draw(st.sampled_from(SUFFIXES))
    format = DataFormat[kind.split()[0]]
    check = check_preferences if format in (DataFormat.preference, DataFormat.kto) else check_file
    check(suffix, rows, data.draw(st.sampled_from([DataFormat.auto, format])))


@pytest.mark.parametrize("kind", GOOD)
@quick
@given(st.data())
def test_a_bad_row_stops_nothing_and_is_accounted_for(kind: str, data: st.DataObject) -> None:
    read_drawn(data, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOOD)
@thorough
@given(st.data())
def test_a_bad_row_stops_nothing_thoroughly(kind: str, data: st.DataObject) -> None:
    read_drawn(data, kind)


def read_anything(rows: list[Any], suffix: str, format: DataFormat) -> None:
    """Rows of nothing but junk are a DataError that can be printed, or obey the law."""
    if suffix not in (".jsonl", ".json"):
        rows = [row for row in rows if isinstance(row, dict)]
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(folder, suffix, rows)
        try:
            splits, ledger = read_splits(DataConfig(path=str(path), format=format, max_rejected_share=1.0), seed=0)
        except DataError as error:
            assert str(error).encode()
            return
        check_law(ledger, len(rows))
        for row in (*splits.train, *splits.validation, *splits.test):
            check_conversation(row)


junk_rows = st.lists(
    st.one_of(
        st.dictionaries(columns, nested, max_size=4),
        st.sampled_from(sorted(GOOD)).flatmap(lambda kind: damaged(GOOD[kind](3))),
        nested,
    ),
    max_size=8,
)


@settings(quick, max_examples=20)
@given(junk_rows, st.sampled_from(SUFFIXES), st.sampled_from(list(DataFormat)))
def test_anything(rows: list[Any], suffix: str, format: DataFormat) -> None:
    read_anything(rows, suffix, format)


@pytest.mark.slow
@settings(thorough, max_examples=1500)
@given(junk_rows, st.sampled_from(SUFFIXES), st.sampled_from(list(DataFormat)))
def test_anything_thoroughly(rows: list[Any], suffix: str, format: DataFormat) -> None:
    read_anything(rows, suffix, format)


@settings(quick, max_examples=60)
@given(st.dictionaries(columns, nested, max_size=5))
def test_any_cells_become_a_conversation_or_a_rejection(values: Row) -> None:
    detect_format(values)
    for format in CONVERTERS:
        result = to_conversation(RawRow(values, "f.jsonl:1"), DataConfig(path="f.jsonl"), format)
        if isinstance(result, Conversation):
            check_conversation(result)
        else:
            assert Ledger().rejected.keys() >= {result.reason}
            assert result.detail.encode()
