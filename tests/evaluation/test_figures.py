"""Figures as pictures and as data: stacked bars in true proportion, memory parts that add up, notebooks' HTML."""

import re

import pytest

from finetune.compose import load_config
from finetune.evaluation import examples
from finetune.evaluation.memory_figure import TITLES, MemoryBar, memory_figure, parts_of
from finetune.evaluation.reliability_chart import Curve, reliability_chart
from finetune.evaluation.stacked_bars import Bar, Segment, stacked_chart
from finetune.jobs.plan import plan
from finetune.jobs.plan_picture import memory_picture
from finetune.model.memory import training_parts
from finetune.records import ItemScore


def segments(*values):
    return [Segment(name=f"part {number}", css_class=f"c{number}", value=value) for number, value in enumerate(values)]


def rectangles(svg, css_class):
    found = re.findall(rf'<rect class="part {css_class}" x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="18">', svg)
    return [(float(x), float(width)) for x, width in found]


def test_stacked_bars_are_in_proportion_and_end_to_end():
    bar = Bar(name="run", text="10", segments=segments(6.0, 0.0, 4.0))
    drawn = stacked_chart([bar], width=402, title="t", unit="", write=str, limit=20.0, limit_name="card")
    [(first, long)], [(second, short)] = rectangles(drawn, "c0"), rectangles(drawn, "c2")
    assert (first, long, second, short) == (1.0, 120.0, 121.0, 80.0)
    assert rectangles(drawn, "c1") == []
    assert drawn.count('x1="401.0"') == 3  # the last tick, and the limit: faint all along, and strong at the bar
    assert stacked_chart([], width=402, title="t", unit="", write=str) == ""


@pytest.mark.parametrize(("limit", "ends"), [(5.0, 401.0), (19.0, 373.0), (20.0, 401.0)])
def test_no_limit_goes_through_a_total(limit, ends):
    bar = Bar(name="run", text="10 GB", segments=segments(6.0, 0.0, 14.0))
    drawn = stacked_chart([bar], width=402, title="t", unit="", write=str, limit=limit, limit_name="card")
    (x,) = re.findall(r'<text class="row-text" x="([\d.]+)"', drawn)
    assert float(x) == pytest.approx(ends)


@pytest.fixture(scope="module")
def setting():
    return plan(load_config("legal_qlora", "plan.gpu=rtx3060"))


def test_memory_parts_add_up_to_the_plan(setting):
    parts = parts_of(setting.work)
    assert set(parts) <= set(TITLES)
    assert {"weights", "adapter", "optimizer", "activations", "context"} <= set(parts)
    assert sum(parts.values()) == pytest.approx(training_parts(setting.work).total)
    assert parts["optimizer"] == 8 * 41_943_040


def test_a_notebook_shows_the_plan_against_the_card(setting):
    html = memory_picture(setting)._repr_html_()
    assert "NVIDIA GeForce RTX 3060: 12.9 GB" in html
    assert "this run: 4 bits (nf4), " in html
    assert html.count("does not fit") >= 2
    assert ":root" not in html  # the notebook's own colours stay
    assert not re.search(r"https?://|<script|NaN", html)
    row = re.search(r"<td>in all</td><td>(\d+)</td>", html)
    assert row
    assert int(row[1]) == pytest.approx(training_parts(setting.work).total, abs=1)


def test_unknown_parts_of_a_kept_prediction_are_drawn_too():
    bar = MemoryBar(name="predicted", parts={"weights": 2e9, "something <new>": 1e9})
    found = memory_figure([bar], limit_bytes=None, limit_name="", title="t")
    assert found is not None
    assert "something &lt;new&gt;" in found.html
    assert memory_figure([], limit_bytes=None, limit_name="", title="t") is None


def test_a_perfectly_calibrated_model_lies_on_the_diagonal():
    curve = Curve(name="tuned", css_class="tuned", bins=[(0.2, 0.2, 1), (0.8, 0.8, 100)])
    drawn = reliability_chart([curve], width=420, title="t")
    (x1, y1, small), (x2, y2, large) = [
        tuple(map(float, found)) for found in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', drawn)
    ]
    line = [
        float(found) for found in re.findall(r'class="reference" x1="(.*?)" y1="(.*?)" x2="(.*?)" y2="(.*?)"', drawn)[0]
    ]
    slope = (line[3] - line[1]) / (line[2] - line[0])
    assert (y2 - y1) / (x2 - x1) == pytest.approx(slope, rel=1e-2)
    assert y1 == pytest.approx(line[1] + slope * (x1 - line[0]), abs=0.2)
    assert small < large
    assert reliability_chart([], width=420, title="t") == ""


def scores(metric, **values):
    return [
        ItemScore(item_id=f"{number}", cluster_id="c", model=model, metric=metric, value=value)
        for model, found in values.items()
        for number, value in enumerate(found)
    ]


def test_examples_are_what_changed_first():
    chosen = examples.choose_examples(scores("exact_match", base=[1, 0, 1, 0, 1], tuned=[0, 1, 1, 0, 0]), "exact_match")
    assert chosen == {"0": "lost", "4": "lost", "1": "won", "2": "both right", "3": "neither right"}
    assert next(iter(chosen.values())) == "lost"


def test_fewer_bits_are_a_gain():
    table = scores("bits_per_byte", base=[2.0, 1.0, 1.5], tuned=[1.0, 1.2, 1.5])
    chosen = examples.choose_examples(table, "bits_per_byte")
    assert chosen == {"1": "lost", "0": "won", "2": "unchanged"}
