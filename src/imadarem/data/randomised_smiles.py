"""The same molecule spelt in another order of its atoms.

Source: Arús-Pous et al., "Randomized SMILES strings improve the quality of molecular
generative models", J. Cheminform. 11:71 (2019): atoms are renumbered at random and the
SMILES follows the new numbers (their "restricted" variant).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imadarem.data.molecules import canonical, parse
from imadarem.errors import DataError
from imadarem.tokenizers import CorpusTokenizer, SafeTokenizer, to_safe

TRIES = 8
"""Orders drawn before a molecule counts as one without another spelling that fits."""


def randomised_smiles(smiles: str, rng: np.random.Generator) -> str:
    """A SMILES of the same molecule, its atoms visited in a random order.

    Raises:
        DataError: ``smiles`` is no molecule.
        MissingExtraError: RDKit is not installed.
    """
    molecule = parse(smiles)
    if molecule is None:
        raise DataError(f"{smiles[:60]!r} is not a molecule. Read files with read_smiles first.")
    from rdkit import Chem

    # Not doRandom=True: RDKit would draw from a generator that the whole process shares.
    order = rng.permutation(molecule.GetNumAtoms()).tolist()
    return str(Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False))


def respell(
    ids: Sequence[int], tokenizer: CorpusTokenizer, rng: np.random.Generator, limit: int
) -> list[int] | None:
    """The molecule of ``ids`` in at most ``limit`` other tokens of the same vocabulary.

    The result is checked: decoded, it has the same canonical SMILES, stereo included.

    Returns:
        None where ``ids`` is no molecule, or none of 8 random orders gave a different
        spelling that fits the limit and the vocabulary.
    """
    try:
        form = canonical(tokenizer.decode(ids))
    except DataError:
        return None
    if form is None:
        return None
    for _ in range(TRIES):
        try:
            spelt = tokenizer.encode_notation(respelt(form, tokenizer, rng))
        except DataError:  # a symbol outside the vocabulary
            continue
        # SELFIES drops what it cannot express, such as a stereo mark: hence the last check.
        if (
            len(spelt) <= limit
            and spelt != list(ids)
            and canonical(tokenizer.decode(spelt)) == form
        ):
            return spelt
    return None


def respelt(form: str, tokenizer: CorpusTokenizer, rng: np.random.Generator) -> str:
    """A random spelling in the tokenizer's notation; of SAFE, other cuts and another order."""
    if isinstance(tokenizer, SafeTokenizer):
        return to_safe(form, rng)
    return tokenizer.to_notation(randomised_smiles(form, rng))
