"""What a loader is given, as a source and an encoder: a sample is a row of a table, an index of grids, or a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dtk.errors import ArgumentError
from dtk.loader.checks import check_inputs
from dtk.loader.encoder import Encoder, LabelledEncoder, is_in_folds, make_encoder
from dtk.loader.grids import GridEncoder
from dtk.loader.sampling import SamplingRule, counting_source, make_rule, names_in
from dtk.loader.windows import WindowEncoder, make_windows
from dtk.sources import ParquetSource, Source, as_source
from dtk.sources.arrays import ArraySource, Verify
from dtk.sources.datasets import array_source
from dtk.sources.window import Window
from dtk.sources.windows import WindowSource

__all__ = ["Intake", "take_rows", "take_windows"]


@dataclass(frozen=True)
class Intake:
    """What a loader reads, and what it makes of it.

    Parameters
    ----------
    source : Source, ArraySource or WindowSource
        Where samples lie.
    encoder : LabelledEncoder, GridEncoder or WindowEncoder
        What makes the arrays of a batch.
    counting : Source or ArraySource, optional
        What must be counted before there can be a plan; None where metadata tells all.
    rule : SamplingRule, optional
        How samples are drawn; None where each comes once.
    in_folds : bool, optional
        Whether the encoder is given the numbers of the rows, see `is_in_folds`; None where that is no matter.
    """

    source: Source | ArraySource | WindowSource
    encoder: LabelledEncoder | GridEncoder | WindowEncoder
    counting: Source | ArraySource | None = None
    rule: SamplingRule | None = None
    in_folds: bool | None = None


def take_rows(
    data: Any,
    *,
    inputs: Sequence[str] | None,
    target: str | None,
    weight: str | None,
    preparation: Encoder | None,
    sampling: str | None,
    dim: str | None,
    shuffle: bool,
    verify: Verify,
) -> Intake:
    """Take rows of a table, or indices along a dimension of grids, as samples.

    Parameters
    ----------
    data, inputs, target, weight, preparation, sampling, dim, shuffle, verify : object
        As for `Loader`.

    Returns
    -------
    Intake
        Only metadata was read.

    Raises
    ------
    ArgumentError
        If an argument cannot work.
    SourceError
        If the data cannot be read chunk by chunk where it lies.
    DataError
        If the data is missing or damaged.
    """
    if inputs is not None:
        check_inputs(inputs)
    drawn_by = None if sampling == "balanced" else sampling
    named = [name for name in (target, weight, drawn_by) if name is not None]
    chosen = None if inputs is None else list(dict.fromkeys([*inputs, *named]))
    arrays = array_source(data, chosen, dim, named)
    if arrays is None and dim is not None:
        raise ArgumentError(f"dim={dim!r} is for grids; a sample of a table is a row, so leave it out")
    source = as_source(data) if arrays is None else arrays
    rule = make_rule(sampling, source, shuffle=shuffle, target=target, preparation=preparation)
    if rule is not None and preparation is None and inputs is None:
        inputs = [name for name in names_in(source) if name not in (target, weight, rule.column)]
    encoder: LabelledEncoder | GridEncoder
    if isinstance(source, ArraySource):
        if preparation is not None:
            raise ArgumentError(f"preparation={preparation!r} is for tables; arrays are taken as they are")
        source = source if verify == source.verify else replace(source, verify=verify)
        encoder = GridEncoder(source, inputs=inputs, target=target, weight=weight)
    else:
        encoder = make_encoder(source.schema, inputs=inputs, target=target, weight=weight, preparation=preparation)
        columns = list(dict.fromkeys([*encoder.columns, *([] if rule is None else [rule.column])]))
        if not isinstance(data, Source) and columns != source.schema.names:
            source = as_source(data, columns)
        if preparation is not None and isinstance(source, ParquetSource):
            source = source.with_dictionaries()
    return Intake(source, encoder, counting_source(data, source, rule), rule, is_in_folds(preparation, source))


def take_windows(
    data: Any,
    window: Window,
    *,
    inputs: Sequence[str] | None,
    target: str | None,
    weight: str | None,
    preparation: Encoder | None,
    sampling: str | None,
    dim: str | None,
    verify: Verify,
) -> Intake:
    """Take windows of consecutive rows as samples.

    Parameters
    ----------
    data, window, inputs, target, weight, preparation, sampling, dim, verify : object
        As for `Loader`.

    Returns
    -------
    Intake
        Only metadata was read.

    Raises
    ------
    ArgumentError
        If an argument cannot work.
    SourceError
        If the data cannot be read chunk by chunk where it lies.
    DataError
        If the data is missing or damaged, or no window fits into grids.
    """
    if not isinstance(window, Window):
        raise ArgumentError(f"window={window!r} must be a dtk.Window, such as dtk.Window('time', history=4)")
    if dim not in (None, window.dim):
        raise ArgumentError(f"dim={dim!r} is not that of the window, {window.dim!r}; leave it out")
    if sampling is not None:
        raise ArgumentError(f"sampling={sampling!r} draws rows, and window= takes runs of them; leave one out")
    source, encoder = make_windows(data, window, inputs=inputs, target=target, weight=weight, preparation=preparation)
    if isinstance(source.base, ArraySource) and verify != source.base.verify:
        source = replace(source, base=replace(source.base, verify=verify))
    return Intake(source, encoder, in_folds=is_in_folds(preparation, source.base))
