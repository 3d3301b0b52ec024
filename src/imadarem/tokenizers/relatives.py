"""The nearest known token to one that a vocabulary of molecules does not have."""

from __future__ import annotations

import re

#: What stands for an element that the vocabulary does not have, the first known one.
MATES = {
    "I": ("Br", "Cl", "F"),
    "Br": ("Cl", "F"),
    "Cl": ("Br", "F"),
    "Si": ("C",),
    "Se": ("S",),
    "se": ("s",),
    "B": ("C",),
    "P": ("N",),
}


def known_token(token: str, known: frozenset[str], notation: str) -> str | None:
    """``token``, or the nearest to it that is known; "" for a mark that can be left out.

    Stereo marks, isotopes, hydrogens and charges go first, then the element.
    """
    if token in known:
        return token
    if token in ("/", "\\"):
        return ""
    if token.startswith("%"):
        return max((other for other in known if other.startswith("%")), default=None)
    found = re.fullmatch(r"\[([=#/\\]*)\d*([A-Z][a-z]?|[a-z]{1,2}).*\]", token)
    if found is None and not token.isalpha():
        return None
    bond, element = ("", token) if found is None else (found[1].strip("/\\"), found[2])
    carbon = "c" if element.islower() else "C"
    for mate in (element, *MATES.get(element, ()), carbon):
        for form in (f"[{bond}{mate}]",) if notation == "selfies" else (mate, f"[{mate}H]"):
            if form in known:
                return form
    return None
