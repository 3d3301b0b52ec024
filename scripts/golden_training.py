"""Whether a change of the code leaves training as it was: losses of four short runs.

::

    python scripts/golden_training.py write golden.json    (before the change)
    python scripts/golden_training.py check golden.json    (after it)

Each run is five steps of ``imadarem train`` with a fixed seed. Losses and gradient norms
must agree to 1e-5 on one machine; another machine rounds differently.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

from imadarem.cli import run

TINY = "--hidden-size 32 --num-layers 2 --num-heads 2 --batch-size 16 --log-every 1"
SHORT = "--steps 5 --warmup-steps 2 --eval-every 5 --save-every 5 --valid-rows 8 --seed 3"
PLAIN = "--gate-warmup 0.2 --sample-count 0 --data moses-sample --rows 200"
TASK = "--task modular --set p=5 --unroll-steps 8"
RUNS = {
    "plain": f"{PLAIN} --tokenizer smiles",
    "plain, muon": f"{PLAIN} --tokenizer smiles --optimizer muon --joint-size 0 --blank-share 0.25",
    "unrolled": f"{TASK} --window 2 --dropout 0.1",
    "unrolled, carry": f"{TASK} --unroll-mode carry --grok-fast --optimizer muon",
}
FIGURES = ("loss", "token_loss", "gradient_norm", "learning_rate")
TOLERANCE = 1e-5


def figures(flags: str, folder: Path) -> list[list[float]]:
    """What each step of a run logs, in the order of ``FIGURES``."""
    common = f"{TINY} {SHORT} --device cpu --processes 1 --out"
    code = run(["train", *flags.split(), *common.split(), str(folder)])
    assert code == 0, f"imadarem train {flags} ended with exit code {code}"
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [[x[name] for name in FIGURES] for x in lines if x["kind"] == "train"]


def main(action: str, file: str) -> int:
    """Write the figures of all runs, or compare them with those written."""
    with tempfile.TemporaryDirectory() as place:
        found = {name: figures(f, Path(place) / str(i)) for i, (name, f) in enumerate(RUNS.items())}
    if action == "write":
        Path(file).write_text(json.dumps(found, indent=1) + "\n")
        return 0
    golden, wrong = json.loads(Path(file).read_text()), 0
    for name, steps in found.items():
        pairs = [
            (a, b)
            for ours, theirs in zip(steps, golden[name], strict=True)
            for a, b in zip(ours, theirs, strict=True)
        ]
        most = max(abs(a - b) for a, b in pairs)
        same = all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for a, b in pairs)
        print(f"{name}: {'as before' if same else 'DIFFERENT'}, at most {most:.1e} apart")
        wrong += not same
    return int(wrong > 0)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "check"):
        sys.exit("usage: golden_training.py write|check FILE")
    sys.exit(main(*sys.argv[1:]))
