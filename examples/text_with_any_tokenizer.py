"""Train on lines of text with a Hugging Face tokenizer, then write and fill lines.

    python examples/text_with_any_tokenizer.py lines.txt run

Any tokenizer with a mask token will do; this one is made on the spot. To use one that you
have: ``AutoTokenizer.from_pretrained(...)``, and ``add_special_tokens`` for what it lacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from imadarem import (
    ImplicitRefinementConfig,
    ImplicitRefinementModel,
    MaskedTraining,
    Trainer,
    TrainingConfig,
)
from imadarem.data.prepare import prepare
from imadarem.data.text import read_lines

SPECIALS = {"pad_token": "<pad>", "mask_token": "<mask>", "eos_token": "</s>"}


def byte_pairs(texts: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2's, with the special tokens that refinement needs."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIALS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("run_dir")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--prompt", default="In the <mask><mask><mask>")
    args = parser.parse_args(arguments)

    tokenizer = byte_pairs(read_lines(args.file))
    data = prepare(args.file, tokenizer=tokenizer)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer), hidden_size=args.hidden_size, max_seq_len=48
    )
    model = ImplicitRefinementModel(config, tokenizer)
    training = TrainingConfig(steps=args.steps)
    objective = MaskedTraining(model, data.train, data.valid)
    result = Trainer(objective, training, args.run_dir).run()
    print(f"held out: {result.first.loss:.2f} → {result.last.loss:.2f} nats per token")

    trained = ImplicitRefinementModel.from_pretrained(result.model_dir)
    for line in trained.sample(5, seed=0):
        print(line)
    print(trained.infill(args.prompt, seed=0)[0])


if __name__ == "__main__":
    main()
