"""Unit tests that stand beside a row's code."""

import pytest

from finetune.config import DataConfig, DataFormat
from finetune.data.convert.unit_tests import read_tests
from finetune.data.formats import to_conversation
from finetune.data.readers.raw import RawRow
from finetune.data.store import decode_conversation, encode_conversation
from finetune.records import Conversation


@pytest.mark.parametrize(
    "values, tests, entry_point",
    [
        ({"tests": ["assert f(1) == 1"], "entry_point": "f"}, ("assert f(1) == 1",), "f"),
        ({"tests": '["assert f(1) == 1", "assert f(2) == 2"]'}, ("assert f(1) == 1", "assert f(2) == 2"), None),
        (
            {"test_list": ["assert f(1)"], "test_setup_code": "import math", "challenge_test_list": []},
            ("import math", "assert f(1)"),
            None,
        ),
        (
            {"test": "def check(candidate):\n    assert candidate(1)", "entry_point": "f"},
            ("def check(candidate):\n    assert candidate(1)",),
            "f",
        ),
        ({"test": "blood count", "entry_point": "f"}, (), None),
        ({"test": "We assert that it is so."}, (), None),
        ({"tests": None, "entry_point": "f"}, (), None),
        ({"tests": ["assert f(1)"], "entry_point": "f(); import os"}, ("assert f(1)",), None),
        ({"question": "assert"}, (), None),
    ],
)
def test_read_tests(values, tests, entry_point):
    assert read_tests(values) == (tests, entry_point)


def test_rows_keep_their_tests():
    values = {"question": "q", "answer": "def f(): pass", "tests": ["assert f() is None"], "entry_point": "f"}
    row = RawRow(source="x.jsonl:1", values=values)
    found = to_conversation(row, DataConfig(path="x.jsonl"), DataFormat.question_answer)
    assert isinstance(found, Conversation)
    assert (found.tests, found.entry_point) == (("assert f() is None",), "f")
    assert decode_conversation(encode_conversation(found)) == found
