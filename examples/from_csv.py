"""From a CSV to a ranked, drawn list of new molecules like those in it.

    python examples/from_csv.py mine.csv out --steps 400 --count 1000

Fine-tunes a model in the package on the file, samples, keeps what is new, distinct and passes
MOSES' filters, ranks it by QED and writes ``ranked.csv`` and ``best.svg`` into the folder.
docs/tutorials/chemist.md explains each step.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from imadarem import ImplicitRefinementModel, MaskedTraining, Trainer, TrainingConfig
from imadarem.data.molecules import canonical
from imadarem.data.prepare import prepare
from imadarem.design.scores import score_named
from imadarem.evaluation.chemistry import passes_filters
from imadarem.training.trainer import Evaluated, Progress
from imadarem.viz.molecules import molecule_grid_svg

BEST = 12


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--init", default="smiles")
    args = parser.parse_args(arguments)

    # 1. Read the file, and start from a model that is told of its tokens and lengths.
    model = ImplicitRefinementModel.from_pretrained(args.init)
    data = prepare(args.file, tokenizer=model.tokenizer, extend=True)
    print(f"{len(data.train)} molecules to learn from; kept out: {len(data.rejected)} lines")
    model = model.with_vocabulary(data.tokenizer)
    rows = data.train.no_longer_than(model.config.max_seq_len)
    model.config.length_counts = rows.length_counts()

    # 2. Fine-tune.
    training = TrainingConfig(
        steps=args.steps,
        batch_size=64,
        optimizer="muon",
        learning_rate=1e-3,
        gate_warmup=0.5,
        eval_every=max(1, args.steps // 4),
    )
    run = args.folder / "run"
    objective = MaskedTraining(model, data.train, data.valid)
    trainer = Trainer(objective, training, run, on_event=show)
    trained = ImplicitRefinementModel.from_pretrained(trainer.run().model_dir)

    # 3. Sample, and keep what is new.
    known = {
        canonical(data.tokenizer.decode(row)) for part in (data.train, data.valid) for row in part
    }
    samples = [canonical(text) for text in trained.sample(args.count, seed=0)]
    new = [s for s in dict.fromkeys(samples) if s and s not in known and passes_filters(s)]
    print(f"{len(new)} of {args.count} are new, distinct and pass the filters")

    # 4. Rank, write, draw.
    score = score_named("qed")
    ranked = sorted(((score(s), s) for s in new), reverse=True)
    with (args.folder / "ranked.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("SMILES", "QED"), *((s, f"{q:.3f}") for q, s in ranked)])
    best = ranked[:BEST]
    if best:
        svg = molecule_grid_svg([s for _, s in best], [f"QED {q:.2f}" for q, _ in best])
        (args.folder / "best.svg").write_text(svg, encoding="utf-8")
    for q, smiles in best[:5]:
        print(f"{q:.2f}  {smiles}")


def show(event: Progress | Evaluated) -> None:
    if isinstance(event, Evaluated):
        print(f"step {event.step}: {event.figures.loss:.3f} nats per token on held-out molecules")


if __name__ == "__main__":
    main()
