"""The joint head: draws the blanks of a pass from left to right, by a gated recurrence."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class JointHead(nn.Module):
    """Draws the blanks of one pass jointly, from left to right, by a small recurrence.

    Blanks that are filled in the same pass are otherwise drawn independently, and tokens that
    depend on each other do not fit. Here the distribution of a token also depends on the tokens
    that now stand left of it: ``GRU(state_i, x_(i-1))`` is what to add to the logits of position
    ``i``, so that they become those of ``p(x_i | canvas, x_<i)``. The transformer still runs once
    a pass; the head runs once a token and costs about as much as a layer. It is zero at
    initialisation: until it is trained, tokens are drawn independently.

    Source: a network whose last part is causal over the tokens of a pass is that of
    self-speculative masked diffusion (arXiv:2510.03929) and Discrete Copula Diffusion
    (arXiv:2410.01949); a recurrence in its place is ours.

    Args:
        width: ``D`` of the states.
        vocab_size: ``V``.
        size: Hidden units ``H`` of the recurrence.
        start_id: Stands left of the first position; the id of a blank.
    """

    def __init__(self, width: int, vocab_size: int, size: int, start_id: int) -> None:
        super().__init__()
        self.start_id = start_id
        self.tokens = nn.Embedding(vocab_size, width)
        self.recurrence = nn.GRU(width, size, batch_first=True)
        self.to_logits = nn.Linear(size, vocab_size, bias=False)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        nn.init.zeros_(self.to_logits.weight)

    def forward(self, states: Tensor, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """All positions at once, given the tokens of the data.

        Args:
            states: ``(B, L, D)``.
            tokens: ``(R, L)`` ids.
            rows: ``(R,)``, which row of ``states`` each row of ``tokens`` stands on; None
                pairs them as they come.

        Returns:
            ``(R, L, V)``.
        """
        previous = F.pad(tokens[:, :-1], (1, 0), value=self.start_id)
        if states.device.type != "cpu":
            paired = states if rows is None else states[rows]
            hidden, _ = self.recurrence(paired + self.tokens(previous))
            logits: Tensor = self.to_logits(hidden)
            return logits
        # The product with the input weights is taken once for each distinct state and token.
        _, weight, _, bias = self.recurrence.all_weights[0]
        inputs = self.state_inputs(states).transpose(0, 1)
        inputs = inputs if rows is None else inputs[:, rows]
        inputs = inputs + F.embedding(previous.t(), self.token_inputs())
        logits = self.to_logits(gated_recurrence(inputs, weight, bias)).transpose(0, 1)
        return logits

    def state_inputs(self, states: Tensor) -> Tensor:
        """``(..., D)`` states → ``(..., 3H)``, their part of the gates' inputs, with the bias."""
        weight_in, _, bias_in, _ = self.recurrence.all_weights[0]
        return F.linear(states, weight_in, bias_in)

    def token_inputs(self) -> Tensor:
        """``(V, 3H)``: the part of the gates' inputs that the token on the left gives."""
        return F.linear(self.tokens.weight, self.recurrence.all_weights[0][0])


def gated_recurrence(
    inputs: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor | None = None
) -> Tensor:
    """The hidden units of a gated recurrent unit after each position (arXiv:1412.3555).

    The numbers of ``torch.nn.GRU`` up to rounding. That one takes the gradient of its weights in
    every step; here it is taken in one product at the end, which is cheaper on a CPU, and the
    inputs of the gates may come from small tables instead of a product for each position.

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
