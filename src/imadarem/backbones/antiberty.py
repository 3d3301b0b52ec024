"""AntiBERTy (arXiv:2112.07782): a masked language model of antibody sequences.

A BERT of 8 layers and 25.8 million parameters, trained on 558 million antibody sequences. Its
weights come in the wheel ``antiberty==0.1.3`` (MIT), which is only read as an archive; its sha256
is checked before anything in it is. A row is one chain, a letter for each amino acid.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from imadarem.backbones.masked_lm import import_transformers
from imadarem.data.wheels import Wheel

WHEEL = Wheel(
    requirement="antiberty==0.1.3",
    name="antiberty-0.1.3-py3-none-any.whl",
    sha256="30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
    otherwise="Fetch",
)
FOLDER = "antiberty/trained_models/"
MODEL = f"{FOLDER}AntiBERTy_md_smooth/"


def load_antiberty(cache_dir: str | Path | None = None) -> tuple[Any, Any]:
    """The model, a ``transformers.BertForMaskedLM``, and its tokenizer.

    Raises:
        DataError: The wheel cannot be had.
        MissingExtraError: transformers is not installed.
    """
    transformers = import_transformers()
    with zipfile.ZipFile(WHEEL.fetch(cache_dir)) as archive:
        settings = json.loads(archive.read(f"{MODEL}config.json"))
        vocabulary = archive.read(f"{FOLDER}vocab.txt").decode().split()
        # The hash of the whole wheel was right, and no pickled code runs in any case.
        stream = io.BytesIO(archive.read(f"{MODEL}pytorch_model.bin"))
        weights = torch.load(stream, map_location="cpu", weights_only=True)
    sizes = {key: value for key, value in settings.items() if not key.startswith("_")}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    wanted = model.state_dict().keys()
    fitting = {name: weight for name, weight in weights.items() if name in wanted}
    model.load_state_dict(fitting, strict=True)
    return model.eval(), amino_acid_tokenizer(vocabulary)


def amino_acid_tokenizer(vocabulary: list[str]) -> Any:
    """A tokenizer of transformers that reads a letter as a token, ``[CLS]`` and ``[SEP]`` around.

    Args:
        vocabulary: Tokens in the order of their ids, ``[PAD]``, ``[UNK]``, ``[CLS]``, ``[SEP]``
            and ``[MASK]`` among them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    ids = {token: index for index, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
    backend.decoder = decoders.Fuse()
    around = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=around
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    fast = import_transformers().PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, model_max_length=512, **special)
