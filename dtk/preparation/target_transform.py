"""What a target of numbers goes through before it is standardised, and back again in predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dtk.errors import ArgumentError, DataError
from dtk.preparation.values import as_numbers
from dtk.sources.columns import close_to
from dtk.statistics import Moments, RowSample, to_floats

if TYPE_CHECKING:
    from dtk.preparation.transforms.base import Transform

__all__ = ["TargetTransform", "TransformFit", "target_steps"]

_OTHERS = "give 'log1p', 'log', 'signed_log', 'yeo-johnson', 'box-cox', 'quantile', {'clip': [low, high]}, or a list"


@dataclass(frozen=True, eq=False)
class TargetTransform:
    """Fitted transforms of a target, which have an inverse.

    Parameters
    ----------
    steps : tuple of Transform
        In order; ``LogTransformer``, ``PowerTransformer``, ``QuantileTransformer`` or ``Clip``.
    low, high : float
        The least and the largest number of the fit.
    """

    steps: tuple[Transform, ...]
    low: float
    high: float

    def forward(self, name: str, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform numbers.

        Parameters
        ----------
        name : str
            Of the target, for the error.
        numbers : numpy.ndarray
            float64 [n]; missing ones stay missing.

        Returns
        -------
        numpy.ndarray
            float64 [n].

        Raises
        ------
        DataError
            If one has no value.
        """
        x = numbers[:, None]
        for number, step in enumerate(self.steps):
            _refuse_low(name, step, x[:, 0], numbers, self.steps[:number])
            x = step._compute(x)
        return x[:, 0]

    def inverse(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Undo `forward`; what a ``Clip`` has cut stays cut.

        Parameters
        ----------
        numbers : numpy.ndarray
            float64 [n]: any, as a network makes them.

        Returns
        -------
        numpy.ndarray
            float64 [n]: where no number is transformed to one, or none that is finite, the nearest one of the fit.
        """
        x = numbers[:, None]
        with np.errstate(all="ignore"):
            for step in reversed(self.steps):
                x = step._inverse(x) if hasattr(step, "_inverse") else step._compute(x)
        found = x[:, 0]
        is_lost = ~np.isfinite(found) & ~np.isnan(numbers)
        if is_lost.any():
            ends = self.forward("", np.array([self.low, self.high]))
            found = np.where(is_lost, np.where(numbers > ends.mean(), self.high, self.low), found)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The steps and the ends.
        """
        return {"steps": [step.to_dict() for step in self.steps], "low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild the transforms.

        Parameters
        ----------
        state : mapping
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        TargetTransform
            That computes the same, bit for bit.
        """
        from dtk.preparation.transforms import transform_from_dict

        return cls(tuple(map(transform_from_dict, state["steps"])), state["low"], state["high"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TargetTransform) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((len(self.steps), self.low, self.high))


class TransformFit:
    """What a scan collects of a target to fit its transforms in the same pass.

    Parameters
    ----------
    name : str
        The column of the data.
    steps : str
        Transforms that are not fitted, as JSON.
    """

    def __init__(self, name: str, steps: str) -> None:
        from dtk.preparation.transforms import transform_from_dict

        self.name = name
        self.steps = [transform_from_dict(state) for state in json.loads(steps)]
        for step in self.steps:
            step._begin([name])
        learns = [number for number, step in enumerate(self.steps) if not step._is_stateless]
        self._num_known = learns[0] if learns else len(self.steps)
        self._moments = Moments()  # of what comes out, where nothing is to be learnt
        self._sample: RowSample | None = None
        if learns:
            from dtk.preparation.transforms.base import SAMPLE

            self._sample = SAMPLE.make()

    def update(self, values: pa.ChunkedArray, row: NDArray[np.int64]) -> None:
        """Take in one chunk.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [rows].
        row : numpy.ndarray
            int64 [rows]: their numbers in the whole data.
        """
        x = to_floats(as_numbers(self.name, values))[:, None]
        for step in self.steps[: self._num_known]:
            x = step._compute(x)
        if self._sample is None:
            self._moments.update(pa.array(x[:, 0]))
        else:
            self._sample.update(pa.array(x[:, 0]), row)

    def merge(self, other: TransformFit) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : TransformFit
            Of other rows; left as it is.
        """
        self._moments.merge(other._moments)
        if self._sample is not None:
            assert other._sample is not None
            self._sample.merge(other._sample)

    def finish(self, low: float, high: float) -> tuple[TargetTransform, Moments]:
        """Fit.

        Parameters
        ----------
        low, high : float
            The least and the largest number.

        Returns
        -------
        transform : TargetTransform
            Fitted.
        moments : Moments
            Of what comes out, of all rows or of a sample of a million.

        Raises
        ------
        DataError
            If a number has no value.
        """
        ends, sample = np.array([low, high]), self._sample
        x = ends[:, None]
        for number, step in enumerate(self.steps):
            _refuse_low(self.name, step, x[:, 0], ends, self.steps[:number])
            if not step._is_stateless:
                step._learn({need: [sample] for need in step._needs()})
            if sample is not None and number >= self._num_known:
                from dtk.preparation.transforms.base import SAMPLE

                (sample,) = step._derive(SAMPLE, [sample])
            x = step._compute(x)
        moments = self._moments
        if sample is not None:
            moments = Moments()
            moments.update(pa.array(np.sort(to_floats(sample.values))))  # sums then do not depend on the chunks
        return TargetTransform(tuple(self.steps), low, high), moments


def target_steps(target_transform: Any) -> list[Transform]:
    """Make the transforms that a user asks for.

    Parameters
    ----------
    target_transform : str, mapping, Transform, sequence of these, or None
        ``"log1p"``, ``"log"``, ``"signed_log"``, ``"yeo-johnson"``, ``"box-cox"``, ``"quantile"``, ``{"clip": [low,
        high]}`` with None for an open side; or the transforms that these stand for, or scikit-learn's.

    Returns
    -------
    list of Transform
        Not fitted, and the caller's own; empty for None.

    Raises
    ------
    ArgumentError
        If it is none that has an inverse, or has an impossible parameter.

    Examples
    --------
    >>> target_steps([{"clip": [0, None]}, "log1p"])
    [Clip(by='value', high=None, low=0), LogTransformer()]
    """
    if target_transform is None:
        return []
    is_list = isinstance(target_transform, list | tuple)
    given = list(target_transform) if is_list else [target_transform]
    if not given:
        raise ArgumentError(f"target_transform={target_transform!r} is empty; leave it out, or {_OTHERS}")
    return [_step(each) for each in given]


def _step(given: Any) -> Transform:
    from sklearn.base import clone

    from dtk.preparation.transforms import (
        Clip,
        LogTransformer,
        PowerTransformer,
        QuantileTransformer,
        Transform,
        from_sklearn,
    )

    if isinstance(given, Mapping):
        return _checked(_clip(given), given)
    if isinstance(given, str):
        named: dict[str, Transform] = {
            "log1p": LogTransformer(),
            "log": LogTransformer("log"),
            "signed_log": LogTransformer("signed"),
            "yeo-johnson": PowerTransformer(),
            "box-cox": PowerTransformer("box-cox"),
            "quantile": QuantileTransformer(output_distribution="normal"),
        }
        if given not in named:
            raise ArgumentError(f"target_transform={given!r} is unknown; {close_to(given, [*named])}")
        return named[given]
    if isinstance(given, type) or not hasattr(given, "get_params"):
        raise ArgumentError(f"target_transform={given!r} is no transform of a target; {_OTHERS}")
    try:
        step = from_sklearn(clone(given))
    except ArgumentError as error:
        raise ArgumentError(f"target_transform: {error}") from None
    if not isinstance(step, Clip | LogTransformer | PowerTransformer | QuantileTransformer):
        why = "the target is standardised anyway" if isinstance(step, Transform) else "it has no inverse here"
        raise ArgumentError(f"target_transform={given!r} is no transform of a target, as {why}; {_OTHERS}")
    return _checked(step, given)


def _clip(given: Mapping[str, Any]) -> Transform:
    from dtk.preparation.transforms import Clip

    bounds = given.get("clip")
    if set(given) != {"clip"} or not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ArgumentError(f"target_transform={dict(given)!r} must be {{'clip': [low, high]}}; or {_OTHERS}")
    for bound in bounds:
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float)):
            raise ArgumentError(f"target_transform={dict(given)!r}: {bound!r} is no bound; give a number or None")
    return Clip(*bounds, by="value")


