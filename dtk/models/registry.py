"""Build a network from what the user names or gives, and describe it so that it can be built again."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from dtk.errors import ArgumentError
from dtk.models.mlp import MLP
from dtk.models.schema import ModelSchema
from dtk.sources.columns import close_to

__all__ = ["MODELS", "ModelSpec", "build", "check_model", "count_outputs", "spec_to_dict"]

MODELS: Final[dict[str, type[nn.Module]]] = {"mlp": MLP}

ModelSpec = str | Mapping[str, Any] | nn.Module | Callable[[ModelSchema], nn.Module]
"""A name; a name with options, ``{"name": "mlp", "dropout": 0.1}``; a module; or what makes one from the schema."""


def build(spec: ModelSpec, schema: ModelSchema, *, seed: int = 0) -> nn.Module:
    """Build a network.

    Parameters
    ----------
    spec : str, mapping, torch.nn.Module or callable
        A name; ``{"name": ..., **options}``; a module, which is copied; or a class or function that is called with the
        schema.
    schema : ModelSchema
        The shapes that it must fit.
    seed : int
        Of the initial weights. The random state of torch is left as it was.

    Returns
    -------
    torch.nn.Module
        A new network.

    Raises
    ------
    ArgumentError
        If the name or an option is unknown, an option's value cannot work, or the callable returns no module.

    Examples
    --------
    >>> network = build({"name": "mlp", "hidden": [8]}, ModelSchema(num_inputs=3, num_outputs=2))
    >>> network(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    if isinstance(spec, nn.Module):
        return copy.deepcopy(spec)
    # initial weights are made on the CPU, so the state of the GPUs is none of our business
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if isinstance(spec, str | Mapping):
            name, options = _named(spec)
            return MODELS[name](schema.num_inputs, schema.cardinalities, schema.num_outputs, **options)
        if not callable(spec):
            raise ArgumentError(f"model={spec!r} must be a name, a mapping with a name, a torch module or a callable")
        network = spec(schema)
    if not isinstance(network, nn.Module):
        raise ArgumentError(f"model={_name_of(spec)} returned {type(network).__name__}; it must return a torch module")
    return network


def check_model(network: nn.Module, schema: ModelSchema) -> None:
    """Refuse a network that does not take or return what it should, by a batch of two rows of zeros.

    Parameters
    ----------
    network : torch.nn.Module
        On any device; it is left in the mode it was in.
    schema : ModelSchema
        The shapes that it must fit.

    Raises
    ------
    ArgumentError
        If its forward raises or returns another shape.
    """
    found = count_outputs(network, schema)
    if found != schema.num_outputs:
        raise ArgumentError(
            f"model={_name_of(network)} returns [2, {found}] for 2 rows; it must return [2, {schema.num_outputs}], "
            "one output a class, or one for a number"
        )


def count_outputs(network: nn.Module, schema: ModelSchema) -> int:
    """Count the outputs of a network, by a batch of two rows of zeros.

    Parameters
    ----------
    network : torch.nn.Module
        On any device; it is left in the mode it was in.
    schema : ModelSchema
        Of its inputs.

    Returns
    -------
    int
        The columns of what it returns.

    Raises
    ------
    ArgumentError
        If its forward raises, or returns anything but a row of outputs for each row.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    arguments: list[torch.Tensor | None] = [torch.zeros(2, schema.num_inputs, device=device)]
    if not schema.num_inputs:
        arguments = [None]
    if schema.cardinalities:
        arguments.append(torch.zeros(2, len(schema.cardinalities), dtype=torch.int64, device=device))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            outputs = network(*arguments)
    except Exception as error:
        shapes = ", ".join("None" if argument is None else str(list(argument.shape)) for argument in arguments)
        raise ArgumentError(
            f"model={_name_of(network)} fails on a batch of shapes {shapes}: {type(error).__name__}: {error}"
        ) from error
    finally:
        network.train(was_training)
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2 or len(outputs) != 2 or not outputs.shape[1]:
        found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ArgumentError(
            f"model={_name_of(network)} returns {found} for 2 rows; it must return [2, outputs], one output a class, "
            "or one for a number"
        )
    return int(outputs.shape[1])


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """Describe a spec as plain JSON values.

    Parameters
    ----------
    spec : str, mapping, torch.nn.Module or callable
        As for `build`.

    Returns
    -------
    dict
        ``{"name": ..., **options}``, which `build` takes; or ``{"custom": "module:class"}``, which tells people what
        to give again.

    Raises
    ------
    ArgumentError
        If the name or an option is unknown, or an option's value cannot work.
    """
    if isinstance(spec, str | Mapping):
        name, options = _named(spec)
        with torch.device("meta"):  # it takes no memory there, and the network itself says what it refuses
            MODELS[name](1, (), 1, **options)
        return {"name": name, **options}
    return {"custom": _name_of(spec)}


def _named(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take a named spec apart into plain values, and refuse unknown names and options."""
    options = {} if isinstance(spec, str) else dict(spec)
    name = spec if isinstance(spec, str) else options.pop("name", None)
    if name not in MODELS:
        raise ArgumentError(f"model={name!r} is no model of dtk; {close_to(name, list(MODELS))}")
    parameters = inspect.signature(MODELS[name]).parameters
    known = [option for option, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ArgumentError(f"model={name!r} has no option {option!r}; {close_to(option, known)}")
    return name, {option: _plain(option, value) for option, value in options.items()}


def _plain(option: str, value: Any) -> Any:
    """Turn an option's value into what JSON holds, so that a bundle can be saved after the training, too."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(option, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ArgumentError(
        f"{option}={value!r} is {type(value).__name__}, which a bundle cannot hold; give a number, a string or a list"
    )


def _name_of(spec: Any) -> str:
    """Return module and qualified name of a module's class, or of a callable."""
    if isinstance(spec, nn.Module) or not hasattr(spec, "__qualname__"):
        spec = type(spec)
    return f"{spec.__module__}:{spec.__qualname__}"
