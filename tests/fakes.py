"""Small parts for the tests: a tokenizer of letters and networks with known answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.nn import RefinementOutput
from imadarem.refiner import ImplicitRefinementModel
from imadarem.tokenizers import SelfiesTokenizer, SpecialIds

#: pad 0, mask 1, eos 2, tokens from 3 on.
SPECIAL = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1))
MOLECULES = [
    "CCO", "CCN", "CC(=O)O", "c1ccccc1", "CC(C)O", "CCOC(C)=O", "c1ccncc1", "CCCl", "NCCO",
    "C1CCCCC1", "CC#N", "OCC(O)CO",
]  # fmt: skip


class Scripted(nn.Module):
    """A network whose answers are given: ``answer(ids, call) -> (logits, gate logits)``."""

    def __init__(self, answer: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.answer = answer
        self.calls = 0
        self.masks: list[Tensor | None] = []

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None = None, prev_probs: Tensor | None = None
    ) -> RefinementOutput:
        self.calls += 1
        self.masks.append(attention_mask)
        return RefinementOutput(*self.answer(ids, self.calls))


def peaked(tokens: Tensor, vocab: int, height: float = 50.0) -> Tensor:
    """Logits ``(B, L, V)`` that leave no doubt about ``tokens`` ``(B, L)``."""
    return torch.nn.functional.one_hot(tokens, vocab).double() * height


def tiny_model(seed: int = 0, **settings: object) -> ImplicitRefinementModel:
    """A two-layer model over the SELFIES of :data:`MOLECULES`."""
    tokenizer = SelfiesTokenizer.from_corpus(MOLECULES)
    given: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "max_seq_len": 12,
        "dropout": 0.0,
    }
    torch.manual_seed(seed)
    config = ImplicitRefinementConfig(**{**given, **settings})  # type: ignore[arg-type]
    return ImplicitRefinementModel(config, tokenizer=tokenizer)


def shaken(model: ImplicitRefinementModel, scale: float = 0.3) -> ImplicitRefinementModel:
    """The model with noise on every weight: blocks start as the identity otherwise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def grid_model(
    seed: int = 0, sizes: tuple[int, ...] = (4,), **settings: object
) -> ImplicitRefinementModel:
    """A one-block model of sudoku grids that knows a cell by its row, column and box alone.

    The digits 1, 2, … have the ids 3, 4, …; pad, mask and EOS are those of :data:`SPECIAL`.
    """
    from imadarem.data.sudoku import relations, sudoku_tokenizer

    tokenizer = sudoku_tokenizer()
    given: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "max_seq_len": max(sizes) ** 2,
        "dropout": 0.0,
        "positions": False,
        "attention": False,
        "relations": [relations(size) for size in sizes],
        "length_mode": "drawn",
    }
    torch.manual_seed(seed)
    config = ImplicitRefinementConfig(**{**given, **settings})  # type: ignore[arg-type]
    return ImplicitRefinementModel(config, tokenizer=tokenizer)
