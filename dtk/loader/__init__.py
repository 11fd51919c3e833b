"""The loader: a plan of what is read in which order, and the threads and memory that carry it out."""

from __future__ import annotations

from dtk.loader.encoder import Encoder, Field
from dtk.loader.loader import Loader
from dtk.loader.order import Order
from dtk.loader.packed import Packed
from dtk.loader.plan import Plan

__all__ = ["Encoder", "Field", "Loader", "Order", "Packed", "Plan"]
