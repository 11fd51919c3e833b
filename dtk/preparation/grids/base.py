"""What every transform of grids is: fitted in one pass over xarray's data, and applied lazily to it, or to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import xarray as xr
from sklearn.utils.validation import check_is_fitted

from dtk.config import did_you_mean
from dtk.errors import ArgumentError, DataError, SourceError
from dtk.preparation.grids.state import decode_grid, encode_grid
from dtk.preparation.stored import StoredTransform
from dtk.sources.datasets import as_dataset

__all__ = ["GridTransform", "opened"]


class GridTransform(StoredTransform):
    """A step of preparation of grids: xarray in, xarray out.

    It follows scikit-learn's conventions (`fit` returns the object, fitted attributes end with an underscore,
    `get_params`, `clone`), but takes and returns Datasets and DataArrays, which have more dimensions than two.
    """

    variables: Sequence[str] | None

    def _fit(self, dataset: xr.Dataset) -> None:
        """Set the fitted attributes."""
        raise NotImplementedError

    def _apply(self, name: str, array: xr.DataArray, *, is_inverse: bool) -> xr.DataArray:
        """Apply to a variable that was fitted."""
        raise NotImplementedError

    def _finish(self, dataset: xr.Dataset) -> xr.Dataset:
        """Add to what comes out of `transform`, for a Dataset."""
        return dataset

    def fit(self, data: Any, y: None = None) -> Self:
        """Learn from data, in one pass over it.

        Parameters
        ----------
        data : xarray.Dataset, xarray.DataArray or str
            In memory, lazy, or the path of a Zarr store. Variables that lie in Zarr are read in place.
        y : None
            Not used.

        Returns
        -------
        GridTransform
            This object, fitted.

        Raises
        ------
        ArgumentError
            If a parameter names what is not there.
        DataError
            If a variable holds no numbers.
        SourceError
            If `data` is no grid.
        """
        dataset = opened(data)
        self.dims_ = {str(name): [*map(str, one.dims)] for name, one in dataset.data_vars.items() if _is_number(one)}
        self.sizes_ = {str(dim): int(size) for dim, size in dataset.sizes.items()}
        for name in self.variables or ():
            if name not in dataset.data_vars:
                raise ArgumentError(
                    f"variables={list(self.variables or ())!r}: {name!r} is none of the data"
                    f"{did_you_mean(name, list(map(str, dataset.data_vars)))}"
                )
            if name not in self.dims_:
                raise DataError(f"variable {name!r} holds {dataset[name].dtype}, no numbers; leave it out")
        self._fit(dataset)
        return self

    def transform(self, data: xr.Dataset | xr.DataArray) -> Any:
        """Apply to data.

        Parameters
        ----------
        data : xarray.Dataset or xarray.DataArray
            With at least one variable of the fit; others stay as they are. Of a dimension along which parameters were
            fitted it may have any labels of the fit, in any order.

        Returns
        -------
        xarray.Dataset or xarray.DataArray
            Lazy where `data` is, in the same chunks. Floats keep their type, other numbers become float64.

        Raises
        ------
        NotFittedError
            If there was no fit.
        DataError
            If no variable was fitted, or labels or lengths are none of the fit.
        """
        return self._mapped(data, is_inverse=False)

    def inverse_transform(self, data: xr.Dataset | xr.DataArray) -> Any:
        """Undo `transform`, for instance on predictions.

        Parameters
        ----------
        data : xarray.Dataset or xarray.DataArray
            As for `transform`.

        Returns
        -------
        xarray.Dataset or xarray.DataArray
            Lazy where `data` is.

        Raises
        ------
        NotFittedError
            If there was no fit.
        DataError
            As for `transform`.
        """
        return self._mapped(data, is_inverse=True)

    def fit_transform(self, data: xr.Dataset | xr.DataArray, y: None = None) -> Any:
        """Fit, and apply to the same data.

        Parameters
        ----------
        data : xarray.Dataset or xarray.DataArray
            As for `transform`.
        y : None
            Not used.

        Returns
        -------
        xarray.Dataset or xarray.DataArray
            As `transform` returns.
        """
        return self.fit(data).transform(data)

    @staticmethod
    def _encoded(value: Any) -> Any:
        return encode_grid(value)

    @staticmethod
    def _decoded(value: Any) -> Any:
        return decode_grid(value)

    def _mapped(self, data: xr.Dataset | xr.DataArray, *, is_inverse: bool) -> Any:
        check_is_fitted(self)
        names = self._fitted_names()
        if isinstance(data, xr.DataArray):
            name = str(data.name) if data.name in names or len(names) != 1 else names[0]
            if name not in names:
                raise DataError(f"variable {data.name!r} was not fitted; there are {names}")
            return self._apply(name, data, is_inverse=is_inverse)
        if not isinstance(data, xr.Dataset):
            kind = f"{type(data).__module__}.{type(data).__qualname__}"
            raise SourceError(f"data of type {kind} is no grid; give an xarray Dataset or DataArray")
        found = {name: self._apply(name, data[name], is_inverse=is_inverse) for name in names if name in data.data_vars}
        if not found:
            raise DataError(f"the data has none of the variables that were fitted, {names}")
        applied = data.assign(found)
        return applied if is_inverse else self._finish(applied)

    def _fitted_names(self) -> list[str]:
        """Name the variables that it changes."""
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "dims_")


def opened(data: Any) -> xr.Dataset:
    """Return data as a Dataset.

    Parameters
    ----------
    data : object
        A Dataset, a DataArray, or the path of a store.

    Returns
    -------
    xarray.Dataset
        The variable of a DataArray without a name is called ``"values"``.

    Raises
    ------
    SourceError
        If it is no grid.
    """
    if isinstance(data, xr.DataArray):
        return data.to_dataset(name="values" if data.name is None else data.name)
    dataset = as_dataset(data)
    if dataset is None:
        kind = f"{type(data).__module__}.{type(data).__qualname__}"
        raise SourceError(f"data of type {kind} is no grid; give an xarray Dataset, a DataArray or the path of a store")
    return dataset


def float_type(array: xr.DataArray) -> np.dtype[Any]:
    """Return the type that numbers are computed to.

    Parameters
    ----------
    array : xarray.DataArray
        Of numbers.

    Returns
    -------
    numpy.dtype
        That of floats, else float64.
    """
    return array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)


def _is_number(array: xr.DataArray) -> bool:
    return array.dtype.kind in "biuf"
