"""The built-in tokenizers by name, and reading a saved one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from imadarem.config import MODEL_TYPE
from imadarem.errors import CheckpointError, ConfigError, DataError, MissingExtraError, nearest
from imadarem.files import load_json
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

TOKENIZERS: dict[str, type[CorpusTokenizer]] = {
    "selfies": SelfiesTokenizer,
    "smiles": SmilesTokenizer,
    "safe": SafeTokenizer,
    "char": CharTokenizer,
}
#: The files that a tokenizer is read from.
FILES = (
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model",
)  # fmt: skip
#: Bytes that each of them may have in any case, and more for each token.
FILE_BYTES, TOKEN_BYTES = 1 << 20, 512
#: Bytes of the largest file of a built-in tokenizer.
BUILT_IN_BYTES = 16 << 20
#: Tokens that these bytes are reckoned for where no model says how many there are.
MAX_TOKENS = 1 << 18
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


def load_tokenizer(directory: str | Path, vocab_size: int | None = None) -> Tokenizer:
    """Load what ``save_pretrained`` wrote, here or in ``transformers``.

    Args:
        directory: A folder, which is read without any network, or the name of a tokenizer
            on the Hugging Face hub, such as ``"owner/name"``.
        vocab_size: Of the model that the folder is of. A built-in tokenizer must have as many
            tokens; one of Hugging Face may have fewer, as those models are often padded to a
            round number of tokens. None expects nothing.

    Raises:
        CheckpointError: There is no such folder, its files are missing, damaged or too large,
            or the tokenizer does not fit ``vocab_size``.
        MissingExtraError: It is a Hugging Face tokenizer and ``transformers`` is missing.
    """
    folder = Path(directory)
    if folder.is_dir():
        _check_file_sizes(folder, vocab_size)
        built_in = _is_built_in(folder)
        found = _built_in(folder) if built_in else _hugging_face(str(folder), local=True)
        if vocab_size is not None:
            _check_tokens(folder, found, vocab_size, exactly=built_in)
        return found
    if isinstance(directory, Path) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", directory):
        raise CheckpointError(
            f"there is no folder {str(directory)!r}. Give the folder that save_pretrained wrote."
        )
    return _hugging_face(directory, local=False)


def _check_file_sizes(folder: Path, vocab_size: int | None) -> None:
    """Refuse files that are far too large for their number of tokens, before reading them."""
    tokens = MAX_TOKENS if vocab_size is None else vocab_size
    limit = FILE_BYTES + TOKEN_BYTES * tokens
    for file in (folder / name for name in FILES):
        size = file.stat().st_size if file.is_file() else 0
        if size > limit:
            raise CheckpointError(
                f"{str(file)!r} has {size} bytes, which is too large to load: legal for a "
                f"vocabulary of {tokens} tokens is at most {limit}."
            )


def _check_tokens(folder: Path, tokenizer: Any, vocab_size: int, exactly: bool) -> None:
    size = len(tokenizer)
    if size > vocab_size or (exactly and size < vocab_size):
        raise CheckpointError(
            f"the tokenizer in {str(folder)!r} has {size} tokens and its model "
            f"vocab_size={vocab_size}: they do not belong together. Fetch or save them again."
        )


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
    tokens = _vocabulary(folder / "tokenizer.json")[len(SPECIALS) :]
    try:
        return TOKENIZERS[notation](tokens)
    except DataError as error:
        raise _damaged(folder / "tokenizer.json", str(error).rstrip(".")) from None


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
        from transformers import AutoTokenizer, PreTrainedConfig
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    # transformers warns of a config.json that it does not know, and only looks for a class in it.
    ours = local and _is_our_config(Path(name) / "config.json")
    given = {"config": PreTrainedConfig()} if ours else {}
    try:
        return cast(Tokenizer, AutoTokenizer.from_pretrained(name, local_files_only=local, **given))
    # transformers and the Rust side raise what they like for a damaged file, bare Exception too.
    except Exception as error:
        raise CheckpointError(
            f"{name!r} holds no tokenizer that transformers can load: {shortened(str(error), 200)} "
            "Check the name, or write the folder again with save_pretrained."
        ) from error


def _is_our_config(file: Path) -> bool:
    return file.exists() and _read_object(file).get("model_type") == MODEL_TYPE


def _read_object(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise CheckpointError(
            f"{str(file.parent)!r} is no tokenizer: {file.name} is missing. Give the folder that "
            "save_pretrained wrote."
        )
    content = load_json(file, max_bytes=BUILT_IN_BYTES)
    if not isinstance(content, dict):
        raise _damaged(file, "it is not a JSON object")
    return content


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{str(file)!r} is damaged: {reason}. Save the tokenizer again with save_pretrained, or "
        "fetch the folder again."
    )
