"""The Pareto benchmark: its sudoku part, on untrained weights and counts by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fakes import grid_model

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """``pareto`` and ``pareto_sudoku``, found beside each other as when they are run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("pareto"), importlib.import_module("pareto_sudoku")


def test_the_largest_loss_from_fewer_passes_to_more_is_told(
    scripts: tuple[ModuleType, ModuleType],
) -> None:
    def solved(policy: str, passes: int, hits: int) -> object:
        return scripts[1].Solved("6x6 minimal", policy, passes, float(passes), hits, 100)

    falling = [solved("gate", 2, 50), solved("gate", 4, 90), solved("gate", 8, 60)]
    rising = [solved("margin", 2, 10), solved("margin", 4, 10), solved("margin", 8, 20)]
    ((few, many),) = scripts[1].drops([*falling, *rising])
    assert (few.policy, few.passes, many.passes) == ("gate", 4, 8)
    # Of 100, 90 and 60 are solved: [.826, .945] and [.502, .691] do not overlap.
    assert many.interval[1] < few.interval[0]


@pytest.mark.slow
def test_every_contender_meets_the_puzzles_at_every_cap(
    scripts: tuple[ModuleType, ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    model, out, plot = tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "curves.png"
    grid_model().save_pretrained(model)
    line = f"--task sudoku --model {model} --sizes 4 --n 5 --passes 1 3 --json {out} --plot {plot}"
    try:
        scripts[0].main(line.split())
    finally:
        torch.set_num_threads(threads)
    rows = [json.loads(text) for text in out.read_text().splitlines()]
    assert len(rows) == 2 * len(scripts[1].CONTENDERS)
    assert {row["count"] for row in rows} == {5}
    assert all(row["mean_passes"] <= row["passes"] for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "than the intervals" in (told := capsys.readouterr().out) or "no policy" in told


def test_baselines_are_a_panel_of_their_own(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    pareto, _ = scripts
    rows = [
        {"model": "joint", "passes": "1", "fcd": 3.0, "seconds": 240.0, "samples": 10_000},
        {"model": "joint", "passes": "6", "fcd": 2.0, "seconds": 240.0, "samples": 10_000},
        {"model": "gpt2", "passes": "token", "fcd": 1.0, "seconds": 240.0, "samples": 10_000},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    panel = pareto.baselines(str(path))
    assert list(panel) == ["240 CPU s of training: 10,000 molecules"]
    (curves,) = panel.values()
    assert [point.passes for point in curves["joint"]] == [1, 6]
    assert [point.passes for point in curves["gpt2"]] == [pareto.TOKENS]
    pareto.draw(panel, "FCD", str(tmp_path / "panel.png"))
    assert (tmp_path / "panel.png").stat().st_size > 1_000
