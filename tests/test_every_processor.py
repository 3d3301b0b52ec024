"""A row is the same in every batch on processors that this machine can only imitate.

Which products round by the shape of a batch depends on the kernels that torch and NumPy choose for
a processor; variables of the environment make them choose others. They are read once, when the
libraries are loaded, so each choice has a process of its own; this file is its script.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
#: Kernels without vector instructions in torch; those of AVX2 in NumPy's OpenBLAS, two threads.
CHOICES = {
    "torch-without-vectors": {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
    "openblas-of-avx2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "OMP_NUM_THREADS": "2",
        # Threads that spin while they wait slow down whatever shares the cores.
        "OMP_WAIT_POLICY": "passive",
    },
}
#: What ends rows, the policy, and the width of a joint head.
CASES = (("drawn", "left-to-right", 48), ("eos", "gate", 48), ("eos", "ancestral", 0))


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_a_row_is_the_same_in_every_batch(choice: str) -> None:
    path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    result = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, **CHOICES[choice], "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout == "", result.stdout


# ---------------------------------------------------------------- what each process does


def main() -> None:
    """Print every case in which a row depends on its batch."""
    from fakes import records, uneven_model

    from imadarem import ImplicitRefinementModel

    for mode, policy, joint in CASES:
        model = uneven_model(length_mode=mode, joint_size=joint)
        batches = [
            records(model, 10, seed=3, policy=policy, batch_size=size) for size in (10, 1, 4)
        ]
        report(f"{mode} {policy} joint_size={joint}", *batches)
    for name in ("selfies", "smiles"):
        shipped = ImplicitRefinementModel.from_pretrained(name)
        drawn = [shipped.sample(12, seed=1, batch_size=size, steps=2) for size in (12, 1, 5)]
        report(name, *([row.ids.tolist() for row in samples.rows] for samples in drawn))


def report(case: str, whole: list[object], *others: list[object]) -> None:
    for other in others:
        different = sum(a != b for a, b in zip(whole, other, strict=True))
        if different:
            print(f"{case}: {different} of {len(whole)} rows differ")


if __name__ == "__main__":
    main()
