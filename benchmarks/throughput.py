"""Speed of training and sampling, beside a GPT-2 of the same size.

    python benchmarks/throughput.py            about five minutes
    python benchmarks/throughput.py --quick    under a minute

Both models have random weights: speed does not depend on them, and nothing here says
anything about quality. The contenders take turns in one process on one thread, so that
whatever else the machine does falls on all of them; ratios are taken within a round. Trust
CPU time before wall time where the machine is busy.

Refiner: the architecture of the shipped molecule model, 6 passes whatever the length.
GPT-2: ``GPT2LMHeadModel`` of transformers, one pass for each token, with its KV cache: by
``generate``, and by a bare loop that does nothing but forward and draw. It writes as many
tokens as the refiner, on average exactly so in a batch; a real batch would have to wait for
its longest row.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.bench.rivals import parameters
from imadarem.bench.turns import Contender, Figures, ratios, spread, take_turns
from imadarem.data.corpus import TokenCorpus, collate
from imadarem.data.moses import load_moses_sample
from imadarem.tokenizers import SelfiesTokenizer

VOCAB = 29
LONGEST = 48
PAD, MASK, EOS = 0, 1, 2
REFINER, GPT2, BARE = "refiner", "GPT-2", "GPT-2, bare loop"


# ---------------------------------------------------------------- the two models


def make_refiner(length_counts: list[int], passes: int) -> ImplicitRefinementModel:
    special = SimpleNamespace(mask_token_id=MASK, pad_token_id=PAD, eos_token_id=EOS)
    config = ImplicitRefinementConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        num_layers=4,
        num_heads=4,
        max_seq_len=LONGEST,
        conv_kernel_size=5,
        length_mode="drawn",
        length_counts=length_counts,
        max_refinement_steps=passes,
        # No row may leave early: random weights would flatter the refiner.
        stop_threshold=0.0,
    )
    return ImplicitRefinementModel(config, special)


def make_gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=128,
        n_layer=4,
        n_head=4,
        n_positions=LONGEST + 2,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return transformers.GPT2LMHeadModel(config)


# ---------------------------------------------------------------- sampling


def sample_refiner(model: ImplicitRefinementModel, batches: list[list[int]]) -> None:
    passes = model.config.max_refinement_steps
    for lengths in batches:
        samples = model.sample(len(lengths), length=lengths)
        assert samples.forward_passes == [passes] * len(lengths)
        assert [len(row.ids) for row in samples.rows] == lengths


def sample_gpt2(model: Any, batches: list[list[int]]) -> None:
    for lengths in batches:
        count = round(statistics.mean(lengths))
        prompt = torch.full((len(lengths), 1), EOS)
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=0,
            min_new_tokens=count,
            max_new_tokens=count,
        )
        assert ids.shape == (len(lengths), 1 + count)


@torch.no_grad()
def sample_bare(model: Any, batches: list[list[int]]) -> None:
    for lengths in batches:
        ids, cache = torch.full((len(lengths), 1), EOS), None
        for _ in range(round(statistics.mean(lengths))):
            output = model(ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            ids = torch.multinomial(output.logits[:, -1].softmax(-1), 1)


# ---------------------------------------------------------------- training


def train_refiner(
    model: ImplicitRefinementModel, batches: list[tuple[Tensor, Tensor]], on_policy: float
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters())

    def work() -> None:
        model.train()
        for ids, inside in batches:
            model.loss(ids, inside, on_policy_share=on_policy).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()

    return work


def train_gpt2(model: Any, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters())

    def work() -> None:
        model.train()
        for ids, inside in batches:
            # Each row with its start; its end is one more target.
            framed = torch.nn.functional.pad(ids, (1, 0), value=EOS)
            real = torch.nn.functional.pad(inside, (1, 0), value=True)
            labels = framed.masked_fill(~real, -100)
            model(framed, attention_mask=real.long(), labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()

    return work


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[list[Figures]]]:
    corpus = real_rows(args.rows)
    lengths = np.random.default_rng(0).choice(corpus.lengths, size=args.molecules).tolist()
    torch.manual_seed(0)
    refiner, gpt2 = make_refiner(corpus.length_counts(), args.passes).eval(), make_gpt2().eval()
    about = {
        "parameters": {REFINER: parameters(refiner), GPT2: parameters(gpt2)},
        "mean_length": float(np.mean(lengths)),
        "passes": args.passes,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    tables = []
    for size in (1, args.batch):
        wanted = lengths[: args.singles] if size == 1 else lengths
        batches = [wanted[i : i + size] for i in range(0, len(wanted), size)]
        contenders = [
            Contender(REFINER, lambda b=batches: sample_refiner(refiner, b)),
            Contender(GPT2, lambda b=batches: sample_gpt2(gpt2, b)),
            Contender(BARE, lambda b=batches: sample_bare(gpt2, b)),
        ]
        task = f"sampling, batch {size}"
        tables.append(take_turns(task, "molecules", len(wanted), contenders, args.rounds))
    order = np.random.default_rng(1).permutation(len(corpus))
    picked = [order[i * args.batch : (i + 1) * args.batch] for i in range(args.steps)]
    steps = [collate([corpus[i] for i in rows], PAD) for rows in picked]
    tokens = sum(int(inside.sum()) for _, inside in steps)
    contenders = [
        Contender(f"{REFINER}, gate trained too", train_refiner(refiner, steps, 0.5)),
        Contender(f"{REFINER}, tokens only", train_refiner(refiner, steps, 0.0)),
        Contender(GPT2, train_gpt2(gpt2, steps)),
    ]
    task = f"training, batch {args.batch}"
    tables.append(take_turns(task, "tokens", tokens, contenders, args.rounds))
    return about, tables


def real_rows(count: int) -> TokenCorpus:
    """Molecules of the shipped MOSES sample, as SELFIES tokens."""
    smiles = load_moses_sample("train")[:count]
    tokenizer = SelfiesTokenizer.from_corpus(smiles)
    rows = [tokenizer.encode(text) for text in smiles]
    return TokenCorpus.from_rows(rows, len(tokenizer)).no_longer_than(LONGEST)


# ---------------------------------------------------------------- reporting


def to_markdown(about: dict[str, Any], tables: list[list[Figures]]) -> str:
    sizes = ", ".join(f"{name} {count:,}" for name, count in about["parameters"].items())
    lines = [
        f"Parameters: {sizes}. Mean length {about['mean_length']:.1f} tokens, "
        f"{about['passes']} passes, {about['rounds']} rounds, {about['threads']} thread, "
        f"torch {about['torch']}, transformers {about['transformers']}.",
        "",
        "| task | model | per CPU second | per second | CPU ratio to GPT-2 |",
        "|---|---|---|---|---|",
    ]
    for table in tables:
        (base,) = (f.per_cpu_second for f in table if f.name == GPT2)
        for figures in table:
            lines.append(
                f"| {figures.task} | {figures.name} | {spread(figures.per_cpu_second)} "
                f"{figures.unit} | {spread(figures.per_second)} "
                f"| {spread(ratios(figures.per_cpu_second, base))} |"
            )
    return "\n".join([*lines, "", "Median (least–most) over the rounds; ratios round by round."])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--molecules", type=int, default=256, help="in batches, per round")
    parser.add_argument("--singles", type=int, default=16, help="one at a time, per round")
    parser.add_argument("--steps", type=int, default=8, help="training steps per round")
    parser.add_argument("--rows", type=int, default=5_000, help="molecules to read")
    parser.add_argument("--quick", action="store_true", help="3 rounds of a quarter of the work")
    parser.add_argument("--json", type=Path, help="write every round's rates here")
    args = parser.parse_args(arguments)
    if args.quick:
        args.rounds, args.rows = 3, 1_000
        args.molecules, args.singles, args.steps = args.batch, 4, 2
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    about, tables = measure(args)
    print(to_markdown(about, tables))
    if args.json is not None:
        figures = [asdict(f) for table in tables for f in table]
        args.json.write_text(json.dumps({**about, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
