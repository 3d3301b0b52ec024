"""What is released: one version, and a wheel that is small and holds everything."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import imadarem

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_wherever_it_stands() -> None:
    assert f"\nversion: {imadarem.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_what_the_package_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatchling.build import build_wheel
    from twine.commands.check import check

    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build_wheel(str(tmp_path))
    assert wheel.stat().st_size <= 25_000_000
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    parts = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    needed = {
        p.as_posix() for p in parts if "__pycache__" not in p.parts and p.parts[0] == "imadarem"
    }
    assert needed <= names
    assert not check([str(wheel)], strict=True)
