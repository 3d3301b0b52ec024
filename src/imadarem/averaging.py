"""The EMA teacher of a model, and the model with its weights."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from imadarem.errors import ConfigError
from imadarem.growth import alike
from imadarem.nn import EmaTeacher

Model = TypeVar("Model", bound=nn.Module)


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
