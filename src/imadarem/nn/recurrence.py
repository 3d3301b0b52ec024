"""A gated recurrent unit over whole sequences, with a gradient that is cheap on a CPU.

``torch.nn.GRU`` takes the gradient of its weights in every step; here it is taken in one
product at the end, and the inputs of the gates may come from small tables instead of a product
for each position. Same unit, same numbers up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gated_recurrence(
    inputs: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor | None = None
) -> Tensor:
    """The hidden units after each position (arXiv:1412.3555).

    Args:
        inputs: ``(L, B, 3H)``, the inputs of the reset gate, the update gate and the new value:
            ``W_ih x + b_ih`` of ``torch.nn.GRU``. Positions first.
        weight: ``(3H, H)``, ``weight_hh`` of ``torch.nn.GRU``.
        bias: ``(3H,)``, ``bias_hh``.
        hidden: ``(B, H)``, the units before the first position; None means zeros. It gets no
            gradient.

    Returns:
        ``(L, B, H)``.
    """
    if hidden is None:
        hidden = inputs.new_zeros(inputs.shape[1], weight.shape[1])
    after: Tensor = _GatedRecurrence.apply(inputs, weight, bias, hidden)
    return after


class _GatedRecurrence(torch.autograd.Function):
    """States and gates of every position are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, first: Tensor) -> Tensor:
        length, batch, size = *inputs.shape[:2], weight.shape[1]
        hidden = inputs.new_empty(length + 1, batch, size)
        hidden[0] = first
        gates = inputs.new_empty(length, batch, 2 * size)
        new, recurrent_new = (inputs.new_empty(length, batch, size) for _ in range(2))
        transposed = weight.t()
        for i in range(length):
            recurrent = torch.addmm(bias, hidden[i], transposed)
            torch.add(inputs[i, :, : 2 * size], recurrent[:, : 2 * size], out=gates[i]).sigmoid_()
            recurrent_new[i] = recurrent[:, 2 * size :]
            reset, update = gates[i, :, :size], gates[i, :, size:]
            torch.addcmul(inputs[i, :, 2 * size :], reset, recurrent_new[i], out=new[i]).tanh_()
            torch.lerp(new[i], hidden[i], update, out=hidden[i + 1])
        ctx.save_for_backward(hidden, gates, new, recurrent_new, weight)
        return hidden[1:]

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden, gates, new, recurrent_new, weight = ctx.saved_tensors
        length, batch, size = new.shape
        to_inputs, to_recurrent = (new.new_empty(length, batch, 3 * size) for _ in range(2))
        carried = new.new_zeros(batch, size)
        for i in range(length - 1, -1, -1):
            carried = carried + gradient[i]
            reset, update = gates[i, :, :size], gates[i, :, size:]
            to_new, here = to_inputs[i, :, 2 * size :], to_recurrent[i]
            torch.mul(carried * (1 - update), 1 - new[i].square(), out=to_new)
            torch.mul(
                carried * (hidden[i] - new[i]),
                update * (1 - update),
                out=to_inputs[i, :, size : 2 * size],
            )
            torch.mul(to_new * recurrent_new[i], reset * (1 - reset), out=to_inputs[i, :, :size])
            here[:, : 2 * size] = to_inputs[i, :, : 2 * size]
            torch.mul(to_new, reset, out=here[:, 2 * size :])
            carried = torch.addmm(carried * update, here, weight)
        flat = to_recurrent.view(length * batch, 3 * size)
        to_weight = flat.t() @ hidden[:-1].reshape(length * batch, size)
        return to_inputs, to_weight, flat.sum(dim=0), None
