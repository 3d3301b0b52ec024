"""GrokFast: a filter between clipping and stepping that amplifies slow gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from imadarem.errors import CheckpointError, ConfigError, TrainingError


class GrokFastEma:
    """Adds an exponential moving average of past gradients to each gradient.

    ::

        μ ← α·μ + (1 - α)·g
        g ← g + λ·μ

    The average μ starts at a parameter's first gradient, as in the authors' code, so the
    first filtered gradient is (1 + λ)·g; starting at zero would damp the first 1/(1 - α)
    steps instead. μ is kept by parameter name, in float32 at least.

    Once per optimiser step, in this order: unscale, clip, ``filter_``, step. Clipping after
    the filter would take back what it adds.

    Source: arXiv:2405.20233, the EMA variant. Own code: two of the optimisers that were tried
    change the learning rate or the weight decay on the side, and the one function that filters
    correctly keeps a NaN in μ for good and is no part of the core installation
    (``docs/lab/grokfast.md``); a test holds that we agree with it.

    Args:
        alpha: α, momentum of the average, from 0 to below 1.
        lamb: λ, weight of the average in the gradient, 0 or more; 0 changes no gradient.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(self, alpha: float = 0.98, lamb: float = 2.0) -> None:
        if not 0.0 <= alpha < 1.0:
            raise ConfigError(f"alpha={alpha} is out of range: legal is from 0 to below 1.")
        if not (math.isfinite(lamb) and lamb >= 0.0):
            raise ConfigError(f"lamb={lamb} must be a finite number of at least 0.")
        self.alpha = alpha
        self.lamb = lamb
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def filter_(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Filter all gradients in place; parameters without one are left alone.

        Args:
            named_parameters: ``model.named_parameters()``, of the bare model: a wrapper for
                several devices puts a prefix before the names.

        Raises:
            TrainingError: A gradient is not finite. Neither gradients nor averages have
                changed; the step should have been skipped before.
            CheckpointError: A loaded average does not have the shape of its parameter.
        """
        gradients = {name: p.grad for name, p in named_parameters if p.grad is not None}
        self._check(gradients)
        for name, gradient in gradients.items():
            exact = torch.promote_types(gradient.dtype, torch.float32)
            if name in self._means:
                mean = self._means[name].to(gradient.device)
                mean.lerp_(gradient.to(exact), 1.0 - self.alpha)
            else:
                mean = gradient.to(exact, copy=True)
            self._means[name] = mean
            gradient.add_(mean, alpha=self.lamb)

    def state_dict(self) -> dict[str, Any]:
        """The settings and a copy of the averages, by parameter name."""
        means = {name: mean.clone() for name, mean in self._means.items()}
        return {"alpha": self.alpha, "lamb": self.lamb, "means": means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`, to the bit.

        Raises:
            CheckpointError: The state was saved with other settings; nothing is loaded.
        """
        for name, ours in (("alpha", self.alpha), ("lamb", self.lamb)):
            if state[name] != ours:
                raise CheckpointError(
                    f"this GrokFast state was saved with {name}={state[name]}, and the filter "
                    f"has {name}={ours}. Resume with the saved value, or start a new run."
                )
        self._means = {name: mean.clone() for name, mean in state["means"].items()}

    def _check(self, gradients: Mapping[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            mean = self._means.get(name)
            if mean is not None and mean.shape != gradient.shape:
                raise CheckpointError(
                    f"the GrokFast average of {name} has shape {tuple(mean.shape)}, its gradient "
                    f"{tuple(gradient.shape)}: the state belongs to another model."
                )
        # One answer for all parameters: on a GPU every question asked makes it wait.
        finite = [gradient.isfinite().all() for gradient in gradients.values()]
        if finite and not bool(torch.stack(finite).all()):
            name = next(n for n, g in gradients.items() if not bool(g.isfinite().all()))
            raise TrainingError(
                f"the gradient of {name} is not finite and would stay in GrokFast's average. "
                "Skip the step before filtering."
            )
