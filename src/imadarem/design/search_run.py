"""A search begun or resumed: the settings beside its table, and which of them may change."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from imadarem.checkpoint import digest
from imadarem.design.scored_table import Evolution
from imadarem.design.search_settings import EvolutionSettings
from imadarem.errors import ConfigError
from imadarem.files import load_json, save_json

#: Settings that may change on resuming, and those that older runs do not have.
FREE = ("budget", "until", "workers")
MISSING = {"where": "", "alerts": "", "prescreen": 1, "score_weights": [], "pareto": False}
#: Settings that may change with a reason: all molecules are scored again.
GOAL = ("score", "score_weights", "pareto")


def begun(
    settings: EvolutionSettings,
    made_by: dict[str, Any],
    out: Path,
    resume: bool,
    reason: str | None,
) -> tuple[Evolution, dict[str, Any] | None]:
    """A new table, or the one of the run that is resumed.

    Returns:
        The table, and the settings to save once it is scored again; None where it is not.
    """
    # "weights" are those of the model.
    ours = {**asdict(settings), "score_weights": list(settings.weights), **made_by}
    if not resume and out.exists():
        raise ConfigError(f"{out} exists. Continue it with resume, or choose another file.")
    if not out.exists():
        save_json(ours, settings_file(out))
        return Evolution(), None
    saved = load_json(settings_file(out))
    # More calls, another target or more workers do not change what has been done.
    changed = [k for k in ours if k not in FREE and saved.get(k, MISSING.get(k)) != ours[k]]
    state = Evolution.load(out)
    if not changed:
        return state, None
    if reason is None or not set(changed) <= set(GOAL):
        hint = (
            " To search for something else, say why with reason (--reason); all its molecules are "
            "scored again."
        )
        raise ConfigError(
            f"the run in {out} has {changed[0]} = {saved.get(changed[0])!r}, and "
            f"{ours[changed[0]]!r} was given. Only budget, until and workers may change on "
            f"resuming.{hint if set(changed) <= set(GOAL) else ''}"
        )
    before = {name: saved.get(name, MISSING.get(name)) for name in GOAL}
    change = {"calls": len(state.scored), "before": before, "reason": reason}
    return state, {**ours, "changes": [*saved.get("changes", ()), change]}


def settings_file(out: Path) -> Path:
    """The file of settings beside a table."""
    return out.with_name(f"{out.name}.settings.json")


def made_with(model: Any, sampling: dict[str, Any]) -> dict[str, Any]:
    """What the children depend on beside the settings, as JSON values."""
    plain = (str, int, float, bool, type(None))
    given = {
        name: value if isinstance(value, plain) else repr(value)
        for name, value in sampling.items()
        if name not in ("batch_size", "on_rows")
    }
    return {"weights": digest(model.state_dict()), "sampling": given}
