"""Commands that are killed, or started twice on one file, leave the files of one run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "kill_resume.py"


@pytest.mark.slow
def test_disturbed_runs_leave_the_files_of_an_undisturbed_one():
    # A training run takes too long for here.
    command = [sys.executable, SCRIPT, "--quick", "--only", "sample", "optimize"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 disturbed runs left the files of an undisturbed one" in done.stdout
