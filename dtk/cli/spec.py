"""The spec of a training: what a YAML file may say, and all that is wrong with one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core.core_schema import ValidationInfo

from dtk.config import Mistake, find_mistakes, read_yaml
from dtk.errors import ArgumentError
from dtk.memory import parse_nbytes

__all__ = ["ClusterSpec", "Spec", "SplitSpec", "beside", "read_spec"]

PIECES = ("train", "validation", "test")
DEFAULT_FRACTIONS = [0.8, 0.1, 0.1]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _is_size(value: Any) -> Any:
    if value is not None:
        try:
            parse_nbytes(value)
        except (ArgumentError, TypeError):
            raise ValueError("is no size in bytes; write it as '512 MiB' or '1.5 GB'") from None
    return value


def _is_no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _is_address(value: str | None) -> str | None:
    host, _, port = (value or "").rpartition(":")
    if value is not None and not (host and port.isdigit() and int(port) < 2**16):
        raise ValueError("should be host:port, for example '127.0.0.1:8787'")
    return value


def _kind_of_cluster(value: object) -> str:
    return "settings" if isinstance(value, (Mapping, ClusterSpec)) else "name"


Names = Annotated[list[str], BeforeValidator(_as_list)]
Size = Annotated[str | int, BeforeValidator(_is_size)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitSpec(_Section):
    """How the data is split into train, validation and test, or into train and test."""

    fractions: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(default=None, min_length=2, max_length=3)
    by: str | None = None
    at: list[datetime | date | float | int | str] | None = Field(default=None, min_length=1, max_length=2)
    group: str | None = None
    key: Names | None = None
    seed: int = 0

    @field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, fractions: list[float] | None) -> list[float] | None:
        if fractions is not None and abs(sum(fractions) - 1) > 1e-9:
            raise ValueError(f"must sum to 1, not to {sum(fractions):g}")
        return fractions

    @field_validator("at", mode="before")
    @classmethod
    def _one_or_several(cls, at: object) -> object:
        return at if at is None or isinstance(at, list) else [at]

    @model_validator(mode="after")
    def _one_way(self) -> SplitSpec:
        if (self.fractions is None) == (self.by is None):
            raise ValueError("give either fractions, or by and at")
        if (self.by is None) != (self.at is None):
            raise ValueError("by and at go together; give both")
        if self.by is not None and (self.group is not None or self.key is not None):
            raise ValueError("group and key go with fractions, not with by")
        if self.group is not None and self.key is not None:
            raise ValueError("group and key both say which rows stay together; give one")
        return self

    @property
    def pieces(self) -> tuple[str, ...]:
        """Names of the pieces, in their order."""
        count = len(self.fractions) if self.fractions is not None else len(self.at or ()) + 1
        return PIECES if count == 3 else (PIECES[0], PIECES[2])


class ClusterSpec(_Section):
    """The size of a local cluster: the arguments of `dtk.connect`."""

    workers: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    memory: Size | None = None
    rank_memory: Size | None = None
    dashboard: Annotated[str | None, AfterValidator(_is_address)] = None


class Spec(_Section):
    """What to train, on what, and how. Paths are relative to the spec's own file."""

    data: str
    format: Literal["parquet", "csv", "zarr", "netcdf"] | None = None
    derive: dict[str, str] = {}
    filter: Names = []
    split: SplitSpec = SplitSpec(fractions=DEFAULT_FRACTIONS)
    target: str
    task: Literal["classification", "regression"] | None = None
    inputs: Names | None = None
    exclude: Names = []
    kinds: dict[str, Literal["number", "category", "date", "boolean", "ignore"]] = {}
    columns: dict[str, str | dict[str, Any] | list[str | dict[str, Any]]] = {}
    model: str | dict[str, Any] = "mlp"
    epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    batch_size: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=None, ge=1)
    class_weight: Literal["balanced"] | dict[str | int | float | bool, float] | None = None
    sample_weight: str | None = None
    target_transform: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    cluster: (
        Annotated[
            Annotated[str, Tag("name")] | Annotated[ClusterSpec, Tag("settings")], Discriminator(_kind_of_cluster)
        ]
        | None
    ) = None
    ranks: Annotated[int | None, BeforeValidator(_is_no_boolean)] = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    memory: Size = "1 GiB"
    output: str | None = Field(default=None, min_length=1)

    # Each check sits at the later of its fields and looks at the earlier ones: so pydantic finds all mistakes at once.

    @field_validator("columns")
    @classmethod
    def _are_transforms(cls, columns: dict[str, Any]) -> dict[str, Any]:
        from dtk.preparation import TablePreparation

        try:
            TablePreparation(columns=columns)
        except ArgumentError as error:
            raise ValueError(str(error).removeprefix("columns")) from None
        return columns

    @field_validator("inputs", "exclude")
    @classmethod
    def _not_the_target(cls, columns: list[str] | None, info: ValidationInfo) -> list[str] | None:
        twice = [name for name in dict.fromkeys(columns or ()) if (columns or []).count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} stands here twice; give each column once")
        if info.field_name == "inputs" and columns == []:
            raise ValueError("names no column; leave it out to learn from all")
        if columns is not None and info.data.get("target") in columns:
            raise ValueError(f"the target {info.data['target']!r} is no input anyway; leave it out here")
        both = sorted(set(columns or ()) & set(info.data.get("inputs") or ())) if info.field_name == "exclude" else []
        if both:
            raise ValueError(f"{both[0]!r} is among the inputs, too; leave it out of one of them")
        return columns

    @field_validator("model")
    @classmethod
    def _has_a_name(cls, model: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(model, dict) and not isinstance(model.get("name"), str):
            raise ValueError("a model with options needs its name, as in {name: mlp, dropout: 0.1}")
        return model

    @field_validator("patience")
    @classmethod
    def _has_validation(cls, patience: int | None, info: ValidationInfo) -> int | None:
        split = info.data.get("split")
        if patience is not None and split is not None and "validation" not in split.pieces:
            raise ValueError("needs a validation piece; give split three fractions, or two cut points")
        return patience

    @field_validator("class_weight")
    @classmethod
    def _has_classes(cls, class_weight: Any, info: ValidationInfo) -> Any:
        if class_weight is not None and info.data.get("task") == "regression":
            raise ValueError("task: regression has no classes; leave it out")
        return class_weight

    @field_validator("target_transform")
    @classmethod
    def _is_of_numbers(cls, target_transform: Any, info: ValidationInfo) -> Any:
        from dtk.preparation.target_transform import target_steps

        try:
            target_steps(target_transform)
        except ArgumentError as error:
            raise ValueError(str(error).removeprefix("target_transform=")) from None
        if target_transform is not None and info.data.get("task") == "classification":
            raise ValueError("task: classification has no numbers to transform; leave it out")
        return target_transform

    @field_validator("sample_weight")
    @classmethod
    def _is_no_input(cls, weight: str | None, info: ValidationInfo) -> str | None:
        if weight is not None and weight in (info.data.get("target"), *(info.data.get("inputs") or ())):
            raise ValueError("a column of weights can't be the target or an input, too")
        return weight


def read_spec(path: str | os.PathLike[str]) -> tuple[Spec | None, list[Mistake]]:
    """Read a spec, or as much of it as can be checked further.

    Parameters
    ----------
    path : str or path
        A YAML file.

    Returns
    -------
    spec : Spec or None
        Without the settings that are wrong; None where it doesn't say which data and which target.
    mistakes : list of Mistake
        All that is wrong with the file by itself.

    Raises
    ------
    NotFoundError
        If there is no such file.
    ArgumentError
        If it is no YAML.
    """
    content = read_yaml(Path(path))
    spec, mistakes = find_mistakes(content, Spec)
    if spec is None:
        wrong = {mistake.place[0] for mistake in mistakes if mistake.place}
        spec, _ = find_mistakes({name: value for name, value in content.items() if name not in wrong}, Spec)
    return spec, mistakes


def beside(spec_path: str | os.PathLike[str], path: str) -> str:
    """Resolve a path that a spec names, relative to the spec's file.

    Parameters
    ----------
    spec_path : str or path
        The spec.
    path : str
        A path, a pattern with wildcards, or a URL.

    Returns
    -------
    str
        URLs and absolute paths as they are.
    """
    return path if "://" in path else str(Path(spec_path).parent / Path(path).expanduser())
