"""Run a bundle over data: here for data in memory, lazily on the cluster for Dask DataFrames."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from dtk.bundle.bundle import Bundle
from dtk.errors import ArgumentError
from dtk.evaluation import class_logits, make_metrics
from dtk.preparation import ClassTarget, NumberTarget, table_of_array
from dtk.sources import TableSource, as_source, schema_of
from dtk.statistics import scan

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate", "predict"]

_BATCH_NBYTES: Final = 64 * 2**20
_BATCH_ROWS: Final = (256, 65_536)
_TILE_ROWS: Final = 32


def predict(bundle: Bundle, data: Any, *, proba: bool = False) -> Any:
    """Predict the target of each row; see `Bundle.predict`.

    Parameters
    ----------
    bundle : Bundle
        What predicts.
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays or numpy.ndarray
        What it predicts for.
    proba : bool
        Whether to return probabilities.

    Returns
    -------
    dask.dataframe.Series, dask.dataframe.DataFrame or numpy.ndarray
        Lazy for a Dask DataFrame, else an array.

    Raises
    ------
    ArgumentError
        If `proba` is asked of a model without classes, or `data` is not in memory and no Dask DataFrame.
    """
    if proba and not isinstance(bundle.target, ClassTarget):
        raise ArgumentError(f"proba=True needs classes, and this is a model for {bundle.task or 'no target'}")
    if not bundle.preparation.columns:
        raise ArgumentError("this bundle is of grids or windows, whose predictions are to come; run bundle.network()")
    if hasattr(data, "map_partitions"):
        return _predict_lazily(bundle, data, proba)
    if isinstance(data, np.ndarray):
        data = table_of_array(data)
    source = as_source(data)
    if not isinstance(source, TableSource):
        raise ArgumentError(f"data={data!r} is not in memory; give dtk.open(path), which predicts lazily")
    return _predict_table(bundle, source.table, proba)


def evaluate(bundle: Bundle, data: Any, *, progress: bool = False) -> dict[str, float]:
    """Compare predictions with the target; see `Bundle.evaluate`.

    Parameters
    ----------
    bundle : Bundle
        What predicts.
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
        With the target.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict
        Metrics by name.

    Raises
    ------
    ArgumentError
        If the bundle has no target.
    """
    if bundle.target is None:
        raise ArgumentError("evaluate needs a target, and this bundle was trained without one; compare predictions")
    schema = schema_of(data)
    bundle.preparation.check(schema)
    bundle.target.check(schema)
    columns = [*bundle.preparation.columns, bundle.target.name]
    evaluation = scan(data, partial(_Evaluation, bundle), columns=columns, progress=progress, label="evaluate")
    return evaluation.metrics.compute()


class _Evaluation:
    """What a scan fills to evaluate a bundle; it leaves the bundle behind when it travels to be merged."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.target is not None
        self.bundle = bundle
        self.metrics = make_metrics(bundle.target)

    def update(self, table: pa.Table, first_row: int) -> None:  # what a scan calls
        target = self.bundle.target
        assert target is not None
        for part, outputs in _outputs(self.bundle, table):
            if isinstance(target, NumberTarget) and target.transform is not None:
                self.metrics.update_in_unit(outputs, torch.from_numpy(target.numbers(part[target.name])))
                continue
            codes = target.encode(part[target.name])
            self.metrics.update(outputs, torch.from_numpy(codes))

    def merge(self, other: Self) -> None:
        self.metrics.merge(other.metrics)

    def __getstate__(self) -> dict[str, Any]:
        return {"metrics": self.metrics}


def _outputs(bundle: Bundle, table: pa.Table) -> Iterator[tuple[pa.Table, torch.Tensor]]:
    """Run the network over slices of a table; yields (slice, its outputs)."""
    model = bundle.prepared_model()
    num_rows = _batch_rows(bundle, model)
    for start in range(0, table.num_rows, num_rows):
        part = table.slice(start, num_rows)
        batch = {name: _padded(torch.from_numpy(array)) for name, array in bundle.preparation.encode(part).items()}
        with torch.inference_mode():
            yield part, model(batch.get("inputs"), batch.get("codes"))[: part.num_rows]


