"""Fitted transforms applied to containers: to the columns of the fit, in any order, with the types of the result."""

from __future__ import annotations

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from dtk.errors import ArgumentError, DataError
from dtk.preparation.transforms import (
    ColumnTransformer,
    EmbeddingCodes,
    OneHotEncoder,
    OrdinalEncoder,
    ParseDates,
    SimpleImputer,
    StandardScaler,
)
from tests.preparation.transforms.common import refuse

NUMBERS = np.array([[1.0, 100.0], [3.0, 300.0], [2.0, 500.0]])
TEXTS = np.array([["a", "u"], ["b", "v"], ["a", "v"]])


def labelled(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(
        values, dims=("row", "column"), coords={"column": ["left", "right"], "row": [5, 6, 7]}, name="flights"
    )


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize(("transform", "values"), [(StandardScaler(), NUMBERS), (OrdinalEncoder(), TEXTS)])
def test_columns_of_a_dataarray_are_found_by_their_labels(transform, values, is_lazy):
    data = labelled(values)
    transform.fit(data)
    more = xr.concat([data[:, ::-1], data[:, :1].assign_coords(column=["more"])], "column")
    with dask.config.set(scheduler=refuse):
        found = transform.transform(more.chunk(row=2) if is_lazy else more)
    expected = data.copy(data=type(transform)().fit_transform(values))
    xr.testing.assert_identical(found.compute(), expected)


def test_arrays_without_names_must_be_as_wide_as_the_fit():
    scaler = StandardScaler().fit(NUMBERS[:, :1])
    for data in (da.from_array(NUMBERS), xr.DataArray(NUMBERS), xr.DataArray(NUMBERS).chunk()):
        with pytest.raises(ArgumentError, match="X has 2 columns without names, and the fit saw 1"):
            scaler.transform(data)


def test_a_lazy_array_has_the_type_of_what_is_computed():
    codes = EmbeddingCodes().fit(TEXTS)
    found = codes.transform(da.from_array(TEXTS, chunks=(2, 1)))
    assert found.dtype == np.int64 == found._meta.dtype
    np.testing.assert_array_equal(found.compute(scheduler="sync"), codes.transform(TEXTS))
    assert found.compute(scheduler="sync").dtype == np.int64


def test_arrow_columns_of_an_array_stay_columns():
    data = xr.DataArray(TEXTS.astype(object), dims=("row", "column"))
    found = SimpleImputer(strategy="most_frequent").fit_transform(data)
    assert found.values.tolist() == TEXTS.tolist()
    lazy = SimpleImputer(strategy="most_frequent").fit_transform(xr.DataArray(TEXTS, dims=data.dims).chunk(row=2))
    assert lazy.compute(scheduler="sync").values.tolist() == TEXTS.tolist()


def test_variables_of_a_lazy_dataset_keep_their_types():
    data = xr.Dataset({"delay": ("row", NUMBERS[:, 0]), "carrier": ("row", TEXTS[:, 0]), "id": ("row", [1, 2, 3])})
    groups = [("number", StandardScaler(), ["delay"]), ("category", OneHotEncoder(), ["carrier"])]
    fitted = ColumnTransformer(groups, remainder="passthrough").fit(data)
    with dask.config.set(scheduler=refuse):
        lazy = fitted.transform(data.chunk(row=2))
    xr.testing.assert_identical(lazy.compute(scheduler="sync"), fitted.transform(data))


def test_lazy_arrays_of_objects_are_refused():
    scaler = OrdinalEncoder()
    with pytest.raises(DataError, match=r"lazy array of objects.*X\.astype\(str\)"):
        scaler.fit(da.from_array(TEXTS.astype(object), chunks=(2, 2)))


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_lazy_frame_has_the_types_of_its_columns(zone):
    frame = pd.DataFrame({"day": ["2024-01-01", None, "2024-07-01"]})
    lazy = dd.from_pandas(frame, npartitions=2)
    found = ParseDates(zone=zone).fit(frame).transform(lazy)
    assert found.dtypes.tolist() == found.compute(scheduler="sync").dtypes.tolist()
    assert found["day"].dtype == ("datetime64[us]" if zone is None else f"datetime64[us, {zone}]")
    kept = ColumnTransformer([("text", "passthrough", ["day"])]).fit(frame).transform(lazy)
    assert kept.dtypes.tolist() == kept.compute(scheduler="sync").dtypes.tolist()
