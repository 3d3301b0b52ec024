"""A score that another program computes, such as a docking script."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from imadarem.errors import ConfigError


@dataclass(frozen=True)
class CommandScore:
    """Runs a command that prints numbers.

    With ``{smi}`` in the command, it runs for each molecule, which stands in its place and on the
    standard input, and the last word of its output is the number. Without, it runs once for many
    molecules: a SMILES on each line of the standard input, a number on each line of the output. No
    shell reads the command.

    Attributes:
        command: Program and arguments, as on a command line.
        timeout: Seconds for each molecule, after which a call is given up.

    Raises:
        ConfigError: The command is empty or a quotation mark is not closed.
    """

    command: str
    timeout: float = 600.0

    def __post_init__(self) -> None:
        try:
            empty = not shlex.split(self.command)
        except ValueError as error:
            raise ConfigError(f"the command {self.command!r} cannot be read: {error}.") from None
        if empty:
            raise ConfigError("the command of the score is empty; give a program.")

    @property
    def batched(self) -> bool:
        """Whether one call takes many molecules."""
        return "{smi}" not in self.command

    def __call__(self, smiles: str | Sequence[str]) -> float | list[float]:
        """The score of a molecule, or of each of several where it is :attr:`batched`."""
        if isinstance(smiles, str):
            words = self._output(smiles, [smiles]).split()
            return _number(words[-1] if words else "")
        lines = self._output("", smiles).splitlines()
        if len(lines) != len(smiles):
            raise ValueError(f"{len(lines)} lines of output for {len(smiles)} molecules")
        return [_number(line.strip()) for line in lines]

    def _output(self, smiles: str, lines: Sequence[str]) -> str:
        words = [word.replace("{smi}", smiles) for word in shlex.split(self.command)]
        limit = self.timeout * len(lines)
        given = "".join(f"{line}\n" for line in lines)
        try:
            done = subprocess.run(
                words, input=given, capture_output=True, text=True, timeout=limit, check=True
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"no answer within {limit:g} s") from None
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"exit code {error.returncode}: {last[:200]}") from None
        except OSError as error:
            raise ValueError(f"{words[0]} cannot be run: {error}") from None
        return done.stdout


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"its output {word[:80]!r} is not a number") from None
