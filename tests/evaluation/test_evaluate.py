"""From conversations to the item table and the summary, with a tiny model and answers computed by hand."""

import contextlib
import json
import math

import pytest
import torch

from finetune.config import EvaluationConfig
from finetune.data.tokenize import fit, tokenize_conversation
from finetune.errors import ConfigError, DataError, ModelError
from finetune.evaluation import evaluate as evaluation
from finetune.evaluation import fitting, scorers, selection, summary
from finetune.records import Comparison, Conversation, Estimate, EvaluationResult, ItemScore, Message, MetricResult

LAWS = ("New York", "Delaware", "Texas")


def chat(number, answer, *, options=(), group=None, prompt="Which law governs?"):
    messages = (Message(role="user", content=f"Clause {number}. {prompt}"), Message(role="assistant", content=answer))
    return Conversation(
        item_id=f"item-{number}", source=f"rows.jsonl:{number}", messages=messages, options=options, group=group
    )


def choice_rows(count=12):
    return [chat(number, LAWS[number % 2], options=LAWS, group=f"contract-{number // 3}") for number in range(count)]


def text_row(text, item_id="text"):
    return Conversation(item_id=item_id, source="contract.txt", text=text)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)


@pytest.fixture
def config():
    return EvaluationConfig(max_new_tokens=8, bootstrap_samples=200)


CHOICE = ["choice_accuracy", "choice_accuracy_normalised", "calibration_error"]
WORDS = ["exact_match", "normalised_match", "token_f1"]


def test_auto_takes_what_the_rows_support():
    select = selection.select_metrics
    assert select(["auto"], choice_rows()) == ["bits_per_byte", "choice_accuracy", "calibration_error", "exact_match"]
    assert select(["auto"], [chat(1, "yes")]) == ["bits_per_byte", "exact_match"]
    words = ["bits_per_byte", "exact_match", "token_f1", "rouge_l"]
    assert select(["auto"], [chat(1, "the law of the state")]) == words
    assert select(["auto"], [chat(1, '{"law": "Texas"}')]) == ["bits_per_byte", "exact_match", "json_field_accuracy"]
    assert select(["auto"], [chat(1, '{"law": "Texas"}'), chat(2, "none")]) == ["bits_per_byte", "exact_match"]
    assert select(["auto"], [chat(1, "long " * 50)]) == ["bits_per_byte"]
    assert select(["auto"], [text_row("The law.")]) == ["bits_per_byte"]
    every = ["auto", "choice_accuracy_normalised", "normalised_match", "token_f1"]
    assert select(every, choice_rows()) == ["bits_per_byte", *CHOICE, *WORDS]
    assert select(["rouge_l", "exact_match"], [chat(1, "long " * 50)]) == ["exact_match", "rouge_l"]
    assert select(["calibration_error"], choice_rows()) == ["choice_accuracy", "calibration_error"]


def test_a_named_metric_that_the_rows_cannot_have_is_a_mistake():
    for name in CHOICE:
        with pytest.raises(ConfigError, match=f"{name} cannot be measured: no test row has options"):
            selection.select_metrics(["auto", name], [chat(1, "yes")])
    for name in (*WORDS, "rouge_l", "json_field_accuracy"):
        with pytest.raises(ConfigError, match=f"{name} cannot be measured: the test rows are plain text"):
            selection.select_metrics([name], [text_row("x")])
    with pytest.raises(ConfigError, match="json_field_accuracy cannot be measured: no answer of the test rows is a"):
        selection.select_metrics(["json_field_accuracy"], [chat(1, "yes"), chat(2, "[1]")])
    with pytest.raises(ConfigError, match="no such metric"):
        selection.select_metrics(["rouge"], [chat(1, "yes")])
    with pytest.raises(DataError, match="test split has no rows"):
        selection.select_metrics(["auto"], [])


