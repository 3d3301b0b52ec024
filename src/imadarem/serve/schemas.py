"""What requests hold and answers look like: the OpenAPI description is made of this."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from imadarem.sampling.trajectory import RowStep
from imadarem.serve.limits import (
    BIGGEST_SEED,
    LONGEST_CANVAS,
    LONGEST_SMILES,
    LONGEST_TEXT,
    MOST_PROMPTS,
    MOST_SAMPLES,
    MOST_STEPS,
)

__all__ = [
    "EVENT",
    "DrawRequest",
    "ErrorAnswer",
    "Health",
    "InfillAnswer",
    "InfillRequest",
    "ModelList",
    "SampleAnswer",
    "SampleRequest",
    "SolveAnswer",
    "SolveRequest",
    "TraceAnswer",
    "TraceRequest",
]

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Token = Annotated[str, Field(max_length=200)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]


class Request(BaseModel):
    """Nothing is converted: a number is no text, a text no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Sampling(Request):
    """How to refine; what is left out is the model's own setting."""

    model: Name | None = Field(None, description="An id of /v1/models; default is the first.")
    policy: Name | None = Field(None, description="A policy of the model, see /v1/models.")
    steps: Steps | None = Field(None, description="Most refinement steps.")
    temperature: float | None = Field(
        None, ge=0, le=100, description="Divides the logits; 0 takes the likeliest token."
    )
    schedule: Literal["linear", "cosine"] | None = Field(
        None, description="How many blanks a step fills."
    )
    top_k: int | None = Field(
        None, ge=1, le=1_000_000, description="Draw each token from so many likeliest alone."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Draw each token from the fewest of this probability."
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=BIGGEST_SEED,
        description="The same seed gives the same answer; without one the server draws it.",
    )

    def settings(self) -> dict[str, Any]:
        """What decides how to refine, and not what."""
        names = ("policy", "steps", "temperature", "schedule", "top_k", "top_p")
        return {name: getattr(self, name) for name in names}


class SampleRequest(Sampling):
    """Samples from blank canvases."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"count": 4, "seed": 7}, {"count": 1, "length": 20, "policy": "margin"}]
        }
    )
    count: int = Field(1, ge=1, le=MOST_SAMPLES, description="How many samples.")
    length: int | None = Field(
        None, ge=1, le=LONGEST_CANVAS, description="Tokens of each canvas; default is drawn."
    )


class InfillRequest(Sampling):
    """Texts with holes; what is given never changes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompts": ["[C][C]<mask><mask><mask>[O]"], "count": 2, "seed": 7}]
        }
    )
    prompts: list[Text] = Field(
        min_length=1,
        max_length=MOST_PROMPTS,
        description="In the model's notation, with <mask> or the model's own mask for each blank.",
    )
    count: int = Field(1, ge=1, le=MOST_SAMPLES, description="Fillings of each prompt.")


class TraceRequest(Sampling):
    """One canvas, every step: a text, or token by token, or blanks where neither is given."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"length": 16, "seed": 7},
                {"text": "[C][C]<mask><mask>[O]", "policy": "confidence", "stream": False},
                {
                    "tokens": ["[C]", "[C]", "[MASK]", "[=O]"],
                    "given": [True, False, False, True],
                    "seed": 7,
                },
                {"model": "sudoku", "text": "1...4..2..3..4.."},
            ]
        }
    )
    text: Text | None = Field(None, description="As a prompt of /v1/infill, or a sudoku's cells.")
    tokens: list[Token] | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_CANVAS,
        description="As the records of steps spell them: [MASK] for a blank, [EOS] for an end.",
    )
    given: list[bool] | None = Field(
        None,
        max_length=LONGEST_CANVAS,
        description="Which of the tokens never change; default is all of them. Those that are "
        "neither given nor blank are the model's own, to judge and to take back.",
    )
    length: int | None = Field(
        None, ge=1, le=LONGEST_CANVAS, description="Of a canvas of blanks; default is drawn."
    )
    stream: bool = Field(
        True, description="Server-sent events as the steps are made, or one JSON answer."
    )


class SolveRequest(Request):
    """A sudoku of 4x4, 6x6 or 9x9 cells."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"puzzle": "1...4..2..3..4.."}]})
    model: Name | None = Field(None, description="Default is the first model of sudokus.")
    puzzle: str = Field(
        min_length=16,
        max_length=1_000,
        description="16, 36 or 81 cells, row by row: digits, with . or 0 or _ for a blank.",
    )
    steps: Steps | None = Field(None, description="Most refinement steps; default 16.")


class DrawRequest(Request):
    """A molecule to draw: a SMILES, or tokens of a model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"smiles": "CC(=O)Oc1ccccc1C(=O)O"}, {"tokens": ["[C]", "[=O]"]}]
        }
    )
    smiles: str | None = Field(None, min_length=1, max_length=LONGEST_SMILES)
    tokens: list[Token] | None = Field(None, min_length=1, max_length=LONGEST_CANVAS)
    model: Name | None = Field(None, description="Whose tokens; default is the first.")


# --- answers


class ErrorBody(BaseModel):
    """What is wrong."""

    code: str = Field(description="For programs.")
    message: str = Field(description="What was given and what is legal.")
    hint: str = Field(description="What to do next.")


class ErrorAnswer(BaseModel):
    """Every answer that is not 200."""

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
    """One filling of a prompt."""

    prompt: int = Field(description="Which of the prompts, from 0.")


class InfillAnswer(BaseModel):
    """All fillings of the first prompt, then those of the next."""

    model: str
    seed: int
    samples: list[Filling]


_HINTS = get_type_hints(RowStep)
TraceStep = create_model(
    "TraceStep",
    __doc__="One refinement step; lists have one entry per position.",
    **{each.name: (_HINTS[each.name], ...) for each in fields(RowStep)},  # type: ignore[call-overload]
    text=(str | None, Field(description="Decoded, blanks left out.")),
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
    """A trajectory, and how to have it again."""

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
    """An answer and whether it is right."""

    model: str
    size: int
    puzzle: str
    answer: str
    verified: bool = Field(description="Complete, legal, and the givens are as they were.")
    broken: list[int] = Field(description="Cells that break a rule, from 0.")
    steps: int
    forward_passes: int
    stopping_reason: str
    halting_confidence: float | None
    mean_probability: float | None


class PolicyEntry(BaseModel):
    """A policy by name."""

    name: str
    about: str


class ModelEntry(BaseModel):
    """A model and what may be asked of it."""

    id: str
    kind: Literal["molecules", "sudoku", "text"]
    vocabulary: list[str] | None = Field(description="Tokens; null where there are too many.")
    vocab_size: int
    mask: str = Field(description="A blank in a text. In tokens it is [MASK].")
    max_length: int
    sizes: list[int] = Field(description="Of sudokus.")
    policies: list[PolicyEntry]
    default_policy: str
    default_steps: int
    default_temperature: float
    parameters: int


class ModelList(BaseModel):
    """The models of this server; the first is the default."""

    models: list[ModelEntry]


class Health(BaseModel):
    """Whether requests are taken."""

    status: Literal["ok"]
    version: str
    models: list[str]
    jobs: int
