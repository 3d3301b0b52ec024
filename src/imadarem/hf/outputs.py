"""What the forward pass and ``generate`` return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput


@dataclass
class ImadaremMaskedLMOutput(MaskedLMOutput):
    """``loss`` and ``logits`` of a masked language model, and the gate.

    Args:
        gate_logits: ``(B, L)``, logit that the token standing there should be predicted
            again; calibrated where the model's gate was.
    """

    gate_logits: Tensor | None = None


@dataclass
class ImadaremGenerateOutput(ModelOutput):
    """What ``generate(return_dict_in_generate=True)`` returns, ``N`` rows.

    Args:
        sequences: ``(N, L)`` token ids, padded on the right.
        forward_passes: ``(N,)`` passes that each row cost, the teacher's included.
        stopping_reasons: Why each row took no further step.
    """

    sequences: Tensor | None = None
    forward_passes: Tensor | None = None
    stopping_reasons: list[str] | None = None
