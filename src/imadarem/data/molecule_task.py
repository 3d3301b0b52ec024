"""Molecules with holes as a task: SELFIES, SMILES or SAFE, some of whose tokens are blank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imadarem.data.holes import Holes
from imadarem.data.molecule_files import read_smiles
from imadarem.data.molecules import parse
from imadarem.data.moses import fetch_moses, load_moses_sample, load_split
from imadarem.data.splits import held_out, stable_hash
from imadarem.data.tasks import Task
from imadarem.errors import ConfigError, DataError, nearest
from imadarem.tokenizers import (
    MOLECULE_NOTATIONS,
    CorpusTokenizer,
    special_ids,
    tokenizer_class,
)
from imadarem.workers import Workers


def flat_form(smiles: str) -> str:
    """What stereoisomers, isotopes, salts and charge states of a molecule have in common.

    The largest fragment, its charges neutralised where hydrogen can, as canonical SMILES
    without stereo marks and isotopes.

    Raises:
        DataError: ``smiles`` is no molecule.
        MissingExtraError: RDKit is not installed.
    """
    molecule = parse(smiles)
    if molecule is None:
        raise DataError(f"{smiles!r} is not a molecule. Read files with read_smiles first.")
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    # Fragments, charges, isotopes and map numbers cannot be written without these.
    if "." in smiles or "[" in smiles:
        with rdBase.BlockLogs():
            molecule = rdMolStandardize.LargestFragmentChooser().choose(molecule)
            molecule = rdMolStandardize.Uncharger().uncharge(molecule)
        for atom in molecule.GetAtoms():
            atom.SetIsotope(0)
            atom.SetAtomMapNum(0)
        # What was written for its isotope alone, such as [2H], is a hydrogen like others now.
        molecule = Chem.RemoveHs(molecule)
    return str(Chem.MolToSmiles(molecule, isomericSmiles=False))


def molecule_task(
    source: str | Path = "moses-sample",
    tokenizer: str | CorpusTokenizer = "selfies",
    *,
    column: str | None = None,
    rows: int | None = None,
    hole_share: float | tuple[float, float] = 0.3,
    hole_span: float = 3.0,
    versions: int = 1,
    valid_fraction: float = 0.1,
    seed: int = 0,
    processes: int | None = None,
) -> Task:
    """Molecules with holes; the label is the molecule.

    Molecules that differ only in stereo marks, charges, isotopes or counter-ions stand on
    one side of the split (see :func:`flat_form`), and so do copies. What cannot be read or
    encoded is left out and counted in ``settings``. Holes can be filled in many ways that
    make molecules, so there is no verifier, and a label is one right answer of several.

    Args:
        source: ``moses-sample`` (shipped, 15,000 molecules), ``moses`` (downloaded), or a
            file; see :func:`~imadarem.data.molecule_files.read_smiles`.
        tokenizer: ``selfies``, ``smiles`` or ``safe``, learned from the molecules, or a
            tokenizer of one of these notations.
        column: The column of a table that holds the SMILES.
        rows: Use at most so many molecules, drawn with ``seed``; None uses all.
        hole_share: Share of a row's tokens that are blank; see
            :class:`~imadarem.data.holes.Holes`.
        hole_span: Mean length of a hole in tokens.
        versions: Episodes made of each training molecule, with different holes.
        valid_fraction: Share of the distinct flat forms that is held out.
        seed: Of the draw, the split and the holes.
        processes: Worker processes for the encoding; None works in this one.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The file cannot be read, or too few molecules are left to split.
        MissingExtraError: RDKit or selfies is not installed.
    """
    if rows is not None and rows < 2:
        raise ConfigError(f"rows={rows} must be at least 2: one to train on, one held out.")
    holes = Holes(share=hole_share, span=hole_span, versions=versions, seed=seed)
    kind = _kind(tokenizer)
    smiles, unread = _molecules(source, column, rows, seed)
    with Workers(processes) as workers:
        notations = workers.map("encode", _Notation(kind), smiles)
        forms = workers.map("compare", flat_form, smiles)
    readable = [notation is not None for notation in notations]
    forms = [form for form, good in zip(forms, readable, strict=True) if good]
    good = [notation for notation in notations if notation is not None]
    if not good:
        raise DataError(f"none of the {len(smiles)} molecules has {kind.notation} tokens.")
    built = tokenizer if isinstance(tokenizer, CorpusTokenizer) else _learned(kind, good)
    encoded = [_encoded(built, notation) for notation in good]
    train, valid = _split(encoded, forms, valid_fraction, seed)
    special = special_ids(built, len(built))
    width = max(map(len, train + valid))
    settings: dict[str, Any] = {
        "source": str(source),
        "tokenizer": built.notation,
        "rows": rows,
        "hole_share": hole_share,
        "hole_span": hole_span,
        "versions": versions,
        "valid_fraction": valid_fraction,
        "seed": seed,
        "train_molecules": len(train),
        "valid_molecules": len(valid),
        "unreadable": unread,
        "not_encodable": len(smiles) - len(train) - len(valid),
    }
    return Task(
        name="molecules",
        tokenizer=built,
        train=holes.episodes(train, special, width),
        valid=replace(holes, versions=1).episodes(valid, special, width),
        open_ended=True,
        settings=settings,
    )


class _Notation:
    """Turns one SMILES into a notation, or None; it travels to worker processes."""

    def __init__(self, kind: type[CorpusTokenizer]) -> None:
        self.kind = kind

    def __call__(self, smiles: str) -> str | None:
        try:
            return self.kind.to_notation(smiles)
        except DataError:
            return None


def _kind(tokenizer: str | CorpusTokenizer) -> type[CorpusTokenizer]:
    notation = tokenizer if isinstance(tokenizer, str) else getattr(tokenizer, "notation", "")
    if notation not in MOLECULE_NOTATIONS:
        raise ConfigError(
            f"the tokenizer {notation or tokenizer!r} writes no molecules"
            f"{nearest(str(notation), MOLECULE_NOTATIONS)}. Choose one of "
            f"{', '.join(MOLECULE_NOTATIONS)}, or pass a tokenizer of one of them."
        )
    return tokenizer_class(notation)


def _molecules(
    source: str | Path, column: str | None, rows: int | None, seed: int
) -> tuple[list[str], int]:
    """SMILES that are molecules, and how many lines are none."""
    unread = 0
    if source == "moses-sample":
        smiles = load_moses_sample("train")
    elif source == "moses":
        smiles = load_split(fetch_moses(), "train")
    else:
        found = read_smiles(source, column=column)
        smiles, unread = found.smiles, len(found.rejected)
    if rows is None or rows >= len(smiles):
        return smiles, unread
    # The lowest hashes: the same molecules whatever the order of the file.
    return sorted(smiles, key=lambda text: (stable_hash(text, seed), text))[:rows], unread


def _learned(kind: type[CorpusTokenizer], notations: Sequence[str]) -> CorpusTokenizer:
    return kind.from_corpus(notations, notated=True)


def _encoded(tokenizer: CorpusTokenizer, notation: str) -> tuple[int, ...]:
    """The row's ids; none where a token is not in the vocabulary."""
    try:
        return tuple(tokenizer.encode_notation(notation))
    except DataError:
        return ()


def _split(
    encoded: Sequence[tuple[int, ...]], forms: Sequence[str], fraction: float, seed: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Rows of at least 2 tokens, by side: a row needs a blank and a given token."""
    usable = [(ids, form) for ids, form in zip(encoded, forms, strict=True) if len(ids) > 1]
    held = held_out((form for _, form in usable), fraction, seed)
    sides: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    for ids, form in usable:
        sides[form in held].append(ids)
    return sides
