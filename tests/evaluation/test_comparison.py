"""Several runs on one page: what it says of better, equal and unlike runs, and what it refuses."""

import re

import pytest

from finetune.__main__ import main
from finetune.errors import ConfigError
from finetune.evaluation.comparison import build_comparison
from finetune.jobs.report import compare_runs

from .test_report import Page, make_items, make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs: the first, one that is worse, one with the same answers, one that answered other questions."""
    root = tmp_path_factory.mktemp("outputs")
    first = make_items(80, tuned_rate=0.9)
    worse = make_items(80, tuned_rate=0.3)
    others = [
        type(item)(item_id=f"x-{item.item_id}", cluster_id=item.cluster_id, model=item.model, metric=item.metric,
                   value=item.value, weight=item.weight)
        for item in first
    ]  # fmt: skip
    tables = {"first": first, "worse": worse, "same": first, "unlike": others}
    return [make_run(root / name, items=items) for name, items in tables.items()]


def test_runs_are_compared_with_the_first_item_by_item(runs):
    page = Page(build_comparison(runs))
    text = " ".join(page.text.split())
    for words in (
        "4 runs compared",
        "worse is worse than first on 80 test items.",
        "unlike and first answered no common test items",
    ):
        assert words in text, words
    assert re.search(
        r"(same is as good as first|Whether same is better than first does not show) on 80 test items", text
    )
    assert page.tags.count("svg") == 2 * 3
    assert not {"script", "link", "img"} & set(page.tags)


def test_p_values_count_for_all_runs(runs):
    def p_value(*chosen):
        [found] = re.findall(r"<td>worse</td>(?:<td>[-\d.]+</td>){3}<td>([\d.]+)</td>", build_comparison(chosen))
        return float(found)

    alone, among = p_value(runs[0], runs[1]), p_value(runs[0], runs[1], runs[2], runs[3])
    assert among == pytest.approx(min(1.0, 3 * alone), abs=1e-4)


def test_runs_of_one_name_are_told_apart_and_damage_is_borne(tmp_path, runs):
    twin = make_run(tmp_path / "elsewhere" / "first", items=make_items(20))
    (twin / "evaluation/summary.json").write_text("{")
    text = Page(build_comparison([runs[0], twin])).text
    assert "elsewhere/first" in text


def test_what_is_no_run_is_refused(runs, monkeypatch):
    monkeypatch.chdir(runs[0].parent)
    with pytest.raises(ConfigError, match=r"there is no run in wrose. Did you mean 'worse'"):
        compare_runs(["first", "wrose"])
    with pytest.raises(ConfigError, match="name at least two"):
        compare_runs(["first", str(runs[0])])


@pytest.mark.slow
def test_report_runs_writes_the_page_beside_the_first_run(runs, monkeypatch):
    monkeypatch.chdir(runs[0].parent)
    assert main(["report", "runs=[first,worse]"]) == 0
    assert "2 runs compared" in (runs[0].parent / "comparison.html").read_text()
