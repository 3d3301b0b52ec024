"""A gated recurrent unit over whole sequences, with a gradient that is cheap on a CPU.

``torch.nn.GRU`` takes the gradient of its weights in every step; here they are taken in one
product at the end, and what the inputs say to the gates may come from small tables instead of
a product for each position. Same unit, same numbers up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["gated_recurrence"]


def gated_recurrence(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The hidden units after each position, from hidden units of zero (arXiv:1412.3555).

    Args:
        inputs: ``(L, B, 3H)``, what each position says to the reset, the update and the new
            value: ``W_ih x + b_ih`` of ``torch.nn.GRU``. Positions first.
        weight: ``(3H, H)``, ``weight_hh`` of ``torch.nn.GRU``.
        bias: ``(3H,)``, ``bias_hh``.

    Returns:
        ``(L, B, H)``.
    """
    hidden: Tensor = _GatedRecurrence.apply(inputs, weight, bias)
    return hidden


class _GatedRecurrence(torch.autograd.Function):
    """States and gates of every position are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        length, batch, size = *inputs.shape[:2], weight.shape[1]
        hidden = inputs.new_zeros(length + 1, batch, size)
        gates = inputs.new_empty(length, batch, 2 * size)
        new, heard = (inputs.new_empty(length, batch, size) for _ in range(2))
        turned = weight.t()
        for i in range(length):
            kept = torch.addmm(bias, hidden[i], turned)
            torch.add(inputs[i, :, : 2 * size], kept[:, : 2 * size], out=gates[i]).sigmoid_()
            heard[i] = kept[:, 2 * size :]
            reset, update = gates[i, :, :size], gates[i, :, size:]
            torch.addcmul(inputs[i, :, 2 * size :], reset, heard[i], out=new[i]).tanh_()
            torch.lerp(new[i], hidden[i], update, out=hidden[i + 1])
        ctx.save_for_backward(hidden, gates, new, heard, weight)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        hidden, gates, new, heard, weight = ctx.saved_tensors
        length, batch, size = new.shape
        to_inputs, to_kept = (new.new_empty(length, batch, 3 * size) for _ in range(2))
        carried = new.new_zeros(batch, size)
        for i in range(length - 1, -1, -1):
            carried = carried + gradient[i]
            reset, update = gates[i, :, :size], gates[i, :, size:]
            to_new, kept = to_inputs[i, :, 2 * size :], to_kept[i]
            torch.mul(carried * (1 - update), 1 - new[i].square(), out=to_new)
            torch.mul(
                carried * (hidden[i] - new[i]),
                update * (1 - update),
                out=to_inputs[i, :, size : 2 * size],
            )
            torch.mul(to_new * heard[i], reset * (1 - reset), out=to_inputs[i, :, :size])
            kept[:, : 2 * size] = to_inputs[i, :, : 2 * size]
            torch.mul(to_new, reset, out=kept[:, 2 * size :])
            carried = torch.addmm(carried * update, kept, weight)
        flat = to_kept.view(length * batch, 3 * size)
        to_weight = flat.t() @ hidden[:-1].reshape(length * batch, size)
        return to_inputs, to_weight, flat.sum(dim=0)
