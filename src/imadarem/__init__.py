"""Imadarem: masked-refinement language models.

Start from a canvas of blanks, fill it in a few parallel passes of a small shared
transformer, and let a learned gate decide which tokens to predict again.

    from imadarem import ImplicitRefinementModel

    model = ImplicitRefinementModel.from_pretrained("default")
    samples = model.sample(8, seed=0)
    print(samples.texts)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name → module. Resolved on first use: importing the package loads no torch.
_EXPORTS = {
    "CharTokenizer": "imadarem.tokenizers",
    "ImadaremError": "imadarem.errors",
    "ImplicitRefinementConfig": "imadarem.config",
    "ImplicitRefinementModel": "imadarem.model",
    "MaskedTraining": "imadarem.training.masked",
    "MemoryBank": "imadarem.orchestrator.memory",
    "OrchestrationConfig": "imadarem.orchestrator.config",
    "SafeTokenizer": "imadarem.tokenizers",
    "SelfiesTokenizer": "imadarem.tokenizers",
    "SmilesTokenizer": "imadarem.tokenizers",
    "Trainer": "imadarem.training.trainer",
    "TrainingConfig": "imadarem.training.trainer",
    "UnifiedRefinerOrchestrator": "imadarem.orchestrator.orchestrator",
    "UnrolledTraining": "imadarem.training.unrolled",
}

__all__ = [  # noqa: F822 (resolved by __getattr__)
    "CharTokenizer",
    "ImadaremError",
    "ImplicitRefinementConfig",
    "ImplicitRefinementModel",
    "MaskedTraining",
    "MemoryBank",
    "OrchestrationConfig",
    "SafeTokenizer",
    "SelfiesTokenizer",
    "SmilesTokenizer",
    "Trainer",
    "TrainingConfig",
    "UnifiedRefinerOrchestrator",
    "UnrolledTraining",
    "__version__",
]

if TYPE_CHECKING:
    from imadarem.config import ImplicitRefinementConfig as ImplicitRefinementConfig
    from imadarem.errors import ImadaremError as ImadaremError
    from imadarem.model import ImplicitRefinementModel as ImplicitRefinementModel
    from imadarem.orchestrator.config import OrchestrationConfig as OrchestrationConfig
    from imadarem.orchestrator.memory import MemoryBank as MemoryBank
    from imadarem.orchestrator.orchestrator import (
        UnifiedRefinerOrchestrator as UnifiedRefinerOrchestrator,
    )
    from imadarem.tokenizers import CharTokenizer as CharTokenizer
    from imadarem.tokenizers import SafeTokenizer as SafeTokenizer
    from imadarem.tokenizers import SelfiesTokenizer as SelfiesTokenizer
    from imadarem.tokenizers import SmilesTokenizer as SmilesTokenizer
    from imadarem.training.masked import MaskedTraining as MaskedTraining
    from imadarem.training.trainer import Trainer as Trainer
    from imadarem.training.trainer import TrainingConfig as TrainingConfig
    from imadarem.training.unrolled import UnrolledTraining as UnrolledTraining


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'imadarem' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
