"""A pretrained masked language model: five policies at equal passes, and a gate trained on top.

    python examples/any_backbone.py antiberty --prompt "EVQLVESGGGLVQPGG<mask><mask><mask>LSCAAS"
    python examples/any_backbone.py bert-base-uncased --prompt "the <mask> <mask> of the river ."
    python examples/any_backbone.py antiberty --train chains.txt --run runs/gate

Prints what each policy fills in with the same number of passes, and how probable the model itself
finds the result; ``--plot FILE.png`` draws it over the passes. With ``--train``, a file with one
row a line, the gate is trained on top of the frozen model: which tokens are wrong, learned from
what the model fills in itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from imadarem import ImplicitRefinementModel, MaskedTraining, Trainer, TrainingConfig
from imadarem.data.prepare import prepare
from imadarem.sampling.batching import Samples

POLICIES = ("gate", "confidence", "margin", "left-to-right", "ancestral")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a folder or hub name that transformers reads, or antiberty")
    parser.add_argument("--prompt", required=True, help="a text with <mask> for each blank")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("-n", type=int, default=16, help="fillings by each policy")
    parser.add_argument("--plot", help="a picture of 1 to --passes passes; needs matplotlib")
    parser.add_argument("--train", help="a file with one row a line")
    parser.add_argument("--run", default="runs/gate")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args(arguments)

    model = ImplicitRefinementModel.from_masked_lm(args.model, freeze=True)
    compare(model, args.prompt, args.passes, args.n)
    if args.plot:
        plot(model, args.prompt, args.passes, args.n, args.plot)
    if args.train:
        data = prepare(args.train, tokenizer=model.tokenizer)
        config = TrainingConfig(steps=args.steps, warmup_steps=args.steps // 10, sample_count=0)
        result = Trainer(MaskedTraining(model, data.train, data.valid), config, args.run).run()
        print(f"gate, AUROC: {result.first.gate_auroc:.3f} → {result.last.gate_auroc:.3f}")
        trained = ImplicitRefinementModel.from_pretrained(result.model_dir)
        compare(trained, args.prompt, args.passes, args.n)


def compare(model: ImplicitRefinementModel, prompt: str, passes: int, n: int) -> None:
    """Print a line for each policy: passes, nats per token, and its most probable filling."""
    print(f"{'policy':14} {'passes':>6} {'nats/token':>10}  most probable of {n}")
    for policy in POLICIES:
        filled, nats = fillings(model, prompt, policy, passes, n)
        spent = sum(filled.forward_passes) / n
        best = filled.texts[nats.index(min(nats))]
        print(f"{policy:14} {spent:6.1f} {sum(nats) / n:10.2f}  {best}")


def fillings(
    model: ImplicitRefinementModel, prompt: str, policy: str, passes: int, n: int
) -> tuple[Samples, list[float]]:
    """Fillings of a prompt, and the model's own nats per token of each."""
    filled = model.infill([prompt] * n, policy=policy, steps=passes, seed=0)
    judged = model.judge([row.ids.tolist() for row in filled.rows])
    return filled, [sum(row.surprise) / len(row.surprise) for row in judged]


def plot(model: ImplicitRefinementModel, prompt: str, most: int, n: int, path: str) -> None:
    """Draw nats per token over the passes, a line for each policy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    passes = range(1, most + 1)
    for policy in POLICIES:
        each = [fillings(model, prompt, policy, steps, n)[1] for steps in passes]
        axes.plot(passes, [sum(nats) / n for nats in each], marker="o", label=policy)
    axes.set(xlabel="passes", ylabel="nats per token in place", xticks=list(passes))
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
