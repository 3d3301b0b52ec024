"""The refiner's own rows: dense, by a scripted gate, with a joint head, and by other back ends."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from imadarem.backends.onnx import INT8_FILE, ONNX_FILE, OnnxNetwork, export_onnx
from imadarem.bench.rivals import EOS, MASK, PAD, Rival, Size, parameters
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import MissingExtraError
from imadarem.nn.packed import packed
from imadarem.refiner import ImplicitRefinementModel
from imadarem.sampling.policies import LeftToRight, Policy
from imadarem.sampling.scripted import ScriptedGate

__all__ = ["DENSE", "matrix_peak", "peak_share", "refiner", "refiners"]

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


@contextmanager
def refiners(size: Size, width: int) -> Iterator[tuple[list[Rival], list[str]]]:
    """The refiner's rows, and what to install for those that are missing.

    Dense: every token drawn anew in every pass, no row ends early. Scripted: shares and ends as
    :class:`ScriptedGate` has them. Left to right: blocks of equal size, one in each pass, as the
    molecule model of the package fills them. One pass: the joint head draws every token after a
    single pass, as the SMILES model of the package can be asked to.
    """
    dense = ScriptedGate(active=(1.0,), ends=(size.passes, size.passes))
    model = refiner(size, width=width)
    joint = refiner(size, width=width, joint_size=2 * width)
    found = [
        _row(DENSE, model, size, dense),
        _row("refiner, scripted gate", model, size, ScriptedGate()),
        _row("refiner, joint head", joint, size, dense),
        _row("refiner, joint head, left to right", joint, size, LeftToRight()),
        _row("refiner, joint head, one pass", joint, size, LeftToRight(), passes=1),
    ]
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_onnx(model, folder, int8=True)
        except MissingExtraError as error:
            yield found, [str(error)]
            return
        for name, file in (("ONNX", ONNX_FILE), ("ONNX, 8 bits", INT8_FILE)):
            other = refiner(size, width=width)
            other.load_state_dict(model.state_dict())
            other.backend = OnnxNetwork(other, Path(folder) / file)
            found.append(_row(f"refiner, {name}", other, size, dense))
        yield found, []


def peak_share(size: Size, width: int, rows: int) -> tuple[Callable[[], Any], int]:
    """One pass over ``rows`` canvases, to be timed, and the operations of its linear layers.

    The pass is that of sampling. Attention is timed and not counted, so that the share of a
    peak is a lower bound.
    """
    network = packed(refiner(size, width=width))
    ids = torch.full((rows, size.length), MASK)

    def work() -> None:
        with torch.no_grad():
            network(ids)

    with FlopCounterMode(display=False) as counter:
        work()
    return work, counter.get_total_flops()


def matrix_peak(size: Size, width: int, rows: int) -> tuple[Callable[[], Any], int]:
    """``F.linear`` at the shape of the feed-forward layer, and its operations."""
    x, weight = torch.randn(rows * size.length, width), torch.randn(4 * width, width)
    return lambda: F.linear(x, weight), 2 * x.numel() * len(weight)


def _row(
    name: str,
    model: ImplicitRefinementModel,
    size: Size,
    policy: Policy,
    passes: int | None = None,
) -> Rival:
    # Other rows every time: when a row ends is a matter of its seed.
    seeds = count()

    def sample(rows: int) -> torch.Tensor:
        drawn = model.sample(
            rows,
            length=size.length,
            steps=passes,
            policy=policy,
            seed=next(seeds),
            batch_size=rows,
        )
        return torch.stack([row.ids for row in drawn.rows])

    return Rival(name, parameters(model), sample)
