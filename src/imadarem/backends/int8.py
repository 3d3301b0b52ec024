"""A network whose blocks multiply in 8 bits, in torch itself.

    model.backend = Int8Network(model)

Embeddings, norms, convolutions, attention and heads stay in float32. Scales are fixed by some rows
that the model draws first, so that a row's numbers do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from imadarem.errors import ConfigError
from imadarem.nn import RefinementOutput
from imadarem.nn.blocks import Block
from imadarem.nn.int8 import Int8Products, Ranges, Watched, is_exact
from imadarem.nn.packed import Packed, packed

if TYPE_CHECKING:
    from imadarem.refiner import ImplicitRefinementModel

__all__ = ["Int8Network", "seen_ranges"]

#: Rows that are drawn to see what the products read, fewer where they would have more positions
#: together, and their seed.
ROWS, POSITIONS, SEED = 64, 4096, 0


class Int8Network(Packed):
    """A model's passes with products in 8 bits, on the CPU; called as the model is.

    Args:
        model: In float32 on the CPU. Its weights are copied; a change of them is refused at the
            next pass, as far as torch counts changes (one through ``.data`` is not seen).
        ranges: Of each block's products, see :func:`seen_ranges`; None draws rows for them,
            which takes about a second for the models in the package.

    Raises:
        ConfigError: The model, or the processor, cannot.
    """

    def __init__(
        self, model: ImplicitRefinementModel, ranges: Sequence[Ranges] | None = None
    ) -> None:
        _check(model)
        seen = seen_ranges(model) if ranges is None else ranges
        turned = model.config.rotary and model.config.positions
        pairs = zip(_blocks(model), seen, strict=True)
        super().__init__(model, [Int8Products(block, turned, known) for block, known in pairs])
        self._weights = list(model.student_parameters())
        self._changes = self._counted()

    @torch.no_grad()
    def __call__(self, *arguments: Any, **named: Any) -> RefinementOutput:
        """One pass, as the network takes and gives it.

        Raises:
            ConfigError: The weights were changed since they were copied.
        """
        if self._counted() != self._changes:
            raise ConfigError(
                "the model's weights were changed after they were rounded to 8 bits. Round them "
                "anew: model.backend = Int8Network(model)."
            )
        return super().__call__(*arguments, **named)

    def _counted(self) -> int:
        return sum(weight._version for weight in self._weights)


def seen_ranges(
    model: ImplicitRefinementModel, *, rows: int | None = None, seed: int = SEED
) -> list[Ranges]:
    """What the products of each block read while the model draws ``rows`` in its own way.

    Args:
        model: In float32 on the CPU.
        rows: By the model's own settings, from blank canvases; of the full length where the model
            does not know how long its data were. None is 64, or fewer of more than 64 tokens.
        seed: Of the rows.
    """
    config = model.config
    if rows is None:
        rows = max(1, min(ROWS, POSITIONS // config.max_seq_len))
    unknown = config.length_mode == "drawn" and config.length_counts is None
    turned = config.rotary and config.positions
    watched = [Watched(block, turned) for block in _blocks(model)]
    before, model.backend = model.backend, Packed(model, watched)
    try:
        model.sample(rows, length=config.max_seq_len if unknown else None, seed=seed)
    finally:
        model.backend = before
    return [products.ranges for products in watched]


def _blocks(model: ImplicitRefinementModel) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def _check(model: ImplicitRefinementModel) -> None:
    weight = model.tokens.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        kind = str(weight.dtype).removeprefix("torch.")
        raise ConfigError(
            f"8 bits are for a model in float32 on the CPU; this one is {kind} on "
            f"{weight.device.type}. Move it with model.float().cpu()."
        )
    if model.config.relations is not None:
        raise ConfigError("8 bits are not for networks with relations; use the torch back end.")
    if not isinstance(packed(model.eval()), Packed):
        raise ConfigError(
            "8 bits are for networks as this package builds them: here a module was replaced, or "
            "has a hook, or autocast is on. Use the torch back end."
        )
    if not is_exact():
        raise ConfigError(
            "8-bit products need a processor with VNNI (AVX512-VNNI or AVX-VNNI), and oneDNN in "
            "torch: here their sums overflow, or there are none. Use the torch back end."
        )
