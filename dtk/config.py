"""Read YAML files into validated models, with every mistake reported at once; and where the cache is."""

from __future__ import annotations

import difflib
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from dtk.errors import ArgumentError, NotFoundError

__all__ = [
    "Mistake",
    "cache_directory",
    "did_you_mean",
    "find_mistakes",
    "mistakes_error",
    "read_model",
    "read_yaml",
    "spare_s",
    "validate_model",
]

Model = TypeVar("Model", bound=BaseModel)


class Mistake(NamedTuple):
    """One mistake in a file.

    Parameters
    ----------
    place : tuple of str or int
        Names and positions that lead to it; empty for the file as a whole.
    text : str
        A line for people, which starts with the place.
    """

    place: tuple[str | int, ...]
    text: str


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known name nearest to a mistyped one.

    Parameters
    ----------
    name : str
        What was written.
    known : iterable of str
        What could have been meant.

    Returns
    -------
    str
        ``"; did you mean 'x'?"``, or a list of what there is where nothing is near.

    Examples
    --------
    >>> did_you_mean("carier", ["carrier", "origin"])
    "; did you mean 'carrier'?"
    """
    names = sorted(map(str, known))
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    if not names:
        return ""
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; there is {shown}"


def cache_directory() -> Path:
    """Return where dtk keeps what it would otherwise find out again.

    Returns
    -------
    Path
        ``dtk.cache-dir`` in Dask's configuration (``DASK_DTK__CACHE_DIR`` in the environment), or ``dtk`` in the user's
        cache directory. It need not exist.
    """
    import dask.config

    chosen = dask.config.get("dtk.cache-dir", None)
    if chosen is not None:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dtk"


def spare_s() -> float:
    """Return how long a worker keeps processes for ranks to come, which then start in under a second.

    Returns
    -------
    float
        ``dtk.spare-s`` in Dask's configuration (``DASK_DTK__SPARE_S`` in the worker's environment), or 300 seconds; 0
        keeps none.
    """
    import dask.config

    return float(dask.config.get("dtk.spare-s", 300.0))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds names and values.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    dict
        What it holds, not validated.

    Raises
    ------
    NotFoundError
        If there is no such file.
    ArgumentError
        If it is no YAML, says a name twice, or holds anything but names and values.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"path={str(path)!r} is no file; give the path of a YAML file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ArgumentError(f"{path}: must hold 'name: value' lines, not {type(content).__name__}")
    return content


def read_model(path: str | Path, model: type[Model]) -> Model:
    """Read a YAML file into a model.

    Parameters
    ----------
    path : str or Path
        The file.
    model : type of pydantic.BaseModel
        What it must hold.

    Returns
    -------
    pydantic.BaseModel
        An instance of `model`.

    Raises
    ------
    NotFoundError
        If there is no such file.
    ArgumentError
        If it is no YAML, or breaks the model: every mistake is named, with its place in the file.
    """
    return validate_model(read_yaml(path), model, str(path))


def validate_model(content: object, model: type[Model], origin: str) -> Model:
    """Validate what was read against a model.

    Parameters
    ----------
    content : object
        Mappings, sequences and scalars.
    model : type of pydantic.BaseModel
        What it must hold.
    origin : str
        Where it came from, for the error.

    Returns
    -------
    pydantic.BaseModel
        An instance of `model`.

    Raises
    ------
    ArgumentError
        If anything is wrong: every mistake is named, a line each, with its place.
    """
    valid, mistakes = find_mistakes(content, model)
    if valid is None:
        raise mistakes_error(origin, mistakes)
    return valid


def find_mistakes(content: object, model: type[Model]) -> tuple[Model | None, list[Mistake]]:
    """Validate what was read against a model, without raising.

    Parameters
    ----------
    content : object
        Mappings, sequences and scalars.
    model : type of pydantic.BaseModel
        What it must hold.

    Returns
    -------
    valid : pydantic.BaseModel or None
        An instance of `model`; None if there is any mistake.
    mistakes : list of Mistake
        All of them.
    """
    try:
        return model.model_validate(content), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    mistakes: dict[tuple[str | int, ...], Mistake] = {}
    for error in errors:
        mistake = _mistake(error, model, content)
        if mistake.place in mistakes:  # a union: each of its types says why not
            message = mistake.text.rpartition(": ")[2]
            mistake = Mistake(mistake.place, f"{mistakes[mistake.place].text}, or {message}")
        mistakes[mistake.place] = mistake
    return None, list(mistakes.values())


def mistakes_error(origin: str, mistakes: Sequence[Mistake]) -> ArgumentError:
    """Make one error of many mistakes.

    Parameters
    ----------
    origin : str
        The file.
    mistakes : sequence of Mistake
        At least one.

    Returns
    -------
    ArgumentError
        With a line for each mistake.
    """
    noun = "mistake" if len(mistakes) == 1 else "mistakes"
    lines = "\n".join(f"  {mistake.text}" for mistake in mistakes)
    return ArgumentError(f"{origin}: {len(mistakes)} {noun}\n{lines}")


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a name that is said twice; YAML itself would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name!r} is said twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _mistake(error: Any, model: type[BaseModel], content: object) -> Mistake:
    place = _place_in(content, error["loc"])
    name = ".".join(map(str, place)) or "(top)"
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        return Mistake(place, f"{name}: is no known setting{did_you_mean(str(error['loc'][-1]), known)}")
    if error["type"] == "missing":
        return Mistake(place, f"{name}: is missing")
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if error["type"] == "value_error" and not _is_scalar(error["input"]):
        return Mistake(place, f"{name}: {message}")  # it concerns the parts, and names them itself
    return Mistake(place, f"{name}={error['input']!r}: {message}")


def _is_scalar(value: object) -> bool:
    return not isinstance(value, (Mapping, list))


def _place_in(content: object, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Leave the tags of unions out of pydantic's place: the file doesn't say them."""
    place = []
    for number, part in enumerate(loc):
        is_last = number == len(loc) - 1
        if isinstance(content, list) and isinstance(part, int):
            content = content[part]
        elif isinstance(content, Mapping) and (part in content or is_last):  # the last may be what is missing
            content = content.get(part)
        else:
            continue
        place.append(part)
    return tuple(place)


def _fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """List the settings that are known at a place, by following the models along it."""
    for part in place:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # the tag of a union
        inner = [kind for kind in _kinds_in(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _kinds_in(annotation: Any) -> list[Any]:
    """Take unions and annotated types apart."""
    parts = getattr(annotation, "__args__", ())
    return [annotation, *(kind for part in parts for kind in _kinds_in(part))]