def test_the_main_metric():
    every = ["bits_per_byte", "choice_accuracy", "exact_match"]
    without_choice = ["bits_per_byte", "exact_match"]
    closed = [chat(number, LAWS[number % 3]) for number in range(15)]
    free = [chat(number, f"answer {number}") for number in range(15)]
    assert selection.main_metric(every, choice_rows()) == "choice_accuracy"
    assert selection.main_metric(without_choice, closed) == "exact_match"
    assert selection.main_metric(without_choice, free) == "bits_per_byte"
    assert selection.main_metric(["exact_match"], free) == "exact_match"
    fields = [chat(number, f'{{"law": {number}}}') for number in range(15)]
    assert selection.main_metric([*without_choice, "json_field_accuracy"], fields) == "json_field_accuracy"
    assert selection.main_metric(["rouge_l"], free) == "rouge_l"


def test_items_are_drawn_with_the_seed_in_their_own_order():
    rows = choice_rows(50)
    drawn = selection.choose_items(rows, 10, seed=3)
    assert drawn == selection.choose_items(rows, 10, seed=3) != selection.choose_items(rows, 10, seed=4)
    numbers = [int(row.item_id.removeprefix("item-")) for row in drawn]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10
    assert selection.choose_items(rows, 50, seed=3) == rows


def test_the_majority_class_is_a_contestant_where_there_are_classes():
    rows = [chat(number, answer, options=LAWS) for number, answer in enumerate(["Texas", "Delaware", "Delaware"])]
    items = selection.majority_scores(rows, ["bits_per_byte", "choice_accuracy"])
    assert [(item.model, item.metric, item.value) for item in items] == [
        ("majority_class", "choice_accuracy", value) for value in (0.0, 1.0, 1.0)
    ]
    free = [chat(number, f"answer {number}") for number in range(21)]
    assert selection.majority_scores(free, ["exact_match"]) == []
    words = [chat(number, answer) for number, answer in enumerate(["New York.", "new york", "York"])]
    found = selection.majority_scores(words, ["exact_match", "token_f1", "calibration_error"])
    assert [item.value for item in found if item.metric == "token_f1"] == pytest.approx([1.0, 1.0, 2 / 3])
    assert {item.metric for item in found} == {"exact_match", "token_f1"}
    fields = [chat(number, answer) for number, answer in enumerate(['{"Law": "A"}'] * 2 + ['{"Law": "B"}', "none"])]
    found = selection.majority_scores(fields, ["json_field_accuracy"])
    assert [item.value for item in found] == [1.0, 1.0, 0.0]


def test_every_value_equals_its_definition(model, tokenizer, config):
    rows = [
        *choice_rows(3),
        chat(3, "Maine", options=("Maine", "the law of the state of Delaware"), group="contract-1"),
    ]
    metrics = ["bits_per_byte", *CHOICE]
    items = evaluation.score_contestant("base", model, tokenizer, rows, config, metrics, max_length=256)
    assert {(item.item_id, item.cluster_id) for item in items} == {(row.item_id, row.group) for row in rows}
    found = {(item.item_id, item.metric): item for item in items}
    for row in rows:
        bits = found[row.item_id, "bits_per_byte"]
        assert bits.weight == len(row.answer.encode())
        assert bits.value == pytest.approx(
            -log_probability(model, tokenizer, row) / bits.weight / math.log(2), abs=1e-4
        )
        by_option = [
            log_probability(model, tokenizer, chat(row.item_id.removeprefix("item-"), option)) for option in row.options
        ]
        by_byte = [value / len(option.encode()) for value, option in zip(by_option, row.options, strict=True)]
        for metric, values in (("choice_accuracy", by_option), ("choice_accuracy_normalised", by_byte)):
            best = row.options[values.index(max(values))]
            assert found[row.item_id, metric].value == float(best == row.answer)
        highest = max(by_option)
        sure = 1 / sum(math.exp(value - highest) for value in by_option)
        assert found[row.item_id, "choice_confidence"].value == pytest.approx(sure, abs=1e-5)
    assert found["item-3", "choice_accuracy"].value == 1  # the short option as a whole, the long one by the byte
    assert found["item-3", "choice_accuracy_normalised"].value == 0


