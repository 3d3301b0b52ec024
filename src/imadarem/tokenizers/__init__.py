"""Tokenizers: the contract of special ids, and four that learn their alphabet from a corpus.

The rest of the library needs a :class:`Tokenizer`: any Hugging Face tokenizer with a mask
token is one, and so are the built-in :class:`SelfiesTokenizer`, :class:`SmilesTokenizer`,
:class:`SafeTokenizer` and :class:`CharTokenizer`. :func:`special_ids` reads the ids that
refinement depends on and refuses a tokenizer that breaks the contract.
"""

from imadarem.tokenizers.contract import SpecialIds, Tokenizer, model_ids, special_ids
from imadarem.tokenizers.corpus import MASK, CharTokenizer, CorpusTokenizer
from imadarem.tokenizers.molecules import SelfiesTokenizer, SmilesTokenizer
from imadarem.tokenizers.prompts import encode_prompt, mask_spelling
from imadarem.tokenizers.safe import SafeTokenizer, to_safe
from imadarem.tokenizers.saved import (
    MOLECULE_NOTATIONS,
    TOKENIZERS,
    load_tokenizer,
    tokenizer_class,
)

__all__ = [
    "MASK",
    "MOLECULE_NOTATIONS",
    "TOKENIZERS",
    "CharTokenizer",
    "CorpusTokenizer",
    "SafeTokenizer",
    "SelfiesTokenizer",
    "SmilesTokenizer",
    "SpecialIds",
    "Tokenizer",
    "encode_prompt",
    "load_tokenizer",
    "mask_spelling",
    "model_ids",
    "special_ids",
    "to_safe",
    "tokenizer_class",
]
