"""Batches lose nothing and keep within their limit; progress is told in the log where there is no terminal."""

from finetune import progress
from finetune.evaluation import batching


def test_batches_keep_within_the_limit_and_lose_nothing():
    lengths = [5, 300, 17, 17, 60, 1, 90]
    batches = batching.make_batches(lengths, 120)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert batches[0] == [1]
    assert all(len(batch) * max(lengths[index] for index in batch) <= 120 for batch in batches[1:])


def test_progress_is_logged_where_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", -1.0)
    with caplog.at_level("INFO", logger="finetune"):
        assert list(batching.track([[0, 1], [2]], 3, "base: choices")) == [[0, 1], [2]]
        list(batching.track([[0]], 1, None))
    assert [record.getMessage().split(", ")[0] for record in caplog.records] == [
        "base: choices: 2 of 3 items",
    ]
