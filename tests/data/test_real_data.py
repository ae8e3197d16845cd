"""The real files beside the checkout. Each has a twin on made-up rows in the other files of this folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config import DataConfig, NearDuplicates
from finetune.data.preferences import read_preferences
from finetune.data.read import read_splits
from finetune.data.rendering.chat_template import ensure_chat_template
from finetune.data.tokenize import render_prompt_ids, tokenize_conversation, tokenize_split
from finetune.errors import DataError
from finetune.records import PreferencePair, RatedAnswer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("path", "options", "format", "rows", "rejected"),
    [
        (
            "legal/cuad/master_clauses.csv",
            {"prompt": "Which law governs? {Governing Law}", "completion": "{Governing Law-Answer}"},
            "prompt_completion",
            410,
            {"empty_answer": 67, "null": 2, "exact_duplicate": 5},
        ),
        ("legal/privacy_policy_qa.jsonl", {"group": "context"}, "question_answer", 6000, {}),
        ("legal/cuad/contracts", {}, "text", 60, {}),
        ("legal/cuad/contracts.jsonl", {}, "text", 80, {}),
        (
            "medical/pubmedqa_train.json",
            {"prompt": "{QUESTION}", "completion": "{final_decision}"},
            "prompt_completion",
            500,
            {},
        ),
        ("medical/medquad.jsonl", {}, "question_answer", 5000, {"exact_duplicate": 8}),
        ("code/codegen_instruct.json", {}, "alpaca", 4000, {}),
        (
            "code/mbpp.jsonl",
            {"prompt": "{prompt}", "completion": "{canonical_solution}"},
            "prompt_completion",
            474,
            {},
        ),
        ("general/openbookqa.jsonl", {}, "choices", 500, {}),
        ("general/gsm8k_train_1000.jsonl", {}, "question_answer", 1000, {}),
        ("formats/alpaca_en_demo.json", {}, "alpaca", 150, {}),
        ("formats/glaive_toolcall_en_demo.json", {}, "sharegpt", 150, {"exact_duplicate": 9}),
        ("formats/identity.json", {}, "alpaca", 91, {}),
        ("formats/c4_demo.jsonl", {}, "text", 300, {}),
        ("formats/wiki_demo.txt", {}, "text", 1, {}),
    ],
)
def test_real_files_are_read(
    shared_dir: Path, path: str, options: dict[str, Any], format: str, rows: int, rejected: dict[str, int]
) -> None:
    config = DataConfig(path=str(shared_dir / "data" / path), near_duplicates=NearDuplicates.ignore, **options)
    splits, ledger = read_splits(config, seed=0)
    assert ledger.sources["train"]["format"] == format
    assert {reason: count for reason, count in ledger.rejected.items() if count} == rejected
    assert (ledger.rows_in, ledger.rows_used) == (rows, rows - sum(rejected.values()))
    assert all((splits.train, splits.validation, splits.test))
    ledger.close()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("medical/pubmedqa_train.json", "data.prompt='{QUESTION}' data.completion='{final_decision}'"),
        ("code/mbpp.jsonl", "data.prompt='{prompt}' data.completion='{canonical_solution}'"),
        ("formats/dpo_en_demo.json", "preference data"),
        ("formats/kto_en_demo.json", "as for KTO"),
    ],
)
def test_real_files_that_need_a_word_from_the_user(shared_dir: Path, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_splits(DataConfig(path=str(shared_dir / "data" / path)), seed=0)


def test_real_pairs_and_rated_answers(shared_dir: Path) -> None:
    pairs, ledger = read_preferences(DataConfig(path=str(shared_dir / "data/formats/dpo_en_demo.json")))
    assert (len(pairs), ledger.rows_in, ledger.rows_used) == (150, 150, 150)
    second = pairs[1]
    assert isinstance(second, PreferencePair)
    assert [turn.role for turn in second.prompt] == ["system", "user"]
    assert second.chosen[0].content.startswith("In this task, you are asked to identify the part-of-speech (POS) tag")
    assert second.rejected[0].content.startswith("Sure, I'd be happy to help! Here are the steps")
    rated, ledger = read_preferences(DataConfig(path=str(shared_dir / "data/formats/kto_en_demo.json")))
    assert (len(rated), ledger.rows_in) == (150, 150)
    assert [item.desirable for item in rated if isinstance(item, RatedAnswer)].count(True) == 78
    assert {item.prompt[-1].role for item in rated} == {"user"}


def test_a_glaive_chat_keeps_its_tools_calls_and_results(shared_dir: Path) -> None:
    config = DataConfig(path=str(shared_dir / "data/formats/glaive_toolcall_en_demo.json"))
    splits, _ = read_splits(config, seed=0)
    rows = {row.source: row for part in (splits.train, splits.validation, splits.test) for row in part}
    chat = rows["glaive_toolcall_en_demo.json:[43]"]
    assert [turn.role for turn in chat.messages] == ["user", "assistant", "tool", "assistant"]
    function = {"name": "calculate_age", "arguments": {"birthdate": "1990-05-15", "current_date": "2022-03-15"}}
    assert json.loads(chat.messages[1].tool_calls or "") == [{"type": "function", "function": function}]
    assert chat.messages[2].content == '{"age": 31}'
    assert json.loads(chat.tools or "")[0]["name"] == "calculate_age"
    num_calls = sum(turn.tool_calls is not None for row in rows.values() for turn in row.messages)
    assert num_calls == sum(turn.role == "tool" for row in rows.values() for turn in row.messages) > 50


def test_pubmedqa_rows_are_named_by_their_keys(shared_dir: Path) -> None:
    config = DataConfig(
        path=str(shared_dir / "data/medical/pubmedqa_train.json"),
        prompt=r"{CONTEXTS}\n\n{QUESTION}",
        completion="{final_decision}",
    )
    splits, _ = read_splits(config, seed=0)
    rows = {row.item_id: row for part in (splits.train, splits.validation, splits.test) for row in part}
    row = rows["10808977"]
    assert row.source == "pubmedqa_train.json:10808977"
    assert row.messages[0].content.startswith("Telephone counseling and tailored print communications have emerged")
    assert row.messages[0].content.endswith("\n\nCan tailored interventions increase mammography use among HMO women?")
    assert {row.answer for row in rows.values()} == {"yes", "no", "maybe"}


def test_cuad_cells_are_read_as_lists_and_answers_as_they_stand(shared_dir: Path) -> None:
    config = DataConfig(
        path=str(shared_dir / "data/legal/cuad/master_clauses.csv"),
        prompt=r"{Parties}\n{Governing Law}",
        completion="{Governing Law-Answer}",
    )
    splits, _ = read_splits(config, seed=0)
    rows = {row.source: row for part in (splits.train, splits.validation, splits.test) for row in part}
    first = rows["master_clauses.csv:2"]
    assert first.messages[0].content.startswith("Care G. B. Plus Ltd.\nTodos Medical Ltd.\nTodos\nReseller\nThis Agree")
    assert first.answer == "Israel"


def test_openbookqa_options_lose_their_letters(shared_dir: Path) -> None:
    splits, _ = read_splits(DataConfig(path=str(shared_dir / "data/general/openbookqa.jsonl")), seed=0)
    for row in splits.test:
        assert len(row.options) == 4
        assert row.answer in row.options
        assert not any(option[1:3] == ". " for option in row.options)


@pytest.mark.parametrize("model", ["stories260k", "babyllama-1m", "tinystories-656k"])
def test_small_real_tokenizers(shared_dir: Path, model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(shared_dir / "models" / model)
    assert ensure_chat_template(tokenizer, "auto") == "plain"
    for path in ("general/openbookqa.jsonl", "formats/glaive_toolcall_en_demo.json"):
        config = DataConfig(path=str(shared_dir / "data" / path), max_rows=20, max_answer_tokens_lost=1.0)
        splits, ledger = read_splits(config, seed=0)
        examples = tokenize_split(splits.train, tokenizer, 512, ledger)
        assert all(len(example.input_ids) <= 512 and example.num_supervised for example in examples)
        ledger.close()
        for row in splits.validation:
            example = tokenize_conversation(row, tokenizer, last_turn_only=True)
            assert example.input_ids.count(tokenizer.bos_token_id) == 1
            assert example.input_ids[-1] == tokenizer.eos_token_id
            assert example.loss_mask[-1]
            ids = [token for token, m in zip(example.input_ids, example.loss_mask, strict=True) if m]
            answer = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
            found, expected = (tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (ids, answer))
            assert found.strip() == expected.strip()
            prompt = render_prompt_ids(row.prompt, row.tools, tokenizer)
            if model != "tinystories-656k":  # its pieces may span a newline and the word behind it
                assert example.input_ids[: len(prompt)] == prompt


@pytest.mark.slow
def test_long_contracts_are_predicted_once(shared_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(shared_dir / "models" / "stories260k")
    splits, ledger = read_splits(DataConfig(path=str(shared_dir / "data/legal/cuad/contracts")), seed=0)
    examples = tokenize_split(splits.test, tokenizer, 512, ledger)
    num_tokens = sum(len(tokenize_conversation(row, tokenizer).input_ids) - 1 for row in splits.test)
    assert sum(example.num_supervised for example in examples) == num_tokens
    num_bytes = sum(len(row.answer.encode()) for row in splits.test)
    assert sum(example.num_supervised_bytes for example in examples) == num_bytes
