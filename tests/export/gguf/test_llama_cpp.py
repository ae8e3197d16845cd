"""llama.cpp in a process of its own: the same figures however they are asked for, one line where a file is broken."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from finetune.errors import ConfigError, ExportError
from finetune.evaluation.tokenizer_match import renders_alike
from finetune.export.gguf.build import ModelFacts, lay_out
from finetune.export.gguf.write import write_gguf
from finetune.export.merge import plan_base
from finetune.model import llama_cpp
from finetune.model.llama_cpp import LlamaCpp, check_runtime
from finetune.run import read_json

IDS = [5, 9, 40, 41, 42, 60, 7, 5, 9, 33]


@pytest.fixture(scope="module")
def gguf_path(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    plan = plan_base(tiny_model_dir)
    layout = lay_out(
        "F32",
        read_json(tiny_model_dir / "config.json"),
        {tensor.name: tensor.shape for tensor in plan.tensors},
        tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir),
        tokenizer_dir=tiny_model_dir,
        facts=ModelFacts(name="tiny", license="mit"),
    )
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(plan, path, tensors=layout.tensors, types=layout.types, metadata=layout.metadata)
    return path


@pytest.fixture
def runtime(gguf_path: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(gguf_path, context=256, num_threads=1) as opened:
        yield opened


def test_what_two_requests_share_is_computed_once_and_right(runtime: LlamaCpp, gguf_path: Path) -> None:
    first = runtime.logits(IDS)
    other = runtime.logits([*IDS[:6], 11, 12])
    with LlamaCpp(gguf_path, context=256, num_threads=1) as fresh:
        np.testing.assert_allclose(other, fresh.logits([*IDS[:6], 11, 12]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(runtime.logits(IDS, first=7), first[7:], rtol=1e-3, atol=1e-4)


def test_a_score_is_the_sum_of_log_probabilities(runtime: LlamaCpp) -> None:
    logits = runtime.logits(IDS).astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    mask = [True, False, True, True, False, False, False, False, False, True]
    expected = sum(log_probabilities[place - 1, IDS[place]] for place in (2, 3, 9))
    assert runtime.score(IDS, mask) == pytest.approx(expected, rel=1e-3)
    assert runtime.score(IDS, [False] * len(IDS)) == 0


def test_generation_takes_the_most_likely_tokens_and_stops(runtime: LlamaCpp) -> None:
    tokens, seconds = runtime.generate(IDS, max_new_tokens=8)
    assert len(tokens) == 8 and seconds > 0
    history = list(IDS)
    for token in tokens:
        assert int(runtime.logits(history)[-1].argmax()) == token
        history.append(token)
    assert runtime.generate(IDS, max_new_tokens=8, ends=tokens[:1])[0] == tokens[:1]


def test_a_long_sequence_is_computed_in_batches(gguf_path: Path) -> None:
    with LlamaCpp(gguf_path, num_threads=1) as runtime:
        assert runtime.facts.context == 512
        logits = runtime.logits([number % 250 for number in range(512)])
        assert logits.shape == (512, runtime.facts.vocab_size)
        with pytest.raises(ExportError, match="513 tokens are more than the context of 512"):
            runtime.logits([1] * 513)
        assert runtime.logits([1] * 3).shape[0] == 3


def test_the_file_says_what_the_tokenizer_said(runtime: LlamaCpp, tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    facts = runtime.facts
    assert facts.chat_template is not None and "generation -" not in facts.chat_template
    assert renders_alike(tokenizer, facts.chat_template)
    assert not renders_alike(tokenizer, facts.chat_template.replace("<|im_end|>", "<|im_end|> "))
    assert tokenizer.eos_token_id in facts.ends and not facts.add_bos
    text = "the law of  New York <|im_end|>\n"
    assert runtime.tokenize([text], add_special=True) == [tokenizer(text)["input_ids"]]


@pytest.mark.parametrize("damage", ["truncated", "no_gguf", "absent"])
def test_a_broken_file_ends_in_one_line(damage: str, gguf_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    content = gguf_path.read_bytes()
    if damage != "absent":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"GGUX" + content[4:])
    with pytest.raises(ExportError, match=r"broken.gguf: .+") as caught:
        LlamaCpp(path)
    assert "\n" not in str(caught.value)


def test_a_runtime_that_dies_is_said(runtime: LlamaCpp) -> None:
    runtime._process.kill()
    with pytest.raises(ExportError, match=r"llama\.cpp ended while it read it"):
        runtime.logits(IDS)


def test_a_missing_package_is_named_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    check_runtime("export.formats")
    monkeypatch.setattr(llama_cpp.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gguf and xllamacpp not installed; run pip install 'finetune\[gguf\]'"):
        check_runtime("export.formats")
