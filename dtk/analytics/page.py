"""The report as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from dtk.analytics.columns import ColumnProfile
from dtk.analytics.numbers import show_count, show_number, show_share, show_value

if TYPE_CHECKING:
    from bokeh.models import TickFormatter
    from bokeh.plotting import figure

    from dtk.analytics.report import Report

__all__ = ["render_page"]

MAX_PLOTS: Final = 100
MAX_MATRIX: Final = 40
_MAX_LABEL: Final = 24
_BAR: Final[dict[str, Any]] = {"fill_color": "#4c86c6", "line_color": None}
_GREY: Final = "#757d86"  # for lines and text of plots: legible on a light and on a dark card
# the browser itself then refuses whatever a hostile value might make the page load
_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:"
)
_STYLE: Final = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --faint: #69707a; --line: #d9dde2; --card: #f6f8fa;
  --warn: #9a5b00; --bar: #4c86c6; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --text: #e4e7eb; --faint: #98a0aa; --line: #343a42;
  --card: #1c2026; --warn: #e5a94b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1.5rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
.faint, h3 small { color: var(--faint); font-weight: normal; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .22rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; max-width: 20rem; overflow: hidden; text-overflow: ellipsis; }
td:first-child { position: sticky; left: 0; background: var(--back); } td a { color: inherit; }
.overview :is(th, td):nth-child(2), .checks :is(th, td):nth-child(-n+3) { text-align: left; }
.checks { margin-bottom: 1rem; } .checks td { white-space: normal; overflow-wrap: anywhere; }
.warnings { border-left: 3px solid var(--warn); padding: .1rem 1rem; list-style: none; margin: 0;
  overflow-wrap: anywhere; }
.warnings b { color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; min-width: 0; }
.card:target { border-color: var(--bar); }
.card dl { display: grid; grid-template-columns: auto 1fr auto 1fr; gap: 0 .6rem; margin: .4rem 0 0;
  font-size: .82rem; font-variant-numeric: tabular-nums; }
.card dt { color: var(--faint); } .card dt:nth-of-type(even) { padding-left: .8rem; }
.card dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.matrix :is(th, td) { padding: 0; font-size: .75rem; border: 0; vertical-align: bottom; }
.matrix span { display: block; padding: .2rem .3rem; overflow: hidden; text-overflow: ellipsis; }
.matrix th span { writing-mode: vertical-rl; transform: rotate(180deg); margin-left: auto; max-height: 9rem;
  text-align: left; }
"""


def render_page(report: Report) -> str:
    """Write the report as a page.

    Parameters
    ----------
    report : Report
        Of a table or of a Dataset.

    Returns
    -------
    str
        HTML. All that comes from the data is escaped.
    """
    scripts, plots = _embed(report)
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="faint">{escape(report.summary)}. {escape(report.accuracy)}</p>',
        *_checks(report),
        *_warnings(report),
        *_overview(report),
        *_dims(report),
        *_cards(report, plots),
        *_matrix(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style>\n{scripts}\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _checks(report: Report) -> Iterable[str]:
    if report.num_rules is None:
        return
    yield f"<h2>Checks</h2>\n<p>{escape(report.verdict)}.</p>"
    for heads, rows in (report.violation_rows(), report.drift_rows()):
        if rows:
            yield _table(heads, [list(map(escape, row)) for row in rows], css="wide checks")
    for note in report.notes:
        yield f'<p class="faint">{escape(note)}</p>'


def _warnings(report: Report) -> Iterable[str]:
    if report.findings:
        yield "<h2>Warnings</h2>"
        items = (f"<li><b>{escape(one.column)}</b>: {escape(one.message)}</li>" for one in report.findings)
        yield f'<ul class="warnings">{"".join(items)}</ul>'


def _overview(report: Report) -> Iterable[str]:
    heads, rows = report.table_rows()
    links = [f'<a href="#column-{number}">{escape(row[0])}</a>' for number, row in enumerate(rows)]
    names = links if report.columns else [escape(row[0]) for row in rows]
    body = [[name, *map(escape, row[1:])] for name, row in zip(names, rows, strict=True)]
    yield "<h2>Overview</h2>"
    yield _table(heads, body, css="wide overview")


def _dims(report: Report) -> Iterable[str]:
    if report.dims:
        yield "<h2>Dimensions</h2>"
        rows = [(dim.name, show_count(dim.size), show_value(dim.first), show_value(dim.last)) for dim in report.dims]
        yield _table(("dim", "size", "first", "last"), [list(map(escape, row)) for row in rows])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, css: str = "wide") -> str:
    """Lay out cells that are HTML already."""
    head = "".join(f"<th>{head}</th>" for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="{css}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cards(report: Report, plots: dict[str, str]) -> Iterable[str]:
    if not report.columns:
        return
    yield '<h2>Columns</h2>\n<div class="cards">'
    for number, column in enumerate(report.columns):
        figures = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _figures(column) if value
        )
        kind = f"<small>{escape(column.kind)}, {escape(column.dtype)}</small>"
        yield f'<section class="card" id="column-{number}"><h3>{escape(column.name)} {kind}</h3>'
        yield f"{plots.get(column.name, '')}<dl>{figures}</dl></section>"
    yield "</div>"
    if len(report.columns) > MAX_PLOTS:
        yield f'<p class="faint">The first {MAX_PLOTS} columns have plots.</p>'


