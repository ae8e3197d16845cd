"""A file that is the trained model passes; one wrong tensor, merge, token or template fails, and the reason says it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from transformers import AutoTokenizer

from finetune.evaluation.neutral_rows import neutral_rows
from finetune.evaluation.verify import Reference, reference_outputs
from finetune.evaluation.verify_gguf import GATES, Trained, verify_gguf
from finetune.export.gguf.golden import check_golden, golden_items
from finetune.export.gguf.hard_text import HARD_TEXT
from finetune.export.gguf.lora import write_lora
from finetune.export.gguf.readback import damaged_tensors
from finetune.export.gguf.write import write_gguf
from finetune.export.merge import MergePlan, plan_base, plan_merge
from finetune.records import Verification

from .test_write import layout_of, write

pytestmark = pytest.mark.slow

PROMPTS = [[1, *range(40 + number, 70 + number)] for number in range(6)]


@pytest.fixture(scope="module")
def plan(tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> MergePlan:
    return plan_merge(tiny_model_dir, make_adapter(tiny_model_dir, std=0.3))


@pytest.fixture(scope="module")
def reference(plan: MergePlan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    with reference_outputs(
        plan.base_dir,
        plan.adapter.folder,
        PROMPTS,
        starts=[10] * len(PROMPTS),
        storage_dir=tmp_path_factory.mktemp("logits"),
    ) as found:
        yield found


@pytest.fixture(scope="module")
def trained(plan: MergePlan) -> Trained:
    tokenizer = AutoTokenizer.from_pretrained(plan.base_dir)
    golden = golden_items(neutral_rows(), tokenizer, 4)
    assert len(golden) == 4
    return Trained(
        tokenizer=tokenizer,
        end_ids=[tokenizer.eos_token_id],
        hard_texts=HARD_TEXT,
        golden=golden,
        golden_problems=check_golden,
    )


def verified(
    plan: MergePlan, path: Path, format: str, reference: Reference, trained: Trained, **changes: Any
) -> Verification:
    """Write the plan, with other metadata if asked, and compare the file."""
    layout = layout_of(plan, format)
    metadata = dict(layout.metadata) | changes
    write_gguf(plan, path, tensors=layout.tensors, types=layout.types, metadata=metadata)
    return verify_gguf(path, format, reference, trained)


@pytest.mark.bar("R14")
@pytest.mark.parametrize("format", ["F32", "F16", "BF16", "Q8_0"])
def test_the_trained_model_passes(
    format: str, plan: MergePlan, reference: Reference, trained: Trained, tmp_path: Path
) -> None:
    found = verified(plan, tmp_path / "tiny.gguf", format, reference, trained)
    assert found.passed, found.reason
    assert found.tokenizer_match and found.template_match and found.greedy_match > 0.9
    assert found.kl_mean <= GATES[format].kl_mean and found.kl_p99 >= found.kl_mean
    assert found.num_bytes == (tmp_path / "tiny.gguf").stat().st_size and (found.tokens_per_second or 0) > 0
    assert found.clear_agreement == 1


@pytest.mark.bar("R14")
def test_a_wrong_merge_fails(plan: MergePlan, reference: Reference, trained: Trained, tmp_path: Path) -> None:
    pairs = {name: replace(pair, scaling=pair.scaling * 0.8) for name, pair in plan.adapter.pairs.items()}
    tensors = tuple(replace(tensor, pair=tensor.pair and pairs[tensor.pair.module]) for tensor in plan.tensors)
    found = verified(replace(plan, tensors=tensors), tmp_path / "tiny.gguf", "Q8_0", reference, trained)
    assert not found.passed and "clearly prefers another token" in found.reason
    found = verified(plan_base(plan.base_dir), tmp_path / "base.gguf", "F16", reference, trained)
    assert not found.passed and "KL divergence" in found.reason


@pytest.mark.bar("R14")
def test_one_wrong_tensor_fails_and_is_named(
    plan: MergePlan, reference: Reference, trained: Trained, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    files, layout = write(plan, tmp_path / "tiny.gguf", "Q8_0")
    reader = GGUFReader(files.path, "r+")
    data = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.attn_v.weight").data
    data[:] = data[::-1].copy()
    reader.data.flush()
    del reader
    problems = damaged_tensors(files.path, plan, layout.tensors, layout.types)
    found = verify_gguf(files.path, "Q8_0", reference, trained, problems=problems)
    assert not found.passed and "blk.1.attn_v.weight is off by" in found.reason
    without = verify_gguf(files.path, "Q8_0", reference, trained)
    assert not without.passed and "clearly prefers another token" in without.reason


@pytest.mark.bar("R14")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokenizer.ggml.eos_token_id": 5}, "EOS token is 5"),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 1}, "BOS tokens"),
        ({"tokenizer.chat_template": "{{ messages[0]['content'] }}"}, "chat template"),
    ],
    ids=["end", "bos", "template"],
)
def test_a_wrong_tokenizer_or_template_fails(
    changes: dict[str, Any], reason: str, plan: MergePlan, reference: Reference, trained: Trained, tmp_path: Path
) -> None:
    found = verified(plan, tmp_path / "tiny.gguf", "F16", reference, trained, **changes)
    assert not found.passed and reason in found.reason, found


@pytest.mark.bar("R14")
def test_two_tokens_that_changed_places_fail(
    plan: MergePlan, reference: Reference, trained: Trained, tmp_path: Path
) -> None:
    tokens = list(layout_of(plan, "F16").metadata["tokenizer.ggml.tokens"])
    tokens[50], tokens[60] = tokens[60], tokens[50]
    changes = {"tokenizer.ggml.tokens": tokens}
    found = verified(plan, tmp_path / "tiny.gguf", "F16", reference, trained, **changes)
    assert not found.passed and not found.tokenizer_match


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 9}, "alpha_pattern": {"k_proj": 32}}],
    ids=["lora", "rslora", "patterns"],
)
def test_the_adapter_alone_on_the_base_says_the_same(
    options: dict[str, Any], tiny_model_dir: Path, make_adapter: Callable[..., Path], trained: Trained, tmp_path: Path
) -> None:
    plan = plan_merge(tiny_model_dir, make_adapter(tiny_model_dir, std=0.3, **options))
    base, layout = write(plan_base(tiny_model_dir), tmp_path / "base.gguf", "F32")
    lora = write_lora(plan, tmp_path / "lora.gguf", tensors=layout.tensors, architecture="llama", name="tiny")
    with reference_outputs(tiny_model_dir, plan.adapter.folder, PROMPTS, storage_dir=tmp_path) as reference:
        found = verify_gguf(base.path, "F32", reference, trained, lora=lora.path)
        assert found.passed, found.reason
        assert found.num_bytes == lora.num_bytes < base.num_bytes
        assert not verify_gguf(base.path, "F32", reference, trained).passed


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["norm"]}, "fully trained tensors"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embedding"),
    ],
)
def test_what_a_gguf_adapter_cannot_hold_is_refused(
    options: dict[str, Any], reason: str, tiny_model_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    from finetune.errors import ConfigError

    plan = plan_merge(tiny_model_dir, make_adapter(tiny_model_dir, **options))
    tensors = layout_of(plan_base(tiny_model_dir), "F32").tensors
    with pytest.raises(ConfigError, match=reason):
        write_lora(plan, tmp_path / "lora.gguf", tensors=tensors, architecture="llama", name="tiny")
    assert not list(tmp_path.iterdir())
