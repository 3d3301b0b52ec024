"""The network: a backbone, heads on its states, and the EMA copy that judges."""

from imadarem.nn.ema import EmaTeacher
from imadarem.nn.network import RefinementNetwork, RefinementOutput
from imadarem.nn.transformer import BackboneOutput, RefinementTransformer

__all__ = [
    "BackboneOutput",
    "EmaTeacher",
    "RefinementNetwork",
    "RefinementOutput",
    "RefinementTransformer",
]