def log_probability(model, tokenizer, row):
    example = tokenize_conversation(row, tokenizer, last_turn_only=True)
    with torch.inference_mode():
        logits_TV = model(torch.tensor([example.input_ids])).logits[0].double()
    log_probabilities_TV = torch.log_softmax(logits_TV, dim=-1)
    return sum(
        log_probabilities_TV[at - 1, example.input_ids[at]].item() for at, loss in enumerate(example.loss_mask) if loss
    )


def test_one_greedy_answer_serves_all_metrics_of_words(model, tokenizer, config, monkeypatch):
    rows = [chat(1, "Delaware"), chat(2, "the State of Texas"), chat(3, '{"law": "Maine", "days": 30}')]
    seen = []

    def answer(model, tokenizer, prompts, **settings):
        seen.extend(tokenizer.decode(prompt) for prompt in prompts)
        assert settings["max_new_tokens"] == 8
        assert tokenizer.eos_token_id in settings["eos_token_ids"]
        return [" delaware.", "State of, Texas", '{"law": "maine", "days": 3}'][: len(prompts)]

    monkeypatch.setattr(scorers, "generate_greedy", answer)
    every = [*WORDS, "rouge_l", "json_field_accuracy"]
    items = evaluation.score_contestant("tuned", model, tokenizer, rows, config, every, max_length=256)
    assert len(seen) == len(rows)  # one generation
    assert seen[0].endswith("<|im_start|>assistant\n")
    assert "Delaware" not in seen[0]
    found = {(item.item_id.removeprefix("item-"), item.metric): item.value for item in items}
    assert [found[number, "exact_match"] for number in "123"] == [1, 0, 0]
    assert [found[number, "normalised_match"] for number in "12"] == [1, 1]
    assert [found[number, "token_f1"] for number in "12"] == [1, 1]
    assert found["2", "rouge_l"] == pytest.approx(6 / 7)
    assert found["3", "json_field_accuracy"] == 0.5
    assert ("1", "json_field_accuracy") not in found
    only = evaluation.score_contestant(
        "tuned", model, tokenizer, rows[2:], config, ["json_field_accuracy"], max_length=256
    )
    assert [item.metric for item in only] == ["json_field_accuracy"]


def test_answers_that_will_be_cut_are_told_once(model, tokenizer, config, monkeypatch, caplog):
    monkeypatch.setattr(scorers, "generate_greedy", lambda model, tokenizer, prompts, **settings: [""] * len(prompts))
    rows = [chat(1, "yes"), chat(2, "the law of Delaware, without regard to its conflict of laws rules")]
    for name in ("base", "tuned"):
        evaluation.score_contestant(name, model, tokenizer, rows, config, ["token_f1"], max_length=256)
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith("1 of 2 reference answers are longer than evaluation.max_new_tokens=8 (the longest has ")


def contestants(model, *, better=0.0):
    """Base as it is; tuned with the embedding of the right answers' letters raised, off again afterwards."""

    @contextlib.contextmanager
    def tuned():
        saved = model.lm_head.weight.detach().clone()
        with torch.no_grad():
            model.lm_head.weight.mul_(1.0 - better)
        try:
            yield model
        finally:
            with torch.no_grad():
                model.lm_head.weight.copy_(saved)

    return {"base": lambda: contextlib.nullcontext(model), "tuned": tuned}


