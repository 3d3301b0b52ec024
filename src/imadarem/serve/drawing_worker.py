"""The program of the process that draws molecules: SMILES in, SVG out, one JSON value a line."""

from __future__ import annotations

import json
import signal
import sys

from imadarem.errors import ImadaremError, MissingExtraError, MissingLibraryError
from imadarem.viz.molecules import molecule_grid_svg


def _draw(smiles: str) -> dict[str, str | int]:
    try:
        return {"svg": molecule_grid_svg([smiles], columns=1)}
    except (MissingExtraError, MissingLibraryError) as error:
        return {"status": 501, "message": str(error)}
    except ImadaremError as error:
        return {"status": 422, "message": str(error)}


def _write(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Draw until the input ends."""
    # Ctrl-C in a terminal reaches this process too; the server ends it when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Imports RDKit.
    _draw("C")
    _write("ready")
    for line in sys.stdin:
        _write(_draw(json.loads(line)))


if __name__ == "__main__":
    main()
