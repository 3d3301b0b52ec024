"""docs/own.md runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "own.md"


def test_the_page_of_your_own_parts_runs_as_it_stands() -> None:
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), found)
    assert [len(row.ids) for row in found["rows"]] == [12, 8]
    assert {len(row.ids) for row in found["blocks"].rows} == {12}
    assert len(found["texts"]) == 2
    assert found["info"]["loss"] > 0 and len(found["right"]) == len(found["task"].valid)
