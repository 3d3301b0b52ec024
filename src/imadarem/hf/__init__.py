"""Refiners behind the classes of Hugging Face transformers; the core knows nothing of them.

Importing this package registers the model type, after which the Auto classes read what
``ImplicitRefinementModel.save_pretrained`` wrote, and what they save the core reads::

    import imadarem.hf
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained("run/model")
    ids = model.generate(num_return_sequences=4, seed=0)
    texts = AutoTokenizer.from_pretrained("run/model").batch_decode(ids, skip_special_tokens=True)

The pipelines ``fill-mask`` and ``text-generation`` take the model as well. The latter continues a
text by ``max_new_tokens`` blanks; give it ``add_special_tokens=False`` where the tokenizer closes
texts with an end of sequence, as the built-in ones do.
"""

from __future__ import annotations

from imadarem.errors import MissingExtraError

try:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
except ImportError as error:
    raise MissingExtraError("transformers", "hf") from error

from imadarem.config import MODEL_TYPE
from imadarem.hf.config import ImadaremConfig
from imadarem.hf.model import ImadaremForMaskedLM
from imadarem.hf.outputs import ImadaremGenerateOutput, ImadaremMaskedLMOutput

__all__ = [
    "ImadaremConfig",
    "ImadaremForMaskedLM",
    "ImadaremGenerateOutput",
    "ImadaremMaskedLMOutput",
]

AutoConfig.register(MODEL_TYPE, ImadaremConfig)
AutoModelForMaskedLM.register(ImadaremConfig, ImadaremForMaskedLM)
# The pipeline "text-generation" looks a model up here.
AutoModelForCausalLM.register(ImadaremConfig, ImadaremForMaskedLM)
