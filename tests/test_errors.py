"""Errors cross process borders whole, and are caught as what they are."""

from __future__ import annotations

import pickle

import pytest
from tblib import pickling_support

from dtk import errors

pickling_support.install()  # as distributed does: it then unpickles with `cls.__new__(cls)`, not with `cls(*args)`
CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_pickles_with_its_message_and_type(kind):
    error = kind("argument='x' is wrong; mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == "argument='x' is wrong; mend it"
    assert copy.args == error.args


def test_an_error_of_a_rank_pickles_with_every_field():
    error = errors.RankError("rank 3 raised", 3, "tcp://w:1", "Traceback\nValueError: no\n")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.message, copy.rank, copy.worker) == ("rank 3 raised", 3, "tcp://w:1")
    assert str(copy) == "rank 3 raised\n\nTraceback\nValueError: no"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_a_dtk_error_and_but_for_the_base_a_builtin(kind):
    assert issubclass(kind, errors.DtkError)
    others = [base for base in kind.__mro__ if base.__module__ == "builtins" and base not in (Exception, BaseException)]
    assert (others == [object]) == (kind is errors.DtkError)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ArgumentError, ValueError),
        (errors.NotFoundError, FileNotFoundError),
        (errors.NotFoundError, errors.DataError),
        (errors.SourceError, TypeError),
        (errors.MemoryLimitError, MemoryError),
        (errors.DiskLimitError, OSError),
        (errors.ClusterError, RuntimeError),
        (errors.DependencyError, ImportError),
    ],
)
def test_handlers_of_builtins_catch_them(kind, builtin):
    with pytest.raises(builtin):
        raise kind("no")


def test_the_tree_in_the_docstring_names_every_class():
    assert [name for name in errors.__all__ if name not in (errors.__doc__ or "")] == []