def test_the_whole_evaluation(model, tokenizer, config, tmp_path):
    rows = choice_rows(12)
    config.metrics = ["auto", *CHOICE, *WORDS]
    items, result = evaluation.evaluate(contestants(model, better=0.5), tokenizer, rows, config, 42, max_length=256)
    assert result.main_metric == "choice_accuracy"
    assert next(iter(result.metrics)) == "choice_accuracy"
    assert list(result.metrics) == ["choice_accuracy", "bits_per_byte", *CHOICE[1:], *WORDS]
    for name, metric in result.metrics.items():
        classes = set() if name in ("bits_per_byte", "calibration_error") else {"majority_class"}
        assert set(metric.estimates) == {"base", "tuned"} | classes
        assert metric.comparison is not None
        for contestant, estimate in metric.estimates.items():  # the item table is the source of every number
            if name == "calibration_error":
                assert sum(one.n for one in result.calibration[contestant]) == estimate.n == 12
                continue
            table = [item for item in items if (item.metric, item.model) == (name, contestant)]
            total = sum(item.weight for item in table)
            assert estimate.value == pytest.approx(sum(item.value * item.weight for item in table) / total)
            assert estimate.n == len(table) == 12
            assert estimate.low <= estimate.value <= estimate.high
    assert result.metrics["choice_accuracy"].estimates["majority_class"].value == 0.5
    path = tmp_path / "items.jsonl"
    summary.write_items(path, items)
    again = summary.read_items(path)
    assert again == items
    assert summary.summarise(again, config, seed=42, main_metric=result.main_metric) == result
    assert set(json.loads(path.read_text().splitlines()[0])) == {
        "item_id", "cluster_id", "model", "metric", "value", "weight",
    }  # fmt: skip


def test_a_model_compared_with_itself_is_equivalent_on_every_metric(model, tokenizer, config):
    _, result = evaluation.evaluate(contestants(model), tokenizer, choice_rows(4), config, 42, max_length=256)
    assert {metric.comparison.verdict for metric in result.metrics.values() if metric.comparison} == {"equivalent"}


def test_long_texts_are_scored_in_windows(model, tokenizer, config):
    row = text_row("This agreement is governed by the law of the state of New York. " * 12)
    whole = tokenize_conversation(row, tokenizer)
    parts = fit(row, tokenizer, 64)
    assert len(parts) > 2
    [item] = evaluation.score_contestant("base", model, tokenizer, [row], config, ["bits_per_byte"], max_length=64)
    scores = scorers.score_examples(model, parts, batch_tokens=64, pad_token_id=0)
    assert sum(score.num_tokens for score in scores) == whole.num_supervised
    total = sum(score.log_probability_nats for score in scores)
    assert item.value == pytest.approx(-total / item.weight / math.log(2))
    assert item.item_id == "text"


def test_all_options_follow_the_same_shortened_prompt(tokenizer):
    options = ("New York", "the law of the state of Delaware, without regard to its conflict of laws rules")
    row = chat(1, options[0], options=options, prompt="the state of law " * 60)
    examples = fitting.option_examples(row, tokenizer, 128)
    prompts = [example.input_ids[: example.loss_mask.index(True)] for example in examples]
    assert prompts[0] == prompts[1]
    assert max(len(example.input_ids) for example in examples) <= 128
    answers = [
        tokenizer.decode([token for token, loss in zip(example.input_ids, example.loss_mask, strict=True) if loss])
        for example in examples
    ]
    assert answers == [option + "<|im_end|>" for option in options]
    short = fitting.prompt_ids(row, tokenizer, 128)
    assert len(short) < 128
    assert tokenizer.decode(short).endswith("<|im_start|>assistant\n")


def test_nothing_to_score_is_a_data_error(tokenizer):
    with pytest.raises(DataError, match="none of 1 test rows has an answer token within 8 tokens"):
        fitting.fitting_rows([chat(1, "yes")], tokenizer, 8)


def test_a_broken_model_is_named(model, tokenizer, config):
    def broken(model, examples, **settings):
        return [scorers.AnswerScore(log_probability_nats=math.nan, num_tokens=1) for _ in examples]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorers, "score_examples", broken)
        with pytest.raises(ModelError, match="the tuned model gives nan as the log-probability of test row item-1"):
            evaluation.score_contestant(
                "tuned", model, tokenizer, [chat(1, "x")], config, ["bits_per_byte"], max_length=64
            )


