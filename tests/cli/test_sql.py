"""dtk sql: answers printed and written, EXPLAIN, and errors that point at the place."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow.parquet as pq

QUERY = "SELECT carrier, count(*) AS n, round(avg(arr_delay), 6) AS mean FROM flights GROUP BY carrier ORDER BY carrier"


def test_an_answer_is_printed_and_written(run, flights, tmp_path):
    frame = pd.read_parquet(flights)
    wanted = frame.groupby("carrier")["arr_delay"].mean().round(6)
    result = run("sql", QUERY, "--table", f"flights={flights}")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[2:]] == ["AA", "DL", "UA"]
    result = run("sql", QUERY, "--table", f"flights={flights}", "--json")
    assert json.loads(result.stdout)["rows"][2] == ["UA", int((frame["carrier"] == "UA").sum()), wanted["UA"]]
    for name, read in (("out.parquet", pq.read_table), ("out.csv", pd.read_csv)):
        result = run("sql", QUERY, "--table", f"flights={flights}", "--to", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert "columns  carrier, n, mean" in result.stdout
        written = read(tmp_path / name)
        written = written if isinstance(written, pd.DataFrame) else written.to_pandas()
        assert list(written["mean"]) == list(wanted)
        result = run("sql", QUERY, "--table", f"flights={flights}", "--to", tmp_path / name)
        assert result.exit_code == 1
        assert "is there already" in result.stderr
        result = run("sql", QUERY, "--table", f"flights={flights}", "--to", tmp_path / name, "--overwrite")
        assert result.exit_code == 0, result.output


def test_many_rows_are_cut_short(run, flights):
    result = run("sql", "SELECT * FROM flights", "--table", f"flights={flights}")
    assert "the first 100 rows; --to writes all" in result.stdout
    assert len(result.stdout.splitlines()) == 104


def test_the_way_is_explained_and_a_catalog_is_read(run, flights, tmp_path):
    catalog = tmp_path / "tables.yaml"
    catalog.write_text(f"tables: {{flights: {flights}}}\n")
    for arguments in (("--explain", QUERY), (f"explain {QUERY}",)):
        result = run("sql", *arguments, "--catalog", catalog)
        assert result.exit_code == 0, result.output
        assert "way: distributed" in result.stdout
        assert "merge: 8 parts to one, as a tree: SELECT" in result.stdout


def test_errors_point_at_the_place(run, flights):
    result = run("sql", "SELECT carier FROM flights", "--table", f"flights={flights}")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: query, line 1, column 8: 'carier' is no column; did you mean 'carrier'?\n"
        "  SELECT carier FROM flights\n         ^^^^^^\n"
    )
    assert run("sql", "SELECT 1", "--table", "flights").exit_code == 2
