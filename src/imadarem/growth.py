"""Models made of a model: its EMA average, or a larger one (tokens, blocks, positions, a judge)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, TokenizerError
from imadarem.nn import EmaTeacher
from imadarem.nn.ema import frozen_shared
from imadarem.tokenizers import MOLECULE_NOTATIONS
from imadarem.tokenizers.relatives import known_token

Model = TypeVar("Model", bound=nn.Module)

#: Nats below the mean token at which one that is new to a model starts.
RARE = 4.0


def with_vocabulary(model: Model, tokenizer: Any = None, *, vocab_size: int | None = None) -> Model:
    """A model with these weights for a tokenizer with further tokens behind the known ones.

    A further token of molecules starts as its nearest known one (``[C@H]`` as ``C``), others as the
    mean of the known ones, and all as tokens that are hardly ever drawn. The teacher is left
    behind.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        tokenizer: Knows at least the tokens of the model, under the same ids; see
            :meth:`~imadarem.tokenizers.CorpusTokenizer.extended`. None leaves the model without
            one, with the same special ids.
        vocab_size: Number of tokens; default ``len(tokenizer)``.

    Raises:
        TokenizerError: There are fewer tokens than the model has, or another mask token.
    """
    old: Any = model
    known, special = old.config.vocab_size, old.special
    size = len(tokenizer) if vocab_size is None else vocab_size
    mask = special.mask if tokenizer is None else tokenizer.mask_token_id
    if size < known or mask != special.mask:
        raise TokenizerError(
            f"this tokenizer has {size} tokens and its mask is {mask}; the model has {known} and "
            f"{special.mask}. Extend the model's own tokenizer, or train a new model."
        )
    config = replace(old.config, vocab_size=size)
    grown = _grown(old, config, tokenizer, _relatives(tokenizer, known))
    if tokenizer is None:
        grown.special = special
    return grown


def enlarged(
    model: Model,
    *,
    num_layers: int | None = None,
    max_seq_len: int | None = None,
    joint_size: int | None = None,
) -> Model:
    """A model with these weights and more blocks, a longer canvas or a larger joint head.

    Further blocks come behind the others and start as the identity, and further units of the
    joint head change nothing yet, so the model computes the same until it is trained. A position
    that is new to it starts like the last known one. The teacher is left behind.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        num_layers: At least the present number; None keeps it.
        max_seq_len: The same, of the longest canvas.
        joint_size: The same, of the hidden units of the joint head.
    """
    old: Any = model
    given = {"num_layers": num_layers, "max_seq_len": max_seq_len, "joint_size": joint_size}
    sizes = {name: size for name, size in given.items() if size is not None}
    for name, size in sizes.items():
        if size < getattr(old.config, name):
            raise ConfigError(
                f"{name}={size} is less than the {getattr(old.config, name)} of this model, and a "
                "model can only be enlarged. Train a new one."
            )
    return _grown(old, replace(old.config, **sizes), old.tokenizer)


def with_config(model: Model, config: ImplicitRefinementConfig) -> Model:
    """A model with these weights under other settings of the same network.

    Heads that are new start untrained; the teacher is left behind.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        config: The new settings.
    """
    old: Any = model
    return _grown(old, config, old.tokenizer)


def with_judge(model: Model) -> Model:
    """A model with these weights and an untrained judge; the teacher is left behind.

    It is trained by ``scripts/train_judge.py``.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
    """
    old: Any = model
    return _grown(old, replace(old.config, judge=True), old.tokenizer)


def _relatives(tokenizer: Any, known: int) -> list[int | None]:
    """Of each token behind the first ``known``: the id of the nearest of those, or None."""
    notation = getattr(tokenizer, "notation", None)
    if notation not in MOLECULE_NOTATIONS:
        return []
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    ids = {token: number for number, token in enumerate(tokens[:known])}
    near = (known_token(token, frozenset(ids), notation) for token in tokens[known:])
    return [ids.get(token or "") for token in near]


def _grown(
    old: Any,
    config: ImplicitRefinementConfig,
    tokenizer: Any,
    relatives: Sequence[int | None] = (),
) -> Any:
    model = alike(old, config, tokenizer)
    weights = grown_weights(old.student_weights(), model.student_weights(), relatives)
    model.load_state_dict(weights)
    return model


def alike(old: Any, config: ImplicitRefinementConfig, tokenizer: Any) -> Any:
    """A model of these settings; of a pretrained backbone a copy, its frozen weights shared.

    Args:
        old: An :class:`~imadarem.ImplicitRefinementModel`.
        config: Of the new model.
        tokenizer: Of the new model.
    """
    if config.backbone is None:
        return type(old)(config, tokenizer=tokenizer)
    for name in ("vocab_size", "num_layers", "max_seq_len"):
        if getattr(old.config, name) != getattr(config, name):
            raise ConfigError(
                f"{name}={getattr(config, name)}: the backbone of this model is pretrained and "
                f"keeps its {getattr(old.config, name)}. Enlarge it with transformers, train it, "
                "and call from_masked_lm() again."
            )
    backbone: Any = frozen_shared(old.network.backbone)
    backbone.config = config
    return type(old)(config, tokenizer=tokenizer, backbone=backbone)


def grown_weights(
    trained: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    relatives: Sequence[int | None] = (),
) -> dict[str, Tensor]:
    """The weights of a trained model put into those of a larger one.

    What is new to the model is as its initialisation made it: a block is the identity. A new
    position starts like the last known one. A new token starts as a relative or the mean of the
    known ones, and as one that is hardly ever drawn. New units of the joint head read the old ones,
    and nothing reads them yet.

    Args:
        trained: State of the model, without its teacher.
        fresh: State of a new, larger model by the same names.
        relatives: The known token that each new one starts as; None or none: the mean.

    Returns:
        A weight for each name of ``fresh``.
    """
    grown = {}
    for name, new in fresh.items():
        old = trained.get(name, new)
        if old.shape == new.shape:
            grown[name] = old
        elif name.endswith("positions.decay"):
            grown[name] = torch.cat([old, old[-1:].expand(len(new) - len(old))])
        elif "joint.recurrence" in name or old.shape[0] == new.shape[0]:
            grown[name] = _more_units(old, new, gates=3 if "recurrence" in name else 1)
        else:
            mean = old.mean(dim=0)
            count = len(new) - len(old)
            near = [*relatives, *[None] * (count - len(relatives))]
            further = torch.stack([mean if i is None else old[i] for i in near])
            rarer = RARE if name.endswith("to_logits.bias") else 0.0
            grown[name] = torch.cat([old, further - rarer])
    return grown


def _more_units(old: Tensor, new: Tensor, gates: int) -> Tensor:
    """A weight of the joint head; a recurrence stacks three gates over its units."""
    grown, known = new.clone().unflatten(0, (gates, -1)), old.unflatten(0, (gates, -1))
    rows = known.shape[1]
    if old.dim() == 2:
        grown[:, :rows, known.shape[2] :] = 0.0
        grown[:, :rows, : known.shape[2]] = known
    else:
        grown[:, :rows] = known
    return grown.flatten(0, 1)


def init_teacher(model: Any) -> None:
    """Make the EMA teacher, or start it anew, from the present weights.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
    """
    model.teacher = EmaTeacher(model.network, model.config.ema_decay)


def update_teacher(model: Any, decay: float | None = None) -> None:
    """Move the teacher towards the present weights: ``θ' ← d·θ' + (1 - d)·θ``.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        decay: ``d``; default ``ema_decay``.
    """
    if model.teacher is None:
        raise ConfigError("there is no teacher to update; call init_teacher() first.")
    model.teacher.update(model.student_parameters(), decay)


def averaged(model: Model) -> Model:
    """A model with the teacher's weights and no teacher of its own, for evaluation.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
    """
    student: Any = model
    if student.teacher is None:
        raise ConfigError("there is no teacher to take weights from; call init_teacher().")
    found = alike(student, student.config, student.tokenizer)
    found.network.load_state_dict(student.teacher.network.state_dict())
    steady: Model = found.to(next(student.parameters()).device).eval()
    return steady
