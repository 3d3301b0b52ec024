"""The reference table of ring systems, from a file of molecules.

    python scripts/ring_table.py molecules.smi.gz
    python scripts/ring_table.py molecules.smi.gz --least 5 --out rings.txt.gz

Writes each ring system of at least --least molecules on a line of its own, the most frequent
first. The table in the package comes from 211,796 molecules, most of them a sample of ChEMBL 31,
whose data are CC BY-SA 3.0.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

from imadarem.data.molecule_files import iter_smiles
from imadarem.design.rings import count_ring_systems

TABLE = Path(__file__).parents[1] / "src/imadarem/data/files/ring_systems.txt.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--least", type=int, default=2, help="molecules that must have a system")
    parser.add_argument("--out", type=Path, default=TABLE)
    given = parser.parse_args()
    counts = count_ring_systems(text for text in iter_smiles(given.file) if isinstance(text, str))
    known = [system for system, count in counts.most_common() if count >= given.least]
    # No time stamp: the same molecules give the same bytes.
    given.out.write_bytes(gzip.compress("\n".join(known).encode(), mtime=0))
    print(
        f"{len(counts):,} ring systems, {len(known):,} of them in {given.least} molecules or more"
    )


if __name__ == "__main__":
    main()
