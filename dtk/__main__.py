"""``python -m dtk`` is the command ``dtk``."""

from __future__ import annotations

from dtk.cli import main

if __name__ == "__main__":  # worker processes import this module again
    main()
