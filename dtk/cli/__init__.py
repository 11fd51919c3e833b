"""The command ``dtk``: one file a verb, which parses, calls the library and renders."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and exit.

    Raises
    ------
    SystemExit
        Always: 0 if all is well, 1 after an error or where what was checked is not fine, 2 if it was used wrongly, 130
        after Ctrl-C, 143 after SIGTERM.
    """
    import signal

    from dtk.cli.app import app, terminate

    signal.signal(signal.SIGTERM, terminate)
    app(prog_name="dtk")
