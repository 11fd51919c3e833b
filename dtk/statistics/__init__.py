"""One-pass statistics that merge: the same answer for every chunking, and for every order of merging."""

from __future__ import annotations

from dtk.statistics.base import Statistic
from dtk.statistics.categories import Categories
from dtk.statistics.column_quantiles import ColumnQuantiles, QuantileMethod, quantiles
from dtk.statistics.covariance import Covariance
from dtk.statistics.distinct import Distinct
from dtk.statistics.exact import ExactQuantiles, exact_quantiles
from dtk.statistics.grid_groups import GridGroups, GroupedGridMoments
from dtk.statistics.grid_moments import GridMoments
from dtk.statistics.histogram import Histogram
from dtk.statistics.keys import category_keys
from dtk.statistics.kinds import Kind, infer_kind, to_floats, to_numbers
from dtk.statistics.map_reduce import map_reduce
from dtk.statistics.moments import Moments
from dtk.statistics.sample import RowSample
from dtk.statistics.scan import ScanState, scan
from dtk.statistics.scan_grid import scan_grid
from dtk.statistics.sketch import QuantileSketch
from dtk.statistics.table_sample import TableSample
from dtk.statistics.target_by_category import TargetByCategory
from dtk.statistics.terms import split_terms
from dtk.statistics.uniqueness import Uniqueness
from dtk.statistics.vocabulary import Vocabulary

__all__ = [
    "Categories",
    "ColumnQuantiles",
    "Covariance",
    "Distinct",
    "ExactQuantiles",
    "GridGroups",
    "GridMoments",
    "GroupedGridMoments",
    "Histogram",
    "Kind",
    "Moments",
    "QuantileMethod",
    "QuantileSketch",
    "RowSample",
    "ScanState",
    "Statistic",
    "TableSample",
    "TargetByCategory",
    "Uniqueness",
    "Vocabulary",
    "category_keys",
    "exact_quantiles",
    "infer_kind",
    "map_reduce",
    "quantiles",
    "scan",
    "scan_grid",
    "split_terms",
    "to_floats",
    "to_numbers",
]
