"""Humanisation of mouse antibodies: how many of the experts' mutations a masked LM finds.

    python benchmarks/humanise.py FOLDER

FOLDER holds ``humab25_parental.fa``, ``humab25_experimental.fa`` and ``humab25_humab.fa``, as in
https://github.com/Merck/BioPhi-2021-publication (data/tasks/humab_25_pairs, MIT): the heavy and
light chains of 25 antibodies as found in mice, as humanised by experts, and as humanised by
Hu-mAb. A method's mutations of the parental chain are compared with the experts': one is found
where the same residue is at the same position. The CDRs, by sequence motifs, are protected.

- *Hu-mAb*: the published mutations of that program, which was made for this task;
- *argmax*: every framework residue is blanked once, in ``--passes`` canvases that each blank every
  so-manieth of them, and replaced by the most likely one;
- *refill T*: every framework residue that the model doubts by more than T (``model.judge``, one
  pass) is blanked, and all are filled together, the most certain first, in the other passes.

Prints a table; passes are counted for each chain.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from imadarem import ImplicitRefinementModel

#: A mutation: position in the parental chain, and the residue there; "" where it is deleted.
Mutations = set[tuple[int, str]]


@dataclass(frozen=True)
class Line:
    """What a method did on all chains."""

    method: str
    found: int
    made: int
    expert: int
    passes: float

    def shown(self) -> str:
        """As a row of the table."""
        precision = self.found / self.made if self.made else 0.0
        cells = [self.method, f"{self.made}", f"{precision:.0%}", f"{self.found / self.expert:.0%}"]
        return f"| {' | '.join([*cells, f'{self.passes:.1f}'])} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="antiberty")
    parser.add_argument("--passes", type=int, default=4, help="for each chain")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--chains", type=int, help="only so many")
    options = parser.parse_args(arguments)

    parental, experts, humab = (
        read_fasta(options.folder / f"humab25_{name}.fa")
        for name in ("parental", "experimental", "humab")
    )
    names = [name for name in parental if name in experts and name in humab][: options.chains]
    model = ImplicitRefinementModel.from_masked_lm(options.model)
    chains = [parental[name] for name in names]
    protected = [cdr_positions(chain) for chain in chains]
    wanted = [mutations(parental[name], experts[name]) for name in names]
    total = sum(len(own) for own in wanted)
    inside = sum(
        position in cdr for own, cdr in zip(wanted, protected, strict=True) for position, _ in own
    )
    print(f"{len(chains)} chains, {total} mutations by experts, {inside} of them in the CDRs\n")
    print("| method | mutations | precision | recall | passes |\n|---|---|---|---|---|")

    def show(method: str, results: Sequence[str], passes: float) -> None:
        made = [mutations(chain, result) for chain, result in zip(chains, results, strict=True)]
        found = sum(len(own & theirs) for own, theirs in zip(made, wanted, strict=True))
        line = Line(method, found, sum(map(len, made)), total, passes)
        print(line.shown(), flush=True)

    show("experts", [experts[name] for name in names], 0)
    show("Hu-mAb", [humab[name] for name in names], 0)
    show("argmax", argmax(model, chains, protected, options.passes), options.passes)
    for threshold in options.thresholds:
        show(f"refill {threshold:g}", *refill(model, chains, protected, threshold, options.passes))


def read_fasta(path: Path) -> dict[str, str]:
    """Names and sequences of a FASTA file."""
    entries = path.read_text().split(">")[1:]
    return {
        head.strip(): body.replace("\n", "")
        for head, _, body in (e.partition("\n") for e in entries)
    }


def mutations(chain: str, other: str) -> Mutations:
    """Positions of ``chain`` that are another residue in ``other``; insertions are left out."""
    found: Mutations = set()
    for change in Levenshtein.editops(chain, other):
        if change.tag == "replace":
            found.add((change.src_pos, other[change.dest_pos]))
        elif change.tag == "delete":
            found.add((change.src_pos, ""))
    return found


def cdr_positions(chain: str) -> list[int]:
    """Positions in the CDRs, by the motifs around them (Kabat, with Chothia's for H1).

    H1 begins 4 behind the first cysteine and ends before a tryptophan, H2 begins 15 behind it; H3
    begins 3 behind the second cysteine and ends before WG.G. L1 begins behind the first cysteine
    and ends before a tryptophan, L2 begins 16 behind it; L3 begins behind the second cysteine and
    ends before FG.G.

    Raises:
        ValueError: The motifs are not there.
    """
    heavy = re.search(r"C.{6,16}?W[VIF][RK]", chain[10:45]) if "WG" in chain[-18:] else None
    light = re.search(r"C.{8,18}?W[YLFVH][QLHRK]", chain[10:50])
    first = heavy or light
    end = re.search(r"WG.G" if heavy else r"FG.G", chain[80:])
    second = chain.rfind("C", 70, 80 + end.start()) if end else -1
    if first is None or end is None or second < 0:
        raise ValueError(f"{chain}: the CDRs of this chain were not found")
    one = first.start() + 10 + (4 if heavy else 1), first.end() + 10 - 3
    two = (one[1] + 14, one[1] + 31) if heavy else (one[1] + 15, one[1] + 22)
    three = second + (3 if heavy else 1), 80 + end.start()
    return [position for start, stop in (one, two, three) for position in range(start, stop)]


def argmax(
    model: ImplicitRefinementModel,
    chains: Sequence[str],
    protected: Sequence[Sequence[int]],
    passes: int,
) -> list[str]:
    """Each residue outside the CDRs as the most likely one, in so many passes a chain."""
    prompts, places = [], []
    for chain, cdr in zip(chains, protected, strict=True):
        free = [position for position in range(len(chain)) if position not in set(cdr)]
        for start in range(passes):
            hidden = set(free[start::passes])
            prompts.append(blanked(chain, hidden.__contains__))
            places.append(hidden)
    filled = model.infill(
        prompts, steps=1, temperature=0.0, policy="left-to-right", seed=0, batch_size=16
    ).texts
    results = []
    for number, chain in enumerate(chains):
        letters = list(chain)
        for part in range(number * passes, (number + 1) * passes):
            for position in places[part]:
                letters[position] = filled[part][position]
        results.append("".join(letters))
    return results


def refill(
    model: ImplicitRefinementModel,
    chains: Sequence[str],
    protected: Sequence[Sequence[int]],
    threshold: float,
    passes: int,
) -> tuple[list[str], float]:
    """The chains with all doubtful residues outside the CDRs filled anew, and passes a chain."""
    results, prompts, numbers = list(chains), [], []
    for number, judgement in enumerate(model.judge(list(chains), batch_size=16)):
        free = set(range(len(chains[number]))) - set(protected[number])
        doubtful = {i for i in free if (judgement.wrong or [])[i] > threshold}
        if doubtful:
            numbers.append(number)
            prompts.append(blanked(chains[number], doubtful.__contains__))
    if not prompts:
        return results, 1.0
    how = {"steps": passes - 1, "temperature": 0.0, "policy": "margin", "seed": 0}
    filled = model.infill(prompts, batch_size=16, **how)
    for number, text in zip(numbers, filled.texts, strict=True):
        results[number] = text
    return results, 1.0 + sum(filled.forward_passes) / len(chains)


def blanked(chain: str, hidden: Callable[[int], bool]) -> str:
    """A chain with a blank at each position that ``hidden`` names."""
    return "".join("<mask>" if hidden(i) else letter for i, letter in enumerate(chain))


if __name__ == "__main__":
    main()
