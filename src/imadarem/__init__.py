"""Imadarem: masked-refinement language models.

Start from a canvas of blanks, fill it in a few parallel passes of a small shared
transformer, and let a learned gate decide which tokens to predict again.

    from imadarem import ImplicitRefinementModel

    model = ImplicitRefinementModel.from_pretrained("smiles")
    samples = model.sample(8, seed=0)
    print(samples.texts)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name → module. Resolved on first use: importing the package loads no torch.
_EXPORTS = {
    "Canvas": "imadarem.canvas",
    "CharTokenizer": "imadarem.tokenizers",
    "Decision": "imadarem.sampling.policy",
    "FragmentTask": "imadarem.design.completion",
    "ImadaremError": "imadarem.errors",
    "ImplicitRefinementConfig": "imadarem.config",
    "ImplicitRefinementModel": "imadarem.model",
    "Judgement": "imadarem.evaluation.judgement",
    "MaskedTraining": "imadarem.training.masked",
    "MemoryBank": "imadarem.orchestrator.memory",
    "OrchestrationConfig": "imadarem.orchestrator.config",
    "PassView": "imadarem.sampling.policy",
    "Policy": "imadarem.sampling.policy",
    "Reference": "imadarem.evaluation.molecules",
    "Repair": "imadarem.repair",
    "SafeTokenizer": "imadarem.tokenizers",
    "Samples": "imadarem.sampling.batching",
    "SamplingSettings": "imadarem.sampling.settings",
    "SelfiesTokenizer": "imadarem.tokenizers",
    "SmilesTokenizer": "imadarem.tokenizers",
    "Trainer": "imadarem.training.trainer",
    "TrainingConfig": "imadarem.training.trainer",
    "UnifiedRefinerOrchestrator": "imadarem.orchestrator.orchestrator",
    "UnrolledTraining": "imadarem.orchestrator.training",
    "analogues": "imadarem.design.analogues",
    "evaluate_molecules": "imadarem.evaluation.molecules",
    "likelihood_bound": "imadarem.evaluation.likelihood",
    "load_task": "imadarem.data.task_registry",
}

__all__ = [  # noqa: F822 (resolved by __getattr__)
    "Canvas",
    "CharTokenizer",
    "Decision",
    "FragmentTask",
    "ImadaremError",
    "ImplicitRefinementConfig",
    "ImplicitRefinementModel",
    "Judgement",
    "MaskedTraining",
    "MemoryBank",
    "OrchestrationConfig",
    "PassView",
    "Policy",
    "Reference",
    "Repair",
    "SafeTokenizer",
    "Samples",
    "SamplingSettings",
    "SelfiesTokenizer",
    "SmilesTokenizer",
    "Trainer",
    "TrainingConfig",
    "UnifiedRefinerOrchestrator",
    "UnrolledTraining",
    "__version__",
    "analogues",
    "evaluate_molecules",
    "likelihood_bound",
    "load_task",
]

if TYPE_CHECKING:
    from imadarem.canvas import Canvas as Canvas
    from imadarem.config import ImplicitRefinementConfig as ImplicitRefinementConfig
    from imadarem.data.task_registry import load_task as load_task
    from imadarem.design.analogues import analogues as analogues
    from imadarem.design.completion import FragmentTask as FragmentTask
    from imadarem.errors import ImadaremError as ImadaremError
    from imadarem.evaluation.judgement import Judgement as Judgement
    from imadarem.evaluation.likelihood import likelihood_bound as likelihood_bound
    from imadarem.evaluation.molecules import Reference as Reference
    from imadarem.evaluation.molecules import evaluate_molecules as evaluate_molecules
    from imadarem.model import ImplicitRefinementModel as ImplicitRefinementModel
    from imadarem.orchestrator.config import OrchestrationConfig as OrchestrationConfig
    from imadarem.orchestrator.memory import MemoryBank as MemoryBank
    from imadarem.orchestrator.orchestrator import (
        UnifiedRefinerOrchestrator as UnifiedRefinerOrchestrator,
    )
    from imadarem.orchestrator.training import UnrolledTraining as UnrolledTraining
    from imadarem.repair import Repair as Repair
    from imadarem.sampling.batching import Samples as Samples
    from imadarem.sampling.policy import Decision as Decision
    from imadarem.sampling.policy import PassView as PassView
    from imadarem.sampling.policy import Policy as Policy
    from imadarem.sampling.settings import SamplingSettings as SamplingSettings
    from imadarem.tokenizers import CharTokenizer as CharTokenizer
    from imadarem.tokenizers import SafeTokenizer as SafeTokenizer
    from imadarem.tokenizers import SelfiesTokenizer as SelfiesTokenizer
    from imadarem.tokenizers import SmilesTokenizer as SmilesTokenizer
    from imadarem.training.masked import MaskedTraining as MaskedTraining
    from imadarem.training.trainer import Trainer as Trainer
    from imadarem.training.trainer import TrainingConfig as TrainingConfig


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'imadarem' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
