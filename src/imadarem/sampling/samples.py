"""What sampling hands back: texts that also say how they came about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imadarem.errors import ConfigError
from imadarem.sampling.batching import Refined
from imadarem.sampling.trajectory import Trajectory
from imadarem.tokenizers import Tokenizer

__all__ = ["Samples"]


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
        self._tokenizer = tokenizer
        self._texts: list[str] | None = None

    @property
    def texts(self) -> list[str]:
        """The decoded samples, such as SMILES; decoded when first asked for.

        Raises:
            ConfigError: The model has no tokenizer that can decode; use ``rows[i].ids``.
        """
        if self._texts is None:
            decode = getattr(self._tokenizer, "decode", None)
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
