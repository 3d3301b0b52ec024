"""Fine-tuning on a series with stereo centres and charges: what samples have before and after.

    python benchmarks/fine_tuning.py druglike.smi.gz --model smiles --steps 2000 --out runs/series

Makes a series of molecules that share a core, as a medicinal chemist has it: of the rows with the
core those with stereo marks come first, up to 28 % of the series, then those with a charge, up to
8 %, then others. Trains on nine tenths (``imadarem train --init``), and reads 1,000 samples
before and after, nothing drawn again: valid, and of the valid ones with stereo marks, charges
(nitro groups aside) and the core.
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rdkit import Chem

from imadarem import ImplicitRefinementModel
from imadarem.cli.before_after import MARKS
from imadarem.data.molecules import canonical

CHARGE, STEREO = (re.compile(pattern) for pattern in MARKS.values())
STEREO_SHARE, CHARGE_SHARE = 0.28, 0.08
NITRO = re.compile(r"\[N\+\]\(=O\)\[O-\]|O=\[N\+\]\(\[O-\]\)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a .smi or .smi.gz file")
    parser.add_argument("--core", default="C1CCNCC1", help="SMARTS")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--model", default="smiles")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--max-seq-len", type=int, default=100)
    parser.add_argument("--learning-rate", default="1e-3")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/series"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    file = given.out.with_name(f"{given.out.name}.csv")
    rows = series(given.source, given.core, given.rows)
    file.write_text("\n".join(["SMILES", *rows]) + "\n")
    begun = time.perf_counter()
    options = f"--steps {given.steps} --batch-size 64 --optimizer muon --schedule wsd --compare 0"
    line = [sys.executable, "-m", "imadarem", "train", "--init", given.model, "--data", str(file)]
    line += ["--out", str(given.out), "--max-seq-len", str(given.max_seq_len), *options.split()]
    subprocess.run([*line, "--learning-rate", given.learning_rate], check=True)
    seconds = time.perf_counter() - begun
    print(f"\n{given.model}, {given.steps} steps in {seconds:.0f} s\n")
    print("| | valid | stereo | charges | core |\n|---|---|---|---|---|")
    print(line_of("file", rows, given.core))
    for name, folder in (("before", given.model), ("after", str(given.out / "model"))):
        model = ImplicitRefinementModel.from_pretrained(folder)
        print(line_of(name, model.sample(given.samples, seed=0).texts, given.core), flush=True)


def series(source: Path, core: str, count: int) -> list[str]:
    """So many molecules with a core, those with stereo marks and charges first."""
    with (gzip.open if source.suffix == ".gz" else open)(source, "rt", encoding="utf-8") as lines:
        found = [words[0] for line in lines if (words := line.split())]
    random.Random(0).shuffle(found)
    # A stable order: marked ones first.
    found.sort(key=lambda smiles: -(2 * has(STEREO, smiles) + has(CHARGE, smiles)))
    quotas = {True: STEREO_SHARE * count, False: CHARGE_SHARE * count}
    pattern, rows = Chem.MolFromSmarts(core), list[str]()
    for smiles in found:
        stereo, charge = has(STEREO, smiles), has(CHARGE, smiles)
        if (stereo or charge) and quotas[stereo] < 1:
            continue
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is not None and molecule.HasSubstructMatch(pattern):
            rows.append(smiles)
            if stereo or charge:
                quotas[stereo] -= 1
        if len(rows) == count:
            break
    return rows


def has(pattern: re.Pattern[str], smiles: str) -> bool:
    """Whether a SMILES has a mark outside of nitro groups."""
    return pattern.search(NITRO.sub("", smiles)) is not None


def line_of(name: str, texts: Sequence[str], core: str) -> str:
    """A row of the table."""
    forms = [form for text in texts if (form := canonical(text)) is not None]
    pattern = Chem.MolFromSmarts(core)
    cores = sum(Chem.MolFromSmiles(form).HasSubstructMatch(pattern) for form in forms)
    counts = (sum(has(STEREO, f) for f in forms), sum(has(CHARGE, f) for f in forms), cores)
    cells = (f"{count / max(len(forms), 1):.1%}" for count in counts)
    return f"| {name} | {len(forms) / len(texts):.1%} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