def _padded(array: torch.Tensor) -> torch.Tensor:
    """Repeat the last row up to whole tiles of a matrix product: then a row's result depends on no other row."""
    missing = -len(array) % _TILE_ROWS
    return torch.cat([array, array[-1:].expand(missing, -1)]) if missing else array


def _batch_rows(bundle: Bundle, model: nn.Module) -> int:
    """Choose how many rows go through the network at once: inputs, outputs, and both sides of its widest layer."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    widest = max((layer.in_features + layer.out_features for layer in layers), default=0)
    schema = bundle.schema
    row_nbytes = 4 * (schema.num_inputs + widest) + 8 * (len(schema.cardinalities) + schema.num_outputs)
    least, most = _BATCH_ROWS
    return min(most, max(least, _BATCH_NBYTES // row_nbytes))


def _predict_table(bundle: Bundle, table: pa.Table, proba: bool) -> NDArray[Any]:
    """Predict for rows in memory: [n], or [n, columns]."""
    bundle.preparation.check(table.schema)
    parts = [_decode(bundle, outputs, proba) for _, outputs in _outputs(bundle, table)]
    if parts:
        return np.concatenate(parts)
    return _decode(bundle, torch.zeros(0, bundle.schema.num_outputs), proba)


def _decode(bundle: Bundle, outputs: torch.Tensor, proba: bool) -> NDArray[Any]:
    """Turn what the network returns into what the user asked for."""
    if isinstance(bundle.target, ClassTarget):
        logits = class_logits(outputs)
        return (
            torch.softmax(logits.double(), dim=1).numpy() if proba else bundle.target.decode(logits.argmax(1).numpy())
        )
    if isinstance(bundle.target, NumberTarget):
        return bundle.target.decode(outputs.reshape(-1).numpy())
    plain: NDArray[Any] = outputs.double().numpy()
    return plain[:, 0] if plain.shape[1] == 1 else plain


def _predict_lazily(bundle: Bundle, data: Any, proba: bool) -> Any:
    from dask.delayed import delayed

    schema = _meta_schema(data)
    bundle.preparation.check(schema)
    needed = data[list(bundle.preparation.columns)]
    # one task holds the bundle, and each worker fetches it once
    held = delayed(bundle, name=f"bundle-{bundle.digest[:32]}", pure=True, traverse=False)
    meta = _as_frame(bundle, needed._meta.iloc[:0], proba)
    return needed.map_partitions(_predict_partition, held, proba, meta=meta, token=f"predict-{bundle.digest[:32]}")


def _meta_schema(data: Any) -> pa.Schema:
    """Return the columns of a Dask DataFrame without a look at its files; objects may turn out to be anything."""
    from pandas.api.types import is_object_dtype

    meta = data._meta_nonempty
    found = pa.Schema.from_pandas(meta, preserve_index=False)
    objects = {str(name) for name, dtype in meta.dtypes.items() if is_object_dtype(dtype)}
    return pa.schema([pa.field(item.name, pa.null() if item.name in objects else item.type) for item in found])


def _predict_partition(frame: pd.DataFrame, bundle: Bundle, proba: bool) -> pd.Series | pd.DataFrame:
    return _as_frame(bundle, frame, proba)


def _as_frame(bundle: Bundle, frame: pd.DataFrame, proba: bool) -> pd.Series | pd.DataFrame:
    """Predict for a pandas DataFrame, with its index."""
    import pandas as pd

    if len(frame):
        predicted = _predict_table(bundle, pa.Table.from_pandas(frame, preserve_index=False), proba)
    else:
        predicted = _decode(bundle, torch.zeros(0, bundle.schema.num_outputs), proba)
    target = bundle.target
    if predicted.ndim == 2:
        names = [str(label) for label in target.classes] if isinstance(target, ClassTarget) else None
        names = names or [f"output{position}" for position in range(predicted.shape[1])]
        return pd.DataFrame(predicted, index=frame.index, columns=names)
    name = "prediction" if target is None else target.name
    dtype = pd.Series([""]).dtype if predicted.dtype == object else predicted.dtype  # pandas 3 has a type for strings
    return pd.Series(predicted, index=frame.index, name=name, dtype=dtype)
