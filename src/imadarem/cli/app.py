"""The commands, and what becomes of their errors: one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, UnusedCliTokensError

from imadarem import __version__
from imadarem.cli.analogues import analogues
from imadarem.cli.console import complain, help_console, note
from imadarem.cli.data import antiberty, moses
from imadarem.cli.demo import demo
from imadarem.cli.evaluate import evaluate
from imadarem.cli.infill import infill
from imadarem.cli.inspect import inspect
from imadarem.cli.models import load_model_here
from imadarem.cli.optimize import optimize
from imadarem.cli.repair import repair
from imadarem.cli.sample import sample
from imadarem.cli.serve import serve
from imadarem.cli.solve import STDIN, solve
from imadarem.cli.trace import trace
from imadarem.cli.train import train
from imadarem.errors import ImadaremError, TrainingError

#: Commands whose rows all processes of torchrun compute together.
SHARED = ("sample", "infill", "repair", "evaluate")
FINE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="imadarem",
    version=__version__,
    help="Masked-refinement language models: fill a canvas of blanks in a few passes.",
    help_epilogue=(
        "Start with: imadarem demo.   Examples of each command: imadarem sample --help."
    ),
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    console=help_console(),
)
COMMANDS: tuple[Callable[..., Any], ...] = (
    *(demo, sample, trace, infill, analogues, repair),
    *(optimize, solve, serve, train, evaluate),
)
for command in COMMANDS:
    app.command(command, help_epilogue="")
data = App(
    name="data", help="Fetch and inspect data sets.", help_format="markdown", help_epilogue=""
)
data.command(moses)
data.command(antiberty)
data.command(inspect)
app.command(data)


def main() -> NoReturn:
    """The entry point of the command ``imadarem``."""
    sys.exit(run(sys.argv[1:]))


def run(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Returns:
        0: fine. 1: it failed. 2: wrong use (flags, settings, files, a missing package).
        130: interrupted from the keyboard.
    """
    try:
        with _warnings_on_one_line():
            result = _run_in_processes(_spelled(tokens))
        sys.stdout.flush()
        return result if isinstance(result, int) else FINE
    except CycloptsError as error:
        complain("error", f"{_reason(error)} See: imadarem {_command(tokens)}--help")
        return WRONG_USE
    except BrokenPipeError:
        # The reader (head, less) has what it wanted. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FINE
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except ImadaremError as error:
        complain("error", str(error))
        return FAILED if isinstance(error, TrainingError) else WRONG_USE
    except Exception as error:
        if os.environ.get("IMADAREM_TRACEBACK"):
            raise
        reason = f"{type(error).__name__}: {error}"
        complain("error", f"{reason} (to see where, set IMADAREM_TRACEBACK=1 and run it again)")
        return FAILED


def _run_in_processes(tokens: Sequence[str]) -> Any:
    """Run a command; of the processes of torchrun the first, where the others can help it."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or not tokens or tokens[0] not in SHARED:
        return app(tokens, exit_on_error=False, print_error=False)
    from imadarem.row_pool import leading, serve_rows

    if int(os.environ["RANK"]) > 0:
        serve_rows(load_model_here)
        return FINE
    with leading():
        return app(tokens, exit_on_error=False, print_error=False)


def _spelled(tokens: Sequence[str]) -> list[str]:
    """The tokens as cyclopts reads them: to it a lone hyphen is a flag without a name."""
    return [STDIN if token == "-" else token for token in tokens]


def _reason(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}."
    return str(error)


def _command(tokens: Sequence[str]) -> str:
    """The command that was meant, with a space behind it, where there is one of that name."""
    words: list[str] = []
    group = app
    for token in tokens:
        if token.startswith("-") or token not in group:
            break
        words.append(token)
        group = group[token]
    return "".join(f"{word} " for word in words)


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Show the library's warnings as a person reads them, without the place in the source."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        complain("warning", str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
