"""pass@k, code out of answers, and the metric on a model whose answers are given."""

import math
from fractions import Fraction

import numpy as np
import pytest

from finetune.config import EvaluationConfig
from finetune.errors import ConfigError
from finetune.evaluation import passes, scorers
from finetune.evaluation.code_answers import extract_code, pass_at_k, program_of
from finetune.evaluation.sandbox.run import Outcome
from finetune.evaluation.selection import main_metric, select_metrics
from finetune.records import Conversation, Message


def exactly(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


def of_the_paper(n: int, c: int, k: int) -> float:
    """Chen et al. 2021, figure 3."""
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def test_pass_at_k_is_the_exact_share():
    for n in range(1, 26):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == pytest.approx(float(exactly(n, c, k)), abs=1e-12), (n, c, k)


@pytest.mark.parametrize("n, c, k", [(200, 1, 100), (200, 3, 10), (1000, 7, 100), (10_000, 5000, 100), (200, 0, 1)])
def test_pass_at_k_of_many_samples(n, c, k):
    assert pass_at_k(n, c, k) == pytest.approx(of_the_paper(n, c, k), abs=1e-12)
    assert pass_at_k(n, c, k) == pytest.approx(float(exactly(n, c, k)), abs=1e-12)


@pytest.mark.parametrize("n, c, k", [(1, 2, 1), (4, 1, 5), (4, -1, 1), (4, 1, 0)])
def test_pass_at_k_that_does_not_exist(n, c, k):
    with pytest.raises(ValueError, match="does not exist"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    "answer, code",
    [
        ("def f(x):\n    return x", "def f(x):\n    return x"),
        ("Here it is:\n```python\ndef f(x):\n    return x\n```\nDone.", "def f(x):\n    return x\n"),
        ("```\nprint(1)\n```\n```py\ndef f(x):\n    return x\n```", "def f(x):\n    return x\n"),
        ("```python\ndef g(x):\n    return x\n```", "def g(x):\n    return x\n"),
        ("```python\ndef f(x):\n    return", "def f(x):\n    return"),
        ("~~~\ndef f(x): pass\n~~~", "def f(x): pass\n"),
    ],
)
def test_extract_code(answer, code):
    assert extract_code(answer, "f") == code


def row(question: str, answer: str, name: str = "r", **kwargs) -> Conversation:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    kwargs = {"tests": ("assert f(2) == 4",), "entry_point": "f", **kwargs}
    return Conversation(item_id=name, source=name, messages=messages, **kwargs)


BEGUN = "from math import sqrt\n\ndef f(x):\n    '''Double it.'''\n"


@pytest.mark.parametrize(
    "answer",
    [
        "    y = 2 * x\n    return y",
        "y = 2 * x\n    return y",  # its first indentation was stripped
        "y = 2 * x\nreturn y",
        "```python\n    return 2 * x\n```",
        "def f(x):\n    return int(2 * x * sqrt(1))",
        "```python\ndef f(x):\n    return 2 * x\n```\nThis is what was asked.",
    ],
)
def test_answers_to_a_function_that_the_question_begins(isolation_here, answer):
    from finetune.evaluation.sandbox.run import run_program

    outcome = run_program(program_of(row(BEGUN, answer), answer), isolation_here)
    assert outcome.passed, outcome


@pytest.fixture(scope="session")
def isolation_here():
    from finetune.evaluation.sandbox.isolation import find_isolation

    try:
        return find_isolation()
    except ConfigError as error:
        pytest.skip(str(error))


def test_metric_is_taken_only_where_code_may_run():
    rows = [row("q", "def f(x):\n    return 2 * x")]
    assert "pass_at_1" not in select_metrics(["auto"], rows)
    assert "pass_at_1" in select_metrics(["auto"], rows, run_code=True)
    assert "pass_at_1" not in select_metrics(["auto"], [row("q", "a", tests=())], run_code=True)
    assert main_metric(["bits_per_byte", "choice_accuracy", "pass_at_1"], rows) == "pass_at_1"
    with pytest.raises(ConfigError, match="no test row has unit tests"):
        select_metrics(["pass_at_1"], [row("q", "a", tests=())], run_code=True)


def test_mistakes_of_configuration():
    assert list(EvaluationConfig(metrics=["pass_at_1"], run_code=True).problems()) == []
    [problem] = EvaluationConfig(metrics=["pass_at_1"]).problems()
    assert "evaluation.run_code=true" in problem
    [problem] = EvaluationConfig(metrics=["pass_at_10"], run_code=True, code_samples=5).problems()
    assert "set evaluation.code_samples=10 or more" in problem


def score(monkeypatch, answers: list[str], rows, wanted=("pass_at_1",), **settings):
    """Run the pass on a model that gives these answers one after the other; returns values and what was asked."""
    asked = {}

    def generate(model, tokenizer, prompts, **kwargs):
        asked.update(kwargs, num_prompts=len(prompts))
        return answers

    monkeypatch.setattr(scorers, "generate_greedy", generate)
    monkeypatch.setattr(scorers, "context_of", lambda model: 1000)
    monkeypatch.setattr(scorers, "end_of_turn_ids", lambda *a: [2])
    monkeypatch.setattr(passes, "tokenize_conversation", lambda row, *a, **k: type("E", (), {"num_supervised": 1})())
    monkeypatch.setattr(passes, "prompt_ids", lambda *a: [1])
    config = EvaluationConfig(run_code=True, **settings)
    subject = passes.Subject(name="base", model=None, tokenizer=None, config=config, max_length=99, progress=False)
    items = list(passes.code_pass(subject, rows, wanted))
    return {(item.item_id, item.metric): item.value for item in items}, asked


def test_pass_at_1_of_most_probable_answers(monkeypatch, isolation_here):
    rows = [row("q", "", name) for name in ("right", "wrong", "forged")] + [row("q", "", "untested", tests=())]
    answers = ["```python\ndef f(x):\n    return 2 * x\n```", "def f(x):\n    return x", "print('passed')\nquit()"]
    values, asked = score(monkeypatch, answers, rows)
    assert values == {("right", "pass_at_1"): 1.0, ("wrong", "pass_at_1"): 0.0, ("forged", "pass_at_1"): 0.0}
    assert (asked["temperature"], asked["max_new_tokens"]) == (0.0, 512)


def test_pass_at_k_of_drawn_answers(monkeypatch):
    monkeypatch.setattr(passes, "find_isolation", lambda: None)
    monkeypatch.setattr(
        passes,
        "run_programs",
        lambda programs, *_: (Outcome(passed="2 * x" in program.code, reason="") for program in programs),
    )
    right, wrong = "def f(x):\n    return 2 * x", "def f(x):\n    return 0"
    answers = [right, wrong, wrong, wrong, wrong] + [wrong] * 5 + [right] * 5
    rows = [row("q", "", name) for name in "abc"]
    values, asked = score(monkeypatch, answers, rows, ("pass_at_1", "pass_at_5"), code_samples=5)
    assert asked["num_prompts"] == 15
    assert asked["temperature"] == 0.8
    assert [values[name, "pass_at_1"] for name in "abc"] == pytest.approx([0.2, 0, 1])
    assert [values[name, "pass_at_5"] for name in "abc"] == [1, 0, 1]
