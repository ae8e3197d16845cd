"""The report in a real browser: it asks for nothing, complains of nothing, and every figure is drawn and fits."""

import json

import pytest

from .browser import browser_page, find_browser
from .test_report import make_calibration, make_examples, make_long_names, make_run

BINARY = find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARY is None, reason="no Chromium or Chrome here; scripts/browser installs one where it may"),
]

FIGURES = """[...document.querySelectorAll('.chart')].filter(chart => chart.offsetParent !== null).map(chart => {
  const svg = chart.querySelector('svg'), box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect(),
    parseFloat(getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width]);
  const outside = ([, at]) => at.left < box.left - 1 || at.right > box.right + 1
    || at.top < box.top - 1 || at.bottom > box.bottom + 1;
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  return {
    title: texts[0][0],
    size: [box.width, box.height],
    marks: [...svg.querySelectorAll('polyline,circle,rect')].filter(mark => {
      const at = mark.getBoundingClientRect();
      return (at.width > 0 || at.height > 0) && !/none/.test(getComputedStyle(mark).display);
    }).length,
    uncoloured: [...svg.querySelectorAll('rect.part,circle,polyline')].filter(mark =>
      !getComputedStyle(mark).getPropertyValue('--mark')).length,
    broken: /NaN|undefined|Infinity/.test(svg.outerHTML),
    outside: texts.filter(outside).map(([text]) => text),
    overlapping: texts.flatMap(([one, a], place) =>
      texts.slice(place + 1).filter(([, b]) => meet(a, b)).map(([other]) => one + ' / ' + other)),
    smallest: Math.min(...texts.map(([, , size]) => size)),
  };
})"""
TOO_WIDE = """[...document.querySelectorAll('main *')].filter(item =>
  item.getBoundingClientRect().right > innerWidth + 0.5 && !item.closest('.scroll') && item.getClientRects().length
).map(item => item.tagName + ' ' + item.textContent.slice(0, 60))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    assert BINARY is not None
    with browser_page(BINARY, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run that has everything a report can show."""
    from finetune.evaluation.report import build_report

    folder = make_run(tmp_path_factory.mktemp("run"))
    make_examples(folder)
    make_calibration(folder)
    make_long_names(folder)
    path = folder / "report.html"
    path.write_text(build_report(folder), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_report_is_whole_and_readable(page, report, width, dark):
    page.open(report, width=width, dark=dark)
    assert page.complaints == []
    assert page.requests == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate(TOO_WIDE) == []
    figures = page.evaluate(FIGURES)
    assert len(figures) == 11
    for figure in figures:
        assert min(figure["size"]) > 60, figure
        assert figure["size"][0] <= width
        assert figure["marks"] > 0, figure
        assert figure["smallest"] >= 11, figure
        assert not any(figure[fault] for fault in ("broken", "uncoloured", "outside", "overlapping")), figure
    shade = json.loads(page.evaluate("JSON.stringify(getComputedStyle(document.body).backgroundColor.match(/\\d+/g))"))
    assert (sum(map(int, shade)) < 200) is dark


def test_the_browser_would_tell(page, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<main><img src='pixel.png'><p style='width: 900px'>wide</p></main><script>console.error(1)</script>"
    )
    page.open(bad, width=400)
    assert len(page.requests) == 2
    assert page.complaints
    assert page.evaluate(TOO_WIDE) == ["P wide"]
