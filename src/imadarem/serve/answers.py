"""The fields of answers, as pydantic models: the other half of the OpenAPI description."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, Field, create_model

from imadarem.sampling.trajectory import RowStep


class ErrorBody(BaseModel):
    """The error."""

    code: str = Field(description="For programs.")
    message: str = Field(description="What was given and what is legal.")
    hint: str = Field(description="What to do next.")


class ErrorAnswer(BaseModel):
    """The answer to every request that fails."""

    error: ErrorBody


class Sample(BaseModel):
    """One finished row."""

    text: str | None
    steps: int
    forward_passes: int
    stopping_reason: str
    mean_probability: float | None


class SampleAnswer(BaseModel):
    """Samples in the order of their numbers."""

    model: str
    seed: int
    samples: list[Sample]


class Filling(Sample):
    """One sample of a prompt."""

    prompt: int = Field(description="Which of the prompts, from 0.")


class InfillAnswer(BaseModel):
    """All samples of the first prompt, then those of the next."""

    model: str
    seed: int
    samples: list[Filling]


class Alternative(BaseModel):
    """A token that may stand at a place."""

    token: str = Field(description="The token; empty for no token.")
    probability: float = Field(description="Probability here, given all other tokens of the row.")


class Judged(BaseModel):
    """A row of n tokens, judged."""

    text: str
    tokens: list[str]
    surprise: list[float] = Field(description="-log p of each token, given all others, in nats.")
    wrong: list[float] | None = Field(
        description="Probability that a token is wrong; null where the model has no judge."
    )
    missing: list[float] | None = Field(
        description="n + 1 probabilities that tokens are missing before each token and at the end."
    )
    right: float | None = Field(description="Probability that the row is right.")
    replacements: list[list[Alternative]] | None = Field(
        description="Most likely tokens in place of each token."
    )
    insertions: list[list[Alternative]] | None = Field(
        description="Most likely tokens in each of the n + 1 gaps."
    )


class JudgeAnswer(BaseModel):
    """The rows in their order."""

    model: str
    rows: list[Judged]


class RepairEdit(BaseModel):
    """One change of one token."""

    position: int = Field(
        description="Of the token in the given row; an inserted token stands before it."
    )
    kind: Literal["replace", "insert", "delete"]
    before: str | None
    after: str | None
    probability: float | None = Field(
        description="Probability of an error at this place, before the repair."
    )


class Repaired(BaseModel):
    """A row after a repair."""

    given: str
    tokens: list[str] = Field(description="Tokens of the given row.")
    text: str | None
    changed: bool
    reason: Literal["clean", "repaired", "checked", "gave_up"]
    edits: list[RepairEdit]
    rounds: int
    row_passes: int
    checks: int


class RepairAnswer(BaseModel):
    """The rows in their order."""

    model: str
    rows: list[Repaired]


_HINTS = get_type_hints(RowStep)
TraceStep = create_model(
    "TraceStep",
    __doc__="One refinement step; lists have one entry per position.",
    **{each.name: (_HINTS[each.name], ...) for each in fields(RowStep)},  # type: ignore[call-overload]
    text=(str | None, Field(description="Decoded, without blanks.")),
)


class TraceRow(BaseModel):
    """A canvas and its steps, as in the schema imadarem.trajectory/1."""

    start: list[str]
    given: list[bool]
    judge: str
    text: str | None
    stopping_reason: str
    steps: list[TraceStep]  # type: ignore[valid-type]


class TraceAnswer(BaseModel):
    """A trajectory, with what is needed to repeat it."""

    schema_: str = Field(alias="schema")
    model: str
    kind: str
    policy: str
    seed: int
    rows: list[TraceRow]


#: One server-sent event of a trace; the data are JSON.
EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "event": {"enum": ["start", "step", "end", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


class SolveAnswer(BaseModel):
    """The answer to a sudoku, verified."""

    model: str
    size: int
    puzzle: str
    answer: str
    verified: bool = Field(description="Complete and legal; the givens never change.")
    broken: list[int] = Field(description="Cells that break a rule, from 0.")
    steps: int
    forward_passes: int
    stopping_reason: str
    halting_confidence: float | None
    mean_probability: float | None


class PolicyEntry(BaseModel):
    """A policy."""

    name: str
    about: str


class ModelEntry(BaseModel):
    """A model."""

    id: str
    kind: Literal["molecules", "sudoku", "text"]
    vocabulary: list[str] | None = Field(
        description="Its tokens; null where there are more than 4,096."
    )
    vocab_size: int
    mask: str = Field(description="The text of a blank in prompts. In tokens it is [MASK].")
    max_length: int
    sizes: list[int] = Field(description="Sizes of sudokus.")
    policies: list[PolicyEntry]
    default_policy: str
    default_steps: int
    default_temperature: float
    judge: bool = Field(description="Whether it has a trained judge, for /v1/repair without check.")
    parameters: int


class ModelList(BaseModel):
    """The models of this server; the first is the default."""

    models: list[ModelEntry]


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok"]
    version: str
    models: list[str]
    jobs: int
