"""A search that is killed, or started twice on one file, leaves the files of one run."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.slow
def test_disturbed_runs_leave_the_files_of_an_undisturbed_one(capsys):
    assert import_module("kill_resume").main(["--quick", "--only", "optimize"]) == 0
    assert "3 of 3 disturbed runs left the files" in capsys.readouterr().out
