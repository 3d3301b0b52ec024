"""What must be in a molecule, and how the model is to complete it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imadarem.design.fragment import Fragment, read_fragments, without_salts
from imadarem.design.odd_groups import Oddities
from imadarem.design.verification import rejection_reason
from imadarem.errors import ConfigError, DataError

KINDS = ("linker", "core", "ring", "motif", "scaffold", "superstructure")
#: Kinds whose fragments have one attachment point each.
JOINED = ("linker", "core")
#: Attachment points drawn for a fragment that has none.
MOST_DRAWN_ENDS = 3


@dataclass(frozen=True)
class FragmentTask:
    """Fragments that a molecule must contain, and how they are to be completed.

    Attributes:
        kind: ``linker``: join two fragments of one attachment point each. ``core``: find a
            core that carries two to six such fragments. ``ring``: close a ring from one of two
            attachment points to the other. ``motif`` and
            ``scaffold``: fill every attachment point; one without any is filled where it
            has hydrogen. ``superstructure``: a fragment without attachment points, filled
            where it has hydrogen.
        fragments: Two for a linker, two to six for a core, else one.
        removed: Counter-ions and solvents that were given with them.
    """

    kind: str
    fragments: tuple[Fragment, ...]
    removed: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: str, *texts: str) -> FragmentTask:
        """The task of a kind on fragments as SMILES.

        Raises:
            ConfigError: There is no such kind.
            DataError: A fragment cannot be read, or they do not suit the task.
        """
        if kind not in KINDS:
            raise ConfigError(f"unknown fragment task {kind!r}. Choose one of {', '.join(KINDS)}.")
        cleaned = [without_salts(text) for text in texts]
        fragments = tuple(read_fragments(text for text, _ in cleaned))
        wanted = {"linker": (2,), "core": range(2, 7)}.get(kind, (1,))
        if len(fragments) not in wanted:
            many = f"{wanted[0]} to {wanted[-1]}" if len(wanted) > 1 else f"{wanted[0]}"
            raise DataError(
                f"{kind} takes {many} fragment{'s' * (wanted[-1] > 1)}, and {len(fragments)} were "
                "given. Leave counter-ions out; a dot or a space stands between two fragments."
            )
        for fragment in fragments:
            _check_ends(kind, fragment)
        return cls(kind, fragments, tuple(salt for _, salts in cleaned for salt in salts))

    def opened(self, rng: np.random.Generator) -> tuple[Fragment, ...]:
        """The fragments with attachment points, drawn at random where they have none."""
        return tuple(
            fragment if fragment.ends else fragment.attached_at(self._drawn_atoms(fragment, rng))
            for fragment in self.fragments
        )

    def _drawn_atoms(self, fragment: Fragment, rng: np.random.Generator) -> list[int]:
        free = fragment.free_atoms
        if self.kind in (*JOINED, "motif", "ring"):
            return [int(atom) for atom in rng.permutation(free)[: 1 + (self.kind == "ring")]]
        count = int(rng.integers(1, min(MOST_DRAWN_ENDS, len(free)) + 1))
        return [int(atom) for atom in rng.permutation(free)[:count]]

    def oddities(self) -> Oddities:
        """What makes a molecule odd that the fragments do not have; a closed ring may be new."""
        given = (fragment.molecule for fragment in self.fragments)
        return Oddities(given, macrocycles=self.kind == "ring")

    def rejection_reason(self, smiles: str) -> str | None:
        """See :func:`~imadarem.design.verification.rejection_reason`."""
        return rejection_reason(
            smiles, self.fragments, apart=self.kind in JOINED, closed=self.kind == "ring"
        )


def _check_ends(kind: str, fragment: Fragment) -> None:
    ends = len(fragment.ends)
    if kind in JOINED and ends > 1:
        raise DataError(
            f"the fragment {fragment.smiles!r} has {ends} attachment points; a {kind} joins "
            "fragments of one each. Cap the others, such as by writing the hydrogen: remove the *."
        )
    if kind == "ring" and (ends not in (0, 2) or len(fragment.free_atoms) + ends < 2):
        raise DataError(
            f"the fragment {fragment.smiles!r} has {ends} attachment points; a ring is closed "
            "between two. Mark them with *, as in *NCCC(=O)*."
        )
    if kind == "superstructure" and ends:
        raise DataError(
            f"the fragment {fragment.smiles!r} has attachment points, and a superstructure may "
            "grow anywhere. Remove them, or use the task scaffold, which fills exactly those."
        )
    if not ends and not fragment.free_atoms:
        raise DataError(
            f"no atom of {fragment.smiles!r} has a hydrogen to give away, so nothing can be "
            "attached to it. Give a smaller fragment, or mark the place with *."
        )
