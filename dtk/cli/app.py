"""The application: its verbs, and what all of them share."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args

import typer

import dtk
from dtk.cli.aggregate import aggregate
from dtk.cli.demo import demo
from dtk.cli.doctor import doctor
from dtk.cli.evaluate import evaluate
from dtk.cli.inspect import inspect as inspect_store
from dtk.cli.plan import plan
from dtk.cli.predict import predict
from dtk.cli.profile import profile
from dtk.cli.sql import sql
from dtk.cli.train import train
from dtk.errors import DtkError

__all__ = ["Terminated", "app", "as_verb", "terminate"]

INTERRUPTED, TERMINATED = 130, 143  # as shells have it: 128 and the number of the signal

_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what is open is closed on the way out, as after Ctrl-C."""


def terminate(*_: object) -> None:
    """Handle SIGTERM: leave by an exception, and let no second signal interrupt the cleaning up.

    Parameters
    ----------
    *_ : object
        The signal, and the frame in which it came.

    Raises
    ------
    Terminated
        Always.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)  # unlike SIG_IGN, processes that are started don't inherit it
    raise Terminated


def as_verb(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: help from its docstring, errors in one line, and an option ``--debug``.

    Parameters
    ----------
    function : callable
        With a numpydoc docstring, whose example starts with ``$``. Each parameter is annotated for Typer.

    Returns
    -------
    callable
        For `typer.Typer.command`.
    """
    text = inspect.getdoc(function) or ""
    described = _described_parameters(text)
    parameters = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind, told = get_args(parameter.annotation)
        told = copy.copy(told)  # it may be shared by verbs
        told.help = told.help or described.get(parameter.name)
        parameters.append(parameter.replace(annotation=Annotated[kind, told]))
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Debug)

    def verb(debug: bool, **arguments: Any) -> None:  # numpydoc ignore=GL08
        with _one_line_errors(debug):
            function(**arguments)

    verb.__name__ = function.__name__
    verb.__doc__ = text.partition("\n\nParameters\n")[0].partition("\n\nRaises\n")[0].partition("\n\nExamples\n")[0]
    verb.__signature__ = inspect.Signature([*parameters, debug])  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in (*parameters, debug)}
    return verb


def _described_parameters(docstring: str) -> dict[str, str]:
    """Take out what a numpydoc docstring says of each parameter."""
    section = docstring.partition("\nParameters\n----------\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^(\w+) :.*\n((?: .*(?:\n|$))+)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _example(function: Callable[..., None]) -> str:
    """Take the example out of a docstring."""
    lines = (inspect.getdoc(function) or "").splitlines()
    return "Example: " + next(line.strip().removeprefix("$ ") for line in lines if line.lstrip().startswith("$ "))


@contextlib.contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    try:
        yield
    except Terminated:
        print("terminated", file=sys.stderr)
        raise typer.Exit(TERMINATED) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # Typer's business; the last is a reader, such as head, that has seen enough
    except Exception as error:
        if debug:
            traceback.print_exc()
        elif isinstance(error, DtkError):
            print(f"error: {error}", file=sys.stderr)
        else:
            reason = " ".join(str(error).split())
            print(f"error: {type(error).__name__}: {reason}; run again with --debug", file=sys.stderr)
        raise typer.Exit(1) from None


app = typer.Typer(
    help="Train PyTorch models on data bigger than memory, on the Dask cluster you already have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "inspect": inspect_store,
    "profile": profile,
    "aggregate": aggregate,
    "sql": sql,
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "doctor": doctor,
}
for _name, _function in _VERBS.items():
    app.command(_name, epilog=_example(_function))(as_verb(_function))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(dtk.__version__)
        raise typer.Exit


@app.callback()
def _shared(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
