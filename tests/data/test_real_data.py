"""The real files beside the checkout. Each has a twin on made-up rows in the other files of this folder."""

from pathlib import Path
from typing import Any

import pytest

from finetune.config import DataConfig
from finetune.data.chat_template import ensure_chat_template
from finetune.data.read import read_splits
from finetune.data.tokenize import render_prompt_ids, tokenize_conversation, tokenize_split
from finetune.errors import DataError


@pytest.mark.parametrize(
    ("path", "options", "format", "rows", "used"),
    [
        (
            "legal/cuad/master_clauses.csv",
            {"prompt": "Which law governs? {Governing Law}", "completion": "{Governing Law-Answer}"},
            "prompt_completion",
            410,
            338,
        ),
        ("legal/privacy_policy_qa.jsonl", {"group": "context"}, "question_answer", 6000, 6000),
        ("legal/cuad/contracts", {}, "text", 60, 60),
        ("legal/cuad/contracts.jsonl", {}, "text", 80, 80),
        (
            "medical/pubmedqa_train.json",
            {"prompt": "{QUESTION}", "completion": "{final_decision}"},
            "prompt_completion",
            500,
            500,
        ),
        ("medical/medquad.jsonl", {}, "question_answer", 5000, 4992),
        ("code/codegen_instruct.json", {}, "alpaca", 4000, 4000),
        (
            "code/mbpp.jsonl",
            {"prompt": "{prompt}", "completion": "{canonical_solution}"},
            "prompt_completion",
            474,
            474,
        ),
        ("general/openbookqa.jsonl", {}, "choices", 500, 500),
        ("general/gsm8k_train_1000.jsonl", {}, "question_answer", 1000, 1000),
        ("formats/alpaca_en_demo.json", {}, "alpaca", 150, 150),
        ("formats/glaive_toolcall_en_demo.json", {}, "sharegpt", 150, 141),
        ("formats/identity.json", {}, "alpaca", 91, 91),
        ("formats/c4_demo.jsonl", {}, "text", 300, 300),
        ("formats/wiki_demo.txt", {}, "text", 1, 1),
    ],
)
def test_real_files_are_read(
    shared_dir: Path, path: str, options: dict[str, Any], format: str, rows: int, used: int
) -> None:
    splits, ledger = read_splits(DataConfig(path=str(shared_dir / "data" / path), **options), seed=0)
    assert ledger.sources["train"]["format"] == format
    assert (ledger.rows_in, ledger.rows_used) == (rows, used)
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
