"""Tokenizers: the contract of special ids, and three that learn their alphabet from a corpus.

The rest of the library needs a :class:`Tokenizer`: any Hugging Face tokenizer with a mask
token is one, and so are the built-in :class:`SelfiesTokenizer`, :class:`SmilesTokenizer` and
:class:`CharTokenizer`. :func:`special_ids` reads the ids that refinement depends on and
refuses a tokenizer that breaks the contract.
"""

from __future__ import annotations

import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, cast

from imadarem.checkpoint import load_json, save_json
from imadarem.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingExtraError,
    TokenizerError,
    nearest,
)

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "TOKENIZERS",
    "CharTokenizer",
    "CorpusTokenizer",
    "SelfiesTokenizer",
    "SmilesTokenizer",
    "SpecialIds",
    "Tokenizer",
    "load_tokenizer",
    "special_ids",
    "tokenizer_class",
]

FORMAT = "imadarem.tokenizer/1"
PAD, MASK, EOS = "<pad>", "<mask>", "</s>"
SPECIALS = (PAD, MASK, EOS)

# Schwaller et al., "Molecular Transformer", arXiv:1811.02633, section 3.
SMILES_PATTERN = (
    r"\[[^\]]+\]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$"
    r"|%[0-9]{2}|[0-9]"
)
SELFIES_PATTERN = r"\[[^\[\]]+\]|\."
# Not ".": a line break is a character too.
CHAR_PATTERN = r"[\s\S]"


class Tokenizer(Protocol):
    """What the library uses of a tokenizer; every Hugging Face tokenizer has it."""

    @property
    def mask_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, ids: Any, skip_special_tokens: bool = ...) -> str: ...
    def convert_ids_to_tokens(self, ids: Any) -> list[str]: ...
    def save_pretrained(self, save_directory: str | Path) -> Any: ...


