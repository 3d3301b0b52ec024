"""The refiner's own rows: dense, by a scripted gate, and with a joint head."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from imadarem.bench.rivals import EOS, MASK, PAD, Rival, Size, parameters
from imadarem.config import ImplicitRefinementConfig
from imadarem.nn.packed import packed
from imadarem.refiner import ImplicitRefinementModel
from imadarem.sampling.policies import LeftToRight, Policy
from imadarem.sampling.scripted import ScriptedGate
from imadarem.sampling.sparsity import Sparsity

__all__ = ["DENSE", "REFINERS", "Ours", "matrix_peak", "peak_share", "refiner"]

DENSE = "refiner, dense"


def refiner(size: Size, *, width: int = 128, joint_size: int = 0) -> ImplicitRefinementModel:
    """A refiner with random weights whose rows end by the policy alone."""
    special = SimpleNamespace(mask_token_id=MASK, pad_token_id=PAD, eos_token_id=EOS)
    config = ImplicitRefinementConfig(
        vocab_size=size.vocab,
        hidden_size=width,
        num_layers=size.layers,
        num_heads=size.heads,
        max_seq_len=size.length + 2,
        conv_kernel_size=5,
        self_conditioning=False,
        joint_size=joint_size,
        length_mode="drawn",
        max_refinement_steps=size.passes,
        stop_threshold=1.0,
    )
    return ImplicitRefinementModel(config, special).eval()


class Ours:
    """The models behind the refiner's rows, made when the first row asks for them.

    Args:
        size: What they have in common with the others.
        width: Their width.
    """

    def __init__(self, size: Size, width: int) -> None:
        self.size, self.width = size, width

    @cached_property
    def plain(self) -> ImplicitRefinementModel:
        """Without a joint head."""
        return refiner(self.size, width=self.width)

    @cached_property
    def joint(self) -> ImplicitRefinementModel:
        """With a joint head of twice the width."""
        return refiner(self.size, width=self.width, joint_size=2 * self.width)

    def dense(self) -> ScriptedGate:
        """Every token drawn anew in every pass, and no row ends early."""
        return ScriptedGate(active=(1.0,), ends=(self.size.passes, self.size.passes))

    def row(
        self,
        name: str,
        model: ImplicitRefinementModel,
        policy: Policy,
        passes: int | None = None,
        sparse: bool | Sparsity = False,
    ) -> Rival:
        """A model and how it samples."""
        # Other rows every time: when a row ends is a matter of its seed.
        seeds = count()

        def sample(rows: int) -> torch.Tensor:
            drawn = model.sample(
                rows,
                length=self.size.length,
                steps=passes,
                policy=policy,
                sparse=sparse,
                seed=next(seeds),
                batch_size=rows,
            )
            return torch.stack([row.ids for row in drawn.rows])

        return Rival(name, parameters(model), sample)


#: The refiner's rows by the names that ``imadarem bench --only`` takes. Dense: every token drawn
#: anew in every pass, no row ends early. Scripted: shares and ends as
#: :class:`~imadarem.sampling.scripted.ScriptedGate` has them. Left to right: blocks of equal
#: size, one in each pass, as the molecule model of the package fills them. One pass: the joint
#: head draws every token after a single pass, as the SMILES model of the package can be asked to.
#: Sparse passes: those of ``sample(sparse=True)``; without neighbours where a script redraws
#: tokens all over a row.
REFINERS: dict[str, Callable[[Ours], Rival]] = {
    "dense": lambda us: us.row(DENSE, us.plain, us.dense()),
    "scripted": lambda us: us.row("refiner, scripted gate", us.plain, ScriptedGate()),
    "scripted-sparse": lambda us: us.row(
        "refiner, scripted gate, sparse passes",
        us.plain,
        ScriptedGate(),
        sparse=Sparsity(reach=0),
    ),
    "joint": lambda us: us.row("refiner, joint head", us.joint, us.dense()),
    "joint-left": lambda us: us.row("refiner, joint head, left to right", us.joint, LeftToRight()),
    "joint-left-sparse": lambda us: us.row(
        "refiner, joint head, left to right, sparse passes", us.joint, LeftToRight(), sparse=True
    ),
    "joint-one": lambda us: us.row(
        "refiner, joint head, one pass", us.joint, LeftToRight(), passes=1
    ),
}


def peak_share(size: Size, width: int, rows: int) -> tuple[Callable[[], Any], int]:
    """One pass over ``rows`` canvases, to be timed, and the operations of its linear layers.

    The pass is that of sampling. Attention is timed and not counted, so that the share of a
    peak is a lower bound.
    """
    network = refiner(size, width=width)
    quick, ids = packed(network), torch.full((rows, size.length), MASK)

    def work() -> None:
        quick(ids)

    # Products in place are not counted: those of the network's own pass are the same.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(ids)
    return work, counter.get_total_flops()


def matrix_peak(size: Size, width: int, rows: int) -> tuple[Callable[[], Any], int]:
    """``F.linear`` at the shape of the feed-forward layer, and its operations."""
    x, weight = torch.randn(rows * size.length, width), torch.randn(4 * width, width)
    return lambda: F.linear(x, weight), 2 * x.numel() * len(weight)
