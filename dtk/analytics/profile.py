"""Profile a table or an array dataset of any size in one pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtk.analytics.arrays import profile_dims, profile_variables
from dtk.analytics.checks import CheckPlan, plan_checks
from dtk.analytics.drift import measure_drift, plan_drift
from dtk.analytics.examples import located
from dtk.analytics.findings import find
from dtk.analytics.known import KnownColumn, read_known
from dtk.analytics.report import Report
from dtk.analytics.schema import DriftLimits, TableSchema, read_schema
from dtk.analytics.table import TableState, correlate, summarise_table
from dtk.config import validate_model
from dtk.errors import ArgumentError
from dtk.statistics import scan

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["profile"]


def profile(
    data: Any,
    *,
    progress: bool | None = None,
    target: str | None = None,
    schema: Any = None,
    against: Any = None,
    drift: Mapping[str, float] | None = None,
) -> Report:
    """Describe every column or variable, and what may be wrong with it.

    Reads the data once, on the current Dask client or on local threads. Counts, means, deviations and ranges are exact;
    quantiles, histograms and correlations are from a sample of 100,000 rows, or as many as 256 MiB hold, and the report
    states their error.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, xarray.Dataset, xarray.DataArray, pandas.DataFrame, pyarrow.Table, dict or str
        A table, a Dataset, or the path of one, as for `dtk.open`.
    progress : bool, optional
        Whether to show a progress bar; by default where standard error is a terminal.
    target : str, optional
        The column to predict: the report then warns of imbalance, and of columns that give it away.
    schema : TableSchema, str, path, mapping, pandera.DataFrameSchema or pandera.DataFrameModel, optional
        What a table must be like, see `dtk.analytics.TableSchema`; a path is that of a YAML file. What it breaks is in
        ``report.violations``.
    against : Report, Bundle, TablePreparation, mapping, str or path, optional
        Earlier data, from which a table should not drift: its profile, also as saved by ``report.save("x.json")``, or
        what a fitted preparation saw. How far it is, is in ``report.drift``.
    drift : mapping of str to float, optional
        How far the data may be from `against`, by measure, as in `dtk.analytics.DriftLimits`; goes before what `schema`
        says.

    Returns
    -------
    Report
        In memory; save it with ``report.save("profile.html")``.

    Raises
    ------
    ArgumentError
        If `target` is no column of the data, or the data has no columns; if `schema`, `against` or `drift` is none, or
        is for tables.
    SourceError
        If `data` is of a type that dtk does not read.
    DataError
        If files are missing or damaged, or a column mixes types.

    Examples
    --------
    >>> report = profile({"x": [1.0, 2.0, None], "late": [True, False, True]})
    >>> report.num_rows, report["x"].mean, report["x"].missing_share
    (3, 1.5, 0.3333333333333333)
    >>> report = profile({"x": [1.0, -2.0, None]}, schema={"columns": {"x": {"min": 0}}})
    >>> [(one.column, one.rule, one.num_rows, one.value, one.row) for one in report.violations]
    [('x', 'min', 1, -2.0, 1)]
    """
    title = "profile"
    if isinstance(data, (str, os.PathLike)):
        from dtk.sources import open as open_data

        title = Path(data).name
        data = open_data(os.fspath(data))
    show = sys.stderr.isatty() if progress is None else progress
    dataset = _as_dataset(data)
    if dataset is not None:
        if target is not None:
            raise ArgumentError(f"target={target!r} is for tables; leave it out for a Dataset")
        if schema is not None or against is not None:
            raise ArgumentError("schema and against are for tables; leave them out for a Dataset")
        variables = profile_variables(dataset, progress=show)
        return Report(title=title, dims=profile_dims(dataset), variables=variables)
    wanted = None if schema is None else read_schema(schema)
    known = None if against is None else read_known(against)
    limits = _limits(wanted, drift, against)
    return _profile_table(data, title, progress=show, target=target, wanted=wanted, known=known, limits=limits)


def _limits(schema: TableSchema | None, drift: Mapping[str, float] | None, against: Any) -> DriftLimits:
    """Put what the call says before what the schema says."""
    if drift and against is None:
        raise ArgumentError(f"drift={dict(drift)!r} needs earlier data to compare with; give against=")
    limits = DriftLimits() if schema is None else schema.drift
    return limits if not drift else validate_model({**limits.model_dump(), **drift}, DriftLimits, "drift")


def _profile_table(
    data: Any,
    title: str,
    *,
    progress: bool,
    target: str | None,
    wanted: TableSchema | None,
    known: Sequence[KnownColumn] | None,
    limits: DriftLimits,
) -> Report:
    from dtk.sources import Source, readable, schema_of
    from dtk.sources.columns import close_to

    data = readable(data)
    schema = schema_of(data)
    if not schema.names:
        raise ArgumentError("data has no columns; give a table that has some")
    if target is not None and target not in schema.names:
        raise ArgumentError(f"target={target!r} is no column of the data; {close_to(target, schema.names)}")
    chunk_rows = data.chunk_rows if isinstance(data, Source) else None
    total_rows = None if chunk_rows is None else int(chunk_rows.sum())
    checks = CheckPlan() if wanted is None else plan_checks(wanted, schema)
    if known is not None:
        checks = plan_drift(checks, known, limits, schema)
    make = partial(TableState, schema, target, checks=checks, total_rows=total_rows)
    state = scan(data, make, progress=progress, label="profile")
    columns, sample = summarise_table(state, schema)
    correlations = correlate(columns, sample, target=target)
    drift, drifted = measure_drift(known or (), columns, sample, state.checks, limits)
    return Report(
        title=title,
        num_rows=state.num_rows,
        columns=columns,
        correlations=correlations,
        findings=find(columns, correlations, target=target),
        target=target,
        num_sampled=state.num_sampled,
        sample_nbytes=state.sample_nbytes,
        num_rules=None if wanted is None and known is None else checks.num_rules,
        violations=located([*state.checks.violations(state.num_rows), *drifted], data),
        drift=drift,
        notes=(*(() if wanted is None else wanted.not_converted), *state.checks.notes()),
    )


def _as_dataset(data: Any) -> xr.Dataset | None:
    """Return xarray data as a Dataset; None for all else, without importing xarray for it."""
    xarray = sys.modules.get("xarray")
    if xarray is None:
        return None
    dataset: xr.Dataset | None = None
    if isinstance(data, xarray.DataArray):
        dataset = data.to_dataset(name=data.name if data.name is not None else "values")
    elif isinstance(data, xarray.Dataset):
        dataset = data
    return dataset
