"""German, Arabic and Chinese rows are read, compared, counted and tokenised like English ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config import DataConfig
from finetune.data.read import read_splits
from finetune.data.tokenize import tokenize_split

SENTENCES = {
    "English": (
        "Which law governs contract {}?",
        "The law of Delaware governs it, and the courts of Wilmington decide.",
    ),
    "German": (
        "Welches Recht gilt für den Vertrag {}?",
        "Es gilt österreichisches Recht; Gerichtsstand ist Wien, Größe egal.",
    ),
    "Arabic": ("أي قانون يحكم العقد {}؟", "يخضع هذا العقد لقوانين دولة الإمارات العربية المتحدة ومحاكم دبي."),
    "Chinese": ("合同{}适用哪国法律?", "本合同适用中华人民共和国法律,争议提交北京仲裁委员会仲裁。"),
}


def write_rows(path: Path, language: str) -> str:
    question, answer = SENTENCES[language]
    rows = [
        {"question": question.format(f"{number * 37}-{number}"), "answer": f"{answer} ({number})"}
        for number in range(30)
    ]
    bad = [{"question": question.format("x"), "answer": " "}, rows[0]]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, *bad]), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("language", SENTENCES)
def test_every_language_is_counted_alike(language: str, tmp_path: Path, chatml_tokenizer: Any) -> None:
    splits, ledger = read_splits(DataConfig(path=write_rows(tmp_path / "rows.jsonl", language)), seed=0)
    found: Any = ledger.to_json()
    assert (found["rows_in"], found["rows_used"]) == (32, 30)
    assert (found["rejected"]["empty_answer"], found["rejected"]["exact_duplicate"]) == (1, 1)
    examples = tokenize_split(splits.train, chatml_tokenizer, 2000, ledger, split="train")
    assert len(examples) == len(splits.train) == 24
    for example, row in zip(examples, splits.train, strict=True):
        learned = [
            token for token, carries_loss in zip(example.input_ids, example.loss_mask, strict=True) if carries_loss
        ]
        assert chatml_tokenizer.decode(learned) == f"{row.answer}<|im_end|>"
        assert example.num_supervised_bytes == len(row.answer.encode())


@pytest.mark.parametrize("language", SENTENCES)
def test_a_near_copy_is_found_in_every_language(language: str, tmp_path: Path) -> None:
    question, answer = SENTENCES[language]
    long = " ".join(f"{answer} [{place}]" for place in range(12))
    rows = [
        {"question": question.format("A1"), "answer": long},
        {"question": question.format("A1"), "answer": f"{long} !!"},
    ]
    others = [{"question": question.format(f"B{n}"), "answer": f"{answer} {n * 977}"} for n in range(10)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, *others]), encoding="utf-8")
    _, ledger = read_splits(DataConfig(path=str(path)), seed=0)
    assert ledger.rejected["near_duplicate"] == 1
    assert ledger.rows_used == 11
