"""Identities of what is computed: code of the user counts with all that it uses, wherever that is written."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from types import ModuleType

import dask.dataframe as dd
import pandas as pd
import pytest
import torch

import dtk
from dtk.errors import ArgumentError
from dtk.sources import functions, identity
from dtk.sources.identity import expression_identity

HELPERS = """
import functools
import logging
import threading

import own_names

FACTOR = 2
TABLE = {"a": 1, "b": [1, 2]}
LOCK = threading.Lock()
LOG = logging.getLogger(__name__)
MISSING = object()
_loaded = None


def inner(x):
    return x + 1


def helper(x):
    return inner(x) * FACTOR


@functools.lru_cache
def cached(x):
    return inner(x)


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorated
def wrapped(x):
    return x - 1


class Base:
    def both(self, x):
        return x


class Model(Base):
    scale = 3

    def __init__(self, size):
        self.size = size

    def __call__(self, x):
        return self.both(x) * self.scale * self.size


def clean(frame, missing=MISSING):
    global _loaded
    import own_late
    if _loaded is None:
        _loaded = frame
    LOG.info("cleaning")
    with LOCK:
        values = [helper(x) + TABLE["a"] for x in frame.x]
    return frame.assign(y=values, z=[wrapped(cached(own_names.low(x))) for x in frame.x], w=Model(2)(frame.x))


def unused(x):
    return 0
"""
NAMES = """
K = 1


def low(x):
    return x + K
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Makes a module of its text, as if the process were a new one."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text, directory=tmp_path, **attributes):
        path = directory / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        module = ModuleType(name)
        vars(module).update(__file__=str(path), **attributes)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, path, "exec"), vars(module))
        return module

    return write


@pytest.fixture
def clean(written, tmp_path):
    """Makes the function of its modules, some text in which was replaced."""

    def make(old="", new=""):
        gc.collect()  # Dask gives back the old expression of this name as long as one is there
        (tmp_path / "own_late.py").write_text("late = 1\n".replace(old, new) if old else "late = 1\n")
        assert not old or any(old in text for text in (HELPERS, NAMES, "late = 1\n"))
        written("own_names", NAMES.replace(old, new) if old else NAMES)
        return written("own_helpers", HELPERS.replace(old, new) if old else HELPERS).clean

    return make


def digest(value):
    return expression_identity(value).digest


