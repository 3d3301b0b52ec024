"""``python -m imadarem`` is the command ``imadarem``."""

from __future__ import annotations

from imadarem.cli import main

if __name__ == "__main__":  # worker processes import this module again
    main()
