"""Batches lose nothing and keep within their limit; progress is told in the log where there is no terminal."""

import pytest
import torch

from finetune import progress
from finetune.errors import ResourceError
from finetune.evaluation import batching


def test_batches_keep_within_the_limit_and_lose_nothing():
    lengths = [5, 300, 17, 17, 60, 1, 90]
    batches = batching.make_batches(lengths, 120)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches[0] == [1]
    assert all(len(batch) * max(lengths[index] for index in batch) <= 120 for batch in batches[1:])


def test_rows_with_a_common_prompt_stand_in_one_batch(monkeypatch):
    monkeypatch.setattr(batching, "SHARED_PROMPTS_SAVE_TOKENS", 10)
    first, second, third = (1,) * 40, (2,) * 30, (3,) * 5
    prompts = [first, second, first, third, second, (), (), (4,) * 60, third, second]
    lengths = [len(prompt) + 3 for prompt in prompts]
    assert batching.share_prompts(prompts, lengths, 120) == [[0, 2, 1, 4, 9, 3, 8]]
    assert batching.share_prompts(prompts, lengths, 75) == [[0, 2], [1, 4, 9, 3, 8]]  # 2 x 40 tokens are too many
    assert batching.share_prompts(prompts, lengths, 31) == [[0, 2], [1, 4, 9]]  # third alone saves too little
    lengths[2] += 60  # two continuations of 63 tokens
    assert batching.share_prompts(prompts, lengths, 120) == [[1, 4, 9, 3, 8]]
    monkeypatch.setattr(batching, "SHARED_PROMPTS_SAVE_TOKENS", 70)
    assert batching.share_prompts(prompts, lengths, 120) == []


def test_progress_is_logged_where_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", -1.0)
    with caplog.at_level("INFO", logger="finetune"):
        assert list(batching.track([[0, 1], [2]], 3, "base: choices")) == [[0, 1], [2]]
        list(batching.track([[0]], 1, None))
    assert [record.getMessage().split(", ")[0] for record in caplog.records] == [
        "base: choices: 2 of 3 items",
    ]


def holds(rows: int):
    """Work that runs out of memory above so many rows, as torch says it on a GPU and on a CPU."""
    sizes = []

    def work(part):
        sizes.append(len(part))
        if len(part) > 2 * rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if len(part) > rows:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return [10 * index for index in part]

    return work, sizes


@pytest.mark.slow
@pytest.mark.bar("R8")
def test_a_batch_that_does_not_fit_is_cut_and_later_ones_are_too(caplog):
    fitting, (work, sizes) = batching.Fitting(), holds(3)
    assert fitting.run(list(range(10)), work) == [10 * index for index in range(10)]
    assert fitting.run([7, 8, 9], work) == [70, 80, 90]
    assert sizes == [10, 5, 3, 3, 3, 1, 1, 1, 1]
    assert "batches in 4 parts" in caplog.text


@pytest.mark.slow
@pytest.mark.bar("R8")
def test_a_single_row_that_does_not_fit_is_an_error_and_others_errors_pass():
    with pytest.raises(ResourceError, match=r"single row: lower training\.max_length"):
        batching.Fitting().run([1, 2, 3], holds(0)[0])
    with pytest.raises(RuntimeError, match="shapes"):
        batching.Fitting().run([1], lambda part: (_ for _ in ()).throw(RuntimeError("shapes differ")))
