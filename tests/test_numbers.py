"""The numbers of flags: each has bounds, and one outside them is refused by the flag's name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cyclopts import App, Argument, CycloptsError

from imadarem.cli.app import app, run
from imadarem.cli.numbers import _Bounds

REQUIRED = {("optimize",): ("--score", "qed"), ("data", "inspect"): ("x.smi",)}


def commands(group: App, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command with the words that call it."""
    for name in group:
        if name.startswith("-"):
            continue
        if group[name].default_command is None:
            yield from commands(group[name], (*before, name))
        else:
            yield (*before, name), group[name]


FLAGS = [
    (words, argument)
    for words, command in commands(app)
    for argument in command.assemble_argument_collection()
    if argument.hint in (int, int | None)
]


def bounds(argument: Argument) -> _Bounds:
    (found,) = argument.parameter.validator
    return found


@pytest.mark.parametrize(
    ("words", "argument"), FLAGS, ids=[" ".join([*w, a.name]) for w, a in FLAGS]
)
def test_a_whole_number_outside_its_bounds_is_refused_by_the_flags_name(words, argument):
    known = bounds(argument)
    for value in (10**30, known.least - 1, known.most + 1, 1.5, "many", ""):
        with pytest.raises(CycloptsError) as error:
            app.parse_args(
                [*words, *REQUIRED.get(words, ()), argument.name, str(value)],
                exit_on_error=False,
                print_error=False,
            )
        assert argument.name in str(error.value)
        assert "hole number" in str(error.value)


def test_there_are_flags_to_test():
    names = {(words[-1], argument.name) for words, argument in FLAGS}
    assert {("sample", "--count"), ("serve", "--port"), ("moses", "--processes")} <= names


@pytest.mark.parametrize("value", ["-1", "101", "nan", "inf"])
def test_a_temperature_outside_its_bounds_is_refused(value, capsys):
    assert run(["sample", "--temperature", value]) == 2
    line = capsys.readouterr().err
    assert "--temperature. Give a number from 0 to 100. See: imadarem sample --help" in line


def test_the_help_that_an_error_names_is_that_of_the_command(capsys):
    assert run(["data", "moses", "--processes", "0"]) == 2
    assert "See: imadarem data moses --help" in capsys.readouterr().err
