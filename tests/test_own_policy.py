"""What the pages of policies promise: the example runs, and the table leaves no policy out."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fakes import tiny_model

from imadarem.orchestrator.edits import EDITS
from imadarem.sampling.policies import POLICIES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_policy", ROOT / "examples/own_policy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_policy_of_ones_own_writes_from_the_end(example: ModuleType) -> None:
    model = tiny_model(length_mode="drawn")
    found = model.analyze_refinement_trajectory(
        n=1, length=6, steps=3, seed=0, policy=example.FromTheEnd()
    )
    refined = [[i for i, yes in enumerate(step.refined) if yes] for step in found[0].steps]
    assert refined == [[4, 5], [2, 3], [0, 1]]


def test_the_example_runs(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(length_mode="drawn").save_pretrained(tmp_path)
    example.main(str(tmp_path))
    assert "stopped: filled" in capsys.readouterr().out


def test_the_documentation_shows_the_example_as_it_runs() -> None:
    source = (ROOT / "examples/own_policy.py").read_text(encoding="utf-8")
    shown = source[source.index("@dataclass") : source.index("\n\n\ndef main")]
    assert shown in (DOCS / "how-to/own-policy.md").read_text(encoding="utf-8")


def test_the_table_has_every_policy_and_edit() -> None:
    table = (DOCS / "reference/policies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)
    assert set(POLICIES) | set(EDITS) <= set(rows)
