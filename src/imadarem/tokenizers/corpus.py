"""Tokenizers that learn their alphabet from a corpus: one id per token, no unknown token."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from imadarem.errors import DataError
from imadarem.files import save_json

if TYPE_CHECKING:
    import tokenizers

FORMAT = "imadarem.tokenizer/1"
PAD, MASK, EOS = "<pad>", "<mask>", "</s>"
SPECIALS = (PAD, MASK, EOS)
#: Stands for no token at all, in holes of unknown length; a vocabulary may have it or not.
NOTHING = "<none>"

# Not ".": a line break is a character too.
CHAR_PATTERN = r"[\s\S]"


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

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens: list[str] = [*SPECIALS, *tokens]
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self._find = re.compile(self.pattern).findall
        #: Id of the token that stands for nothing; None where the vocabulary lacks it.
        self.nothing_token_id: int | None = self._ids.get(NOTHING)
        further = () if self.nothing_token_id is None else (self.nothing_token_id,)
        self.all_special_ids: tuple[int, ...] = (0, 1, 2, *further)
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
                f"the corpus is one string, {shortened(texts)!r}. Pass a list of texts, such as "
                f"{cls.__name__}.from_corpus([text])."
            )
        found: set[str] = set()
        for text in texts:
            found.update(cls.split(text if notated else cls.to_notation(text)))
        return cls(sorted(found))

    def extended(self, tokens: Iterable[str]) -> Self:
        """The same vocabulary with further tokens behind it, in the order given.

        Ids stay as they are, so a model of this vocabulary can learn the further ones:
        :meth:`~imadarem.ImplicitRefinementModel.with_vocabulary`. Known tokens are passed over.
        """
        further = [token for token in dict.fromkeys(tokens) if token not in self._ids]
        return type(self)([*self.tokens[len(SPECIALS) :], *further])

    def with_nothing(self) -> Self:
        """The same vocabulary with the token ``<none>``, which holes of unknown length need."""
        return self.extended([NOTHING])

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
        specials = self.convert_ids_to_tokens(self.all_special_ids)
        backend.add_special_tokens([AddedToken(s, normalized=False) for s in specials])
        return backend

    def _unknown(self, token: str, notation: str) -> DataError:
        return DataError(
            f"the token {token!r} of {shortened(notation)!r} is not among the {len(self)} tokens "
            f"of this {self.notation} vocabulary. Leave that text out, or build the tokenizer "
            f"with {type(self).__name__}.from_corpus(...) on a corpus that contains the token."
        )


class CharTokenizer(CorpusTokenizer):
    """A tokenizer with one token per character (Unicode code point)."""

    notation = "char"
    pattern = CHAR_PATTERN

    @classmethod
    def to_notation(cls, text: str) -> str:
        return text

    @classmethod
    def to_text(cls, notation: str) -> str:
        return notation


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
        f"{shortened(notation)!r} is not {name} notation: no token starts at character {at + 1}, "
        f"{shortened(notation[at:], 12)!r}. Correct it or leave it out."
    )


def shortened(text: str, limit: int = 60) -> str:
    """``text`` for a message: cut where it is longer than ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
