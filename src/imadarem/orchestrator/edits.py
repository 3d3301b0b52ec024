"""Canvas edits: which positions a refinement step rewrites, whatever stands there.

An edit is a policy of the one loop in :mod:`imadarem.sampling.loop`, and
:func:`edit_mask` is the one definition that the policies and the training unroll share.
With *n* the current length of a row, its first blank:

===========  =========================================================================
``replace``  rewrites every open and every written position
``patch``    rewrites the blanks and the written positions whose gate is above 0.5
``append``   writes blanks from *n* on, ``block`` positions at a time, or as many of
             them as the schedule of the steps asks
===========  =========================================================================

What holds in every step, of every row, on every canvas:

1. Only open and written positions are rewritten: what is given, frozen or padding keeps
   its id. No edit re-masks, so the blanks of a row never grow in number.
2. ``replace`` rewrites *all* of them; ``replace`` and ``patch`` leave no blank.
3. ``patch`` leaves every written position whose gate is at most 0.5 byte for byte.
4. ``append`` leaves every token that stands byte for byte, those before *n* above all; it
   writes nothing at or behind ``n + block``, save in the loop's last step, which fills
   whatever is blank. Without a block it writes a share of the blanks that is equal in all steps.

One rule of the canvas stands above 2 to 4: where an edit writes an EOS into a blank, the
row ends, and what lay behind it is cut off. An EOS lies at or behind *n* always, so the
prefix of ``append`` is safe from that too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from imadarem.errors import ConfigError, nearest
from imadarem.sampling.policy import Decision, GateInPlace, PassView, Policy

#: Probability above which a written token counts as flagged; the gate's rule everywhere.
FLAGGED = 0.5

NO_GATE = "it rewrites what the gate flags, and this model has no gate"
FIXED_LENGTH = "it writes from the current length on, and the length of this canvas is fixed"


def edit_mask(
    name: str,
    open: Tensor,
    written: Tensor,
    gate: Tensor | None,
    *,
    block: int | None = None,
    fill: Tensor | None = None,
) -> Tensor:
    """``(B, L)`` bool: the positions that the edit ``name`` rewrites.

    Args:
        name: A key of :data:`EDITS`.
        open: ``(B, L)`` bool, blanks.
        written: ``(B, L)`` bool, tokens of the model that may still change.
        gate: ``(B, L)`` probability that the token standing there should be refined; only
            ``patch`` reads it.
        block: How many positions ``append`` may fill, counted from the current length;
            ``None`` leaves it to ``fill``.
        fill: ``(B,)`` how many blanks ``append`` writes; None writes all.
    """
    _check_known([name])
    if name == "replace":
        return open | written
    if name == "append":
        if block is None:
            return open if fill is None else open & (open.cumsum(dim=1) <= fill[:, None])
        return _next_blanks(open, block)
    if gate is None:
        raise ConfigError(f"the edit 'patch' cannot be made: {NO_GATE}.")
    return open | (written & (gate > FLAGGED))


@dataclass(frozen=True, slots=True)
class Replace:
    """Write every position that may be written, each from what stood there before.

    No step is idle, so a row goes on until too little changes or the steps are spent.
    """

    refines: bool = True
    uses_teacher: bool = False

    def __call__(self, view: PassView) -> Decision:
        return _in_place(edit_mask("replace", view.open, view.written, view.gate))


@dataclass(frozen=True, slots=True)
class Append:
    """Write blanks from the current length on; no token that stands is touched.

    The current length is the row's first blank, and given positions among the next
    ``block`` ones are passed over. Since the first blank is among them, no step is idle.
    A row is done once it has no blank.

    Args:
        block: Positions per step, at least 1; ``None`` takes the leftmost blanks, as many as the
            schedule asks in each step.
    """

    block: int | None = None
    refines: bool = False
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        if self.block is not None and self.block < 1:
            raise ConfigError(
                f"block={self.block} must be at least 1 position, or None: the schedule's number."
            )

    def __call__(self, view: PassView) -> Decision:
        return _in_place(
            edit_mask("append", view.open, view.written, None, block=self.block, fill=view.to_fill)
        )


EDITS: dict[str, Policy] = {"replace": Replace(), "patch": GateInPlace(), "append": Append()}


def edit_from_name(name: str) -> Policy:
    """The edit of that name.

    Raises:
        ConfigError: No edit has it; the nearest one is suggested.
    """
    _check_known([name])
    return EDITS[name]


def available_edits(names: Iterable[str], *, length_fixed: bool, has_gate: bool) -> tuple[str, ...]:
    """Those of ``names`` that can be made, in their order; see :func:`unavailable_edits`.

    Args:
        names: Keys of :data:`EDITS`.
        length_fixed: Whether every canvas is as long as its answer, so that there is no
            end to write on from (puzzles, infilling, molecules of a drawn length).
        has_gate: Whether the model has a trained gate.
    """
    names = list(dict.fromkeys(names))
    why_not = unavailable_edits(names, length_fixed=length_fixed, has_gate=has_gate)
    available = tuple(name for name in names if name not in why_not)
    if not available:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in why_not.items())
        raise ConfigError(
            f"no edit is left to choose from ({reasons or 'none was named'}). "
            "'replace' can always be made: add it."
        )
    return available


def unavailable_edits(
    names: Iterable[str], *, length_fixed: bool, has_gate: bool
) -> dict[str, str]:
    """Those of ``names`` that cannot be made, each with the reason in words.

    Raises:
        ConfigError: No edit has one of the names.
    """
    names = list(names)
    _check_known(names)
    reasons = {}
    if not has_gate:
        reasons["patch"] = NO_GATE
    if length_fixed:
        reasons["append"] = FIXED_LENGTH
    return {name: reasons[name] for name in names if name in reasons}


def _next_blanks(open: Tensor, block: int) -> Tensor:
    """The blanks among the ``block`` positions from each row's first blank on."""
    # A position is within reach once a blank was seen, and for ``block`` positions.
    reach = (open.long().cumsum(dim=1) > 0).long().cumsum(dim=1)
    return open & (reach <= block)


def _in_place(write: Tensor) -> Decision:
    return Decision(write, torch.zeros_like(write))


def _check_known(names: Iterable[str]) -> None:
    for name in names:
        if name not in EDITS:
            raise ConfigError(
                f"unknown edit {name!r}{nearest(name, EDITS)}. Legal: {', '.join(EDITS)}."
            )
