"""Settings that every test shares."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Before torch: its spinning threads slow down whatever shares the cores, other tests included.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes that a test starts import the package from this tree, too.
SOURCE = str(Path(__file__).parent.parent / "src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Examples are the same on every run and on every machine; speed is no reason to fail.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=25)
# HYPOTHESIS_PROFILE=default looks for other examples, and for four times as many.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite, none beside this one for a part of it."""
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: at the end both processes have small files left to share."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def of_any_width() -> None:
    """A process of pytest-xdist says that its terminal has 80 columns; a pipe has no width."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; its exit code, stdout and stderr."""
    from imadarem.cli import run

    def call(*tokens: object) -> tuple[int, str, str]:
        code = run([str(token) for token in tokens])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
