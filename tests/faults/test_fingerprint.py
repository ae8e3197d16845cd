"""Bar R9: a resumed run refuses by name what differs from the run that it goes on with, unless the change is meant."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.data.digest import digest_rows
from finetune.model import digest
from finetune.records import Conversation, Message

UNFINISHED = ("training.save_steps=2", "training.max_steps=4", "training.logging_steps=1", "training.eval_steps=2")


@pytest.fixture(scope="module")
def begun(runs: Any) -> Any:
    """A run on a model and rows of its own, stopped after the checkpoint of step 2."""
    shutil.copytree(runs.model, runs.path / "model")
    runs.model = runs.path / "model"
    assert runs.train("begun", *UNFINISHED).code == 0
    shutil.rmtree(runs.path / "begun" / "adapter")
    shutil.rmtree(runs.path / "begun" / "checkpoints" / "step-00000004")
    return runs


@contextlib.contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """Change a file inside the block."""
    before = path.read_bytes()
    assert change(before) != before
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


OPTIONS = {
    "seed": ("seed=7", "42", "7"),
    "training.learning_rate": ("training.learning_rate=0.02", "0.01", "0.02"),
    "training.schedule": ("training.schedule=linear", "cosine", "linear"),
    "training.max_steps": ("training.max_steps=9", "4", "9"),
    "training.batch_tokens": ("training.batch_tokens=2048", "1024", "2048"),
    "adapter.rank": ("adapter.rank=8", "4", "8"),
    "adapter.dropout": ("adapter.dropout=0.1", "0.0", "0.1"),
    "quantization.method": ("quantization=nf4", "none", "nf4"),
    "data.loss_on": ("data.loss_on=last_turn", "all_turns", "last_turn"),
}


@pytest.mark.slow
@pytest.mark.bar("R9")
@pytest.mark.parametrize("field", OPTIONS)
def test_a_changed_option_is_refused_by_name(field: str, begun: Any) -> None:
    word, old, new = OPTIONS[field]
    words = [given for given in UNFINISHED if given.partition("=")[0] != word.partition("=")[0]]
    ended = begun.train("begun", *words, word, "resume=true")
    assert ended.code == 2 and f"{field}: {old} there, {new} here" in ended.said, ended.said
    assert f"resume_changes=[{field}" in ended.said and ended.said.count("\n") < 4


def _flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def _with(key: str, value: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | {key: value}).encode()


FILES = {
    "data.train": ("rows.jsonl", lambda content: content.replace(b"Clause", b"Phrase")),
    "model.weights": ("model/model.safetensors", _flip),
    "model.config": ("model/config.json", _with("rms_norm_eps", 1e-5)),
    "model.tokenizer": ("model/tokenizer_config.json", _with("model_max_length", 99)),
    "model.chat_template": ("model/chat_template.jinja", lambda content: content.replace(b"'\\n'", b"'\\n\\n'")),
}


@pytest.mark.slow
@pytest.mark.bar("R9")
@pytest.mark.parametrize("field", FILES)
def test_changed_contents_are_refused_by_name(field: str, begun: Any) -> None:
    file, change = FILES[field]
    with changed(begun.path / file, change):
        ended = begun.train("begun", *UNFINISHED, "resume=true")
    assert ended.code == 2 and f"{field}: " in ended.said and " there, " in ended.said, ended.said
    named = ended.said.partition("resume_changes=[")[2].partition("]")[0]
    assert field in named.split(",") and {name.partition(".")[0] for name in named.split(",")} == {field.split(".")[0]}


@pytest.mark.slow
@pytest.mark.bar("R9")
def test_a_finished_run_is_not_evaluated_on_other_rows(begun: Any) -> None:
    file, change = FILES["data.train"]
    assert begun.train("finished", *UNFINISHED).code == 0
    with changed(begun.path / file, change):
        ended = begun.run("finished", *UNFINISHED, "resume=true")
    assert ended.code == 2 and "data.test: " in ended.said and "resume_changes" not in ended.said, ended.said


@pytest.mark.slow
@pytest.mark.bar("R9")
def test_a_change_that_is_named_is_followed_by_the_steps_that_are_left(begun: Any) -> None:
    assert begun.train("faster", *UNFINISHED, "training.learning_rate=0.02").code == 0
    shutil.copytree(begun.path / "begun", begun.path / "meant")
    named = "resume_changes=[training.learning_rate,data]"
    file, change = FILES["data.train"]
    with changed(begun.path / file, change):
        ended = begun.train("meant", *UNFINISHED, "training.learning_rate=0.02", "resume=true", named)
    assert ended.code == 0 and "going on from step-00000002" in ended.said, ended.said
    rates = {
        name: {row["step"]: row.get("learning_rate") for row in begun.metrics(name)} for name in ("faster", "meant")
    }
    assert [rates["meant"][step] for step in (3, 4)] == [rates["faster"][step] for step in (3, 4)]
    config = (begun.path / "meant" / "config.yaml").read_text()
    assert "training.learning_rate: 0.01 there, 0.02 here" in config and "data.train: " in config


@pytest.mark.slow
@pytest.mark.bar("R9")
def test_an_adapter_of_another_shape_cannot_be_meant(begun: Any) -> None:
    shutil.copytree(begun.path / "begun", begun.path / "shape")
    ended = begun.train("shape", *UNFINISHED, "adapter.rank=8", "resume=true", "resume_changes=[adapter]")
    assert ended.code == 1 and "its adapter is of another shape" in ended.said and "(4, 64) there" in ended.said


def row(text: str, source: str = "rows.jsonl:1") -> Conversation:
    return Conversation(item_id="1", source=source, messages=(Message(role="user", content=text),))


@pytest.mark.bar("R9")
def test_rows_are_known_by_what_they_say_and_by_their_order() -> None:
    one, other = row("a"), row("b")
    assert digest_rows([one, other]) == digest_rows([row("a", "rows.jsonl:7"), other])
    assert len({digest_rows(rows) for rows in ([one, other], [other, one], [one], [one, row("c")])}) == 4


@pytest.mark.bar("R9")
def test_weights_are_known_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    content = bytes(range(256)) * 40_000
    file.write_bytes(content)
    whole = digest.digest_weights(tmp_path)
    file.write_bytes(_flip(content))
    assert digest.digest_weights(tmp_path) != whole
    monkeypatch.setattr(digest, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(digest, "_BLOCK_BYTES", 100)
    sampled = digest.digest_weights(tmp_path)
    file.write_bytes(bytes(byte ^ 1 for byte in content))
    assert digest.digest_weights(tmp_path) != sampled, "another model differs in every sample"
    file.write_bytes(b"\x01" + content[1:])
    assert digest.digest_weights(tmp_path) != sampled, "the beginning is always read"


@pytest.mark.bar("R9")
def test_a_json_file_that_is_laid_out_otherwise_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1, "b": [2]}')
    before = digest.digest_config(tmp_path)
    (tmp_path / "config.json").write_text('{\n  "b": [2], "transformers_version": "9",\n  "a": 1}')
    assert digest.digest_config(tmp_path) == before
