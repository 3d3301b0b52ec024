"""``imadarem analogues``: molecules that differ from a given one in a part."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from imadarem.cli.console import progress_bar
from imadarem.cli.models import is_molecular, load_model
from imadarem.cli.molecule_table import (
    GROWN,
    GrownFlags,
    deliver_molecules,
    molecule_row,
    summary,
)
from imadarem.cli.numbers import Count
from imadarem.cli.python_call import Code, accepting, call, print_program, settings_of
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.design.analogues import Analogues


@Parameter(name="*", group=Group("Analogues", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class ChangeFlags:
    """What may change.

    Attributes:
        protect: SMARTS or SMILES of what must not change; can be repeated.
        similar: Least and most Tanimoto similarity to the molecule, with two dots between them.
        column: The column of a table that holds the SMILES.
    """

    protect: Annotated[list[str] | None, Parameter(negative="")] = None
    similar: str = "0.4..1"
    column: str | None = None

    def window(self) -> tuple[float, float]:
        """Least and most similarity."""
        found = re.fullmatch(r"(\d*\.?\d+)(?:\.\.(\d*\.?\d+))?", self.similar.strip())
        least, most = (float(found[1]), float(found[2] or 1)) if found else (1.0, 0.0)
        if not least <= most <= 1:
            raise ConfigError(
                f"--similar {self.similar} is not a window of similarities. Give the least and the "
                "most, each from 0 to 1, as in --similar 0.4..0.8."
            )
        return least, most


CHANGE = ChangeFlags()


def analogues(
    molecule: str,
    *,
    count: Count = 50,
    change: ChangeFlags = CHANGE,
    flags: GrownFlags = GROWN,
) -> int:
    """Write analogues of a molecule: a branch, a linker or a run of its atoms is drawn again.

    **Examples**

    ```
    imadarem analogues "Cc1ccc(C(=O)Nc2ccc(F)cc2)cc1"
    imadarem analogues "Cc1ccc(C(=O)Nc2ccc(F)cc2)cc1" -n 20 --protect "C(=O)N" --similar 0.4..0.8
    imadarem analogues leads.sdf --where "MW<450, new_rings=0" --alerts PAINS --out new.sdf
    imadarem analogues "CCOc1ccccc1" --score qed --top 10 --diverse --grid new.png
    ```

    RDKit checks every molecule: protected atoms keep their hydrogens, charges, neighbours and
    stereo. The table says what changed, grouped by the changed atoms.

    Args:
        molecule: A SMILES, or a file of molecules; its other columns are copied to the output.
        count: Analogues of each molecule.
    """
    sampling, output = flags.sampling, flags.output
    similar, accept, ranking = change.window(), flags.filtering.accept(), flags.ranked.ranking()
    output.check_molecules()
    if output.python:
        program = call(
            "analogues",
            Code("model"),
            molecule,
            count,
            protect=change.protect,
            similar=similar,
            accept=accepting(flags.filtering),
            allow_odd=flags.filtering.allow_odd or None,
            **settings_of(sampling),
        )
        print_program(flags, program, "(row.smiles for row in made.rows)")
        return 0
    from imadarem.design.analogues import analogues as write

    given = _given(molecule, change.column)
    model = load_model(sampling.model, sampling.device)
    output.check(model.tokenizer)
    if not is_molecular(model.tokenizer):
        raise ConfigError(f"the model {sampling.model} writes texts, not molecules.")
    found: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    failures: list[str] = []
    start = time.perf_counter()
    with output.locked(), progress_bar("analogues", count * len(given)) as advance:
        for row in given:
            made = write(
                model,
                row["smiles"],
                count,
                protect=change.protect or (),
                similar=similar,
                accept=accept,
                allow_odd=flags.filtering.allow_odd,
                on_rows=advance,
                **sampling.settings(),
            )
            found += ranking(_rows(made, row), failures)
            summaries.append(summary("analogues of", made.parent, made, count))
        seconds = time.perf_counter() - start
        return deliver_molecules(found, summaries, output, seconds, failures)


def _given(molecule: str, column: str | None) -> list[dict[str, Any]]:
    """The molecules to vary, with their other columns."""
    from imadarem.data.molecule_rows import is_file, read_rows

    return read_rows(molecule, column=column)[0] if is_file(molecule) else [{"smiles": molecule}]


def _rows(made: Analogues, given: dict[str, Any]) -> list[dict[str, Any]]:
    others = {name: value for name, value in given.items() if name != "smiles"}
    return [
        molecule_row(
            row.smiles,
            {**others, "given": made.parent, "similarity": row.similarity},
            {
                "site": " ".join(map(str, row.site)),
                "removed": row.removed,
                "added": row.added,
                "forward_passes": row.forward_passes,
            },
        )
        for row in made.rows
    ]
