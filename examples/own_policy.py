"""A policy of your own: one method, two facts, no base class.

    python examples/own_policy.py [MODEL]

MODEL is as in quickstart.py. Prints a molecule as it is written from its end.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from imadarem import Decision, ImplicitRefinementModel, PassView


@dataclass(frozen=True)
class FromTheEnd:
    """Fill the last blanks first, as many as the schedule asks."""

    refines: bool = False  # a token that stands never changes again
    uses_teacher: bool = False  # one forward pass a step

    def __call__(self, view: PassView) -> Decision:
        place = view.open.flip(1).cumsum(dim=1).flip(1)  # …, 2, 1 over a row's blanks
        write = view.open & (place <= view.to_fill[:, None])
        return Decision(write, remask=torch.zeros_like(write))


def main(name: str = "smiles") -> None:
    model = ImplicitRefinementModel.from_pretrained(name)
    model.print_refinement_trajectory(policy=FromTheEnd(), schedule="cosine", length=12, seed=0)


if __name__ == "__main__":
    main(*sys.argv[1:2])
