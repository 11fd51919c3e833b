"""Networks from the field's canon, by name, and the user's own."""

from __future__ import annotations

from dtk.models.mlp import MLP
from dtk.models.prepared import PreparedModel
from dtk.models.registry import ModelSpec, build, check_model, count_outputs, spec_to_dict
from dtk.models.schema import ModelSchema

__all__ = ["MLP", "ModelSchema", "ModelSpec", "PreparedModel", "build", "check_model", "count_outputs", "spec_to_dict"]
