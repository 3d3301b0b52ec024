"""What the refinement loop costs beside the bare passes of a pretrained masked LM.

    python benchmarks/backbone.py antiberty --rows 16 --length 112 --steps 8

The same blank rows go through ``model.sample`` with a policy, and through the model of transformers
alone, as often and with as many positions. Both take turns; the shortest time of each counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch

from imadarem import ImplicitRefinementModel
from imadarem.backbones.masked_lm import GROUP
from imadarem.sampling.policies import POLICIES


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=112)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", default="confidence", choices=POLICIES)
    args = parser.parse_args(arguments)

    model = ImplicitRefinementModel.from_masked_lm(args.model)
    plain = model.network.backbone.model
    # As the adapter reads a row: with its ends, on a multiple of 16 positions.
    positions = -(-(args.length + 2) // GROUP) * GROUP
    ids = torch.full((args.rows, positions), model.special.mask)
    attended = torch.ones_like(ids)
    attended[:, args.length + 2 :] = 0
    # Rows of different seeds differ from the second pass on; the first is computed once for all.
    how = {"length": args.length, "steps": args.steps, "policy": args.policy, "seed": 0}

    @torch.no_grad()
    def bare() -> None:
        plain(ids[:1], attended[:1])
        for _ in range(args.steps - 1):
            plain(ids, attended)

    pairs = [
        (timed(bare), timed(lambda: model.sample(args.rows, **how))) for _ in range(args.rounds)
    ]
    alone, whole = (min(column) for column in zip(*pairs, strict=True))
    heads = ("rows", "tokens", "passes", "bare passes, s", "sampling, s", "overhead")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    print(
        f"| {args.rows} | {args.length} | {args.steps} | {alone:.2f} | {whole:.2f} | "
        f"{whole / alone - 1:+.1%} |"
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
