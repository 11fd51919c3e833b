"""What a loader reads, counted and planned at the first look."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from dtk.errors import ArgumentError
from dtk.loader.encoder import LabelledEncoder
from dtk.loader.grids import GridEncoder
from dtk.loader.intake import Intake
from dtk.loader.joining import joined_source
from dtk.loader.kept import KeptTable
from dtk.loader.plan import Plan
from dtk.loader.planning import make_plan
from dtk.loader.sampling import Sampling
from dtk.loader.state import check_state
from dtk.loader.windows import WindowEncoder
from dtk.sources import ExpressionSource, ParquetSource, Source, TableSource
from dtk.sources.arrays import ArraySource
from dtk.sources.counting import count, with_rows
from dtk.sources.kept_files import footers_limit_nbytes
from dtk.sources.row_numbers import RowNumbers
from dtk.sources.windows import WindowSource

__all__ = ["Planned"]

_CACHED_SHARE: Final = 10  # a table of at most a tenth of the memory is encoded once and kept


@dataclass
class Planned:
    """What a loader reads, by which plan, and what it keeps of it. A loader and its views on devices share one.

    Parameters
    ----------
    taken : Intake
        What is read, as it was given; with the rows of its chunks once these are counted.
    arguments : dict
        What the loader was given of the order.
    memory_nbytes : int
        Bytes that the loader of a rank may take.
    sampling : Sampling, optional
        How rows are drawn, once that is counted.
    plan : Plan, optional
        The plan, once it was looked at.
    """

    taken: Intake
    arguments: dict[str, Any]
    memory_nbytes: int
    sampling: Sampling | None = None
    plan: Plan | None = None
    _joined: Source | ArraySource | WindowSource | None = field(default=None, init=False)
    _kept: KeptTable | None = field(default=None, init=False)
    _static: dict[str, torch.Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        source = _keeping(self.taken.source, footers_limit_nbytes(self.memory_nbytes))
        self.taken = replace(self.taken, source=source)

    @property
    def source(self) -> Source | ArraySource | WindowSource:
        """Where samples lie."""
        return self.taken.source

    @property
    def rows(self) -> Source | ArraySource:
        """The source of the rows, below windows."""
        source = self.source
        return source.base if isinstance(source, WindowSource) else source

    @property
    def encoder(self) -> LabelledEncoder | GridEncoder | WindowEncoder:
        """What makes the arrays of a batch."""
        return self.taken.encoder

    def count(self, *, progress: bool = False) -> None:
        """Count what metadata does not tell, unless that was done before.

        Parameters
        ----------
        progress : bool
            Whether to show a progress bar.
        """
        source, counting, rule = self.taken.source, self.taken.counting, self.taken.rule
        if isinstance(source, WindowSource):
            source = source.counted(progress=progress)
        if counting is not None:
            if rule is None:
                counts = count(counting, progress=progress)
            else:
                counts = rule.count(counting, progress=progress)
                self.sampling = Sampling(rule, counts)
            if source.chunk_rows is None:
                assert not isinstance(source, ArraySource | WindowSource)
                source = with_rows(source, counts.chunk_rows)
        self.taken = replace(self.taken, source=source, counting=None)

    def made(self, ranks: int) -> Plan:
        """Return the plan.

        Parameters
        ----------
        ranks : int
            The number of ranks, for what it explains by default.

        Returns
        -------
        Plan
            Made at the first look, after what must be counted for it.
        """
        if self.plan is None:
            self.count()
            self.plan = self._make(ranks)
        return self.plan

    def load(self, state: Mapping[str, Any], ranks: int) -> None:
        """Take over the order of a saved state.

        Parameters
        ----------
        state : mapping
            What `state_of` returned.
        ranks : int
            The number of ranks, for what the plan explains by default.

        Raises
        ------
        DataError
            If the data is not what it was.
        ArgumentError
            If the state is of another version, incomplete, or at a place that there is not.

        Warns
        -----
        UserWarning
            If the order is not that of the arguments.
        """
        plan = self.made(ranks)  # counts the source's rows where that is needed
        check_state(state, self.source, plan)
        for name, value in self.arguments.items():
            if state["order"][name] != value:
                warnings.warn(
                    f"{name}={value!r} is ignored: the state goes on with {state['order'][name]!r}", stacklevel=3
                )
        plan = self._make(ranks, dict(state["order"]))
        if state["step"] > plan.num_steps:
            raise ArgumentError(f"state is at step {state['step']} of epoch {state['epoch']}, where there is none")
        self.plan, self._joined = plan, None

    def joined(self) -> Source | ArraySource | WindowSource:
        """Return what is read by the plan, which was made before.

        Returns
        -------
        Source, ArraySource or WindowSource
            The source, small row groups joined as the order has them; joined at the first call.
        """
        assert self.plan is not None
        if self._joined is None:
            self._joined, _ = joined_source(self.source, self.plan.order.join_rows, self.sampling)
        return self._joined

    @property
    def numbers(self) -> RowNumbers | None:
        """What numbers the rows, which are counted; None where they are not encoded by their numbers."""
        if not self.taken.in_folds:
            return None
        assert not isinstance(self.rows, ArraySource)
        return RowNumbers.of(self.rows)

    def without_folds(self) -> Planned:
        """Return a copy that encodes no row by its number.

        Returns
        -------
        Planned
            Of the same rows, as those of other data than that of the fit.
        """
        other = copy.copy(self)
        other.taken, other._kept = replace(self.taken, in_folds=None), None
        return other

    def is_small(self, ranks: int) -> bool:
        """Tell whether all samples are encoded once and kept.

        Parameters
        ----------
        ranks : int
            The number of ranks, for what the plan explains by default.

        Returns
        -------
        bool
            True for a table in memory that is small beside what the loader may take.
        """
        plan = self.made(ranks)
        index_nbytes = 8 if self.sampling is None else 64
        nbytes = plan.order.num_rows * (plan.row_nbytes + index_nbytes)
        return isinstance(self.source, TableSource) and nbytes * _CACHED_SHARE <= self.memory_nbytes

    def kept(self) -> KeptTable:
        """Return all samples; encoded at the first call.

        Returns
        -------
        KeptTable
            Of a table that is small.
        """
        if self._kept is None:
            assert isinstance(self.source, TableSource)
            assert isinstance(self.encoder, LabelledEncoder)
            self._kept = KeptTable(self.source, self.encoder, in_folds=bool(self.taken.in_folds))
        return self._kept

    def static(self) -> dict[str, torch.Tensor]:
        """Return what all samples share; read at the first call.

        Returns
        -------
        dict of str to torch.Tensor
            Empty where there is nothing of this kind.
        """
        if self._static is None:
            rows, static = self.rows, None
            if isinstance(rows, ArraySource):
                assert not isinstance(self.encoder, LabelledEncoder)
                static = self.encoder.static(rows)
            self._static = {} if static is None else {"static": torch.from_numpy(static)}
        return self._static

    def __getstate__(self) -> dict[str, Any]:
        self.count()  # once, and not in each rank
        return {**self.__dict__, "_joined": None, "_kept": None, "_static": None}

    def __copy__(self) -> Planned:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def _make(self, ranks: int, parameters: dict[str, Any] | None = None) -> Plan:
        return make_plan(
            self.source,
            self.encoder,
            memory_limit_nbytes=self.memory_nbytes,
            parameters=parameters,
            sampling=self.sampling,
            ranks=ranks,
            **self.arguments,
        )


def _keeping(source: Any, limit_nbytes: int) -> Any:
    """Let a source keep footers of so many bytes."""
    if isinstance(source, WindowSource | ExpressionSource):
        return replace(source, base=_keeping(source.base, limit_nbytes))
    return replace(source, footers_limit_nbytes=limit_nbytes) if isinstance(source, ParquetSource) else source
