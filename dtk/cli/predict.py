"""``dtk predict``: predictions as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dtk.cli.output import AsSpec, Cluster, Format, Json, Overwrite, joined, only_results, print_json

__all__ = ["predict"]


def predict(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE")],
    input: Annotated[str, typer.Argument(metavar="INPUT")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT")],
    *,
    proba: Annotated[bool, typer.Option("--proba")] = False,
    keep: Annotated[list[str] | None, typer.Option(metavar="COLUMN")] = None,
    overwrite: Overwrite = False,
    spec: AsSpec = None,
    format: Format = None,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Predict for each row, and write Parquet that appears whole or not at all.

    Interrupted, the same command goes on where it stopped.

    Parameters
    ----------
    bundle : str
        The directory of a bundle.
    input : str
        The data: a file, a directory, a pattern with wildcards, or a URL.
    output : str
        The directory to write.
    proba : bool
        Write the probability of each class instead of the likeliest one.
    keep : list of str, optional
        A column of the input to write beside the predictions; may be given several times.
    overwrite : bool
        Replace what is there, once the new is complete.
    spec : str, optional
        The spec that the bundle was trained by: its derived columns are made here, too.
    format : str, optional
        Of the input: parquet, csv, zarr or netcdf; guessed if not given.
    cluster : str, optional
        The scheduler, or a cluster file, to join; threads of this process if not given.
    json : bool
        Print one JSON object, and nothing else, on standard output.

    Raises
    ------
    ArgumentError
        If something at the output may not be replaced, such as the input, or a column to keep is not there.

    Examples
    --------
    $ dtk predict late.bundle flights-2014/ predictions.parquet --keep carrier --keep flight
    """
    import dtk
    from dtk.cli.job import opened_as

    with only_results():
        fitted = dtk.load(bundle)
        if Path(output).exists() and not overwrite:
            raise dtk.ArgumentError(f"output={output!r} is there already; give another name, or --overwrite")
        data = opened_as(input, spec, [*fitted.preparation.columns, *(keep or ())], filtered=False, format=format)
        predictions = _beside_kept(fitted.predict(data, proba=proba), data, list(keep or ()))
        with joined(cluster):
            written = dtk.write_parquet(predictions, output, overwrite=overwrite, progress=True)
        source = dtk.open(written)
        columns, num_rows = list(source.columns), len(source)
    if json:
        print_json({"bundle": bundle, "input": input, "output": written, "columns": columns, "num_rows": num_rows})
        return
    print(f"{num_rows:,} rows of {', '.join(columns)}\n{written}")


def _beside_kept(predictions: Any, data: Any, keep: list[str]) -> Any:
    """Name the columns: ``prediction``, or ``probability_<class>`` each; and put the kept ones before them."""
    from dtk.errors import ArgumentError
    from dtk.sources.columns import checked_columns

    if hasattr(predictions, "to_frame"):
        predictions = predictions.to_frame(name="prediction")
    else:
        predictions = predictions.rename(columns={name: f"probability_{name}" for name in predictions.columns})
    both = [name for name in keep if name in predictions.columns]
    if both:
        raise ArgumentError(f"keep={both[0]!r} is the name of a prediction; rename that column of the input first")
    kept = data[checked_columns(keep, list(data.columns), argument="keep")]
    return kept.assign(**{name: predictions[name] for name in predictions.columns}) if keep else predictions
