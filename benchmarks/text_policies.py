"""Samples of a text model by policy and passes, beside as many lines of the data.

    python benchmarks/text_policies.py runs/text/model held-out.txt --count 200

Figures as in ``imadarem evaluate``; lengths in tokens with the standard error of their mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev

from imadarem import ImplicitRefinementModel
from imadarem.data.text import read_lines
from imadarem.evaluation.texts import evaluate_texts

POLICIES = ("ancestral", "blocks", "left-to-right", "gate", "margin", "confidence")
HEAD = "| policy | passes | tokens | distinct pairs | entropy, nats | repeated | self-BLEU |"


def row(name: str, passes: str, texts: list[str], lengths: list[int]) -> str:
    """A line of the table."""
    found = evaluate_texts(texts)
    error = stdev(lengths) / len(lengths) ** 0.5
    figures = [found.distinct_2, found.unigram_entropy, found.repetition, found.self_bleu or 0.0]
    cells = [name, passes, f"{fmean(lengths):.1f} ± {error:.1f}", *(f"{x:.3f}" for x in figures)]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Samples of text by policy and passes.")
    parser.add_argument("model")
    parser.add_argument("reference", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 6, 24])
    parser.add_argument("--temperature", type=float, default=1.0)
    given = parser.parse_args(arguments)
    model = ImplicitRefinementModel.from_pretrained(given.model)
    lines = read_lines(given.reference)[: given.count]
    tokens = [len(model.tokenizer.encode(line, add_special_tokens=False)) for line in lines]
    print(HEAD, "|---|---|---|---|---|---|---|", row("the data", "", lines, tokens), sep="\n")
    for policy in POLICIES:
        for passes in given.passes:
            drawn = model.sample(
                given.count, seed=0, policy=policy, steps=passes, temperature=given.temperature
            )
            sizes = [len(sample.ids) for sample in drawn.rows]
            print(row(policy, str(passes), list(drawn.texts), sizes), flush=True)


if __name__ == "__main__":
    main()