def _figures(column: ColumnProfile) -> list[tuple[str, str]]:
    quantiles = column.quantiles or {}
    distinct = "" if column.num_distinct is None else show_count(column.num_distinct)
    return [
        ("missing", show_share(column.missing_share)),
        ("distinct", distinct if column.distinct_is_exact else f">= {distinct}"),
        ("mean", show_number(column.mean)),
        ("std", show_number(column.std)),
        ("min", _show(column, column.min)),
        ("max", _show(column, column.max)),
        *(
            (f"{float(share):.0%}", _show(column, value))
            for share, value in quantiles.items()
            if share not in ("0.01", "0.99")
        ),
        ("rank error", f"{column.rank_error:.2%}" if column.rank_error else ""),
        ("skewness", show_number(column.skewness)),
        ("infinite", show_count(column.num_infinite) if column.num_infinite else ""),
        ("mean length", show_number(column.length_mean)),
        ("longest", show_number(column.length_max)),
        ("counts short by", f"<= {show_count(column.top_error)}" if column.top_error else ""),
    ]


def _show(column: ColumnProfile, value: Any) -> str:
    """Write a value so that a time breaks between its date and its hour."""
    return show_value(value).replace("T", " ") if column.kind == "date" else show_value(value)


def _matrix(report: Report) -> Iterable[str]:
    if report.correlations is None:
        return
    names = report.correlations.columns[:MAX_MATRIX]
    rows = []
    for name, values in zip(names, report.correlations.values.tolist(), strict=False):
        cells = [f"<span>{escape(name)}</span>"]
        for value in values[: len(names)]:
            if math.isnan(value):
                cells.append("")
                continue
            colour = "76, 134, 198" if value >= 0 else "214, 96, 77"
            shown = round(value, 2) + 0.0  # and not -0.00
            cells.append(f'<span style="background: rgba({colour}, {abs(value):.2f})">{shown:.2f}</span>')
        rows.append(cells)
    yield "<h2>Correlations</h2>"
    yield _table(["", *(f"<span>{escape(name)}</span>" for name in names)], rows, css="wide matrix")
    if len(names) < len(report.correlations.columns):
        yield f'<p class="faint">The first {MAX_MATRIX} of {len(report.correlations.columns)} columns.</p>'


