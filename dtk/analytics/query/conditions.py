"""Conditions that users write, checked and written anew: names are quoted, nothing but an expression gets through."""

from __future__ import annotations

from collections.abc import Sequence

from dtk.analytics.query.engine import quoted
from dtk.errors import ArgumentError
from dtk.sources.columns import close_to

__all__ = ["parse_condition"]


def parse_condition(text: str, columns: Sequence[str], *, argument: str = "where") -> tuple[str, list[str]]:
    """Read a condition on the columns of a row.

    Parameters
    ----------
    text : str
        SQL as DuckDB has it, for example ``arr_delay > 15 AND carrier IN ('UA', 'AA')``.
    columns : sequence of str
        What the data has.
    argument : str
        The argument that an error names.

    Returns
    -------
    sql : str
        The condition, with names quoted.
    names : list of str
        The columns that it looks at.

    Raises
    ------
    ArgumentError
        If it is no condition on one row, or a column is not there.

    Examples
    --------
    >>> parse_condition("delay > 15", ["delay"])
    ('"delay" > 15', ['delay'])
    """
    import sqlglot
    from sqlglot import exp

    try:
        found = sqlglot.parse(text, dialect="duckdb")
    except sqlglot.errors.SqlglotError as error:
        reason = " ".join(str(error).partition("\n")[0].split()).rstrip(".")
        raise ArgumentError(f"{argument}={text!r} is no condition: {reason}; write SQL, such as delay > 15") from None
    if len(found) != 1 or found[0] is None:
        raise ArgumentError(f"{argument}={text!r} must be one condition, such as delay > 15")
    tree = found[0]
    refused = (exp.Query, exp.Command, exp.AggFunc, exp.Window, exp.Star, exp.Placeholder, exp.DDL, exp.DML)
    wrong = next((node for node in tree.walk() if isinstance(node, refused)), None)
    if wrong is not None or not isinstance(tree, exp.Expression) or isinstance(tree, exp.Alias):
        what = (wrong or tree).sql(dialect="duckdb")
        raise ArgumentError(f"{argument}={text!r} holds {what!r}, which does not look at one row; leave it out")
    names: list[str] = []
    for node in list(tree.find_all(exp.Column)):
        name = ".".join(part.name for part in node.parts)
        if name not in columns:
            raise ArgumentError(f"{argument}={text!r}: {name!r} is no column of the data; {close_to(name, columns)}")
        names.append(name)
        written = exp.column(exp.to_identifier(name, quoted=True))
        if node is tree:
            tree = written
        else:
            node.replace(written)
    assert all(quoted(name) in tree.sql(dialect="duckdb") for name in names)
    return tree.sql(dialect="duckdb"), list(dict.fromkeys(names))