def _checked(step: Transform, given: Any) -> Transform:
    """Refuse impossible parameters before any row is read."""
    try:
        step._check(["target"], [pa.float64()])
    except ArgumentError as error:
        raise ArgumentError(f"target_transform={given!r}: {error}") from None
    return step


def _refuse_low(
    name: str,
    step: Transform,
    x: NDArray[np.float64],
    numbers: NDArray[np.float64],
    earlier: Sequence[Transform],
) -> None:
    """Refuse numbers of which a logarithm has no value; `x` is what `earlier` steps made of them."""
    least, needed = -np.inf, ""
    if type(step).__name__ == "LogTransformer" and step.function != "signed":
        pole = 0.0 if step.function == "log" else -1.0
        least = pole - step.offset
        needed = "'signed_log' or 'yeo-johnson'"
    elif type(step).__name__ == "PowerTransformer" and step.method == "box-cox":
        least, needed = 0.0, "'yeo-johnson'"
    if not (x <= least).any():
        return
    value = float(numbers[int(np.argmax(x <= least))])
    of = "" if not earlier else f" of what {type(earlier[-1]).__name__} makes of it"
    raise DataError(
        f"target={name!r} holds {value:g}, and target_transform={step!r} has a value only for numbers above "
        f"{least:g}{of}; filter such rows out, clip them first, or give {needed}"
    )
