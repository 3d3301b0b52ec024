"""The contract of special ids: what refinement needs of a tokenizer, and the check of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import TokenizerError


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


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The token ids that refinement gives a meaning to.

    Args:
        mask: A blank; refinement starts from a canvas of them.
        pad: Fills a row after its end.
        eos: Ends a row; ``None`` where the tokenizer knows no end.
        banned: Sorted ids that must never stand in an output: every special id but ``eos``, and
            ids of the model for which the tokenizer has no token.
        nothing: What a blank of a hole of unknown length becomes where the hole has more blanks
            than tokens; dropped from outputs. ``None`` where the tokenizer has no such token.
    """

    mask: int
    pad: int
    eos: int | None
    banned: tuple[int, ...]
    nothing: int | None = None


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
    banned |= _ids_without_token(tokenizer, vocab_size)
    _refuse_out_of_range({"mask": [mask], "pad": [pad], "eos": [eos]}, vocab_size)
    _refuse_out_of_range({"special": sorted(banned)}, vocab_size)
    nothing = _id(tokenizer, "nothing_token_id")
    banned = banned if nothing is None else banned | {nothing}
    return SpecialIds(mask=mask, pad=pad, eos=eos, banned=tuple(sorted(banned)), nothing=nothing)


def model_ids(config: ImplicitRefinementConfig, tokenizer: object = None) -> SpecialIds:
    """The special ids of a model: by its tokenizer, or by its config where it has none.

    Raises:
        TokenizerError: See :func:`special_ids` and, for a pretrained backbone,
            :func:`fixed_vocabulary_ids`.
    """
    names = config if tokenizer is None else tokenizer
    if config.backbone is None:
        return special_ids(names, config.vocab_size)
    return fixed_vocabulary_ids(names, config.vocab_size, ends=config.length_mode == "eos")


def fixed_vocabulary_ids(tokenizer: object, vocab_size: int, *, ends: bool) -> SpecialIds:
    """The special ids of a pretrained model's tokenizer, whose vocabulary cannot change.

    Pad may be the same token as eos: the model never reads what lies under padding, and which
    positions those are is known from the canvas, not from the ids. A missing pad token is
    replaced by another special token for the same reason.

    Args:
        tokenizer: Any object with ``mask_token_id``.
        vocab_size: Of the model.
        ends: Whether the model writes an end of sequence where a row ends. Otherwise the length
            of a row is given, and no special token is ever written.

    Raises:
        TokenizerError: There is no mask token, it is another special token as well, or an id
            lies outside ``0 .. vocab_size - 1``.
    """
    mask = _id(tokenizer, "mask_token_id")
    if mask is None:
        raise TokenizerError(
            "this tokenizer has no mask token, and refinement starts from one. If the model was "
            "trained with one, name it: tokenizer.mask_token = '...'."
        )
    eos = _id(tokenizer, "eos_token_id")
    eos = _id(tokenizer, "sep_token_id") if eos is None else eos
    special = _other_special_ids(tokenizer)
    pad = _id(tokenizer, "pad_token_id")
    if pad is None:
        pad = min(special, default=mask) if eos is None else eos
    _refuse_collisions({"mask": mask, "eos": eos} if ends else {"mask": mask})
    banned = {mask, pad, eos} | special | _ids_without_token(tokenizer, vocab_size)
    never = {index for index in banned if index is not None and not (ends and index == eos)}
    _refuse_out_of_range({"mask": [mask], "special": sorted(never)}, vocab_size)
    nothing = _id(tokenizer, "nothing_token_id")
    return SpecialIds(
        mask=mask,
        pad=pad,
        eos=eos if ends else None,
        banned=tuple(sorted(never)),
        nothing=nothing,
    )


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
        "this tokenizer has no pad token: id 0 is used for padding and is never in an "
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


def _ids_without_token(tokenizer: object, vocab_size: int) -> set[int]:
    """Ids that pad a model's vocabulary to a round number, where the tokenizer lists its own."""
    vocabulary = getattr(tokenizer, "get_vocab", None)
    return set() if vocabulary is None else set(range(vocab_size)) - set(vocabulary().values())


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
                f"differ, or a blank, a filler and an end could not be distinguished. Give {mover} "
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
