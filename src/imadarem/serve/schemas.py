"""The fields of requests, as pydantic models: one half of the OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imadarem.errors import nearest
from imadarem.repair.settings import RepairSettings
from imadarem.serve.limits import (
    MAX_ALTERNATIVES,
    MAX_CANVAS_TOKENS,
    MAX_CHECKS,
    MAX_PROMPTS,
    MAX_ROUNDS,
    MAX_SAMPLES,
    MAX_SEED,
    MAX_SMILES_CHARS,
    MAX_STEPS,
    MAX_TEXT_CHARS,
)

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Token = Annotated[str, Field(max_length=200)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]


class Request(BaseModel):
    """Types are not converted: the text "4" is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def check_names(cls, data: Any) -> Any:
        """One error for all unknown fields: thousands of them would take long to list."""
        fields = data if isinstance(data, dict) else {}
        unknown = [name for name in fields if name not in cls.model_fields]
        if unknown:
            name = str(unknown[0])[:40]
            others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ValueError(
                f"there is no field {name!r}{others}{nearest(name, cls.model_fields)}. Legal: "
                f"{', '.join(cls.model_fields)}"
            )
        return data


class Sampling(Request):
    """How to sample; the model's own settings are the defaults."""

    model: Name | None = Field(None, description="An id from /v1/models; default: the first.")
    policy: Name | None = Field(None, description="A policy of the model, see /v1/models.")
    steps: Steps | None = Field(None, description="Most refinement steps.")
    temperature: float | None = Field(
        None, ge=0, le=100, description="Divides the logits; 0 takes the most likely token."
    )
    schedule: Literal["linear", "cosine"] | None = Field(
        None, description="How many blanks each step fills."
    )
    top_k: int | None = Field(
        None, ge=1, le=1_000_000, description="Sample from the k most likely tokens."
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Sample from the fewest tokens whose probabilities sum to this.",
    )
    best_of: int | None = Field(
        None, ge=1, le=16, description="Joint draws in each pass; the most likely is used."
    )
    min_length: int | None = Field(
        None, ge=1, le=MAX_CANVAS_TOKENS, description="Minimum length of a row, in tokens."
    )
    max_length: int | None = Field(
        None, ge=1, le=MAX_CANVAS_TOKENS, description="Maximum length of a row, in tokens."
    )
    suppress_tokens: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, max_length=MAX_CANVAS_TOKENS, description="Ids of tokens that are never written."
    )
    forbid_end: bool | None = Field(
        None,
        description="true fills every blank; false lets the model end a row early, within the "
        "blanks at its end. Default: given lengths are kept.",
    )
    guidance: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Strength of classifier-free guidance by the prompt. 1 is none; with more, "
        "samples follow the given tokens more closely, at twice the passes.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="The same seed gives the same answer; default: drawn by the server.",
    )

    def settings(self) -> dict[str, Any]:
        """The sampling settings among the fields that are given."""
        names = Sampling.model_fields.keys() - {"model", "seed"}
        given = {name: getattr(self, name) for name in names}
        if self.suppress_tokens is not None:
            given["suppress_tokens"] = tuple(self.suppress_tokens)
        return {name: value for name, value in given.items() if value is not None}


class SampleRequest(Sampling):
    """How many samples to draw from blank canvases, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"count": 4, "seed": 7}, {"count": 1, "length": 20, "policy": "margin"}]
        }
    )
    count: int = Field(1, ge=1, le=MAX_SAMPLES, description="How many samples.")
    length: int | None = Field(
        None, ge=1, le=MAX_CANVAS_TOKENS, description="Tokens of each canvas; default: drawn."
    )


class InfillRequest(Sampling):
    """Texts with blanks; all other tokens stay as they are."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompts": ["CC<mask><mask><mask>O"], "count": 2, "seed": 7}]
        }
    )
    prompts: list[Text] = Field(
        min_length=1,
        max_length=MAX_PROMPTS,
        description="In the model's notation, with <mask> or the model's own mask for each blank, "
        "and <gap> or <gap:3-8> for a hole of unknown length.",
    )
    count: int = Field(1, ge=1, le=MAX_SAMPLES, description="Samples of each prompt.")


