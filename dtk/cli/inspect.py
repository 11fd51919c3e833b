"""``dtk inspect``: what is there, from metadata alone."""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

import typer

from dtk.cli.output import Format, Json, only_results, print_json, print_pairs, print_table
from dtk.memory import format_nbytes

__all__ = ["inspect"]

TINY_ROWS, HUGE_NBYTES, MANY_CHUNKS = 1_000, 1 << 30, 8
TINY_NBYTES: Final = 64 << 10


def inspect(path: Annotated[str, typer.Argument(metavar="PATH")], *, format: Format = None, json: Json = False) -> None:
    """Say what is there, from metadata alone: files, columns, chunks, rows and bytes.

    Parameters
    ----------
    path : str
        Parquet, CSV, Zarr or NetCDF: a file, a directory, a pattern with wildcards, or a URL.
    format : str, optional
        Of the data: parquet, csv, zarr or netcdf; guessed if not given.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Examples
    --------
    $ dtk inspect flights/
    """
    import dtk
    from dtk.sources.listing import list_files

    with only_results():
        listing = list_files(path, format=format)
        data = dtk.open(path, format=listing.format)
        found: dict[str, Any] = {"path": path, "format": listing.format, "num_files": len(listing.files)}
        if listing.format == "parquet":
            found |= _parquet(data)
        elif listing.format == "csv":
            found |= _csv(data, listing)
        else:
            found |= _arrays(data, listing)
    if json:
        print_json(found)
    else:
        _show(found)


def _parquet(data: Any) -> dict[str, Any]:
    from dtk.sources import as_source
    from dtk.statistics import infer_kind

    source: Any = as_source(data)
    rows, nbytes = source.chunk_rows, source.chunk_nbytes
    chunks = {
        "num": source.num_chunks,
        "rows": {"least": int(rows.min()), "mean": float(rows.mean()), "most": int(rows.max())},
        "nbytes": {"least": int(nbytes.min()), "mean": float(nbytes.mean()), "most": int(nbytes.max())},
    }
    warnings = []
    if source.num_chunks >= MANY_CHUNKS and rows.mean() < TINY_ROWS:
        warnings.append(
            f"chunks hold {rows.mean():.0f} rows on average, which makes reading slow; "
            "write row groups of 10,000 or more"
        )
    largest_nbytes = source.decoded_nbytes / max(int(rows.sum()), 1) * int(rows.max())
    if largest_nbytes > HUGE_NBYTES:
        warnings.append(
            f"the largest chunk takes about {format_nbytes(largest_nbytes)} decoded, which each rank must hold; "
            "write smaller row groups"
        )
    return {
        "num_rows": int(rows.sum()),
        "disk_nbytes": int(nbytes.sum()),
        "decoded_nbytes": int(source.decoded_nbytes),
        "chunks": chunks,
        "columns": [
            {"name": field.name, "type": str(field.type), "kind": infer_kind(field.type)} for field in source.schema
        ],
        "warnings": warnings,
    }


def _csv(data: Any, listing: Any) -> dict[str, Any]:
    from dtk.sources.schema import arrow_schema
    from dtk.statistics import infer_kind

    schema = arrow_schema(data._meta)
    return {
        "num_rows": None,  # only reading it all would tell
        "disk_nbytes": _disk_nbytes(listing),
        "chunks": {"num": data.npartitions},
        "columns": [{"name": field.name, "type": str(field.type), "kind": infer_kind(field.type)} for field in schema],
        "warnings": ["ranks cannot read CSV row by row in place; write it once as Parquet with dtk.write_parquet"],
    }


def _arrays(data: Any, listing: Any) -> dict[str, Any]:
    import math

    variables, warnings = [], []
    for name, variable in data.data_vars.items():
        chunk = {dim: max(sizes) for dim, sizes in variable.chunksizes.items()} or dict(variable.sizes)
        nbytes = math.prod(chunk.values()) * variable.dtype.itemsize
        num = math.prod(len(sizes) for sizes in variable.chunksizes.values())
        variables.append(
            {
                "name": str(name),
                "type": str(variable.dtype),
                "dims": list(variable.dims),
                "shape": list(variable.shape),
                "chunk": list(chunk.values()),
                "num_chunks": num,
                "chunk_nbytes": nbytes,
                "decoded_nbytes": int(variable.nbytes),
            }
        )
        if num >= MANY_CHUNKS and nbytes < TINY_NBYTES:
            warnings.append(f"{name}: chunks of {format_nbytes(nbytes)} make reading slow; write larger ones")
        if nbytes > HUGE_NBYTES:
            warnings.append(f"{name}: chunks of {format_nbytes(nbytes)} must be held whole; write smaller ones")
    return {
        "dims": {str(dim): int(size) for dim, size in data.sizes.items()},
        "coords": [str(name) for name in data.coords],
        "disk_nbytes": _disk_nbytes(listing),
        "decoded_nbytes": sum(variable["decoded_nbytes"] for variable in variables),
        "variables": variables,
        "warnings": warnings,
    }


def _disk_nbytes(listing: Any) -> int:
    import fsspec

    fs = listing.filesystem or fsspec.filesystem("file")
    return sum(int(fs.du(os.fspath(file))) for file in listing.files)


def _show(found: dict[str, Any]) -> None:
    chunks = found.get("chunks")
    rows = "unknown without reading it" if found.get("num_rows", 0) is None else None
    print_pairs(
        {
            "path": found["path"],
            "format": f"{found['format']}, {found['num_files']:,} {'file' if found['num_files'] == 1 else 'files'}",
            "rows": f"{found['num_rows']:,}" if found.get("num_rows") is not None else rows,
            "dims": ", ".join(f"{dim}: {size:,}" for dim, size in found["dims"].items()) if "dims" in found else None,
            "chunks": None if chunks is None else _chunks_line(chunks),
            "on disk": format_nbytes(found["disk_nbytes"]),
            "decoded": format_nbytes(found["decoded_nbytes"]) if "decoded_nbytes" in found else None,
        }
    )
    print()
    if "columns" in found:
        print_table(
            ("column", "type", "kind"),
            [(column["name"], column["type"], column["kind"]) for column in found["columns"]],
        )
    else:
        print_table(
            ("variable", "type", "dims", "shape", "chunk", "chunks", "a chunk", "decoded"),
            [
                (
                    variable["name"],
                    variable["type"],
                    ", ".join(map(str, variable["dims"])),
                    " x ".join(map(str, variable["shape"])),
                    " x ".join(map(str, variable["chunk"])),
                    f"{variable['num_chunks']:,}",
                    format_nbytes(variable["chunk_nbytes"]),
                    format_nbytes(variable["decoded_nbytes"]),
                )
                for variable in found["variables"]
            ],
            right=("chunks", "a chunk", "decoded"),
        )
    for warning in found["warnings"]:
        print(f"warning: {warning}")


def _chunks_line(chunks: dict[str, Any]) -> str:
    if "rows" not in chunks:
        return f"{chunks['num']:,}"
    rows, nbytes = chunks["rows"], chunks["nbytes"]
    return (
        f"{chunks['num']:,} of {rows['least']:,} to {rows['most']:,} rows, "
        f"{format_nbytes(nbytes['least'])} to {format_nbytes(nbytes['most'])} on disk"
    )
