"""The command ``dtk``: one file a verb, which parses, calls the library and renders."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and exit.

    Raises
    ------
    SystemExit
        Always: 0 if all is well, 1 after an error, 2 if it was used wrongly, 130 after Ctrl-C.
    """
    from dtk.cli.app import app

    app(prog_name="dtk")
