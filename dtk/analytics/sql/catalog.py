"""A catalog of external tables: a YAML file of names and paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dtk.analytics.sql.tables import Table, bind_table
from dtk.config import read_model
from dtk.errors import ArgumentError

__all__ = ["Catalog", "CatalogFile", "ExternalTable"]


class ExternalTable(BaseModel):
    """Where a table lies."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="a file, a directory, a pattern or a URL; relative to the catalog's own directory")
    format: Literal["parquet", "csv"] | None = Field(default=None, description="guessed if it is not said")
    storage_options: dict[str, Any] | None = Field(default=None, description="for the file system of a URL")


class CatalogFile(BaseModel):
    """What a catalog (YAML) may say: tables by name."""

    model_config = ConfigDict(extra="forbid")

    tables: dict[str, ExternalTable] = Field(description="a path, or path, format and storage_options")

    @field_validator("tables", mode="before")
    @classmethod
    def _paths_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: {"path": table} if isinstance(table, str) else table for name, table in value.items()}


class Catalog:
    """The tables that queries may name, opened when one does.

    Parameters
    ----------
    catalog : str, path or mapping, optional
        A YAML file, or names and data.
    tables : mapping
        Names and data, which go before those of the catalog.

    Raises
    ------
    ArgumentError
        If the file breaks the model, or two names differ only in case.
    NotFoundError
        If there is no such file.
    """

    def __init__(self, catalog: str | os.PathLike[str] | Mapping[str, Any] | None, tables: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        if isinstance(catalog, str | os.PathLike):
            of_file = read_model(Path(catalog), CatalogFile).tables
            directory = os.path.dirname(os.path.abspath(catalog))
            self._add({name: _placed(table, directory) for name, table in of_file.items()}, str(catalog))
        elif isinstance(catalog, Mapping):
            self._add(catalog, "catalog")
        elif catalog is not None:
            raise ArgumentError(f"catalog={catalog!r} is no file and no mapping; give the path of a YAML file")
        for name in tables:
            self._values.pop(self._names.pop(name.lower(), ""), None)
        self._add(tables, "tables")

    @property
    def names(self) -> list[str]:
        """All names, as they were given."""
        return list(self._values)

    def find(self, name: str) -> Table | None:
        """Open a table.

        Parameters
        ----------
        name : str
            In any case, as in SQL.

        Returns
        -------
        Table or None
            None if there is no such table.
        """
        known = self._names.get(name.lower())
        if known is None:
            return None
        value = self._values[known]
        if isinstance(value, ExternalTable):
            return bind_table(known, value.path, format=value.format, storage_options=value.storage_options)
        return bind_table(known, value)

    def _add(self, values: Mapping[str, Any], origin: str) -> None:
        for name, value in values.items():
            if not isinstance(name, str) or not name or "\0" in name:
                raise ArgumentError(f"{origin}: {name!r} is no name of a table; use text")
            other = self._names.get(name.lower())
            if other is not None:
                raise ArgumentError(f"{origin}: the tables {other!r} and {name!r} have one name in SQL; rename one")
            self._names[name.lower()] = name
            self._values[name] = value


def _placed(table: ExternalTable, directory: str) -> ExternalTable:
    """Take a relative path for one beside the catalog."""
    path = os.path.expanduser(table.path)
    if "://" in path or os.path.isabs(path):
        return table.model_copy(update={"path": path})
    return table.model_copy(update={"path": os.path.join(directory, path)})
