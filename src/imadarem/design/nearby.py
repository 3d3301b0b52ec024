"""The part of a SMILES that is near its blanks: what is shown of a text longer than the canvas.

What is hidden stays in the molecule: only the model does not see it. What it sees need not be a
molecule, but rings and branches are opened and closed in it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

BOND = re.compile(r"[-=#$:/\\~]")
RING = re.compile(r"%\d\d|\d")


@dataclass
class _Graph:
    """Atoms and runs of blanks of a SMILES, by their places among its parts.

    Attributes:
        bonds: Place → places of neighbours.
        rings: Pairs of places of ring-closure digits, with the atoms that they are bonded to.
        branches: Pairs of places of parentheses.
    """

    bonds: dict[int, set[int]] = field(default_factory=dict)
    rings: list[tuple[int, int, int, int]] = field(default_factory=list)
    branches: list[tuple[int, int]] = field(default_factory=list)

    def bond(self, one: int, other: int) -> None:
        self.bonds[one].add(other)
        self.bonds[other].add(one)


def visible_parts(parts: Sequence[str | int], room: int) -> list[bool]:
    """Which tokens are shown so that they and the blanks take at most ``room`` positions.

    Args:
        parts: Tokens of a SMILES, and numbers of blanks; these are always shown.
        room: Positions, more than there are blanks.

    Returns:
        A bool for each part; atoms are hidden from the one furthest from all blanks on.
    """
    if sum(part if isinstance(part, int) else 1 for part in parts) <= room:
        return [True] * len(parts)
    graph = _read(parts)
    distance = _distances(graph, [i for i, part in enumerate(parts) if isinstance(part, int)])
    far = sorted(
        (i for i in graph.bonds if not isinstance(parts[i], int)),
        key=lambda i: (-distance.get(i, len(parts)), -i),
    )
    low, high = 0, len(far)
    while low < high:  # the fewest hidden atoms that suffice
        middle = (low + high) // 2
        if _length(parts, _shown(parts, graph, set(far[:middle]))) <= room:
            high = middle
        else:
            low = middle + 1
    return _shown(parts, graph, set(far[:low]))


def _read(parts: Sequence[str | int]) -> _Graph:
    graph = _Graph()
    before: int | None = None
    open_rings: dict[str, tuple[int, int]] = {}
    open_branches: list[tuple[int, int | None]] = []
    for place, part in enumerate(parts):
        if part == "(":
            open_branches.append((place, before))
        elif part == ")":
            if open_branches:  # else it was opened among the blanks
                opening, before = open_branches.pop()
                graph.branches.append((opening, place))
        elif isinstance(part, str) and RING.fullmatch(part):
            if before is None:
                continue
            if part in open_rings:
                first, atom = open_rings.pop(part)
                graph.rings.append((first, place, atom, before))
                graph.bond(atom, before)
            else:
                open_rings[part] = (place, before)
        elif isinstance(part, int) or not BOND.fullmatch(part):
            graph.bonds[place] = set()
            if before is not None:
                graph.bond(before, place)
            before = place
    return graph


def _distances(graph: _Graph, starts: Sequence[int]) -> dict[int, int]:
    found = dict.fromkeys(starts, 0)
    waiting = deque(starts)
    while waiting:
        place = waiting.popleft()
        for near in graph.bonds[place]:
            if near not in found:
                found[near] = found[place] + 1
                waiting.append(near)
    return found


def _shown(parts: Sequence[str | int], graph: _Graph, hidden: set[int]) -> list[bool]:
    shown = [place not in hidden for place in range(len(parts))]
    for first, last, atom, other in graph.rings:
        shown[first] = shown[last] = shown[atom] and shown[other]
    # A bond symbol belongs to what follows it.
    for place in range(len(parts) - 2, -1, -1):
        part = parts[place]
        if isinstance(part, str) and BOND.fullmatch(part):
            shown[place] = shown[place + 1]
    for opening, closing in graph.branches:  # inner ones come first
        shown[opening] = shown[closing] = any(shown[opening + 1 : closing])
    for opening, closing in sorted(graph.branches):  # a branch hangs on an atom that is seen
        before = next((i for i in range(opening - 1, -1, -1) if shown[i]), None)
        if before is None or parts[before] == "(":
            shown[opening] = shown[closing] = False
    return shown


def _length(parts: Sequence[str | int], shown: Sequence[bool]) -> int:
    return sum(
        part if isinstance(part, int) else 1
        for part, seen in zip(parts, shown, strict=True)
        if seen
    )
