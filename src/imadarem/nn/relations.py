"""Positions that belong together: rows, columns and boxes of a grid, or any other groups."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.errors import DataError


class RelationPooling(nn.Module):
    """Every position reads the mean of each of its groups; zero at initialisation.

    ``y_i = Σ_r W_r · mean_{j in group r of i} GELU(V x_j)``. The groups are all that it
    knows of a position: what it learns on one grid holds in every other one with the same
    relations. (A transposition of a grid swaps two of them; training on both teaches that.)

    Source: recurrent relational networks (arXiv:1711.08028) pass a message along every
    edge; a mean over the group, mapped once per group and not once per position, costs a
    small part of that.
    """

    def __init__(self, hidden_size: int, relations: int) -> None:
        super().__init__()
        self.message = nn.Linear(hidden_size, hidden_size)
        self.weight = nn.Parameter(torch.zeros(relations, hidden_size, hidden_size))

    def forward(self, x: Tensor, members: Tensor) -> Tensor:
        """``(B, L, D)`` and the members ``(B or 1, R, G, L)`` of the groups → ``(B, L, D)``."""
        relations, groups, length = members.shape[1:]
        flat = members.reshape(len(members), relations * groups, length)
        share = flat / flat.sum(dim=-1, keepdim=True).clamp(min=1)
        pooled = share @ F.gelu(self.message(x))
        mapped = pooled.unflatten(1, (relations, groups)) @ self.weight
        return flat.transpose(1, 2) @ mapped.flatten(1, 2)


class Layouts:
    """The groups of every canvas length that a model knows.

    Plain tensors, no buffers: a buffer that no checkpoint holds comes back uninitialised
    from loaders that build modules without memory.

    Args:
        relations: ``[layout][relation][position]`` → number of the group.
    """

    def __init__(self, relations: list[list[list[int]]]) -> None:
        self.known = sorted(len(layout[0]) for layout in relations)
        self._groups = max(1 + max(numbers) for layout in relations for numbers in layout)
        self._relations = {len(layout[0]): layout for layout in relations}
        self._members: dict[int, Tensor] = {}

    def members(self, length: int, attended: Tensor | None, like: Tensor) -> Tensor:
        """``(B or 1, R, G, L)``: 1 where a position ``L`` is in a group ``G``.

        Args:
            length: Canvas length ``L``.
            attended: ``(B, L)`` bool; a row's layout is that of its attended length.
            like: Gives device and dtype.

        Raises:
            DataError: A row has a length without a layout.
        """
        if attended is None:
            return self._one(length, length, like)[None]
        lengths = attended.sum(dim=1).tolist()
        parts = {n: self._one(n, length, like) for n in set(lengths)}
        rows = lengths[:1] if len(parts) == 1 else lengths
        members = torch.stack([parts[n] for n in rows])
        if bool((attended[:, 1:] & ~attended[:, :-1]).any()):
            # Padding stands before a row: each of its positions takes the place it counts as.
            place = (attended.cumsum(dim=1) - 1).clamp(min=0)[:, None, None]
            members = members.expand(len(attended), -1, -1, -1)
            members = members.gather(3, place.expand_as(members)) * attended[:, None, None]
        return members

    def _one(self, attended: int, length: int, like: Tensor) -> Tensor:
        if attended not in self._relations:
            raise DataError(
                f"this canvas has {attended} positions, and the model knows the relations of "
                f"canvases of {', '.join(map(str, self.known))} only. Give one of these."
            )
        if attended not in self._members:
            numbers = torch.tensor(self._relations[attended])
            self._members[attended] = F.one_hot(numbers, self._groups).transpose(1, 2).float()
        members = self._members[attended].to(like)
        self._members[attended] = members
        return F.pad(members, (0, length - attended))
