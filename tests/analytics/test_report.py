"""The report as text and as a page: whole, small, escaped, and loading nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dtk.analytics.page
from dtk.analytics import Report, profile
from dtk.errors import ArgumentError

HOSTILE = "</script><script>alert('x')</script>"
QUOTE, ESCAPED_QUOTE = '"', '\\"'
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and gathers what they point to and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def overrides(value: Any) -> Iterator[str]:
    """Yield the labels of axes in a plot's JSON."""
    if isinstance(value, dict):
        if "major_label_overrides" in value:
            yield from (label for _, label in value["major_label_overrides"]["entries"])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from overrides(item)


def plots_of(text: str) -> list[Any]:
    """Take the plots out of a page: each is a string of JavaScript with JSON, its texts escaped for HTML once more."""
    strings = re.findall(r"const docs_json = '(.*)';", text)
    return [json.loads(unescape(json.loads(f'"{plot.replace(QUOTE, ESCAPED_QUOTE)}"'))) for plot in strings]


@pytest.fixture(scope="module")
def report() -> Report:
    rng = np.random.default_rng(0)
    return profile(
        {
            "x": rng.normal(size=300),
            "one": np.ones(300),
            "when": (pd.Timestamp("2013-01-01") + pd.to_timedelta(np.arange(300), unit="h")).to_numpy(),
            HOSTILE: rng.choice([HOSTILE, "$$\\frac{a}{b}$$", "<img src=https://example.org/x>", 'a"b'], 300),
            "late": rng.random(300) < 0.01,
        },
        target="late",
    )


def test_the_page_is_whole_small_and_loads_nothing(report: Report, tmp_path: Path) -> None:
    path = report.save(tmp_path / "profile.html")
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 3e6
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    assert not {"img", "link", "iframe"} & set(page.tags)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert page.tags.count("section") == 5
    assert page.tags.count("script") == 2 + 5  # BokehJS, its log level and the plots
    assert [path.name for path in tmp_path.iterdir()] == ["profile.html"]


def test_hostile_values_stay_text(report: Report, tmp_path: Path) -> None:
    text = report.save(tmp_path / "profile.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<img src=https" not in text
    assert HOSTILE in Page(text).text
    plots = plots_of(text)
    labels = [label for plot in plots for label in overrides(plot)]
    assert len(plots) == 5
    assert {"True", "False", "<img src=https://exampl\u2026", 'a"b'} < set(labels)
    # Bokeh would load MathJax for a label that holds one of these
    assert not any(delimiter in label for label in labels for delimiter in ("$$", "\\(", "\\["))
    assert "<script" not in report._repr_html_()


def test_checks_are_shown_and_hostile_values_in_them_stay_text(tmp_path: Path) -> None:
    data = {HOSTILE: np.array([HOSTILE, "b", "b"] * 9), "x": np.arange(27.0)}
    schema = {
        "columns": {HOSTILE: {"values": ["b", "<img src=x>"], "unique": True}, "<b>gone</b>": {}, "x": {"max": 25}},
        "drift": {"mean": 0.1},
    }
    report = profile(data, schema=schema, against=profile({**data, "x": np.arange(27.0) + 30}))
    text = report.save(tmp_path / "profile.html").read_text(encoding="utf-8")
    assert not any(hostile in text for hostile in ("<script>alert", "<img src=x", "<b>gone"))
    page = Page(text)
    assert "9 rules and 9 measures of drift checked: 8 violated." in page.text
    assert "be one of 'b', '<img src=x>'" in page.text
    assert "<b>gone</b>required" in page.text.replace("\n", "")
    assert HOSTILE not in report._repr_html_()
    lines = report.to_text().splitlines()
    assert lines[lines.index("violations") + 1].split() == ["column", "rule", "should", "rows", "example", "row"]
    assert any(line.split()[:2] == ["x", "mean"] and line.endswith("beyond") for line in lines)
    assert lines[-3] == "9 rules and 9 measures of drift checked: 8 violated"
    escapes = profile({"x": ["a\x1b[31m"]}, schema={"columns": {"x": {"pattern": "b"}}})
    assert "\x1b" not in escapes.to_text()


def test_nothing_is_said_of_checks_where_there_were_none(report: Report, tmp_path: Path) -> None:
    assert report.verdict == ""
    assert report.is_valid
    assert "<h2>Checks" not in report.save(tmp_path / "profile.html").read_text(encoding="utf-8")
    valid = profile({"x": [1]}, schema={"columns": {"x": {}}})
    assert "0 rules checked: nothing is violated" in valid.save(tmp_path / "valid.html").read_text(encoding="utf-8")
    state = json.loads(valid.save(tmp_path / "valid.json").read_text(encoding="utf-8"))
    assert state == json.loads(json.dumps(valid.to_dict()))


def test_figures_are_legible(tmp_path: Path) -> None:
    when = np.full(100, np.datetime64("2013-01-01T12:30:00"))
    data = {"a": np.arange(100.0), "b": (-1.0) ** np.arange(100), "year": np.full(100, 2013), "when": when}
    text = profile(data).save(tmp_path / "profile.html").read_text(encoding="utf-8")
    labels = [list(overrides(plot)) for plot in plots_of(text)]
    assert labels[2:] == [["2,013"], ["2013-01-01T12:30:00"]]  # of a constant, its value alone
    assert ">-0.02<" in text
    small = {"a": np.arange(1000.0), "b": (-1.0) ** np.arange(1000)}
    assert ">-0.00<" not in profile(small).save(tmp_path / "small.html").read_text(encoding="utf-8")
    assert "<dd>2013-01-01 12:30:00</dd>" in text  # it breaks between date and hour


def test_text(report: Report) -> None:
    text = report.to_text()
    lines = text.splitlines()
    assert lines[0] == "profile: 300 rows, 5 columns, 2 warnings"
    assert lines[2].split() == ["column", "kind", "missing", "distinct", "min", "median", "max", "mean", "std"]
    assert "one: all values are the same" in text
    assert "2013-01-13T11:00:00" in text
    assert lines[-1] == "All figures are exact."
    assert repr(report).startswith("<dtk.Report profile: 300 rows, 5 columns, 2 warnings>")


def test_control_characters_do_not_reach_a_terminal() -> None:
    text = profile({"a\x1b[31m\nb": ["x"]}).to_text()
    assert "\x1b" not in text
    assert "a\\x1b[31m\\nb" in text


def test_a_page_without_rows_and_with_many_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Page(profile({"x": np.empty(0)}).save(tmp_path / "empty.html").read_text())
    monkeypatch.setattr(dtk.analytics.page, "MAX_PLOTS", 2)
    monkeypatch.setattr(dtk.analytics.page, "MAX_MATRIX", 3)
    many = profile({f"x{number}": np.arange(3.0) * number for number in range(25)})
    text = many.save(tmp_path / "many.html").read_text()
    assert "The first 2 columns have plots." in text
    assert "The first 3 of 25 columns." in text
    assert "... and 5 more" in repr(many)


def test_saving_replaces_whole_pages_only(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "profile.html"
    path.write_text("old")
    report.save(str(path))
    assert path.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(ArgumentError, match="lies in no folder; make"):
        report.save(tmp_path / "none" / "profile.html")
    with pytest.raises(ArgumentError, match=r"is a folder; name a file in it, such as profile\.html"):
        report.save(tmp_path)
    with pytest.raises(KeyError, match="nothing"):
        report["nothing"]
