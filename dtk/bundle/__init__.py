"""The one fitted thing: save it, load it, predict with it."""

from __future__ import annotations

from dtk.bundle.bundle import Bundle
from dtk.bundle.files import load

__all__ = ["Bundle", "load"]
