"""What travels with a user's function, and what is there already."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from dtk.runtime import is_installed


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (torch.__file__, True),
        (threading.__file__, True),
        ("/opt/base/lib/python3.11/site-packages/package/__init__.py", True),  # of an environment below this one
        ("/usr/lib/python3/dist-packages/package.py", True),
        ("/home/me/project/package.py", False),
        (__file__, False),
    ],
)
def test_packages_are_told_from_a_users_own_modules(file, expected):
    assert is_installed(Path(file)) is expected