def table(values, *, metric="choice_accuracy", weight=1.0):
    return [
        ItemScore(item_id=f"i{at}", cluster_id=f"i{at}", model=model, metric=metric, value=float(value), weight=weight)
        for model, column in values.items()
        for at, value in enumerate(column)
    ]


def test_the_summary_keeps_the_contract(config):
    items = table({"base": [0] * 30 + [1] * 10, "tuned": [1] * 38 + [0] * 2, "majority_class": [0, 1] * 20})
    items += table({"base": [2.0] * 40, "tuned": [1.5, 1.6] * 20}, metric="bits_per_byte", weight=7.0)
    result = summary.summarise(items, config)
    found = json.loads(json.dumps(summary.summary_to_json(result)))
    assert found["main_metric"] == "choice_accuracy"
    assert set(found["metrics"]["choice_accuracy"]) == {"base", "tuned", "majority_class", "comparison"}
    assert set(found["metrics"]["choice_accuracy"]["base"]) == {"value", "low", "high", "n"}
    comparison = found["metrics"]["choice_accuracy"]["comparison"]
    assert set(comparison) == {
        "difference", "low", "high", "p_value", "verdict", "raw_p_value", "items_needed",
    }  # fmt: skip
    assert comparison["difference"] == pytest.approx(0.7)
    assert comparison["verdict"] == found["metrics"]["bits_per_byte"]["comparison"]["verdict"] == "better"
    assert summary.summary_from_json(found) == result
    for name in ("raw_p_value", "items_needed"):  # a summary of an older run is still read
        del comparison[name]
    assert summary.summary_from_json(found).metrics["choice_accuracy"].comparison.raw_p_value is None


def test_p_values_are_adjusted_for_the_number_of_metrics(config):
    columns = {"base": [0] * 6 + [1] * 20, "tuned": [1] * 6 + [1] * 20}
    alone = summary.summarise(table(columns), config).metrics["choice_accuracy"].comparison
    items = table(columns) + table({"base": [0, 1] * 13, "tuned": [1, 0] * 13}, metric="exact_match")
    among_two = summary.summarise(items, config).metrics["choice_accuracy"].comparison
    assert alone is not None
    assert among_two is not None
    assert among_two.p_value == pytest.approx(2 * alone.p_value)
    assert among_two.raw_p_value == alone.raw_p_value == alone.p_value
    assert among_two.items_needed > 26
    assert (alone.verdict, among_two.verdict) == ("better", "not_enough_data")


def test_terminal_lines_are_aligned_and_say_what_is_missing(config):
    items = table({"base": [0] * 30 + [1] * 10, "tuned": [1] * 38 + [0] * 2, "majority_class": [0, 1] * 20})
    items += table({"base": [0, 1] * 20, "tuned": [1, 0] * 19 + [1, 1]}, metric="exact_match")
    first, second = summary.result_lines(summary.summarise(items, config))
    assert first.startswith("choice_accuracy  0.25 [0.14, 0.40] → 0.95 [0.83, 0.99]  majority 0.50  +0.70 [")
    assert first.endswith("p<0.001  better (n=40)")
    assert "not enough data (n=40, about " in second
    assert first.index("→") == second.index("→")


def test_what_rounds_to_zero_has_no_sign():
    nothing = Estimate(value=-0.001, low=-0.004, high=0.004, n=9)
    change = Comparison(difference=-0.001, low=-0.004, high=0.004, p_value=1.0, verdict="equivalent")
    metric = MetricResult(estimates={"base": nothing, "tuned": nothing}, comparison=change)
    (line,) = summary.result_lines(EvaluationResult(main_metric="exact_match", metrics={"exact_match": metric}))
    assert "-0.00" not in line and "+0.00 [0.00, 0.00]" in line


def test_a_damaged_item_table_names_the_line(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"item_id": "a"}\n')
    with pytest.raises(DataError, match=r"items\.jsonl:1: no item score"):
        summary.read_items(path)
