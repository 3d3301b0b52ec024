"""Held-out figures of a refiner: its token loss, and how well the gate judges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from imadarem.data.corpus import TokenCorpus, collate
from imadarem.evaluation.calibration import area_under_roc, expected_calibration_error
from imadarem.training.objective import Objective

__all__ = ["Validation", "validate"]


@dataclass(frozen=True)
class Validation:
    """Figures on held-out rows; the same masks and draws at every call.

    Attributes:
        loss: Masked-diffusion bound, nats per token; canvases of real data only.
        gate_auroc: Area under the ROC of the gate on the model's own tokens; NaN without.
        gate_ece: Expected calibration error of the same.
        gate_mean: Mean gate probability of the same.
        wrong_share: Share of those tokens that differ from the data.
    """

    loss: float
    gate_auroc: float
    gate_ece: float
    gate_mean: float
    wrong_share: float

    def to_dict(self) -> dict[str, float | None]:
        """The figures as JSON values, NaN as None."""
        return {k: None if math.isnan(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, figures: Mapping[str, float | None]) -> Validation:
        """The inverse of :meth:`to_dict`."""
        return cls(**{k: math.nan if v is None else v for k, v in figures.items()})


@torch.no_grad()
def validate(
    network: nn.Module,
    objective: Objective,
    corpus: TokenCorpus,
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> Validation:
    """Measure ``network`` on every row of ``corpus``.

    Args:
        network: Put into evaluation mode for the time of the call.
        objective: Its corruption and rollouts are used; not its weights.
        corpus: Held-out rows.
        batch_size: Rows at a time.
        seed: Of the masks and draws.
    """
    training = network.training
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    token_loss, probs, wrong = 0.0, [], []
    order = corpus.lengths.argsort(kind="stable")
    for start in range(0, len(corpus), batch_size):
        rows = [corpus[i] for i in order[start : start + batch_size]]
        ids, inside = (x.to(device) for x in collate(rows, objective.special.pad))
        plain = replace(objective, on_policy_share=0.0)
        token_loss += plain(network, ids, inside, generator).token.item() * len(rows)
        if objective.config.use_refine_gate:
            whole = replace(objective, on_policy_share=1.0)
            batch = whole.fill(whole.corrupt(ids, inside, generator), network, generator)
            gate = network(batch.canvas.ids, batch.canvas.attention_mask).gate_logits.sigmoid()
            probs.append(gate[batch.judged].float().cpu())
            wrong.append((batch.canvas.ids != batch.targets)[batch.judged].cpu())
    network.train(training)
    nothing = torch.zeros(0)
    p, y = torch.cat(probs or [nothing]), torch.cat(wrong or [nothing]).bool()
    return Validation(
        loss=token_loss / len(corpus),
        gate_auroc=area_under_roc(p, y),
        gate_ece=expected_calibration_error(p, y) if len(p) else math.nan,
        gate_mean=p.mean().item() if len(p) else math.nan,
        wrong_share=y.float().mean().item() if len(y) else math.nan,
    )
