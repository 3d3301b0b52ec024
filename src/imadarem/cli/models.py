"""The flags that say which model samples or solves and how, shared by the commands that do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from imadarem.cli.console import err
from imadarem.cli.numbers import Positive, Seed, Steps, Temperature, whole
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.model import ImplicitRefinementModel

TopK = Annotated[int, whole(1, 2**31 - 1)]
Switch = Annotated[bool, Parameter(negative="", show_default=False)]


@Parameter(name="*", group=Group("Sampling", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """How to sample.

    Attributes:
        model: A folder written by a training run, a name on the Hugging Face Hub, or a model
            of the package: "smiles" (molecules), "druglike" (with stereo and charges) or
            "selfies". Also a folder with a masked language model of transformers, or
            "antiberty".
        steps: Maximum number of refinement passes; default: the model's setting.
        temperature: Divides the logits; 0 takes the most likely token. Default: the model's
            setting.
        policy: Which tokens each pass writes: gate, left-to-right, gate-adaptive,
            gate-in-place, entropy, ancestral, blocks, confidence, margin, entropy-bound or remask;
            default: the model's setting.
        schedule: How many blanks each pass fills: linear (equal numbers) or cosine (few at
            first); default: the model's setting.
        top_k: Sample from the k most likely tokens.
        top_p: Sample from the smallest set of tokens whose probabilities sum to at least p.
        best_of: Number of candidates that each pass draws for a row; it uses the likeliest.
            Default: 1 for samples from nothing; to fill holes, the model's setting.
        width: Maximum number of candidates of each row, drawn until the model's judge accepts one.
        min_length: Minimum length of a row, in tokens.
        max_length: Maximum length of a row, in tokens.
        suppress_tokens: Id of a token that is never written; can be repeated.
        forbid_end: Fill every blank. --no-forbid-end: a model that writes an end of sequence may
            end a row early. Default: the given or drawn lengths are kept.
        condition: A property that the rows shall have, as NAME=VALUE, for a model that was
            trained with --condition; can be repeated.
        guidance: Strength of classifier-free guidance. 1 is none. With more, the samples follow
            the condition (without one: the prompt) more closely, and each pass costs two.
        seed: The same seed gives the same samples.
        device: cpu or cuda; default: cuda if available.
        batch_size: Rows refined together; changes the speed, not the samples.
    """

    model: str = "smiles"
    steps: Steps | None = None
    temperature: Temperature | None = None
    policy: str | None = None
    schedule: str | None = None
    top_k: TopK | None = None
    top_p: float | None = None
    best_of: Positive | None = None
    width: Positive = 1
    min_length: Positive | None = None
    max_length: Positive | None = None
    suppress_tokens: tuple[int, ...] | None = None
    forbid_end: bool | None = None
    condition: Annotated[tuple[str, ...] | None, Parameter(negative="")] = None
    guidance: float | None = None
    seed: Seed = 0
    device: str | None = None
    batch_size: Positive = 256

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of ``sample`` and ``infill``."""
        elsewhere = ("model", "device", "condition")
        found = {name: value for name, value in vars(self).items() if name not in elsewhere}
        if self.condition is None:
            return found
        return {**found, "condition": dict(_pair(text) for text in self.condition)}


SAMPLING = SamplingFlags()


def _pair(text: str) -> tuple[str, str | float]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip() or not value.strip():
        raise ConfigError(f"--condition {text} must be NAME=VALUE, such as --condition QED=0.9.")
    try:
        return name.strip(), float(value)
    except ValueError:
        return name.strip(), value.strip()


def load_model(name: str, device: str | None) -> ImplicitRefinementModel:
    """The named model in evaluation mode, on the device."""
    with err().status(f"loading the model {name}"):
        from imadarem.loading import open_model
        from imadarem.row_pool import announce_model

        model = open_model(name).to(device_named(device))
        announce_model(model, name, device)
        return model


def load_model_here(name: str, device: str | None) -> ImplicitRefinementModel:
    """The named model in a process that helps another one, on this process's own accelerator."""
    from imadarem.loading import open_model

    place = device_named(device)
    if place == "cuda":
        place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return open_model(name).to(place)


def device_named(name: str | None) -> str:
    """``name`` if this machine has it; ``None`` becomes cuda where there is one, else cpu."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    # torch raises half a dozen kinds for a device that is unknown, not compiled in or absent.
    except Exception:
        raise ConfigError(
            f"--device {name!r} cannot be used on this machine. Use cpu"
            f"{' or cuda' if torch.cuda.is_available() else ''}."
        ) from None
    return name


def is_molecular(tokenizer: Any) -> bool:
    """Whether the tokenizer's texts are molecules, as SMILES."""
    from imadarem.tokenizers import MOLECULE_NOTATIONS

    return getattr(tokenizer, "notation", None) in MOLECULE_NOTATIONS


Votes = Annotated[int, whole(1, 10_000)]


@Parameter(name="*", group=Group("Solver", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class SolverFlags:
    """How to solve.

    Attributes:
        model: A folder written by `imadarem train --task sudoku`, or "sudoku", the model in
            the package.
        steps: Maximum number of refinement steps.
        width: Candidates of a puzzle whose first answer is wrong, or uncertain with
            `--no-check`; they differ by noise in the model's states.
        votes: Number of symmetric forms in which each puzzle is solved; the most frequent
            answer is taken.
        seed: Seed of the noise and of the choice of symmetric forms.
        check: Check each puzzle beforehand and the answer after every step, and do not stop
            at a wrong answer before the last step. With `--no-check` the halting head of
            the network decides when to stop, and the answer is not checked.
        device: cpu or cuda; default: cuda if available.
        batch_size: Puzzles refined together; changes the speed, not the answers.
    """

    model: str = "sudoku"
    steps: Steps = 16
    width: Votes = 1
    votes: Votes = 1
    seed: Seed = 0
    check: bool = True
    device: str | None = None
    batch_size: Positive = 64