# ---------------------------------------------------------------- the contract of special ids


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The token ids that refinement gives a meaning to.

    Args:
        mask: A blank; refinement starts from a canvas of them.
        pad: Fills a row after its end.
        eos: Ends a row; ``None`` where the tokenizer knows no end.
        banned: Sorted ids that must never stand in an output: every special id but ``eos``.
    """

    mask: int
    pad: int
    eos: int | None
    banned: tuple[int, ...]


def special_ids(tokenizer: object, vocab_size: int) -> SpecialIds:
    """The special ids of ``tokenizer``, checked against each other and ``vocab_size``.

    Any object with ``mask_token_id`` will do; a missing attribute counts as ``None``.
    ``pad_token_id`` falls back to 0 and ``eos_token_id`` to ``sep_token_id``, then to no end
    of sequence; each fallback warns.

    Raises:
        TokenizerError: There is no mask token; mask, pad and eos are not pairwise different;
            an id is no integer or lies outside ``0 .. vocab_size - 1``.
    """
    mask = _id(tokenizer, "mask_token_id")
    if mask is None:
        raise TokenizerError(
            "this tokenizer has no mask token, and refinement starts from one. Add it with "
            'tokenizer.add_special_tokens({"mask_token": "<mask>"}), or use '
            "SelfiesTokenizer.from_corpus(...), which defines it."
        )
    pad = _pad_or_zero(tokenizer)
    eos = _eos_or_sep(tokenizer)
    _refuse_collisions({"mask": mask, "pad": pad, "eos": eos})
    banned = ({mask, pad} | _other_special_ids(tokenizer)) - {eos}
    _refuse_out_of_range({"mask": [mask], "pad": [pad], "eos": [eos]}, vocab_size)
    _refuse_out_of_range({"special": sorted(banned)}, vocab_size)
    return SpecialIds(mask=mask, pad=pad, eos=eos, banned=tuple(sorted(banned)))


def _id(tokenizer: object, name: str) -> int | None:
    value = getattr(tokenizer, name, None)
    return None if value is None else _as_id(value, name)


def _as_id(value: object, name: str) -> int:
    # bool is an Integral: True would silently become token 1.
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TokenizerError(
            f"{name} is {value!r} ({type(value).__name__}); a token id is an integer. "
            "Set the tokenizer's special token to a token of its vocabulary."
        )
    return int(value)


def _pad_or_zero(tokenizer: object) -> int:
    pad = _id(tokenizer, "pad_token_id")
    if pad is not None:
        return pad
    warnings.warn(
        "this tokenizer has no pad token: id 0 is used for padding and will never stand in an "
        'output. Add one with tokenizer.add_special_tokens({"pad_token": "<pad>"}).',
        UserWarning,
        stacklevel=3,
    )
    return 0


def _eos_or_sep(tokenizer: object) -> int | None:
    eos = _id(tokenizer, "eos_token_id")
    if eos is not None:
        return eos
    sep = _id(tokenizer, "sep_token_id")
    taken = (
        "every output fills its canvas"
        if sep is None
        else f"its sep token (id {sep}) ends a sequence"
    )
    warnings.warn(
        f"this tokenizer has no eos token: {taken}. Add one with "
        'tokenizer.add_special_tokens({"eos_token": "</s>"}).',
        UserWarning,
        stacklevel=3,
    )
    return sep


def _other_special_ids(tokenizer: object) -> set[int]:
    """Ids of unk, bos, cls and sep, and all others that the tokenizer calls special."""
    names = ("unk_token_id", "bos_token_id", "cls_token_id", "sep_token_id")
    named = {_id(tokenizer, name) for name in names}
    listed = {
        _as_id(value, "an entry of all_special_ids")
        for value in getattr(tokenizer, "all_special_ids", None) or ()
        if value is not None
    }
    # Reserved tokens of a tokenizer.json are special without having a name.
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    reserved = {index for index, token in added.items() if getattr(token, "special", False)}
    return {value for value in named if value is not None} | listed | reserved


def _refuse_collisions(ids: dict[str, int | None]) -> None:
    roles: dict[int, list[str]] = {}
    for role, value in ids.items():
        if value is not None:
            roles.setdefault(value, []).append(role)
    for value, shared in roles.items():
        if len(shared) > 1:
            # The later role moves: eos may end texts elsewhere, pad is free to choose.
            mover = "pad" if "pad" in shared else shared[0]
            raise TokenizerError(
                f"{' and '.join(shared)} share the token id {value}; mask, pad and eos must "
                f"differ, or a blank, a filler and an end could not be told apart. Give {mover} "
                f'a token of its own: tokenizer.add_special_tokens({{"{mover}_token": '
                f'"<{mover}>"}}), and count it in vocab_size.'
            )


def _refuse_out_of_range(ids: dict[str, list[Any]], vocab_size: int) -> None:
    for role, values in ids.items():
        for value in values:
            if value is not None and not 0 <= value < vocab_size:
                raise TokenizerError(
                    f"the {role} id {value} lies outside the vocabulary of {vocab_size} tokens "
                    f"(legal: 0 to {vocab_size - 1}). Set vocab_size=len(tokenizer), which "
                    "counts added tokens."
                )


# ---------------------------------------------------------------- tokenizers from a corpus


class CorpusTokenizer(ABC):
    """A vocabulary learned from a corpus, one id per token, no unknown token.

    Ids 0, 1 and 2 are ``<pad>``, ``<mask>`` and ``</s>`` (end of sequence); the corpus'
    tokens follow in sorted order. A text's *notation* is the string that the tokens spell
    when joined: the text itself, except for :class:`SelfiesTokenizer`.

    Args:
        tokens: The vocabulary without the specials, in the order of the ids from 3 on.

    Raises:
        DataError: ``tokens`` is empty, has duplicates, holds a special token, or holds a lone
            surrogate.
    """

    notation: ClassVar[str]
    pattern: ClassVar[str]

    pad_token = PAD
    mask_token = MASK
    eos_token = EOS
    pad_token_id = 0
    mask_token_id = 1
    eos_token_id = 2
    all_special_ids = (0, 1, 2)

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens: list[str] = [*SPECIALS, *tokens]
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self._find = re.compile(self.pattern).findall
        if len(self.tokens) == len(SPECIALS):
            raise DataError(
                f"a {self.notation} vocabulary needs at least one token, and the corpus gave "
                "none. Pass at least one text that is not empty."
            )
        if len(self._ids) < len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if self._ids[t] != i)
            raise DataError(
                f"the token {twice!r} stands twice in the vocabulary. Each token needs one id; "
                f"{', '.join(SPECIALS)} are defined already."
            )
        try:
            "".join(self.tokens).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the vocabulary holds {error.object[error.start : error.end]!r}, half of a "
                "character, which no file can hold. Read the corpus with the encoding that it "
                "was written in."
            ) from None

    @classmethod
    def from_corpus(cls, texts: Iterable[str], *, notated: bool = False) -> Self:
        """Learn the vocabulary of ``texts``, the same one in whatever order they come.

        Args:
            texts: The corpus.
            notated: The texts already stand in the tokenizer's notation (SELFIES for
                :class:`SelfiesTokenizer`), as a cache of converted molecules does.

        Raises:
            DataError: The corpus is empty, or a text cannot be split into tokens.
        """
        if isinstance(texts, str):
            raise DataError(
                f"the corpus is one string, {_short(texts)!r}. Pass a list of texts, such as "
                f"{cls.__name__}.from_corpus([text])."
            )
        found: set[str] = set()
        for text in texts:
            found.update(cls.split(text if notated else cls.to_notation(text)))
        return cls(sorted(found))

    @classmethod
    @abstractmethod
    def to_notation(cls, text: str) -> str:
        """The string that the tokens of ``text`` spell."""

    @classmethod
    @abstractmethod
    def to_text(cls, notation: str) -> str:
        """The text that a notation stands for; undoes :meth:`to_notation`."""

    @classmethod
    def split(cls, notation: str) -> list[str]:
        """Split a notation into tokens, known or not, that join to it again.

        Raises:
            DataError: A part of it is no token of this notation.
        """
        tokens = re.findall(cls.pattern, notation)
        if "".join(tokens) != notation:
            raise DataError(_stray_part(notation, cls.pattern, cls.notation))
        return tokens

    def tokenize(self, text: str) -> list[str]:
        """The token strings of ``text``; :meth:`encode` gives their ids."""
        return self.split(self.to_notation(text))

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The ids of ``text``; with ``add_special_tokens`` an end of sequence closes them.

        Raises:
            DataError: ``text`` cannot be read, or has a token outside the vocabulary.
        """
        ids = self.encode_notation(self.to_notation(text))
        return [*ids, self.eos_token_id] if add_special_tokens else ids

    def encode_notation(self, notation: str) -> list[int]:
        """The ids of a text that already stands in the tokenizer's notation."""
        tokens = self._find(notation)
        try:
            ids = [self._ids[token] for token in tokens]
        except KeyError as missing:
            raise self._unknown(missing.args[0], notation) from None
        if sum(map(len, tokens)) != len(notation):
            raise DataError(_stray_part(notation, self.pattern, self.notation))
        return ids

    def encode_with_masks(self, notation: str) -> list[int]:
        """The ids of a notation in which each ``<mask>`` stands for one blank token.

        For :class:`SelfiesTokenizer` that is a SELFIES string, ``[C]<mask>[O]``, since a
        molecule with holes has no SELFIES of its own.
        """
        first, *others = map(self.encode_notation, notation.split(MASK))
        return first + [token for part in others for token in (self.mask_token_id, *part)]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``, a sequence, array or tensor of rank 1.

        Without ``skip_special_tokens`` the result shows the specials and stays in notation,
        because a SELFIES string with blanks is no molecule.

        Raises:
            DataError: An id lies outside the vocabulary, or the notation has no text.
        """
        notation = self.decode_notation(ids, skip_special_tokens)
        return self.to_text(notation) if skip_special_tokens else notation

    def decode_notation(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The tokens of ``ids`` joined, in the tokenizer's notation."""
        plain = _id_list(ids)
        if skip_special_tokens:
            plain = [index for index in plain if index not in self.all_special_ids]
        return "".join(self.convert_ids_to_tokens(plain))

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The token strings of ``ids``, specials included."""
        plain = _id_list(ids)
        for index in plain:
            if not 0 <= index < len(self.tokens):
                raise DataError(
                    f"the token id {index} is outside this vocabulary of {len(self.tokens)} "
                    f"tokens (legal: 0 to {len(self.tokens) - 1}). Decode with the tokenizer "
                    "that the model was trained with."
                )
        return [self.tokens[index] for index in plain]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of token strings, specials included.

        Raises:
            DataError: A token is not in the vocabulary.
        """
        try:
            return [self._ids[token] for token in tokens]
        except KeyError as missing:
            raise self._unknown(missing.args[0], " ".join(tokens)) from None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the three specials included."""
        return len(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tokens)"

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, each whole or not at all.

        ``transformers.AutoTokenizer`` reads the folder too. There the text is the notation:
        Hugging Face knows nothing of the step from SMILES to SELFIES.
        """
        folder = Path(save_directory)
        save_json(json.loads(self._backend().to_str()), folder / "tokenizer.json")
        # Last: a folder with a config is a folder that is complete.
        save_json(self._saved_config(), folder / "tokenizer_config.json")

    def _saved_config(self) -> dict[str, Any]:
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "mask_token": MASK,
            "eos_token": EOS,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "imadarem": {"format": FORMAT, "notation": self.notation},
        }

    def _backend(self) -> tokenizers.Tokenizer:
        """The same tokenizer in Rust: it splits at the pattern and looks each piece up."""
        from tokenizers import (
            AddedToken,
            Regex,
            decoders,
            models,
            pre_tokenizers,
            processors,
        )
        from tokenizers import Tokenizer as RustTokenizer

        backend = RustTokenizer(models.WordLevel(self._ids))
        # "isolated" keeps what the pattern does not match, so that it fails the look-up.
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(self.pattern), "isolated")
        backend.decoder = decoders.Fuse()
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {EOS}", pair=None, special_tokens=[(EOS, self.eos_token_id)]
        )
        backend.add_special_tokens([AddedToken(s, normalized=False) for s in SPECIALS])
        return backend

    def _unknown(self, token: str, notation: str) -> DataError:
        return DataError(
            f"the token {token!r} of {_short(notation)!r} is not among the {len(self)} tokens of "
            f"this {self.notation} vocabulary. Leave that text out, or build the tokenizer with "
            f"{type(self).__name__}.from_corpus(...) on a corpus that contains the token."
        )


