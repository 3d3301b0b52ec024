"""The command line: ``imadarem train | sample | trace | infill | evaluate | data | demo``."""

from __future__ import annotations

from imadarem.cli.app import main, run

__all__ = ["main", "run"]
