"""The built-in tokenizers by name, and reading a saved one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from imadarem.checkpoint import load_json
from imadarem.errors import CheckpointError, ConfigError, MissingExtraError, nearest
from imadarem.tokenizers.contract import Tokenizer
from imadarem.tokenizers.corpus import (
    FORMAT,
    SPECIALS,
    CharTokenizer,
    CorpusTokenizer,
    shortened,
)
from imadarem.tokenizers.molecules import SelfiesTokenizer, SmilesTokenizer
from imadarem.tokenizers.safe import SafeTokenizer

__all__ = ["MOLECULE_NOTATIONS", "TOKENIZERS", "load_tokenizer", "tokenizer_class"]

TOKENIZERS: dict[str, type[CorpusTokenizer]] = {
    "selfies": SelfiesTokenizer,
    "smiles": SmilesTokenizer,
    "safe": SafeTokenizer,
    "char": CharTokenizer,
}
MOLECULE_NOTATIONS = ("selfies", "smiles", "safe")
"""The notations whose texts are molecules, as SMILES."""


def tokenizer_class(notation: str) -> type[CorpusTokenizer]:
    """The built-in tokenizer of a notation.

    Raises:
        ConfigError: ``notation`` is not a key of :data:`TOKENIZERS`.
    """
    if notation not in TOKENIZERS:
        legal = ", ".join(TOKENIZERS)
        raise ConfigError(
            f"unknown tokenizer {notation!r}{nearest(notation, TOKENIZERS)}. Choose one of {legal}."
        )
    return TOKENIZERS[notation]


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Load what ``save_pretrained`` wrote, here or in ``transformers``.

    Args:
        directory: A folder, which is read without any network, or the name of a tokenizer
            on the Hugging Face hub, such as ``"owner/name"``.

    Raises:
        CheckpointError: There is no such folder, or its files are missing or damaged.
        MissingExtraError: It is a Hugging Face tokenizer and ``transformers`` is missing.
    """
    folder = Path(directory)
    if folder.is_dir():
        return _built_in(folder) if _is_built_in(folder) else _hugging_face(str(folder), local=True)
    if isinstance(directory, Path) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", directory):
        raise CheckpointError(
            f"there is no folder {str(directory)!r}. Give the folder that save_pretrained wrote."
        )
    return _hugging_face(directory, local=False)


def _is_built_in(folder: Path) -> bool:
    file = folder / "tokenizer_config.json"
    # Some Hugging Face folders say everything in the model's config.json.
    if not file.exists() and (folder / "config.json").exists():
        return False
    return "imadarem" in _read_object(file)


def _built_in(folder: Path) -> CorpusTokenizer:
    marker = _read_object(folder / "tokenizer_config.json")["imadarem"]
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        raise _damaged(folder / "tokenizer_config.json", f"its format is not {FORMAT!r}")
    notation = str(marker.get("notation"))
    if notation not in TOKENIZERS:
        legal = ", ".join(TOKENIZERS)
        reason = f"its notation is {notation!r}{nearest(notation, TOKENIZERS)}, not one of {legal}"
        raise _damaged(folder / "tokenizer_config.json", reason)
    return TOKENIZERS[notation](_vocabulary(folder / "tokenizer.json")[len(SPECIALS) :])


def _vocabulary(file: Path) -> list[str]:
    """The tokens of a ``tokenizer.json`` in the order of their ids, the specials first."""
    model = _read_object(file).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        raise _damaged(file, "it has no vocabulary")
    if sorted(map(str, vocabulary.values())) != sorted(map(str, range(len(vocabulary)))):
        raise _damaged(file, "its ids are not 0, 1, 2, ... without a gap")
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if tuple(tokens[: len(SPECIALS)]) != SPECIALS or len(tokens) == len(SPECIALS):
        raise _damaged(file, f"{', '.join(SPECIALS)} must be followed by at least one token")
    return tokens


def _hugging_face(name: str, *, local: bool) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    try:
        return cast(Tokenizer, AutoTokenizer.from_pretrained(name, local_files_only=local))
    # transformers and the Rust side raise what they like for a damaged file, bare Exception too.
    except Exception as error:
        raise CheckpointError(
            f"{name!r} holds no tokenizer that transformers can load: {shortened(str(error), 200)} "
            "Check the name, or write the folder again with save_pretrained."
        ) from error


def _read_object(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise CheckpointError(
            f"{str(file.parent)!r} is no tokenizer: {file.name} is missing. Give the folder that "
            "save_pretrained wrote."
        )
    content = load_json(file)
    if not isinstance(content, dict):
        raise _damaged(file, "it is not a JSON object")
    return content


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{str(file)!r} is damaged: {reason}. Save the tokenizer again with save_pretrained, or "
        "fetch the folder again."
    )
