"""An oracle of PMO as a filter: a SMILES on each line in, its score on a line out.

Run by the Python of an environment with ``molscore==1.9.5``; see pmo.py.

    printf 'CCO\\nc1ccccc1\\n' | python benchmarks/pmo_oracle.py QED
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from importlib.resources import files

#: A line that is no SMILES: scores are due for what stood before it.
END = "."


def main() -> None:
    task = files("molscore.configs").joinpath(f"MolOpt/{sys.argv[1]}.json")
    with contextlib.redirect_stdout(sys.stderr):
        from molscore import MolScore

        oracle = MolScore("imadarem", str(task), output_dir=tempfile.mkdtemp())
    waiting: list[str] = []
    for line in sys.stdin:
        if line.strip() != END:
            waiting.append(line.strip())
            continue
        with contextlib.redirect_stdout(sys.stderr):
            scores = oracle.score_only(waiting)
        print("\n".join(str(float(score)) for score in scores), flush=True)
        waiting = []
    if waiting:
        with contextlib.redirect_stdout(sys.stderr):
            scores = oracle.score_only(waiting)
        print("\n".join(str(float(score)) for score in scores))


if __name__ == "__main__":
    main()
