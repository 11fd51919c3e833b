"""Which Dask operations look at one row at a time, so that a chunk can be read without the others."""

from __future__ import annotations

import ast
from typing import Any, Final

import dask.dataframe.dask_expr._accessor as accessors
import dask.dataframe.dask_expr._expr as operations
from dask._task_spec import DataNode
from dask.dataframe.dask_expr._str_accessor import SplitMap
from dask.dataframe.dask_expr.io.parquet import ReadParquet

from dtk.sources.dask_read import Read

__all__ = ["keeps_rows", "looks_at_rows", "refusal", "with_chosen_partitions"]

# Operations that look at one row at a time. An allow-list: what is not known to be so is refused.
ROWWISE: Final[frozenset[type]] = frozenset(
    {
        operations.Abs,
        operations.AddPrefix,
        operations.AddSuffix,
        operations.Apply,
        operations.ArrowStringConversion,
        operations.AsType,
        operations.Assign,
        operations.Between,
        operations.CaseWhen,
        operations.Clip,
        operations.ColumnsSetter,
        operations.Drop,
        operations.DropnaFrame,
        operations.DropnaSeries,
        operations.Eval,
        operations.Fillna,
        operations.Filter,
        operations.IsNa,
        operations.Isin,
        operations.Literal,
        operations.Map,
        operations.Mask,
        operations.NotNull,
        operations.Projection,
        operations.Query,
        operations.RenameFrame,
        operations.RenameSeries,
        operations.Replace,
        operations.Round,
        operations.Sqrt,
        operations.ToDatetime,
        operations.ToFrame,
        operations.ToNumeric,
        operations.ToTimedelta,
        operations.UFuncElemwise,
        operations.Where,
        operations._DeepCopy,
        SplitMap,
    }
)
ROWWISE_BASES: Final = (operations.Binop, operations.Unaryop)
ACCESSORS: Final = frozenset({"str", "dt"})  # not "cat": the codes of a category differ from chunk to chunk
ROW_DROPPING: Final = (operations.Filter, operations.Query, operations.DropnaFrame, operations.DropnaSeries)


def with_chosen_partitions(expr: Any) -> Any:
    """Move a choice of partitions into the read.

    Parameters
    ----------
    expr : Expr
        Of a Dask DataFrame.

    Returns
    -------
    Expr
        Of the same rows.
    """
    return expr if next(expr.find_operations(operations.Partitions), None) is None else expr.simplify()


def refusal(expr: Any) -> str | None:
    """Say why ranks cannot read an expression in place.

    Parameters
    ----------
    expr : Expr
        Of a Dask DataFrame. No file is looked at for it.

    Returns
    -------
    str or None
        None if nothing in the expression speaks against it.
    """
    for node in with_chosen_partitions(expr).walk():
        reason = _refusal_of_node(node)
        if reason:
            return f"{reason}, so ranks cannot read it in place"
    reads = list(expr.find_operations(ReadParquet))
    if not reads:
        return "the expression reads no Parquet file"
    if any(not Read.same(reads[0], other) for other in reads[1:]):
        return "the expression combines several Parquet reads"
    return None


def looks_at_rows(node: Any) -> bool:
    """Tell whether a node gives the same rows for any cut of the data.

    Parameters
    ----------
    node : Expr
        One that `refusal` lets pass.

    Returns
    -------
    bool
        False for functions of partitions, as only their author can know: see `as_source`.
    """
    if type(node) in (operations.Query, operations.Eval):
        return _is_rowwise_text(node.operand("_expr"))
    if type(node) is not operations.MapPartitions:
        return True
    function = getattr(node.func, "func", node.func)  # a partial of a marked function is marked too
    return bool(getattr(function, "dtk_rowwise", False))


def keeps_rows(node: Any) -> bool:
    """Tell whether a node gives as many rows as it gets.

    Parameters
    ----------
    node : Expr
        One that `refusal` lets pass.

    Returns
    -------
    bool
        False where only running it can tell.
    """
    return not isinstance(node, ROW_DROPPING) and looks_at_rows(node)


def _is_rowwise_text(text: str) -> bool:
    """Tell whether what pandas evaluates has only columns, constants and operators, and so no ``x.mean()``.

    >>> _is_rowwise_text("x > 3 and y in (1, 2)"), _is_rowwise_text("x > x.mean()"), _is_rowwise_text("index < 5")
    (True, False, False)
    """
    try:
        nodes = list(ast.walk(ast.parse(text.strip())))
    except SyntaxError:  # pandas knows more than Python: `a column` and @variable
        return False
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return not any(isinstance(node, (ast.Call, ast.Attribute)) for node in nodes) and not any(
        name == "index" or name.startswith("ilevel_") for name in names
    )


def _refusal_of_node(node: Any) -> str | None:
    """Say why a node of an expression cannot be evaluated chunk by chunk; None if it can."""
    kind = type(node)
    if isinstance(node, ReadParquet) or kind in ROWWISE or issubclass(kind, ROWWISE_BASES):
        return None
    if kind is operations.MapPartitions:
        if node._has_partition_info:
            return f"map_partitions of {_name_of(node.func)} asks for the partition's number"
        return None
    if kind in (accessors.PropertyMap, accessors.FunctionMap):
        known = node.operand("accessor") in ACCESSORS
        return None if known else f"the accessor .{node.operand('accessor')} depends on the whole column"
    if kind is operations._DelayedExpr:
        constant = all(type(task) is DataNode for task in node._layer().values())
        return None if constant else "an argument is a delayed value"
    if not node.dependencies():
        return f"{kind.__name__} is no Parquet read"
    return f"{kind.__name__} is not known to look at one row at a time"


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
