"""The bundle: a fitted model with its preparation, its target, and how it came to be."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dtk.errors import ArgumentError, BundleError
from dtk.models import ModelSchema, ModelSpec, PreparedModel, build, spec_to_dict
from dtk.preparation import TablePreparation, Target
from dtk.runtime import pack, unpack

__all__ = ["Bundle"]

_MAX_MODELS: Final = 4
_models: dict[str, PreparedModel] = {}
_models_lock = threading.Lock()


def _versions() -> dict[str, str]:
    from dtk import __version__

    names = ("numpy", "pyarrow", "safetensors")
    found = {"dtk": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return found | {name: metadata.version(name) for name in names}


def _without_values(module: nn.Module, device: str) -> nn.Module:
    """Copy a module, with new tensors of any content in place of those that `load_state_dict` fills."""
    memo: dict[int, Any] = {}
    state = module.state_dict(keep_vars=True)  # held, for its tensors' ids to stay theirs
    for tensor in state.values():
        if type(tensor) in (Tensor, nn.Parameter):  # others, such as uninitialised ones, know more than a shape
            empty = torch.empty_like(tensor, device=device, requires_grad=False)
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)


@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """A fitted model: weights, preparation, target, and how it came to be.

    Bundles are made by training (`from_network`) and by `dtk.load`. They pickle compactly, with a network of the user's
    by value where it is no installed package; the network is built on first use, once a process.

    Parameters
    ----------
    weights : bytes
        The network's state, in the format of safetensors.
    schema : ModelSchema
        The shapes of the network.
    preparation : TablePreparation
        Fitted.
    target : ClassTarget, NumberTarget or None
        Fitted; without one, predictions are what the network returns.
    model : dict
        What builds the network again: ``{"name": ..., **options}``, or ``{"custom": "module:class"}``.
    module : torch.nn.Module, class or callable, optional
        For a custom network: the module, or what makes it from the schema.
    metrics : dict
        Of the last validation, by name.
    history : list of dict
        What training reported, an epoch each.
    plan_digest : str, optional
        Hash of the plan by which the data was read.
    versions : dict
        Of the libraries that made it.
    """

    weights: bytes
    schema: ModelSchema
    preparation: TablePreparation
    target: Target | None
    model: dict[str, Any]
    module: nn.Module | Callable[[ModelSchema], nn.Module] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    plan_digest: str | None = None
    versions: dict[str, str] = field(default_factory=_versions)
    _identity: str = field(init=False, default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        *,
        preparation: TablePreparation,
        target: Target | None,
        model: ModelSpec,
        schema: ModelSchema | None = None,
        metrics: Mapping[str, float] | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        plan_digest: str | None = None,
    ) -> Self:
        """Make a bundle of a trained network.

        Parameters
        ----------
        network : torch.nn.Module
            On any device; a `PreparedModel` stands for the network in it.
        preparation : TablePreparation
            Fitted.
        target : ClassTarget, NumberTarget or None
            Fitted.
        model : str, mapping, torch.nn.Module or callable
            What the network was built of, as for `dtk.models.build`.
        schema : ModelSchema, optional
            The shapes of the network; by default those of the preparation and the target.
        metrics : mapping, optional
            Of the last validation.
        history : sequence of mapping
            What training reported, an epoch each.
        plan_digest : str, optional
            Hash of the plan by which the data was read.

        Returns
        -------
        Bundle
            With a copy of the weights.

        Raises
        ------
        ArgumentError
            If there is neither a schema nor a target that tells it.
        """
        network = network.network if isinstance(network, PreparedModel) else network
        if schema is None:
            if target is None:
                raise ArgumentError("schema=None needs a target that tells the number of outputs; give one of them")
            schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, target.num_outputs)
        # cloned, since safetensors refuses tensors that share memory, such as tied weights
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
        description = spec_to_dict(model)
        return cls(
            weights=save_tensors(state),
            schema=schema,
            preparation=preparation,
            target=target,
            model=description,
            module=model if "custom" in description else None,  # type: ignore[arg-type]  # then it is no name
            metrics=dict(metrics or {}),
            history=[dict(epoch) for epoch in history],
            plan_digest=plan_digest,
        )

    @property
    def task(self) -> str | None:
        """``"classification"``, ``"regression"``, or None without a target."""
        return None if self.target is None else self.target.task

    @cached_property
    def digest(self) -> str:
        """Hash of all that decides a prediction; a network of the user's is like none but itself and its copies."""
        sha = hashlib.sha256(self.weights)
        sha.update(json.dumps(self.description(), sort_keys=True).encode())
        if "custom" in self.model:  # its code may change while its name stays
            sha.update(self._identity.encode())
        return sha.hexdigest()

    @cached_property
    def packed_module(self) -> bytes | None:
        """The user's module as it travels, without its weights; unpacked where the network is built, and not before."""
        # a worker unpickles what it receives outside of any task: a module that it cannot import would end the
        # connection there, and the client would wait for ever
        if isinstance(self.module, nn.Module):
            return pack(_without_values(self.module, "meta"))
        return None if self.module is None else pack(self.module)

    def description(self) -> dict[str, Any]:
        """Return what decides a prediction beside the weights, as plain JSON values.

        Returns
        -------
        dict
            The model, its shapes, the preparation and the target.
        """
        return {
            "model": self.model,
            "schema": self.schema.to_dict(),
            "preparation": self.preparation.to_dict(),
            "target": None if self.target is None else self.target.to_dict(),
        }

    def network(self) -> nn.Module:
        """Build the network anew, with its weights.

        Returns
        -------
        torch.nn.Module
            On the CPU.

        Raises
        ------
        BundleError
            If the network is the user's and was not given, cannot be imported, or does not fit the weights.
        """
        network = build(self._given_module() if "custom" in self.model else self.model, self.schema)
        try:
            network.load_state_dict(load_tensors(self.weights))
        except SafetensorError as error:
            raise BundleError(f"the weights of this bundle are no safetensors: {error}") from error
        except RuntimeError as error:
            hint = "; give the module= that was trained" if "custom" in self.model else ""
            raise BundleError(f"the weights do not fit model={self.model!r}{hint}: {error}") from error
        return network

    def _given_module(self) -> ModelSpec:
        name = self.model["custom"]
        if self.module is not None:
            return self.module
        if self.packed_module is None:
            raise BundleError(
                f"model={name!r} is a network of your own, which a bundle never imports by itself; "
                f"load it with dtk.load(path, module={name.rpartition(':')[2].rpartition('.')[2]})"
            )
        try:
            module: ModelSpec = unpack(self.packed_module)
        except (ImportError, AttributeError) as error:
            raise BundleError(f"model={name!r} cannot be built here: {error}") from error
        return _without_values(module, "cpu") if isinstance(module, nn.Module) else module

    def prepared_model(self) -> PreparedModel:
        """Return the network behind its preparation, built once a process, in evaluation mode.

        Returns
        -------
        PreparedModel
            On the CPU; shared, so leave it as it is.
        """
        with _models_lock:
            model = _models.pop(self.digest, None)
            if model is None:
                model = PreparedModel(self.preparation.as_module(), self.network())
                model.eval().requires_grad_(False)
            _models[self.digest] = model  # the last one used is the last one dropped
            if len(_models) > _MAX_MODELS:
                del _models[next(iter(_models))]
        return model

    def predict(self, data: Any, *, proba: bool = False) -> Any:
        """Predict the target of each row.

        Parameters
        ----------
        data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays or numpy.ndarray
            With the columns of the fit, in any order; those of an array are ``x0``, ``x1``, ... by position.
        proba : bool
            Whether to return the probability of each class instead of the likeliest one.

        Returns
        -------
        dask.dataframe.Series, dask.dataframe.DataFrame or numpy.ndarray
            For a Dask DataFrame, lazy, with the same index and partitions: a Series named after the target, or with
            `proba` a DataFrame with a column a class. For anything else an array: classes or float64 [n], or float64
            [n, classes].

        Raises
        ------
        ArgumentError
            If `proba` is asked of a model without classes.
        DataError
            If a column is missing, or of another type than at fit.
        """
        from dtk.bundle.predict import predict

        return predict(self, data, proba=proba)

    def evaluate(self, data: Any, *, progress: bool = False) -> dict[str, float]:
        """Compare predictions with the target, in one pass over the data.

        Parameters
        ----------
        data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
            With the columns of the fit and the target.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        dict
            Metrics by name, see `dtk.evaluation.Metrics`.

        Raises
        ------
        ArgumentError
            If the bundle has no target.
        DataError
            If a column is missing or of another type than at fit, or the target holds an unknown class.
        """
        from dtk.bundle.predict import evaluate

        return evaluate(self, data, progress=progress)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the bundle as a directory, which appears whole or not at all.

        Parameters
        ----------
        path : str or path
            Of the directory.
        overwrite : bool
            Whether to replace a bundle that is there.

        Raises
        ------
        ArgumentError
            If something is there already.
        """
        from dtk.bundle.files import save

        save(self, path, overwrite=overwrite)

    def __dask_tokenize__(self) -> str:
        return self.digest

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "module": None, "packed_module": self.packed_module}

    def __repr__(self) -> str:
        name = self.model.get("name") or self.model["custom"]
        goal = f" for {self.target.name!r}" if self.target is not None else ""
        figures = "".join(f", {metric} {value:.4g}" for metric, value in self.metrics.items())
        return f"Bundle({name}{goal}, {len(self.preparation.columns)} columns{figures})"
