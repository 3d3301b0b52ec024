"""Many canvases through the loop: batches of similar length, results in the order asked.

What makes a batch changes the speed and no result. Draws belong to rows (see
:mod:`imadarem.sampling.noise`), which leaves the rounding of the network's kernels. Those of
torch on a CPU round a row the same in every batch where the shapes keep to the rules of
:class:`Widths`, which were measured on Intel and AMD; ``tests/test_batching.py`` holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from imadarem import checks
from imadarem.canvas import Canvas
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, NonFiniteError
from imadarem.nn import EmaTeacher, RefinementOutput
from imadarem.nn.memory import Retrieved
from imadarem.sampling.loop import Step, StoppingReason, refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.settings import SamplingOptions, SamplingSettings
from imadarem.sampling.trajectory import Trajectory, TrajectoryRecorder
from imadarem.tokenizers import Tokenizer

#: The widest vector that attention sums at a time, in floats.
GROUP = 16
#: Widths are multiples of it: as many as the narrower vectors of other processors hold, or more.
GRAIN = 8
#: Positions refined together on a CPU: what fits the cache beats what fills the batch.
CHUNK_TOKENS = 4096
MOST_CANDIDATES = 1024

StepObserver = Callable[[Tensor, Step], None]
#: Says of a text whether it is right.
TextVerifier = Callable[[str], bool]


class RunOptions(SamplingOptions, total=False):
    """What ``model.sample`` and ``model.infill`` take beside what they start from.

    Attributes:
        condition: Numbers or classes of the rows, for all or one for each: ``{"QED": 0.9}``.
        width: Candidates of each row at most. They are drawn one after the other until the
            judge accepts one; where it accepts none, one of all is drawn by its odds. With a
            halting head all are drawn, and the most certain is kept. Default 1.
        verifier: Says of a text whether it is right; candidates that it takes are preferred.
        redraws: How many candidates more are drawn of a row, at its length, until the verifier
            takes one; a row that is refused every time stays as drawn first. Default 0.
        seed: The same seed gives the same samples, whatever the batch size.
        generator: Draws the seed where ``seed`` is None; default torch's global generator.
        return_trajectory: Keep the records of every step in ``.trajectory``.
        batch_size: Rows refined together; default 256.
        on_rows: Called with the number of rows just finished.
        on_step: Called with row numbers and each :class:`~imadarem.sampling.loop.Step` of them,
            but for rows that are drawn again.
    """

    condition: Mapping[str, Any] | None
    width: int
    verifier: TextVerifier | None
    redraws: int
    seed: int | None
    generator: torch.Generator | None
    return_trajectory: bool
    batch_size: int
    on_rows: Callable[[int], None] | None
    on_step: StepObserver | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of ``model.sample`` or ``model.infill``, beside its canvases: see the options."""

    settings: SamplingSettings
    condition: Mapping[str, Any] | None = None
    width: int = 1
    verifier: TextVerifier | None = None
    redraws: int = 0
    seed: int | None = None
    generator: torch.Generator | None = None
    return_trajectory: bool = False
    batch_size: int = 256
    on_rows: Callable[[int], None] | None = None
    on_step: StepObserver | None = None

    def __post_init__(self) -> None:
        checks.integer("width", self.width, 1, MOST_CANDIDATES)
        checks.integer("batch_size", self.batch_size, 1)
        checks.integer("redraws", self.redraws, 0, MOST_CANDIDATES)
        if self.redraws and self.verifier is None:
            raise ConfigError(
                f"redraws={self.redraws} needs verifier=, which says what is drawn again."
            )

    @classmethod
    def of(
        cls,
        config: ImplicitRefinementConfig,
        options: RunOptions,
        *,
        length_given: bool,
        filling: bool = False,
    ) -> Self:
        """The options of a call, and the model's own settings where it leaves them open.

        ``length_given`` and ``filling``: see
        :meth:`~imadarem.sampling.settings.SamplingSettings.from_config`.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        names = {field.name for field in fields(cls)}
        own: dict[str, Any] = {name: x for name, x in options.items() if name in names}
        sampling: Any = {name: x for name, x in options.items() if name not in names}
        settings = SamplingSettings.from_config(config, length_given, filling, **sampling)
        return cls(settings=settings, **own)

    @property
    def once(self) -> bool:
        """Whether each row is drawn once: no candidates, and none drawn again."""
        return self.width == 1 and not self.redraws

    def row_seeds(self, count: int, first: int = 0) -> Tensor:
        """``(count,)`` int64, of the rows ``first``, ``first + 1``, …"""
        if self.seed is not None:
            return row_seeds(count, checks.integer("seed", self.seed), first)
        drawn = int(torch.randint(2**62, (), generator=self.generator))
        return row_seeds(count, drawn, first)


@dataclass(frozen=True)
class Widths:
    """Canvas widths at which no row's numbers depend on the batch that it is in.

    Attention sums whole vectors of positions first and the rest after them; a vector holds 4, 8
    or 16 floats, by the processor. Widths are multiples of 8, so that rows share a batch wherever
    as many groups of 16 fit into them; rows whose end the model writes keep to whole groups.
    Matrix products round a row alike from 16 rows on, and so do the products of attention where
    the last of its blocks of 32 positions has at least 8.

    Attributes:
        room: Positions that the network takes.
    """

    room: int

    @classmethod
    def of(cls, config: ImplicitRefinementConfig) -> Widths | None:
        """Those of a network; None where a canvas has a layout that fits its length alone."""
        return None if config.relations is not None else cls(config.max_seq_len)

    def above(self, lengths: Tensor, may_end: bool) -> Tensor:
        """The least of these widths that hold canvases of so many positions."""
        grain = GROUP if may_end else GRAIN
        return (-(-lengths // grain) * grain).clamp(min=GROUP).clamp(max=self.room)

    def fit(self, canvas: Canvas, may_end: bool) -> Canvas:
        """The canvas on one of these widths, to which it keeps when rows leave."""
        short = canvas.ids.shape[1] < GROUP
        width = int(self.above(torch.tensor(canvas.ids.shape[1]), may_end))
        return replace(canvas.padded(width), grain=GROUP if short or may_end else GRAIN)


@dataclass(frozen=True)
class Refined:
    """One finished row.

    Attributes:
        ids: ``(L,)`` token ids, without padding, EOS and what lies behind it.
        reason: Why it stopped; ``FILLED`` for a row that had no blank.
        steps: Refinement steps it took.
        forward_passes: Passes it cost, the teacher's included, and those of its other candidates.
        quality: Mean probability of the tokens on its writable positions; None for a row
            that had no blank.
        halt: Probability of the halting head that it is entirely right, where there is one.
        candidates: How many were drawn for this row.
    """

    ids: Tensor
    reason: StoppingReason
    steps: int
    forward_passes: int
    quality: float | None = None
    halt: float | None = None
    candidates: int = 1

    @property
    def certainty(self) -> float:
        """Probability that the row is right, by the halting head or else by its tokens."""
        known = self.quality if self.halt is None else self.halt
        return 1.0 if known is None else known


class Samples(Sequence[str]):
    """Finished samples: a sequence of texts that also says how they came about.

    Attributes:
        rows: Token ids, stopping reason, steps and forward passes of each sample.
        trajectory: The records of every step where it was asked for, else None.
    """

    def __init__(
        self, rows: list[Refined], tokenizer: Tokenizer | None, trajectory: Trajectory | None
    ) -> None:
        self.rows = rows
        self.trajectory = trajectory
        self.tokenizer = tokenizer
        self._texts: list[str] | None = None

    @property
    def texts(self) -> list[str]:
        """The decoded samples, such as SMILES; decoded when first asked for.

        Raises:
            ConfigError: The model has no tokenizer that can decode; use ``rows[i].ids``.
        """
        if self._texts is None:
            decode = getattr(self.tokenizer, "decode", None)
            if decode is None:
                raise ConfigError(
                    "this model's tokenizer cannot decode. Read the token ids from "
                    "samples.rows[i].ids, or give the model a tokenizer with decode()."
                )
            self._texts = [decode(row.ids.tolist()) for row in self.rows]
        return self._texts

    @property
    def forward_passes(self) -> list[int]:
        """Forward passes that each sample cost, the teacher's included."""
        return [row.forward_passes for row in self.rows]

    @property
    def stopping_reasons(self) -> list[str]:
        """Why each sample took no further step."""
        return [row.reason.label for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.texts[index]

    def __repr__(self) -> str:
        return f"Samples({len(self)} rows)"


def refine_run(model: Any, canvas: Canvas, seeds: Tensor, run: Run) -> Samples:
    """Refine canvases as a run asks, with a model that is in evaluation mode meanwhile.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        canvas: On the CPU, one row for each sample.
        seeds: ``(N,)`` int64.
        run: How.
    """
    device = next(model.parameters()).device
    recorder = None
    if run.return_trajectory:
        judge = "entropy" if run.settings.policy.uses_teacher else "gate"
        recorder = TrajectoryRecorder(canvas, model.tokenizer, judge)
    observers = [observer for observer in (recorder, run.on_step) if observer is not None]

    def observe(numbers: Tensor, step: Step) -> None:
        for observer in observers:
            observer(numbers, step)

    training = model.training
    model.eval()
    try:
        rows = refine_all(
            model,
            canvas.to(device),
            seeds.to(device),
            run.settings,
            teacher=model.teacher,
            batch_size=run.batch_size,
            widths=Widths.of(model.config),
            on_step=observe if observers else None,
            on_rows=run.on_rows,
        )
    finally:
        model.train(training)
    return Samples(rows, model.tokenizer, None if recorder is None else recorder.trajectory())


def refine_all(
    network: Callable[..., RefinementOutput],
    canvas: Canvas,
    seeds: Tensor,
    settings: SamplingSettings,
    *,
    teacher: EmaTeacher | None = None,
    memory: Retrieved | None = None,
    batch_size: int = 256,
    widths: Widths | None = None,
    on_step: StepObserver | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> list[Refined]:
    """Refine every row of ``canvas``, in batches of similar length.

    Args:
        network: In evaluation mode.
        canvas: ``(N, L)``; rows keep their order in the result.
        seeds: ``(N,)`` int64, one per row.
        settings: How to refine.
        teacher: Judges the entropy where the policy asks for it.
        memory: Earlier canvases for the network to look at, one set for each row.
        batch_size: Rows refined together at most; no row's result depends on it.
        widths: To which canvases are padded, so that a row is rounded the same in every
            batch; None pads none.
        on_step: Called with the row numbers of a batch and each of its records.
        on_rows: Called with the number of rows just finished (a progress bar).

    Raises:
        NonFiniteError: The network gave NaN for a row.
    """
    wanted = canvas.ends()
    if widths is not None:
        wanted = widths.above(wanted, settings.may_end)
    results: dict[int, Refined] = {}
    for chunk in batches(wanted, batch_size, None if wanted.is_cuda else CHUNK_TOKENS):
        part = canvas.rows(chunk)
        if widths is not None:
            part = widths.fit(part, settings.may_end)
        steps = refine(
            network,
            part,
            settings,
            seeds=seeds[chunk],
            teacher=teacher,
            memory=None if memory is None else memory.rows(chunk),
        )
        numbers = chunk.tolist()
        results |= _untouched(part, numbers)
        try:
            for step in steps:
                if on_step is not None:
                    on_step(chunk, step)
                for row, refined in _finished(step):
                    results[numbers[row]] = refined
        except NonFiniteError as error:
            raise NonFiniteError(numbers[error.row], error.step) from None
        if on_rows is not None:
            on_rows(len(chunk))
    return [results[row] for row in range(len(canvas))]


def batches(widths: Tensor, rows: int, positions: int | None = None) -> Iterator[Tensor]:
    """Row numbers that are refined together: of as many groups each, of similar width.

    Args:
        widths: ``(N,)`` positions of each row, its padding included.
        rows: Most rows in a batch.
        positions: Most positions in a batch, padding included, save where one row alone has
            more; None sets no limit.
    """
    ordered, order = widths.sort(stable=True)
    start, widest = 0, ordered.tolist()
    for number, width in enumerate(widest):
        count = number - start
        large = positions is not None and (count + 1) * width > positions
        if count and (count == rows or large or width // GROUP != widest[start] // GROUP):
            yield order[start:number]
            start = number
    if start < len(widest):
        yield order[start:]


def _untouched(canvas: Canvas, numbers: list[int]) -> dict[int, Refined]:
    """Rows that have no blank and so never enter the loop."""
    full = ~canvas.open.any(dim=1)
    if not bool(full.any()):
        return {}
    rows = [number for number, is_full in zip(numbers, full.tolist(), strict=True) if is_full]
    return {
        number: Refined(ids, StoppingReason.FILLED, 0, 0)
        for number, ids in zip(rows, canvas.rows(full).sequences(), strict=True)
    }


def _finished(step: Step) -> Iterator[tuple[int, Refined]]:
    if not bool((done := step.reasons != 0).any()):
        return
    rows, reasons = step.rows[done].tolist(), step.reasons[done].tolist()
    quality = step.quality[done].tolist()
    halt = [None] * len(rows) if step.halt is None else step.halt[done].tolist()
    sequences = step.canvas.rows(done).sequences()
    for row, reason, ids, *scores in zip(rows, reasons, sequences, quality, halt, strict=True):
        why = StoppingReason(reason)
        yield row, Refined(ids, why, step.step, step.forward_passes, *scores)
