"""How much one request, and all of them together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from imadarem.errors import ConfigError

__all__ = [
    "BIGGEST_SEED",
    "LONGEST_CANVAS",
    "LONGEST_SMILES",
    "LONGEST_TEXT",
    "MOST_PROMPTS",
    "MOST_SAMPLES",
    "MOST_STEPS",
    "Limits",
]

#: Bounds that stand in the OpenAPI description, the same in every server.
MOST_SAMPLES = 1_000
MOST_PROMPTS = 100
MOST_STEPS = 256
LONGEST_TEXT = 20_000
LONGEST_CANVAS = 4_096
LONGEST_SMILES = 400
#: Whole numbers up to this one are the same in JavaScript.
BIGGEST_SEED = 2**53 - 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an operator may choose.

    Attributes:
        body_bytes: Longest body of a request.
        queue_jobs: Requests that wait or run; one more is told to come back later.
        seconds: From the arrival of a request to the end of its answer.
        batch_rows: Rows refined together.

    Raises:
        ConfigError: A limit is below 1, or the time is not above 0.
    """

    body_bytes: int = 262_144
    queue_jobs: int = 256
    seconds: float = 60.0
    batch_rows: int = 64

    def __post_init__(self) -> None:
        for name in ("body_bytes", "queue_jobs", "batch_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.seconds < 86_400:
            raise ConfigError(f"seconds={self.seconds} must be above 0 and below a day (86400).")
