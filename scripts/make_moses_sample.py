"""Write the shipped sample of MOSES and the packed substructure filters.

    python scripts/make_moses_sample.py [path of molsets-0.3.1-py3-none-any.whl]

The same wheel gives the same bytes: the draw is seeded and the gzip header holds no time.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
import sys
from pathlib import Path

from imadarem.data.moses import MosesPaths, fetch_moses, load_split, read_filter_smarts

FOLDER = Path(__file__).resolve().parents[1] / "src/imadarem/data/files"
SEED = 2018
SIZES = {"train": 15_000, "test": 5_000}


def main(wheel: str | None = None) -> None:
    paths = fetch_moses(wheel=wheel)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write("moses_sample.csv.gz", ("SMILES", "SPLIT"), drawn(paths))
    write("moses_filters.csv.gz", ("NAME", "SMARTS"), read_filter_smarts(paths))


def drawn(paths: MosesPaths) -> list[tuple[str, str]]:
    """Sorted inside a split: neighbours share prefixes, which packs a third smaller."""
    rows = []
    for split, size in SIZES.items():
        sample = random.Random(SEED).sample(load_split(paths, split), size)
        rows += [(smiles, split) for smiles in sorted(sample)]
    return rows


def write(name: str, header: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
        stream.write(text.getvalue().encode())
    (FOLDER / name).write_bytes(packed.getvalue())
    print(f"{name}: {len(rows):,} rows, {packed.tell():,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