class CharTokenizer(CorpusTokenizer):
    """One token per character (Unicode code point)."""

    notation = "char"
    pattern = CHAR_PATTERN

    @classmethod
    def to_notation(cls, text: str) -> str:
        return text

    @classmethod
    def to_text(cls, notation: str) -> str:
        return notation


class SmilesTokenizer(CorpusTokenizer):
    """One token per atom, bond, branch or ring closure of a SMILES.

    Source: Schwaller et al., arXiv:1811.02633. A decoded string is whatever the tokens
    spell; it need not be a molecule.
    """

    notation = "smiles"
    pattern = SMILES_PATTERN

    @classmethod
    def to_notation(cls, text: str) -> str:
        return text

    @classmethod
    def to_text(cls, notation: str) -> str:
        return notation


class SelfiesTokenizer(CorpusTokenizer):
    """One token per SELFIES symbol; texts go in and come out as SMILES.

    Every sequence of tokens decodes to a molecule. ``encode`` reads its text as SMILES
    without exception, since ``[Na+].[Cl-]`` looks like both; for SELFIES there is
    ``encode_notation``.

    Source: Krenn et al., arXiv:1905.13741, by the package ``selfies``.

    Raises:
        MissingExtraError: The package ``selfies`` is not installed.
    """

    notation = "selfies"
    pattern = SELFIES_PATTERN

    @classmethod
    def to_notation(cls, text: str) -> str:
        """SMILES → SELFIES.

        Raises:
            DataError: The SMILES cannot be parsed, or exceeds a valence.
        """
        selfies = _selfies()
        try:
            return str(selfies.encoder(text))
        # Over SMILES such as "N22" and "O:F" the encoder itself stumbles with a LookupError.
        except (selfies.EncoderError, LookupError) as error:
            raise DataError(
                f"the SMILES {_short(text)!r} has no SELFIES: {_reason(error)}. Mend it or "
                "leave it out."
            ) from None

    @classmethod
    def to_text(cls, notation: str) -> str:
        """SELFIES → SMILES, not canonical.

        Raises:
            DataError: The string holds a symbol that SELFIES does not define.
        """
        selfies = _selfies()
        try:
            return str(selfies.decoder(notation))
        except selfies.DecoderError as error:
            raise DataError(
                f"the SELFIES {_short(notation)!r} cannot be decoded: {_reason(error)}."
            ) from None


