"""How much one request, and all of them together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from imadarem.errors import ConfigError

#: Limits of the OpenAPI description, the same on every server.
MAX_SAMPLES = 1_000
MAX_PROMPTS = 100
MAX_STEPS = 256
MAX_TEXT_CHARS = 20_000
MAX_CANVAS_TOKENS = 4_096
MAX_SMILES_CHARS = 400
MAX_ALTERNATIVES = 20
MAX_ROUNDS = 8
MAX_CHECKS = 500
#: Longest row whose alternatives are listed, which takes a pass for each place.
MAX_LISTED_TOKENS = 200
#: JavaScript represents whole numbers up to this one exactly.
MAX_SEED = 2**53 - 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits that the operator of a server chooses.

    Attributes:
        body_bytes: Longest body of a request.
        queue_jobs: Most requests that wait or run; the next one is answered 429.
        seconds: Longest time from the arrival of a request to the end of its answer.
        batch_rows: Most rows refined together.
        connections: Most open connections; one client address may have half of them.
    """

    body_bytes: int = 262_144
    queue_jobs: int = 256
    seconds: float = 60.0
    batch_rows: int = 64
    connections: int = 512

    def __post_init__(self) -> None:
        for name in ("body_bytes", "queue_jobs", "batch_rows", "connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.seconds < 86_400:
            raise ConfigError(f"seconds={self.seconds} must be above 0 and below a day (86400).")

    @property
    def connections_per_address(self) -> int:
        """Most open connections from one client address."""
        return max(1, self.connections // 2)