def _embed(report: Report) -> tuple[str, dict[str, str]]:
    """Return the script for the head, and for each column that has a plot its place and script."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    plots: dict[str, str] = {}
    for column in report.columns[:MAX_PLOTS]:
        if column.histogram_counts or column.top:
            plot = _histogram(column) if column.histogram_counts else _bars(column)
            # one by one: Bokeh's time for many plots in one call grows with their square
            plots[column.name] = "".join(reversed(components(plot)))
    if not plots:
        return "", {}
    # BokehJS alone: with its widgets, tables and formulae the page would be three times as large
    return Resources(mode="inline", components=["bokeh"]).render_js(), plots


def _histogram(column: ColumnProfile) -> figure:
    from bokeh.models import BasicTicker, DataRange1d, DatetimeTicker, Range1d

    edges, counts = list(column.histogram_edges), list(column.histogram_counts)
    if len(counts) == 1:  # one value, at a place of our choice: a bar needs a width, and the axis only this label
        value = column.min if column.kind == "date" else edges[0] / 2 + edges[1] / 2
        plot = _figure(x_range=Range1d(start=-1, end=1), y_range=DataRange1d(start=0))
        plot.xaxis.ticker = [0]
        plot.xaxis.major_label_overrides = {0: _label(value)}
        edges = [-0.2, 0.2]
    elif column.kind == "date":
        plot = _figure(x_axis_type="datetime", y_range=DataRange1d(start=0))
        plot.xaxis.ticker = DatetimeTicker(desired_num_ticks=4)  # more of their long labels would touch
    else:
        plot = _figure(y_range=DataRange1d(start=0))
        plot.xaxis.formatter, num_ticks = _ticks(edges[0], edges[-1])
        plot.xaxis.ticker = BasicTicker(desired_num_ticks=num_ticks)
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=4)
    plot.yaxis.formatter = _short_numbers()
    plot.quad(left=edges[:-1], right=edges[1:], bottom=0, top=counts, **_BAR)
    return plot


def _ticks(low: float, high: float) -> tuple[TickFormatter, int]:
    """Return how to write ticks, and how many have room; large ones are short, as 20k, where that tells them apart."""
    from bokeh.models import BasicTickFormatter

    largest = max(abs(low), abs(high))
    is_narrow = high - low < largest / 100
    if 1e4 <= largest < 1e15 and not is_narrow:
        return _short_numbers(), 6
    return BasicTickFormatter(), 6 if 1e-3 < largest < 1e5 and not is_narrow else 3


def _short_numbers() -> TickFormatter:
    from bokeh.models import NumeralTickFormatter

    return NumeralTickFormatter(format="0.[000]a")


def _bars(column: ColumnProfile) -> figure:
    """Draw the most frequent values, the first on top."""
    from bokeh.models import BasicTicker, DataRange1d

    top = column.top[::-1]
    plot = _figure(height=max(90, 22 * len(top) + 40), x_range=DataRange1d(start=0))
    plot.hbar(y=list(range(len(top))), right=[count for _, count in top], height=0.75, **_BAR)
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=4)
    plot.xaxis.formatter = _short_numbers()
    plot.yaxis.ticker = list(range(len(top)))
    plot.yaxis.major_label_overrides = {at: _label(value) for at, (value, _) in enumerate(top)}
    plot.ygrid.visible = False
    return plot


def _label(value: Any) -> str:
    """Cut a value to a label that Bokeh takes as plain text, never as a formula (for which it would load MathJax)."""
    text = "".join(character if character.isprintable() else " " for character in show_value(value))
    text = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "\u2026"
    return text.replace("$", "\uff04").replace("\\", "\u29f5")


def _figure(**options: Any) -> figure:
    from bokeh.plotting import figure

    settings: dict[str, Any] = {
        "height": 150,
        "sizing_mode": "stretch_width",
        "toolbar_location": None,
        "tools": "",
    } | options
    plot = figure(**settings)
    plot.background_fill_alpha = plot.border_fill_alpha = 0.0
    plot.outline_line_color = None
    plot.grid.grid_line_color = _GREY
    plot.grid.grid_line_alpha = 0.25
    plot.xgrid.visible = False
    for axis in plot.axis:
        axis.major_label_text_color = axis.axis_line_color = axis.major_tick_line_color = _GREY
        axis.minor_tick_line_color = None
    return plot
