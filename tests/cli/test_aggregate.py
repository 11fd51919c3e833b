"""dtk aggregate: printed, as JSON, and written."""

from __future__ import annotations

import json

import pandas as pd
import pytest


@pytest.fixture
def sales(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_text(
        'product,price,day\ntea,2,2025-01-01\ntea,,2025-01-02\n"rye, dark",1.5,2025-02-01\nrum,4,2025-02-02\n'
    )
    return path


def test_sales_by_product_are_written_as_csv(run, sales, tmp_path):
    out = tmp_path / "out.csv"
    measures = "price=mean,median,max,min"
    options = ("--by", "product", "--agg", measures, "--fill", "mean", "--cast", "float32", "--to", out)
    result = run("aggregate", sales, *options)
    assert (result.exit_code, result.stdout) == (0, f"written  {out}\n"), result.output
    found = pd.read_csv(out)
    assert list(found.columns) == ["product", "price_mean", "price_median", "price_max", "price_min"]
    assert found.to_numpy().tolist() == [
        ["rum", 4, 4, 4, 4],
        ["rye, dark", 1.5, 1.5, 1.5, 1.5],
        ["tea", 2.25, 2.25, 2.5, 2],
    ]
    again = run("aggregate", sales, *options)
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)
    assert run("aggregate", sales, *options, "--overwrite").exit_code == 0


def test_results_are_printed(run, sales):
    options = ("--by", "product", "--agg", "price=max,quantile(0.5)", "--agg", "*=count")
    result = run("aggregate", sales, *options, "--where", "price > 1.6")
    assert [line.split() for line in result.stdout.splitlines() if line.startswith(("rum", "tea", "rye"))] == [
        ["rum", "4.0", "4.0", "1"],
        ["tea", "2.0", "2.0", "1"],
    ]
    rows = json.loads(run("aggregate", sales, *options, "--json").stdout)["rows"]
    assert rows[2] == {"product": "tea", "price_max": 2.0, "price_quantile_0.5": 2.0, "count": 2}


def test_wrong_use_is_told(run, sales):
    assert "did you mean 'product'" in run("aggregate", sales, "--by", "prodct", "--agg", "price=max").stderr
    assert run("aggregate", sales, "--agg", "price").exit_code == 2
    assert "go together" in run("aggregate", sales, "--agg", "price=max", "--every", "1d").stderr
