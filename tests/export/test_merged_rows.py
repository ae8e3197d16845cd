"""Rows of a merged tensor: rounded once, refused where they are no numbers, the same whenever they are asked for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.errors import ExportError
from finetune.export.merge import RoundTrip, TensorPlan, plan_merge
from finetune.export.merged_rows import MergedRows, rounded
from finetune.export.tensor_files import TORCH_DTYPES, Scratch


@pytest.fixture(scope="module")
def tensor(tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> TensorPlan:
    """A weight of the tiny model with a low-rank pair."""
    plan = plan_merge(tiny_model_dir, make_adapter(tiny_model_dir, target_modules=["q_proj"]))
    return next(tensor for tensor in plan.tensors if tensor.pair is not None)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(tensor: TensorPlan, dtype: str, value: float) -> None:
    precision = torch.float64 if dtype == "F64" else torch.float32
    rows = torch.linspace(-3, 3, 35, dtype=precision).reshape(5, 7)
    assert rounded(rows, replace(tensor, dtype=dtype)).equal(rows.to(TORCH_DTYPES[dtype]))
    rows[3, 2] = value
    with pytest.raises(ExportError, match=f"not finite in {dtype}"):
        rounded(rows, replace(tensor, dtype=dtype))


@pytest.mark.parametrize(
    ("dtype", "fits", "too_large"),
    [("F16", 65519.0, 65520.0), ("BF16", 3.3961773e38, 3.3961777e38), ("F16", -65519.0, -65520.0)],
)
def test_what_rounds_to_infinity_is_refused(tensor: TensorPlan, dtype: str, fits: float, too_large: float) -> None:
    plan = replace(tensor, dtype=dtype)
    assert rounded(torch.tensor([[0.0, fits]]), plan).isfinite().all()
    with pytest.raises(ExportError, match="not finite"):
        rounded(torch.tensor([[0.0, too_large]]), plan)


def test_no_rows_and_one_number_are_rounded(tensor: TensorPlan) -> None:
    plan = replace(tensor, dtype="BF16")
    assert rounded(torch.empty(0, 4), plan).shape == (0, 4)
    assert rounded(torch.tensor(1.5), plan).item() == 1.5


@pytest.mark.parametrize("round_trip", [None, RoundTrip(function=lambda weight: weight.round(decimals=2))])
def test_rows_are_the_same_each_time(tensor: TensorPlan, round_trip: RoundTrip | None) -> None:
    rows = MergedRows(replace(tensor, round_trip=round_trip is not None), round_trip)
    first = rows.read(2, 9).clone()
    assert rows.read(0, 4)[2:].equal(first[:2])
    assert rows.read(2, 9).equal(first)


def test_rows_in_scratch_memory_are_those_of_fresh_memory(tensor: TensorPlan) -> None:
    rows, scratch = MergedRows(tensor), Scratch()
    for start, stop in ((0, 3), (3, 11), (1, 2)):
        assert rows.read(start, stop, scratch=scratch).equal(rows.read(start, stop))
    assert rows.read(0, 3, scratch=scratch).data_ptr() == rows.read(3, 6, scratch=scratch).data_ptr()


def test_threads_have_scratch_memory_of_their_own() -> None:
    scratch = Scratch()
    mine = scratch.empty("sums", (4, 2), torch.float32).fill_(1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: scratch.empty("sums", (4, 2), torch.float32).fill_(2)).result()
    assert mine.eq(1).all()
    assert scratch.empty("sums", (2, 3), torch.bfloat16).shape == (2, 3)
    assert scratch.empty("sums", (), torch.float64).shape == ()