EDITS = {
    "a function that a helper calls": ("return x + 1", "return x + 1000"),
    "a constant of a helper": ("FACTOR = 2", "FACTOR = 3"),
    "a constant in a container": ('"b": [1, 2]', '"b": [1, 3]'),
    "behind a decorator": ("return x - 1", "return x - 2"),
    "a decorator": ("return function(*args)", "return -function(*args)"),
    "a base class": ("return x\n", "return -x\n"),
    "an attribute of a class": ("scale = 3", "scale = 4"),
    "a function of another module": ("return x + K", "return x - K"),
    "a constant of another module": ("K = 1", "K = 7"),
    "a module imported when called": ("late = 1", "late = 2"),
    "the function itself": ("y=values", "y=values[:]"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_what_a_function_uses_is_noticed(clean, name):
    assert digest(clean()) != digest(clean(*EDITS[name]))


def test_what_a_function_does_not_use_does_not_count(clean):
    before = digest(clean())
    assert digest(clean()) == before
    assert digest(clean("return 0", "return 1")) == before
    function = clean()
    function.__globals__["_loaded"] = 5  # which it sets itself
    assert digest(function) == before


def test_a_spool_of_an_edited_helper_is_other_data(clean, tmp_path):
    frame = dd.from_pandas(pd.DataFrame({"x": [1, 2]}), npartitions=1)
    meta = frame._meta.assign(y=1, z=1, w=1)
    for _ in range(2):
        data = dtk.spool(frame.map_partitions(clean(), meta=meta), tmp_path / "out")
        assert data.y.compute().tolist() == [5, 7]
    edited = frame.map_partitions(clean("return x + 1\n", "return x + 1000\n"), meta=meta)
    with pytest.raises(ArgumentError, match="holds a spool of other data"):
        dtk.spool(edited, tmp_path / "out")


def test_installed_packages_count_by_version(written, tmp_path, monkeypatch):
    monkeypatch.setattr(functions, "is_installed", lambda path: "site-packages" in path.parts)

    def name(version, code):
        text = f"__version__ = {version!r}\n\n\ndef work(x):\n    return {code}\n"
        package = written("some_package", text, tmp_path / "site-packages")
        own = written("own_use", "import some_package\n\n\ndef use(x):\n    return some_package.work(x)\n")
        return digest(package.work), digest(own.use)

    first, again, newer = name("1.0", "x"), name("1.0", "x + 1"), name("1.1", "x")
    assert first == again
    assert not set(first) & set(newer)


SCRIPT = """
import dataclasses
import enum
import functools
from dtk.sources.identity import expression_identity
import own_helpers

CHOSEN = {own_helpers.inner, own_helpers.helper, own_helpers.Model, "a", "b", lambda x: x}

def even(x):
    return x == 0 or odd(x - 1)

def odd(x):
    return x != 0 and even(x - 1) and CHOSEN

class Kind(enum.Enum):
    GOOD = "g"
    BAD = "b"

@dataclasses.dataclass
class Settings:
    kinds: set = dataclasses.field(default_factory=lambda: {"x", "y", "z"})

    @functools.cached_property
    def length(self):
        return len(self.kinds)

@functools.singledispatch
def dispatched(x):
    return Settings()

found = [own_helpers.clean, even, odd, own_helpers.Model(3), CHOSEN, Kind.GOOD, Settings(), dispatched]
before = expression_identity(found)
dispatched(1)
assert expression_identity(found) == before
print(before)
"""


def test_code_is_the_same_in_every_process(clean, tmp_path):
    clean()
    found = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1
    assert "has_own_functions=True" in found.pop()


def test_models_differ_by_their_weights():
    def model(bias, dtype=torch.float32):
        layer = torch.nn.Linear(2, 1)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.fill_(bias)
        return layer.to(dtype)

    assert digest(model(1)) == digest(model(1)) != digest(model(2))
    assert digest(model(1, torch.bfloat16)) == digest(model(1, torch.bfloat16)) != digest(model(1))
    assert digest(torch.tensor(1)) == digest(torch.tensor(1)) != digest(torch.tensor([1]))


def test_functions_that_all_call_each_other_are_each_looked_at_once(written, monkeypatch):
    looked_at = []
    parts = functions.code_parts
    monkeypatch.setattr(identity, "code_parts", lambda *arguments: looked_at.append(1) or parts(*arguments))
    calls = ", ".join(f"f{number}" for number in range(30))
    text = "\n".join(f"def f{number}(x):\n    return [f(x - 1) for f in ({calls})]" for number in range(30))
    before = digest(written("own_many", text).f0)
    assert len(looked_at) == 30
    assert digest(written("own_many", text + " or 1").f0) != before


class Node:
    """Knows all others."""

    def __init__(self, nodes):
        self.nodes = nodes


def test_objects_that_all_know_each_other_are_each_looked_at_once(monkeypatch):
    looked_at = []
    parts = functions.parts_of
    monkeypatch.setattr(identity, "parts_of", lambda value, *rest: looked_at.append(type(value)) or parts(value, *rest))
    nodes = []
    nodes += [Node([*nodes, nodes]) for _ in range(30)]
    nodes += [Node(list(nodes)) for _ in range(30)]
    digest(nodes)
    assert looked_at.count(Node) == 60


def test_plain_containers_are_hashed_at_once(monkeypatch):
    monkeypatch.setattr(identity, "tokenize", None)
    calls = []
    of = identity._Hasher.of
    monkeypatch.setattr(identity._Hasher, "of", lambda hasher, value: calls.append(1) or of(hasher, value))
    values = [f"id{number}" for number in range(1000)]
    for value in (values, tuple(values), set(values), dict.fromkeys(values, 1)):
        digest(value)
    assert len(calls) == 4


def test_containers_differ_by_what_they_hold():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({1, 2}) == digest({2, 1})
    held = [[1], (1,), {1}, {1: 1}, ["1"], [True], [1.0], [b"1"], [1, None], [[1]], ["1, 1"], [1, 1], {"1": 1}]
    assert len({digest(value) for value in held}) == len(held)
    itself = [1]
    itself.append(itself)
    assert digest(itself) == digest(itself)
