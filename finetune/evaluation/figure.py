"""A figure of the report or a notebook: one chart drawn for a wide and a narrow screen, and its numbers as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from markupsafe import Markup

WIDTHS = {"wide": 860, "narrow": 336}
"""Drawn widths in pixels; the style sheet shows the one that fits."""
HALF_WIDTHS = {"wide": 400, "narrow": 336}
"""Of figures that stand side by side where there is room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Drawings as SVG, and their data as rows of text under `columns`. A notebook shows it by itself."""

    drawings: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def html(self) -> Markup:
        """The drawings with the folded table of their data."""
        heads = _cells("th", self.columns)
        body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in self.rows)
        return Markup(
            f'<figure>{self.drawings}<details class="data"><summary>Data of this figure</summary><div class="scroll">'
            f'<table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
            "</div></details></figure>"
        )

    def _repr_html_(self) -> str:
        """Show the figure in a notebook, with the report's own colours."""
        return f'<style>{chart_styles(".finetune")}</style><div class="finetune">{self.html}</div>'


def figure(
    draw: Callable[[int], str],
    *,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: dict[str, int] = WIDTHS,
) -> Figure | None:
    """Draw a chart for each width; None where there is nothing to draw. `draw` escapes all texts."""
    drawn = {kind: draw(width) for kind, width in widths.items()}
    if not all(drawn.values()):
        return None
    divisions = (f'<div class="chart {kind}">{svg}</div>' for kind, svg in drawn.items())
    return Figure(drawings=Markup("".join(divisions)), columns=columns, rows=rows)


def chart_styles(scope: str = ":root") -> str:
    """Return the style sheet of charts; colours are set on `scope`, and outside a page nothing else is touched."""
    sheet = Path(__file__).with_name("charts.css").read_text(encoding="utf-8")
    return sheet.replace(":root", scope)


def page_styles() -> Markup:
    """Return the style sheet of a whole page, its charts included."""
    return Markup(chart_styles() + Path(__file__).with_name("page.css").read_text(encoding="utf-8"))


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