TOKENIZERS: dict[str, type[CorpusTokenizer]] = {
    "selfies": SelfiesTokenizer,
    "smiles": SmilesTokenizer,
    "char": CharTokenizer,
}


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


# ---------------------------------------------------------------- reading a saved tokenizer


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
            f"{name!r} holds no tokenizer that transformers can load: {_short(str(error), 200)} "
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


# ---------------------------------------------------------------- small parts


def _selfies() -> Any:
    try:
        import selfies
    except ImportError as error:
        raise MissingExtraError("selfies", "mol") from error
    return selfies


def _id_list(ids: Iterable[int]) -> list[int]:
    # tolist(): ten times as fast as item by item on an array or tensor.
    plain = ids.tolist() if hasattr(ids, "tolist") else ids
    return [int(index) for index in plain]


def _stray_part(notation: str, pattern: str, name: str) -> str:
    at = 0
    for match in re.finditer(pattern, notation):
        if match.start() != at:
            break
        at = match.end()
    return (
        f"{_short(notation)!r} is not {name} notation: no token starts at character {at + 1}, "
        f"{_short(notation[at:], 12)!r}. Mend it or leave it out."
    )


def _reason(error: Exception) -> str:
    """What selfies says is wrong, on one line: the parser's reason where there is one."""
    if isinstance(error, LookupError):
        return "its parser cannot read a bond or ring of it"
    text = str(error.__cause__ or error)
    parser_reason = re.search(r"Reason: *(.+)", text)
    if parser_reason:
        return parser_reason[1]
    # The input is quoted by the caller already.
    return " ".join(re.sub(r"(SMILES|SELFIES): .*", "", text).split())


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
