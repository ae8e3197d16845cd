"""pass@k, code out of answers, and the metric on a model whose answers are given."""

import contextlib
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from finetune.compose import load_config
from finetune.config import DataConfig, DataFormat, EvaluationConfig
from finetune.data.formats import to_conversation
from finetune.data.readers.raw import RawRow
from finetune.errors import ConfigError
from finetune.evaluation import evaluate, exported, passes, scorers
from finetune.evaluation.code_answers import extract_code, pass_at_k, program_of
from finetune.evaluation.sandbox import isolation
from finetune.evaluation.sandbox.run import Outcome
from finetune.evaluation.selection import main_metric, select_metrics
from finetune.evaluation.wording import explain
from finetune.jobs import steps
from finetune.records import Conversation, Message

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.few(1)
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


def test_summary_and_sentence(monkeypatch):
    """Base and tuned model in one table, with the statistics and the sentence of every rate."""
    monkeypatch.setattr(passes, "find_isolation", lambda: None)
    monkeypatch.setattr(
        passes,
        "run_programs",
        lambda programs, *_: (Outcome(passed="2 * x" in program.code, reason="passed") for program in programs),
    )
    monkeypatch.setattr(evaluate, "fitting_rows", lambda rows, *a: rows)
    rows = [row("q", "def f(x):\n    return 2 * x", f"r{n}") for n in range(60)]
    answers = {"base": ["def f(x): return x"] * 60, "tuned": ["def f(x): return 2 * x"] * 50 + ["no code"] * 10}
    monkeypatch.setattr(passes, "_answers", lambda subject, *a: answers[subject.name])
    items, result = evaluate.evaluate(
        {name: lambda: contextlib.nullcontext() for name in answers},
        None,
        rows,
        EvaluationConfig(metrics=["pass_at_1"], run_code=True, bootstrap_samples=200),
        0,
        max_length=99,
    )
    assert result.main_metric == "pass_at_1"
    assert result.metrics["pass_at_1"].estimates["tuned"].value == pytest.approx(50 / 60)
    assert result.metrics["pass_at_1"].comparison.verdict == "better"
    assert {item.model for item in items} == {"base", "tuned"}
    assert (
        "gives working code in answer to 83 % of 60 test questions, the base model to 0 %" in explain(result).headline
    )


@pytest.mark.slow
def test_a_machine_that_cannot_isolate_is_refused_before_weights_are_loaded(monkeypatch):
    monkeypatch.setattr(isolation, "probe_isolation", lambda: (None, "no namespaces here; a cure"))
    options = ("model=embedded", "evaluation.max_items=5")
    config = load_config("code_lora", *options, "evaluation.run_code=true")
    with pytest.raises(ConfigError, match="cannot shut generated code in: no namespaces here; a cure") as error:
        steps.check_data(config)
    assert error.value.exit_code == 2
    steps.check_data(load_config("code_lora", *options))  # off by default, and nothing is asked of the machine


def test_an_export_runs_no_code_that_is_not_allowed_now():
    metrics = ["bits_per_byte", "pass_at_1"]
    assert exported._measurable(metrics, EvaluationConfig()) == ["bits_per_byte"]
    assert exported._measurable(metrics, EvaluationConfig(run_code=True)) == metrics
    assert exported._measurable(metrics, EvaluationConfig(run_code=True, code_samples=5)) == ["bits_per_byte"]


@pytest.mark.slow
def test_reference_solutions_of_mbpp_pass(shared_dir, isolation_here):
    """All but 7 of 474, which fail without a sandbox too: faults of the set. Here the first 100."""
    from finetune.evaluation.sandbox.run import run_programs

    path = shared_dir / "data" / "code" / "mbpp.jsonl"
    data = DataConfig(path=str(path), prompt="{prompt}", completion="{canonical_solution}")
    lines = path.read_text().splitlines()[:100]
    raw = [RawRow(source=f"mbpp:{n}", values=json.loads(line)) for n, line in enumerate(lines)]
    rows = [to_conversation(one, data, DataFormat.prompt_completion) for one in raw]
    right = [program_of(one, one.answer) for one in rows]
    wrong = [program_of(one, f"```python\ndef {one.entry_point}(*a, **k):\n    return None\n```") for one in rows]
    outcomes = list(run_programs(right, isolation_here))
    assert sum(outcome.passed for outcome in outcomes) >= 98, [o for o in outcomes if not o.passed]
    assert not any(outcome.passed for outcome in run_programs(wrong, isolation_here))


@pytest.mark.slow
def test_the_code_sets_own_answers_pass_and_its_other_options_fail(isolation_here):
    from finetune.evaluation.sandbox.run import run_programs

    data = DataConfig(path="test.jsonl", prompt="{question}")
    lines = (ROOT / "data" / "code" / "test.jsonl").read_text().splitlines()[:25]
    raw = [RawRow(source=f"code:{n}", values=json.loads(line)) for n, line in enumerate(lines)]
    rows = [to_conversation(one, data, DataFormat.choices) for one in raw]
    programs = [program_of(one, option) for one in rows for option in one.options]
    expected = [option == one.answer for one in rows for option in one.options]
    assert [outcome.passed for outcome in run_programs(programs, isolation_here)] == expected
