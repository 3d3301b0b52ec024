"""The network: a backbone, heads on its states, and the EMA copy that judges."""

from imadarem.nn.ema import EmaTeacher
from imadarem.nn.network import RefinementNetwork
from imadarem.nn.output import BackboneOutput, RefinementOutput
from imadarem.nn.transformer import RefinementTransformer

__all__ = [
    "BackboneOutput",
    "EmaTeacher",
    "RefinementNetwork",
    "RefinementOutput",
    "RefinementTransformer",
]
