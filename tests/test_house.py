"""The house itself: what an import loads, what the package promises to export, and that its files agree."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from numpydoc.docscrape_sphinx import get_doc_object
from numpydoc.validate import validate
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import dtk

ROOT = Path(__file__).parents[1]
HEAVY = {"bokeh", "distributed", "pandas", "sklearn", "torch", "torchmetrics", "xarray"}
CONDA_NAMES = {"duckdb": "python-duckdb", "torch": "pytorch"}


def loaded_by(statement: str) -> set[str]:
    """Return the heavy packages that a statement loads in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return HEAVY & set(run.stdout.split())


def pyproject() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def specifiers(requirements: list[str]) -> dict[str, SpecifierSet]:
    parsed = [Requirement(line) for line in requirements]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in parsed}


def test_import_dtk_loads_no_heavy_library() -> None:
    assert loaded_by("import dtk") == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert "pandas" in loaded_by("import pandas")


@pytest.mark.parametrize("layer", ["dtk.sources", "dtk.statistics", "dtk.preparation", "dtk.analytics"])
def test_layers_that_only_read_data_load_no_torch(layer: str) -> None:
    assert not {"torch", "sklearn"} & loaded_by(f"import {layer}")


def test_a_rank_loads_no_metrics_before_it_validates() -> None:
    assert "torchmetrics" not in loaded_by("import dtk.training.gang.rank")


@pytest.mark.parametrize("name", dtk.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(dtk, name)
    assert callable(value) or name == "__version__"  # and no submodule of the same name
    assert getattr(dtk, name) is value
    assert name in dir(dtk)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = dtk.opne  # type: ignore[attr-defined]


def test_type_checkers_see_the_names_that_are_handed_out_lazily() -> None:
    tree = ast.parse((ROOT / "dtk" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == dtk._LAZY


def test_every_error_is_public() -> None:
    errors = importlib.import_module("dtk.errors")
    assert set(errors.__all__) | set(dtk._LAZY) | {"__version__"} == set(dtk.__all__)


def public_objects() -> Iterator[tuple[str, object]]:
    """Yield what the modules of dtk export, and the public methods of those classes, each with its full name."""
    for found in pkgutil.walk_packages(dtk.__path__, "dtk."):
        if found.name.endswith(".__main__"):
            continue
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", ()):
            exported = getattr(module, name)
            if getattr(exported, "__module__", None) != module.__name__:
                continue  # it comes from elsewhere, or is a constant
            yield f"{module.__name__}.{name}", exported
            if inspect.isclass(exported):
                methods = {key: value for key, value in vars(exported).items() if inspect.isfunction(value)}
                yield from ((f"{module.__name__}.{name}.{key}", methods[key]) for key in methods if key[0] != "_")


def test_docstrings_describe_only_parameters_that_exist() -> None:
    wrong = {}
    for name, documented in public_objects():
        if inspect.isclass(documented) or inspect.isfunction(documented):
            unknown = [text for code, text in validate(get_doc_object(documented))["errors"] if code == "PR02"]
            wrong |= {name: unknown} if unknown else {}
    assert wrong == {}


def test_the_version_is_said_once() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in config["project"]["dynamic"]
    assert config["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dtk.__version__"}
    assert f'__version__ = "{Version(dtk.__version__)}"' in (ROOT / "dtk" / "__init__.py").read_text().splitlines()


def test_conda_environment_names_the_same_packages_and_ranges() -> None:
    project = pyproject()
    extras = project["optional-dependencies"]
    expected = specifiers([*project["dependencies"], *extras["test"], *extras["demo"]])
    expected = {CONDA_NAMES.get(name, name): specifier for name, specifier in expected.items()}
    expected |= {"python": SpecifierSet(project["requires-python"]), "pip": SpecifierSet()}

    lines: list[Any] = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_conda = [line for line in lines if isinstance(line, str)]
    from_pip = [line for entry in lines if isinstance(entry, dict) for line in entry["pip"]]
    assert specifiers([*from_conda, *from_pip]) == expected


def test_constraints_pin_every_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = specifiers([line for line in lines if not line.startswith("#")])
    project = pyproject()
    named = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    wanted = specifiers([line for line in named if Requirement(line).marker is None])  # others are not for this Python
    wanted.pop("dask-dtk")  # an extra that is made of other extras
    for name, specifier in wanted.items():
        (pin,) = pins[name]
        assert pin.operator == "==", name
        assert specifier.contains(pin.version, prereleases=True), name


def test_the_reference_page_lists_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text().split()
    assert [name for name in dtk.__all__ if name not in page and name != "__version__"] == []
