"""The numbers of flags: each has bounds, and one outside them is refused by the flag's name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cyclopts import App, Argument, CycloptsError

from imadarem.cli.app import app, run
from imadarem.cli.numbers import _Bounds

REQUIRED = {("analogues",): ("CCO",), ("data", "inspect"): ("x.smi",)}


def commands(group: App, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command with the words that call it."""
    for name in group:
        if name.startswith("-"):
            continue
        if group[name].default_command is None:
            yield from commands(group[name], (*before, name))
        else:
            yield (*before, name), group[name]


@pytest.fixture(scope="module")
def flags() -> list[tuple[tuple[str, ...], Argument]]:
    """Every whole number that a command takes, with the words that call the command."""
    return [
        (words, argument)
        for words, command in commands(app)
        for argument in command.assemble_argument_collection()
        if argument.hint in (int, int | None)
    ]


def refusal(words: tuple[str, ...], argument: Argument, value: object) -> str:
    """What the command says of a value of the flag."""
    line = [*words, *REQUIRED.get(words, ()), argument.name, str(value)]
    with pytest.raises(CycloptsError) as error:
        app.parse_args(line, exit_on_error=False, print_error=False)
    return str(error.value)


def test_a_whole_number_has_bounds_and_one_above_them_is_refused_by_the_flags_name(flags):
    for words, argument in flags:
        (bounds,) = argument.parameter.validator
        assert isinstance(bounds, _Bounds) and bounds.most < 10**30, (words, argument.name)
    # A flag of each command.
    for words, argument in dict(flags).items():
        said = refusal(words, argument, 10**30)
        assert argument.name in said and "Give a whole number from" in said


@pytest.mark.parametrize("value", [0, -1, 1_000_001, 1.5, "many", ""])
def test_what_is_no_whole_number_within_the_bounds_is_refused(flags, value):
    (found,) = [pair for pair in flags if (pair[0], pair[1].name) == (("trace",), "--count")]
    assert "hole number" in refusal(*found, value)


def test_there_are_flags_to_test(flags):
    names = {(words[-1], argument.name) for words, argument in flags}
    assert {("sample", "--count"), ("serve", "--port"), ("moses", "--processes")} <= names


@pytest.mark.parametrize("value", ["-1", "101", "nan", "inf"])
def test_a_temperature_outside_its_bounds_is_refused(value, capsys):
    assert run(["sample", "--temperature", value]) == 2
    line = capsys.readouterr().err
    assert "--temperature. Give a number from 0 to 100. See: imadarem sample --help" in line


def test_the_help_that_an_error_names_is_that_of_the_command(capsys):
    assert run(["data", "moses", "--processes", "0"]) == 2
    assert "See: imadarem data moses --help" in capsys.readouterr().err
