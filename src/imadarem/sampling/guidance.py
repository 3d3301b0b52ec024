"""Classifier-free guidance (arXiv:2207.12598): follow a condition or a prompt more closely.

A second pass reads the canvas without what it is asked to be like: without the condition where the
rows have one, else with the given tokens of the prompt blanked (arXiv:2502.09992, appendix). The
token logits become ``without + guidance · (with - without)``. A joint head adds what it reads in
the states of the first pass. The gate and the halting head are those of the first pass.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.nn import RefinementOutput
from imadarem.sampling.passes import Network, PassInputs


def guided_pass(
    network: Network,
    inputs: PassInputs,
    canvas: Canvas,
    shown: Tensor,
    attended: Tensor | None,
    guidance: float,
    first: bool,
) -> RefinementOutput:
    """One pass over a canvas, or two where it is guided.

    Args:
        network: See :func:`~imadarem.sampling.loop.refine`.
        inputs: What the network reads beside the canvas.
        canvas: The rows, and what they are asked to be like.
        shown: ``(B, L)``, the ids that the network reads.
        attended: ``(B, L)`` bool, the positions that it reads; None where it reads all.
        guidance: Its strength; 1 is one plain pass.
        first: Whether it is the first pass of a run.
    """
    read = inputs.read_by(network, shown, attended, first, canvas.condition)
    if guidance == 1.0:
        return read
    if canvas.condition is None:
        special = canvas.special
        given = canvas.state == int(State.GIVEN)
        # The mark behind a hole of unknown length belongs to the question, not to the prompt.
        if special.nothing is not None:
            given = given & (shown != special.nothing)
        shown = shown.masked_fill(given, special.mask)
    without = inputs.read_by(network, shown, attended, first)
    logits = without.logits + guidance * (read.logits - without.logits)
    joint = None if read.joint is None else replace(read.joint, logits=logits)
    return read._replace(logits=logits, joint=joint)
