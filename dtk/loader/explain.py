"""What a plan says of itself to people, as text and as a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from dtk.arguments import check_whole
from dtk.loader.advice import warnings_of
from dtk.loader.mixing import Mixing
from dtk.memory import format_nbytes
from dtk.pages import save_page

if TYPE_CHECKING:
    from dtk.loader.plan import Plan

__all__ = ["Explanation", "explain"]

# The browser itself then refuses whatever a hostile name might make the page load.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; font: 15px/1.45 system-ui, sans-serif; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .22rem .6rem; border-bottom: 1px solid #8886; }
.facts :is(th, td) { text-align: left; } .warnings { border-left: 3px solid #c47600; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, repr=False)
class Explanation:
    """What a plan says of itself. Made by `Plan.explain`; a notebook shows it as tables.

    Parameters
    ----------
    title : str
        What is planned.
    facts : tuple of (str, str)
        Names and values.
    heads : tuple of str
        What the cells of `rows` are.
    rows : tuple of tuple of str
        One for each number of ranks.
    warnings : tuple of str
        What is not as good as it could be, each with its remedy.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        cells = [self.heads, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            [
                *(f"{name:<8} {value}" for name, value in self.facts),
                "",
                *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells),
                *(f"warning: {text}" for text in self.warnings),
            ]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts)
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.heads)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        listed = "".join(f"<li>{escape(text)}</li>" for text in self.warnings)
        return (
            f'<table class="facts"><tbody>{facts}</tbody></table>\n'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            + (f'\n<p><b>Warnings</b></p><ul class="warnings">{listed}</ul>' if listed else "")
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else, in place of one that is there.

        Parameters
        ----------
        path : str or path
            An HTML file in a folder that exists. The page appears whole or not at all.

        Returns
        -------
        pathlib.Path
            Where it is.

        Raises
        ------
        ArgumentError
            If the folder does not exist, or `path` is a folder.
        """
        title = escape(self.title)
        page = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
            f"{self._repr_html_()}\n</body>\n</html>\n"
        )
        return save_page(path, page, example="plan.html")


def explain(plan: Plan, ranks: Sequence[int], warn_for: Sequence[int], labels: int | Sequence[float]) -> Explanation:
    """Describe a plan for people.

    Parameters
    ----------
    plan : Plan
        The plan.
    ranks : sequence of int
        The numbers of ranks to compare.
    warn_for : sequence of int
        The numbers of ranks to warn for.
    labels : int or sequence of float
        The classes of the data by whose label it may lie sorted: how many there are, or the share of each.

    Returns
    -------
    Explanation
        Text, or tables in a notebook.
    """
    for count in ranks:
        check_whole("ranks", count, 1)
    order, mixing = plan.order, plan.mixing(labels)
    heads = ["ranks", "batch", "memory a rank", "decodes a sample", "requests an epoch"]
    rows = [
        [
            f"{count}",
            f"{order.batch_width(count):,}",
            format_nbytes(plan.memory_nbytes(count)),
            f"{plan.decodes_per_sample(count):.2f}",
            f"{plan.num_requests(count):,}",
        ]
        for count in ranks
    ]
    facts = _facts(plan)
    if mixing is not None:
        facts.append(("mixing", f"{_mixed(mixing)}; by ranks, for the batch of each, below"))
        heads.append("entropy of a batch")
        for row, count in zip(rows, ranks, strict=True):
            row.append(f"{mixing.entropy(count):.1%}")
    return Explanation(
        title=f"Plan of {order.num_rows:,} samples in {plan.num_chunks:,} chunks",
        facts=tuple(facts),
        heads=tuple(heads),
        rows=tuple(map(tuple, rows)),
        warnings=tuple(warnings_of(plan, warn_for, mixing, batch_norm=None)),
    )


def _facts(plan: Plan) -> list[tuple[str, str]]:
    order = plan.order
    left_out = order.num_rows - plan.num_samples
    tail = f"{left_out:,} rows left out, others each epoch" if left_out and order.shuffle else ""
    tail = tail or (f"the last {left_out:,} rows left out" if left_out else "every row once")
    if plan.sampling is not None:
        tail = f"rows are drawn with replacement by {plan.sampling['by']!r}: some come often and others not at all"
    shuffle = "as on disk"
    if order.shuffle:
        mean = max(order.num_rows / max(int(np.count_nonzero(order.chunk_rows)), 1), 1.0)
        cut = "" if order.block_rows is None else f", read in blocks of at most {order.block_rows:,} rows"
        shuffle = (
            f"shuffled with seed {order.seed}; pool of {plan.pool_rows:,} rows "
            f"({plan.pool_rows / mean:.1f} chunks{cut}) in {order.num_shards} shards"
        )
    joined = "" if order.join_rows is None else f", which {plan.layout.num_row_groups:,} small row groups are joined to"
    along = "" if plan.layout.dim is None else f" along {plan.layout.dim!r}"
    return [
        ("samples", f"{order.num_rows:,}{along} in {plan.num_chunks:,} chunks{joined}"),
        *([] if plan.layout.windows is None else [("windows", plan.layout.windows)]),
        ("steps", f"{plan.num_steps:,} of {order.global_batch_size:,} samples; {tail}"),
        ("order", shuffle),
        ("reads", f"{format_nbytes(plan.epoch_nbytes)} an epoch"),
        ("memory", f"at most {format_nbytes(plan.memory_limit_nbytes)} a rank"),
    ]


def _mixed(mixing: Mixing) -> str:
    return (
        f"if the data lies sorted by a label of {mixing.num_labels} classes, a global batch has "
        f"{mixing.entropy():.1%} of the entropy of a full shuffle's"
    )
