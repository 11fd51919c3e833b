"""Open data where it lies, lazily: tables as Dask DataFrames, arrays as xarray Datasets."""

from __future__ import annotations

import glob
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from dtk.errors import ArgumentError, DataError, FetchError, NotFoundError, SourceError
from dtk.sources.columns import checked_columns
from dtk.sources.filesystems import SteadyFiles
from dtk.sources.footers import FOOTER_THREADS, Footer, read_footers
from dtk.sources.hive import hive_values
from dtk.sources.listing import Listing, compression_of, hive_types, list_files
from dtk.sources.parquet import ParquetSource
from dtk.sources.remote import steadily
from dtk.sources.schema import row_nbytes
from dtk.sources.spool_cache import zarr_store

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open", "open_listing", "open_source", "open_zarr_lazily"]

PARTITION_NBYTES: Final = 64 * 2**20
CSV_SAMPLE_ROWS: Final = 100_000  # over all files, but some of each: types are inferred from them
CSV_LEAST_ROWS: Final = 1000
NULLABLE: Final = {"int64": "Int64", "uint64": "UInt64", "bool": "boolean"}
INDEX_COLUMNS: Final = ("__index_level_", "__null_dask_index__")  # where pandas and Dask store an index without a name


def open(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> dd.DataFrame | xr.Dataset:
    """Open a table or arrays lazily.

    Parameters
    ----------
    path : str or path
        A file, a directory (also with ``key=value`` directories), a pattern with wildcards, or such a URL.
    format : str, optional
        "parquet", "csv", "zarr" or "netcdf"; guessed if None.
    columns : sequence of str, optional
        Which columns (or variables), in order; all if None.
    storage_options : mapping, optional
        For the file system of a URL, as fsspec takes them: an endpoint, credentials. What is not given comes from the
        environment and fsspec's configuration.

    Returns
    -------
    dask.dataframe.DataFrame or xarray.Dataset
        Lazy: a DataFrame of Parquet and CSV, a Dataset of Zarr and NetCDF. The types of CSV are told from 100,000 rows;
        where there are more, whole numbers and booleans get pandas' types that hold missing values. Variables of
        several NetCDF files that do not follow time (or what the files are cut along) are the first file's.

    Raises
    ------
    NotFoundError
        If nothing is there.
    DataError
        If it is empty, damaged, or its files' columns differ; the error names the file.
    ArgumentError
        If the format or the protocol is unknown, or a column is not there.
    DependencyError
        If a package for the protocol of a URL is missing.
    FetchError
        If a remote store does not answer.
    """
    return open_listing(list_files(path, format=format, storage_options=storage_options), columns)


def open_listing(listing: Listing, columns: Sequence[str] | None = None) -> dd.DataFrame | xr.Dataset:
    """Open files that were found.

    Parameters
    ----------
    listing : Listing
        The files.
    columns : sequence of str, optional
        Which columns (or variables), in order; all if None.

    Returns
    -------
    dask.dataframe.DataFrame or xarray.Dataset
        As of `open`.

    Raises
    ------
    DataError
        If they are empty, damaged, or their columns differ.
    ArgumentError
        If a column is not there.
    """
    openers: dict[str, Callable[[Listing, Sequence[str] | None], Any]]
    openers = {"parquet": _open_parquet, "csv": _open_csv, "zarr": _open_zarr, "netcdf": _open_netcdf}
    data: dd.DataFrame | xr.Dataset = openers[listing.format](listing, columns)
    return data


def open_zarr_lazily(listing: Listing) -> xr.Dataset:
    """Open a Zarr store for what reads its chunks itself: Dask would take a task for each.

    Parameters
    ----------
    listing : Listing
        Of a Zarr store.

    Returns
    -------
    xarray.Dataset
        Lazy, of xarray's own lazy arrays.

    Raises
    ------
    DataError
        If it is damaged, or no group.
    """
    return _open_zarr(listing, None, by_dask=False)


def open_source(path: str, *, columns: Sequence[str] | None = None) -> ParquetSource:
    """Open a Parquet dataset for the ranks, with no Dask between.

    Parameters
    ----------
    path : str
        As for `open`.
    columns : sequence of str, optional
        Which columns, in order; all if None.

    Returns
    -------
    ParquetSource
        Rows in the order that `open` gives.

    Raises
    ------
    SourceError
        If the files are of another format.
    DataError
        If they are missing, empty, damaged, or their columns differ.
    ArgumentError
        If a column is not there.
    """
    listing = list_files(path)
    if listing.format != "parquet":
        remedy = f"write it once with dtk.spool({path!r}, new_path) and use what that returns"
        raise SourceError(f"{path} is {listing.format}, which ranks cannot read row by row in place; {remedy}")
    footers, types = _checked_footers(listing)
    names = _visible_columns(footers[0].schema, types)
    return ParquetSource.from_footers(
        footers,
        columns=checked_columns(columns, names),
        hive=hive_values(listing.files, types),
        filesystem=listing.filesystem,
    )


def _checked_footers(listing: Listing) -> tuple[list[Footer], dict[str, pa.DataType]]:
    footers = read_footers(listing.files, filesystem=listing.filesystem)
    schema = footers[0].schema
    types = {key: kind for key, kind in hive_types(listing).items() if key not in schema.names}
    if not _visible_columns(schema, types):
        raise DataError(f"{footers[0].path} has no columns; write it again with some")
    if not any(footer.group_rows.sum() for footer in footers):
        raise DataError(f"{listing.path} has no rows; write it again with some")
    return footers, types


def _visible_columns(schema: pa.Schema, types: dict[str, pa.DataType]) -> list[str]:
    return [name for name in schema.names if not name.startswith(INDEX_COLUMNS)] + list(types)


def _open_parquet(listing: Listing, columns: Sequence[str] | None) -> dd.DataFrame:
    footers, types = _checked_footers(listing)
    names = checked_columns(columns, _visible_columns(footers[0].schema, types))
    options: dict[str, Any] = _partitioning(footers)
    if types:
        # Without a schema Dask makes categories of the directories' values, and of "01" a number.
        options["dataset"] = {"partitioning": {"flavor": "hive", "schema": pa.schema(list(types.items()))}}
    stored = footers[0].schema
    frame: dd.DataFrame = dd.read_parquet(
        [glob.escape(file) for file in listing.files],
        columns=names,
        index=False,
        categories=[field.name for field in stored if pa.types.is_dictionary(field.type)] or None,
        filesystem=listing.filesystem or "fsspec",
        ignore_metadata_file=True,
        parquet_file_extension=None,
        **options,
    )
    return frame


def _partitioning(footers: Sequence[Footer]) -> dict[str, Any]:
    """Choose partitions of about 64 MiB in memory: several row groups, a file, or several files.

    What a row takes in memory is told by the columns' types. The footers' own sums may be a tenth of it, where columns
    are dictionary-encoded.
    """
    num_rows = sum(int(footer.group_rows.sum()) for footer in footers)
    num_groups = sum(len(footer.group_rows) for footer in footers)
    encoded_nbytes = sum(int(footer.decoded_nbytes.sum()) for footer in footers)
    rows = max(1, int(PARTITION_NBYTES / row_nbytes(footers[0].schema)))
    if num_rows / len(footers) > rows:
        return {"split_row_groups": max(1, int(rows / (num_rows / num_groups)))}
    if len(footers) > 1 and num_rows / len(footers) < rows / 8:
        blocksize = max(1, int(rows * encoded_nbytes / num_rows))
        return {"split_row_groups": "adaptive", "blocksize": blocksize, "aggregate_files": True}
    return {"split_row_groups": False}


def _open_csv(listing: Listing, columns: Sequence[str] | None) -> dd.DataFrame:
    fs = listing.filesystem or LocalFileSystem()
    compressions = {compression_of(file) for file in listing.files}
    if len(compressions) > 1:
        raise DataError(f"{listing.path} holds CSV files of several compressions; compress all or none")
    compression = compressions.pop()
    separator = "\t" if ".tsv" in os.path.basename(listing.files[0]).lower() else ","
    num_rows = max(CSV_LEAST_ROWS, CSV_SAMPLE_ROWS // len(listing.files))
    read_head = partial(_csv_head, fs=fs, compression=compression, separator=separator, num_rows=num_rows)
    with ThreadPoolExecutor(min(FOOTER_THREADS, len(listing.files))) as pool:
        heads = list(pool.map(read_head, listing.files))
    for file, head in zip(listing.files, heads, strict=True):
        if list(head.columns) != list(heads[0].columns):
            here, there = list(head.columns), list(heads[0].columns)
            raise DataError(f"{file} has the columns {here} but {listing.files[0]} has {there}; use the same columns")
    filled = [head for head in heads if len(head)]
    if not filled:
        raise DataError(f"{listing.path} has column names but no rows")
    names = checked_columns(columns, [str(name) for name in heads[0].columns])
    # A compressed file can only be read from its start: it is one partition.
    options: dict[str, Any] = {"compression": compression, "blocksize": None} if compression else {}
    options |= {"storage_options": dict(listing.storage_options)} if listing.storage_options else {}
    protocol = f"{listing.path.split('://', 1)[0]}://" if listing.filesystem is not None else ""
    dtypes = pd.concat(filled).dtypes.to_dict()  # Dask's own guess is from ten rows
    if any(len(head) == num_rows for head in filled):  # there may be more rows, and gaps in them
        dtypes = {name: NULLABLE.get(str(dtype), dtype) for name, dtype in dtypes.items()}
    frame: dd.DataFrame = dd.read_csv(
        [protocol + glob.escape(file) for file in listing.files], sep=separator, dtype=dtypes, **options
    )
    chosen: dd.DataFrame = frame if columns is None else frame[names]
    return chosen


def _csv_head(file: str, *, fs: Any, compression: str | None, separator: str, num_rows: int) -> pd.DataFrame:
    try:
        with fs.open(file, "rb", compression=compression) as stream:
            return pd.read_csv(stream, nrows=num_rows, sep=separator)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{file} is empty; it should hold a line of column names and rows") from error
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from error


def _open_zarr(listing: Listing, columns: Sequence[str] | None, *, by_dask: bool = True) -> xr.Dataset:
    import xarray as xr

    root, fs = listing.files[0], LocalFileSystem()
    if listing.filesystem is not None:
        fs = SteadyFiles(listing.filesystem)
    is_array, consolidated = _zarr_kind(root, fs)
    if is_array:
        raise DataError(
            f"{listing.path} is a bare Zarr array without names of dimensions; write it with"
            " xarray.Dataset({'values': (dims, array)}).to_zarr(path)"
        )
    store = zarr_store(listing)
    open_zarr = partial(xr.open_zarr, store, consolidated=consolidated)
    if listing.filesystem is not None:
        options = {"storage_options": dict(listing.storage_options)} if isinstance(store, str) else {}
        open_zarr = partial(steadily, listing.path, open_zarr, **options)
    try:
        data = open_zarr(chunks={} if by_dask else None)
        shards = {
            dim: size
            for variable in data.variables.values()
            for dim, size in zip(variable.dims, variable.encoding.get("shards") or (), strict=False)
        }
        if shards and by_dask:  # a piece of a shard costs a look into the shard's index: read whole ones
            with warnings.catch_warnings():  # variables without shards may have other chunks, small as they are
                warnings.filterwarnings("ignore", "The specified chunks separate the stored chunks")
                data = open_zarr(chunks=shards)
    except (FetchError, NotFoundError):
        raise
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{listing.path} cannot be read as Zarr: {error}") from error
    if listing.spool is not None:  # xarray knows it for paths alone
        data.encoding["source"] = root if listing.filesystem is None else listing.path
    return _checked_dataset(data, listing.path, columns)


def _zarr_kind(root: str, fs: Any) -> tuple[bool, bool]:
    """Tell whether a store is an array, and whether its metadata is in one place."""
    if fs.exists(f"{root}/zarr.json"):
        try:
            node = json.loads(fs.cat_file(f"{root}/zarr.json"))
        except ValueError as error:
            raise DataError(f"{root}/zarr.json is damaged: {error}; write the store again") from error
        return node.get("node_type") == "array", node.get("consolidated_metadata") is not None
    if fs.exists(f"{root}/.zarray"):
        return True, False
    if not fs.exists(f"{root}/.zgroup"):
        raise DataError(f"{root} is no Zarr store: it has neither zarr.json nor .zgroup")
    return False, bool(fs.exists(f"{root}/.zmetadata"))


def _open_netcdf(listing: Listing, columns: Sequence[str] | None) -> xr.Dataset:
    import xarray as xr

    if listing.filesystem is not None:
        raise ArgumentError(f"path={listing.path!r} is remote NetCDF; copy it to a local disk, or write it as Zarr")
    parts: list[xr.Dataset] = []
    for file in listing.files:
        try:
            part = xr.open_dataset(file, chunks={})
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{file} cannot be read as NetCDF: {error}; write it again") from error
        parts.append(_rechunked(part))
        names, first = sorted(map(str, part.data_vars)), sorted(map(str, parts[0].data_vars))
        if names != first:
            raise DataError(f"{file} has the variables {names} but {listing.files[0]} has {first}; use the same")
    if len(parts) == 1:
        return _checked_dataset(parts[0], listing.path, columns)
    try:
        # What lacks the dimension along which the files follow is the same in all: the first one's is taken.
        data = xr.combine_by_coords(
            parts,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="override",
        )
    except ValueError as error:
        reason = _misfit(listing.files, parts) or str(error)
        raise DataError(f"the files of {listing.path} do not fit together: {reason}") from error
    assert isinstance(data, xr.Dataset)
    return _checked_dataset(data, listing.path, columns)


def _misfit(files: Sequence[str], parts: Sequence[xr.Dataset]) -> str:
    """Name the files whose coordinates, but for those of time, are not the first one's."""
    for file, part in zip(files, parts, strict=True):
        for dim, index in parts[0].indexes.items():
            if dim != "time" and dim in part.indexes and not part.indexes[dim].equals(index):
                return f"{file} has other values of {dim!r} than {files[0]}; use the same"
    return ""


def _rechunked(data: xr.Dataset) -> xr.Dataset:
    """Cut variables that a file stores in one piece along the dimension of samples."""
    largest = max(
        (variable for variable in data.data_vars.values()), key=lambda variable: variable.nbytes, default=None
    )
    if largest is None or not largest.dims or largest.nbytes <= PARTITION_NBYTES:
        return data
    whole = [name for name, variable in data.data_vars.items() if variable.encoding.get("chunksizes") is None]
    unlimited = [dim for dim in data.encoding.get("unlimited_dims", ()) if dim in largest.dims]
    dim = "time" if "time" in largest.dims else [*unlimited, largest.dims[0]][0]
    step = max(1, int(PARTITION_NBYTES / (largest.nbytes / largest.sizes[dim])))
    return data.assign({name: data[name].chunk({dim: step}) for name in whole if dim in data[name].dims})


def _checked_dataset(data: xr.Dataset, path: str, columns: Sequence[str] | None) -> xr.Dataset:
    if not data.data_vars:
        raise DataError(f"{path} has no variables; write it again with some")
    if any(np.prod(variable.shape) == 0 for variable in data.data_vars.values()):
        empty = [dim for dim, size in data.sizes.items() if size == 0]
        raise DataError(f"{path} is empty along {empty}; write it again with samples")
    names = checked_columns(columns, [str(name) for name in data.data_vars])
    return data if columns is None else data[names]
