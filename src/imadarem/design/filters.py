"""Which molecules are wanted: windows of properties, and catalogues of structural alerts."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from imadarem.data.molecules import parse
from imadarem.design.odd_groups import odd_groups
from imadarem.design.rings import new_ring_systems
from imadarem.errors import ConfigError, MissingExtraError, nearest

try:
    from rdkit import Chem
    from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams
    from rdkit.Contrib.SA_Score import sascorer
except ImportError as error:
    raise MissingExtraError("rdkit", "mol") from error

CATALOGUES = ("PAINS", "BRENK", "NIH", "CHEMBL")
"""RDKit's catalogues of structural alerts; ZINC's are properties rather than alerts."""

SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
CONDITION = re.compile(r"\s*([A-Za-z]\w*)\s*(<=|>=|==|!=|<|>|=)\s*([-+]?\d*\.?\d+)\s*")


def _undefined_stereo(molecule: Any) -> int:
    unknown = Chem.StereoSpecified.Unspecified
    return sum(found.specified == unknown for found in Chem.FindPotentialStereo(molecule))


def _synthetic_accessibility(molecule: Any) -> float:
    try:
        return float(sascorer.calculateScore(molecule))
    except (ValueError, ZeroDivisionError):  # single atoms have no fragments to score
        return 10.0


PROPERTIES: dict[str, Callable[[Any], float]] = {
    "QED": QED.qed,
    "SA": _synthetic_accessibility,
    "MW": Descriptors.MolWt,  # type: ignore[attr-defined]
    "logP": Crippen.MolLogP,  # type: ignore[attr-defined]
    "TPSA": rdMolDescriptors.CalcTPSA,
    "HBD": rdMolDescriptors.CalcNumHBD,
    "HBA": rdMolDescriptors.CalcNumHBA,
    "rotatable": rdMolDescriptors.CalcNumRotatableBonds,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "heavy_atoms": Chem.Mol.GetNumHeavyAtoms,
    "Fsp3": rdMolDescriptors.CalcFractionCSP3,
    "charge": Chem.GetFormalCharge,
    "new_rings": lambda molecule: len(new_ring_systems(molecule)),
    "odd_groups": lambda molecule: odd_groups(molecule).total(),
    "undefined_stereo": _undefined_stereo,
}
"""What a condition can name: number of a molecule. ``MW`` is in daltons, ``SA`` from 1 (easy) to
10, ``TPSA`` in square ångströms, ``Fsp3`` a share; ``new_rings`` counts the ring systems that
are not in the reference table, ``odd_groups`` those of
:data:`~imadarem.design.odd_groups.ODD_GROUPS`, ``undefined_stereo`` the centres and double bonds
without a mark; the others are counts."""

COLUMNS = ("QED", "SA", "MW", "logP", "new_rings", "undefined_stereo")
#: Columns that have another name in the tables of this package.
COLUMN_NAMES = {"MW": "weight"}


@dataclass(frozen=True)
class Condition:
    """One comparison of a property with a number, such as ``MW < 450``.

    Attributes:
        name: A key of :data:`PROPERTIES`.
        sign: ``<``, ``<=``, ``>``, ``>=``, ``=`` or ``!=``.
        number: What the property is compared with.
    """

    name: str
    sign: str
    number: float

    def __call__(self, molecule: Any) -> bool:
        """Whether an RDKit molecule meets it."""
        return SIGNS[self.sign](PROPERTIES[self.name](molecule), self.number)

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.number:g}"


@dataclass(frozen=True)
class Filters:
    """What a molecule must be like to be wanted.

    Attributes:
        conditions: All must hold.
        alerts: Names of catalogues, of which no alert may match.
    """

    conditions: tuple[Condition, ...] = ()
    alerts: tuple[str, ...] = ()

    @classmethod
    def of(cls, where: str = "", alerts: str = "") -> Filters:
        """Filters as text.

        Args:
            where: Conditions with commas or ``and`` between them: ``"QED>0.6, MW<450"``.
            alerts: Names of :data:`CATALOGUES` with commas between them.

        Raises:
            ConfigError: A condition cannot be read, or there is no such property or catalogue.
        """
        texts = [text for text in re.split(r",|;|\band\b", where) if text.strip()]
        names = [name.strip().upper() for name in alerts.split(",") if name.strip()]
        for name in names:
            if name not in CATALOGUES:
                raise ConfigError(
                    f"there is no catalogue of alerts called {name!r}"
                    f"{nearest(name, CATALOGUES)}. Choose from {', '.join(CATALOGUES)}."
                )
        return cls(tuple(map(_condition, texts)), tuple(names))

    def __bool__(self) -> bool:
        return bool(self.conditions or self.alerts)

    def rejection_reason(self, smiles: str) -> str | None:
        """Why a molecule is not wanted: ``not MW<450``, or ``alert BRENK: …``; None if it is.

        ``smiles`` must be a molecule.
        """
        molecule = parse(smiles)
        assert molecule is not None
        for condition in self.conditions:
            if not condition(molecule):
                return f"not {condition}"
        if self.alerts and (match := _catalogue(self.alerts).GetFirstMatch(molecule)):
            return f"alert {match.GetProp('FilterSet')}: {match.GetDescription()}"
        return None


def property_columns(smiles: str) -> dict[str, float]:
    """What a table says of each molecule: ``qed``, ``sa``, ``weight``, ``logp``, ``new_rings``
    and ``undefined_stereo``."""
    molecule = parse(smiles)
    assert molecule is not None
    return {COLUMN_NAMES.get(n, n.lower()): PROPERTIES[n](molecule) for n in COLUMNS}


def _condition(text: str) -> Condition:
    found = CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"the condition {text.strip()!r} cannot be read. Write a property, a sign (<, <=, >, "
            f">=, =, !=) and a number, such as 'QED>0.6, MW<450'. Properties: "
            f"{', '.join(PROPERTIES)}."
        )
    spelling = {name.lower(): name for name in PROPERTIES} | {"weight": "MW"}
    name = found[1].lower()
    if name not in spelling:
        raise ConfigError(
            f"there is no property {found[1]!r}{nearest(name, spelling)}. Choose from "
            f"{', '.join(PROPERTIES)}."
        )
    return Condition(spelling[name], found[2], float(found[3]))


@cache
def _catalogue(names: tuple[str, ...]) -> Any:
    chosen = FilterCatalogParams()
    for name in names:
        chosen.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
    return FilterCatalog(chosen)
