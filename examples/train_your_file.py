"""Train on a file of molecules and draw new ones.

    python examples/train_your_file.py molecules.smi run --steps 2000

The file has one SMILES per line, or is a table with a column of them. Interrupted, the same
command with ``--resume`` goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from imadarem import (
    ImplicitRefinementConfig,
    ImplicitRefinementModel,
    MaskedTraining,
    Trainer,
    TrainingConfig,
)
from imadarem.data.prepare import prepare
from imadarem.training.trainer import Evaluated, Progress


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("run_dir")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(arguments)

    data = prepare(args.file, tokenizer="selfies")
    for line in data.rejected[:5]:
        print(f"left out, line {line.line}: {line.reason}")

    lengths = data.train.length_counts()
    config = ImplicitRefinementConfig(
        vocab_size=len(data.tokenizer),
        hidden_size=args.hidden_size,
        max_seq_len=len(lengths) - 1,
        conv_kernel_size=5,
        length_mode="drawn",
        length_counts=lengths,
    )
    model = ImplicitRefinementModel(config, data.tokenizer)
    training = TrainingConfig(steps=args.steps, eval_every=max(1, args.steps // 4))
    objective = MaskedTraining(model, data.train, data.valid)
    trainer = Trainer(objective, training, args.run_dir, on_event=show)
    if args.resume:
        trainer.resume()
    result = trainer.run()

    trained = ImplicitRefinementModel.from_pretrained(result.model_dir)
    for smiles in trained.sample(10, seed=0):
        print(smiles)


def show(event: Progress | Evaluated) -> None:
    if isinstance(event, Evaluated):
        print(f"step {event.step}: {event.figures.loss:.3f} nats per token on held-out molecules")


if __name__ == "__main__":
    main()