class TraceRequest(Sampling):
    """One canvas: a text, tokens, or blanks where neither is sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"length": 16, "seed": 7},
                {"text": "CC<mask><mask>O", "policy": "confidence", "stream": False},
                {
                    "tokens": ["C", "C", "[MASK]", "O"],
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
        max_length=MAX_CANVAS_TOKENS,
        description="As in the records of steps: [MASK] for a blank, [EOS] for an end.",
    )
    given: list[bool] | None = Field(
        None,
        max_length=MAX_CANVAS_TOKENS,
        description="Which tokens never change; default: all. The policy may re-mask the others.",
    )
    length: int | None = Field(
        None, ge=1, le=MAX_CANVAS_TOKENS, description="Number of blanks; default: drawn."
    )
    stream: bool = Field(True, description="Server-sent events step by step, or one JSON answer.")


class SolveRequest(Request):
    """A sudoku of 4x4, 6x6 or 9x9 cells."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"puzzle": "1...4..2..3..4.."}]})
    model: Name | None = Field(None, description="Default is the first sudoku model.")
    puzzle: str = Field(
        min_length=16,
        max_length=1_000,
        description="16, 36 or 81 cells, row by row: digits, with . or 0 or _ for a blank.",
    )
    steps: Steps | None = Field(None, description="Most refinement steps; default 16.")


class DrawRequest(Request):
    """A molecule to draw, as SMILES or as tokens of a model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"smiles": "CC(=O)Oc1ccccc1C(=O)O"}, {"tokens": ["C", "O"]}]
        }
    )
    smiles: str | None = Field(None, min_length=1, max_length=MAX_SMILES_CHARS)
    tokens: list[Token] | None = Field(None, min_length=1, max_length=MAX_CANVAS_TOKENS)
    model: Name | None = Field(None, description="The model of the tokens; default: the first.")


Rows = Annotated[
    list[Text],
    Field(
        min_length=1,
        max_length=MAX_PROMPTS,
        description="Texts that the model's tokenizer reads, such as SMILES, right or wrong.",
    ),
]


class JudgeRequest(Request):
    """Finished rows to judge."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "smiles", "rows": ["CCN(CCc1ccccc1"]},
                {"model": "smiles", "rows": ["CC(=O)Nc1ccccc1"], "alternatives": 3},
            ]
        }
    )
    model: Name | None = Field(None, description="An id from /v1/models; default: the first.")
    rows: Rows
    alternatives: int = Field(
        0,
        ge=0,
        le=MAX_ALTERNATIVES,
        description="How many of the most likely tokens to list for each token and gap. Each token "
        "and gap takes a forward pass.",
    )


class RepairRequest(Request):
    """Rows to repair; what looks right stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "smiles", "rows": ["CCN(CCc1ccccc1"], "check": "rdkit"},
                {"model": "smiles", "rows": ["CC(=O)Nc1cccc1"], "protected": [[0, 1, 2]]},
            ]
        }
    )
    model: Name | None = Field(None, description="An id from /v1/models; default: the first.")
    rows: Rows
    check: Literal["none", "rdkit"] = Field(
        "none",
        description="rdkit: a row is right if RDKit can read it. none: the model's judge decides.",
    )
    threshold: float = Field(
        RepairSettings.threshold,
        ge=0,
        le=1,
        description="Probability of an error above which a row is repaired.",
    )
    rounds: int = Field(
        RepairSettings.rounds,
        ge=1,
        le=MAX_ROUNDS,
        description="Most times that a row is changed and judged again.",
    )
    budget: int = Field(
        RepairSettings.budget,
        ge=1,
        le=MAX_CHECKS,
        description="Most calls of the check for each row.",
    )
    flagged_too: bool = Field(
        RepairSettings.flagged_too,
        description="Also repair rows that the check accepts and the judge flags.",
    )
    protected: list[list[Annotated[int, Field(ge=0, le=MAX_CANVAS_TOKENS)]]] | None = Field(
        None,
        max_length=MAX_PROMPTS,
        description="For each row, positions of tokens that never change, from 0.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="The same seed gives the same answer.")
