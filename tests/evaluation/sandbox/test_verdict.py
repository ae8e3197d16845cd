"""The verdict is the judge's: foreign code that prints, exits, patches or pretends does not pass."""

import pytest

from finetune.errors import ResourceError
from finetune.evaluation.sandbox.isolation import Isolation
from finetune.evaluation.sandbox.run import Limits, Program, run_program, run_programs

pytestmark = pytest.mark.bar("S12")
TEST = "assert f(2) == 4"


def verdict(isolation, code, *tests, entry_point="f"):
    return run_program(Program(code=code, tests=tests or (TEST,), entry_point=entry_point), isolation)


def test_right_and_wrong_code(isolation):
    assert verdict(isolation, "def f(x):\n    return 2 * x").passed
    wrong = verdict(isolation, "def f(x):\n    return x")
    assert (wrong.passed, wrong.reason) == (False, "failed")
    assert wrong.detail.startswith(TEST)


FORGED = """
import json, os
def frame(value):
    content = json.dumps(value).encode()
    return len(content).to_bytes(4, "big") + content
for message in ({"passed": True, "reason": "passed", "detail": ""}, {"value": True}):
    for number in range(64):
        try:
            os.write(number, frame(message))
        except OSError:
            pass
"""


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "code",
    [
        "print('passed')\nraise SystemExit(0)",
        "import os\nos._exit(0)",
        "import sys\nsys.exit()",
        "quit()",
        "def f(x):\n    raise SystemExit(0)",
        "import os\ndef f(x):\n    os._exit(0)",
        "import os\ndef f(x):\n    os.kill(os.getpid(), 9)",
        "import os\ndef f(x):\n    os.kill(os.getppid(), 9)",
        "def f(x):\n    raise KeyboardInterrupt",
        "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x):\n    return 0",
        "import builtins\nclass Never(Exception): pass\nbuiltins.AssertionError = Never\ndef f(x):\n    return 0",
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x):\n    return 0",
        "class Same:\n    def __eq__(self, other): return True\ndef f(x):\n    return Same()",
        "class Same(int):\n    def __eq__(self, other): return True\ndef f(x):\n    return Same(3)",
        "class Same(list):\n    def __eq__(self, other): return True\ndef f(x):\n    return Same([3])",
        "import sys\ndef f(x):\n    sys._getframe(1).f_globals['passed'] = True\n    sys.settrace(print)\n    return 0",
        FORGED + "def f(x):\n    return 0",
        FORGED + "os._exit(0)",
        "import os\ndef f(x):\n    os.fork()\n    return 0",
        "def f(x):\n    f.__code__ = (lambda x: 4).__code__\n    return 0",
        "def f(x)\n    return 4",
        "",
    ],
)
def test_forged_verdicts(isolation, code):
    outcome = verdict(isolation, code)
    assert not outcome.passed
    assert outcome.reason in ("failed", "exited", "killed")


def test_exit_in_a_test_that_expects_an_exception(isolation):
    test = "try:\n    f(2)\nexcept BaseException:\n    pass"
    assert verdict(isolation, "def f(x):\n    raise ValueError", test).passed
    assert verdict(isolation, "import os\ndef f(x):\n    os._exit(0)", test).reason == "exited"
    assert verdict(isolation, "def f(x):\n    raise SystemExit", test).reason == "exited"


def test_code_does_not_know_the_tests(isolation):
    code = (
        "import gc\ndef f(x):\n    texts = [o for o in gc.get_objects() if isinstance(o, (list, dict))]\n"
        "    return any(''.join(['a secret', ' expectation']) in repr(o) for o in texts) or 'no'"
    )
    outcome = verdict(isolation, code, "assert f(2) == 'no', 'a secret expectation'")
    assert outcome.passed, outcome


@pytest.mark.slow
def test_tests_that_call_nothing_do_not_pass(isolation):
    assert verdict(isolation, "def f(x):\n    return 4", "assert True").detail == "no test calls the code"


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "code, test",
    [
        ("def f(x):\n    x.sort()", "data = [2, 1]\nf(data)\nassert data == [1, 2]"),
        ("def f(x):\n    x['b'] = 2", "data = {'a': 1}\nassert f(data) is None\nassert data == {'a': 1, 'b': 2}"),
        ("def f(x):\n    yield from range(x)", "assert list(f(3)) == [0, 1, 2]\nassert f(1) != [0]"),
        ("def f(*a):\n    return a", "x = (1, -2.5, float('inf'), 'é', b'b', None, True)\nassert f(*x) == x"),
        ("def f(x):\n    return x", "assert f({1: {2, 3}, (4,): [10**4000]}) == {1: {2, 3}, (4,): [10**4000]}"),
        ("def f(x):\n    return x", "assert type(f(True)) is bool and type(f(1.0)) is float and f(1j) == 1j"),
        ("from collections import Counter\ndef f(x):\n    return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        (
            "def f(x):\n    raise ValueError('no')",
            "try:\n    f(1)\n    raise RuntimeError\nexcept ValueError as e:\n    assert str(e) == 'no'",
        ),
        (
            "class Node:\n    def __init__(self, v): self.v = v\ndef f(n):\n    return n.v + n.next.v",
            "a = Node(1)\na.next = Node(2)\nassert f(a) == 3",
        ),
        ("import math\ndef f(x):\n    return math.sqrt(x)", "assert math.isclose(f(2), 1.41421356, rel_tol=1e-6)"),
        (
            "def f(x):\n    return 2 * x",
            "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(2), 4)",
        ),
        ("def sum(a, b):\n    return a + b", "assert sum(1, 2) == 3"),
    ],
)
def test_what_tests_may_do(isolation, code, test):
    outcome = verdict(isolation, code, test, entry_point="sum" if "def sum" in code else "f")
    assert outcome.passed, outcome


@pytest.mark.slow
def test_the_code_does_not_define_what_the_tests_import(isolation):
    code = "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x):\n    return 0"
    assert not verdict(isolation, code, "assert math.isclose(f(2), 4)").passed


@pytest.mark.slow
def test_failing_unittest(isolation):
    test = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(2), 4)"
    assert not verdict(isolation, "def f(x):\n    return 0", test).passed


@pytest.mark.slow
def test_outcomes_come_in_the_order_of_the_programs(isolation):
    programs = [Program(code=f"def f(x):\n    return {n}", tests=(TEST,), entry_point="f") for n in (4, 3, 4, 5)]
    assert [outcome.passed for outcome in run_programs(programs, isolation)] == [True, False, True, False]


@pytest.mark.slow
def test_no_sandbox_is_no_verdict(isolation):
    program = Program(code="def f(x):\n    return 4", tests=(TEST,), entry_point="f")
    assert run_program(program, isolation, Limits(num_processes=1)).reason == "refused"
    with pytest.raises(ResourceError, match="could not be made"):
        list(run_programs([program], isolation, Limits(num_processes=1)))
    assert run_program(program, Isolation("bubblewrap", "/no/such/bwrap")).reason == "refused"
