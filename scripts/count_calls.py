"""Which files of the package one molecule, one training step and one inference pass through.

    python scripts/count_calls.py
    python scripts/count_calls.py sample infill

Each action runs twice, on two models alike: the first run imports what is imported late, the
second is counted. What a run makes once, such as the augmentations of a task, is made before. A
file counts when one of its functions is called; a crossing is a call from a function of one file
into a function of another, whatever of torch or Python lies between them.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import imadarem
from imadarem import (
    CharTokenizer,
    ImplicitRefinementConfig,
    ImplicitRefinementModel,
    OrchestrationConfig,
    UnifiedRefinerOrchestrator,
)

PACKAGE = str(Path(imadarem.__file__).parent)

Action = Callable[[], Any]


@dataclass
class Calls:
    """What was called.

    Attributes:
        files: Of the package, in the order of their first call, with the calls into each.
        crossings: Calls from one of them into another.
    """

    files: dict[str, int] = field(default_factory=dict)
    crossings: int = 0

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """A profiler, as :func:`sys.setprofile` takes it."""
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(PACKAGE):
            return
        self.files[file] = self.files.get(file, 0) + 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            caller = caller.f_back
        self.crossings += caller is not None and caller.f_code.co_filename != file


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Count the calls of this thread and of those that start meanwhile."""
    calls = Calls()
    threading.setprofile(calls.note)
    sys.setprofile(calls.note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def sample() -> Action:
    """One molecule of the shipped model by its own settings."""
    model = ImplicitRefinementModel.from_pretrained("default")
    return lambda: model.sample(1, seed=0)


def infill() -> Action:
    """One molecule with a gap, by the same model."""
    model = ImplicitRefinementModel.from_pretrained("default")
    return lambda: model.infill(["CC<mask><mask>O"], seed=0)


def train_step() -> Action:
    """One step of the orchestrator on rows of plain text."""
    over = orchestrator()
    optimizer = torch.optim.AdamW(over.model.parameters(), lr=1e-3)
    over.train()
    over.augmenter("text")
    batch = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6], [6, 5, 4, 3, 6, 5, 4, 3]])
    return lambda: over.train_step(batch, optimizer, task_type="text")


def inference() -> Action:
    """The orchestrator on a row with blanks."""
    over = orchestrator().eval()
    return lambda: over.inference(torch.tensor([[3, 4, 5, 6, 1, 1, 1, 1]]))


ACTIONS = {task.__name__: task for task in (sample, infill, train_step, inference)}


def orchestrator() -> UnifiedRefinerOrchestrator:
    tokenizer = CharTokenizer.from_corpus(["abcd"])
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    config = ImplicitRefinementConfig(**settings, max_seq_len=8)
    model = ImplicitRefinementModel(config, tokenizer)
    return UnifiedRefinerOrchestrator(model, tokenizer, config=OrchestrationConfig())


def count(action: Callable[[], Action]) -> Calls:
    """The calls of an action on a model of its own, after one on another model."""
    action()()
    run = action()
    with counted_calls() as calls:
        run()
    return calls


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("actions", nargs="*", metavar="ACTION", help=", ".join(ACTIONS))
    asked = parser.parse_args(arguments).actions or list(ACTIONS)
    unknown = [name for name in asked if name not in ACTIONS]
    if unknown:
        parser.error(f"{unknown[0]} is no action; choose among {', '.join(ACTIONS)}.")
    found = {name: count(ACTIONS[name]) for name in asked}
    print("| action | files | calls into the package | crossings |\n|---|---|---|---|")
    for name, calls in found.items():
        total = sum(calls.files.values())
        print(f"| {name} | {len(calls.files)} | {total:,} | {calls.crossings:,} |")
    for name, calls in found.items():
        files = [Path(file).relative_to(PACKAGE).as_posix() for file in calls.files]
        print(f"\n{name}: {', '.join(files)}")


if __name__ == "__main__":
    main()
