"""The network: embeddings, blocks, heads, and the transformer that joins them."""

from imadarem.nn.ema import EmaTeacher
from imadarem.nn.transformer import RefinementOutput, RefinementTransformer

__all__ = ["EmaTeacher", "RefinementOutput", "RefinementTransformer"]
