"""Speed of training and sampling, beside a GPT-2 and a BERT of the same size.

    python benchmarks/throughput.py                          about ten minutes
    python benchmarks/throughput.py --quick                  about a minute
    python benchmarks/throughput.py --only training          five minutes
    python benchmarks/throughput.py --only training --width 320 --heads 5 --length 64

All models have random weights: speed does not depend on them, and nothing here says
anything about quality. The contenders take turns in one process on one thread, so that
whatever else the machine does falls on all of them; ratios are taken within a round. Trust
CPU time before wall time where the machine is busy.

Refiner: the architecture of the shipped molecule models, 6 passes whatever the length.
GPT-2: ``GPT2LMHeadModel`` of transformers, one pass for each token, with its KV cache: by
``generate``, and by a bare loop that does nothing but forward and draw. It writes as many
tokens as the refiner, on average exactly so in a batch; a real batch would have to wait for
its longest row.

Training: every step is loss, gradient and fused AdamW on the same rows, no dropout. BERT is
``BertForMaskedLM`` on the same share of hidden tokens (one rate for each row, spread evenly over
0 to 1), which is the work of *tokens only*; what the gate and self-conditioning take on top
are rows of their own. The share of the peak is three times the operations of the linear layers
of a forward pass (what they take with their gradients), by the rate of one ``F.linear`` of the
feed-forward layer's shape that takes turns with the others. Attention, norms, the loss and the
optimiser are timed and not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.bench.rivals import EOS, MASK, PAD, Size, bert_model, gpt2_model, parameters
from imadarem.bench.speed import matrix_peak, peak_share
from imadarem.bench.turns import Contender, Figures, ratios, spread, take_turns
from imadarem.corruption import stratified_rates
from imadarem.data.corpus import TokenCorpus, collate
from imadarem.data.moses import load_moses_sample
from imadarem.tokenizers import SelfiesTokenizer

VOCAB = 29
LONGEST = 48
REFINER, GPT2, BARE, BERT = "refiner", "GPT-2", "GPT-2, bare loop", "BERT, masked tokens"
TOKENS_ONLY, PRODUCT = f"{REFINER}, tokens only", "F.linear"
TASKS = ("sampling", "training")


# ---------------------------------------------------------------- the models


def make_refiner(
    args: argparse.Namespace, length_counts: list[int], *, self_conditioning: bool = False
) -> ImplicitRefinementModel:
    special = SimpleNamespace(mask_token_id=MASK, pad_token_id=PAD, eos_token_id=EOS)
    config = ImplicitRefinementConfig(
        vocab_size=VOCAB,
        hidden_size=args.width,
        num_layers=4,
        num_heads=args.heads,
        max_seq_len=max(LONGEST, args.length or 0),
        conv_kernel_size=5,
        dropout=0.0,
        self_conditioning=self_conditioning,
        length_mode="drawn",
        length_counts=length_counts,
        max_refinement_steps=args.passes,
        # No row may leave early: random weights would flatter the refiner.
        stop_threshold=0.0,
    )
    return ImplicitRefinementModel(config, special)


def size_of(refiner: ImplicitRefinementModel) -> Size:
    config = refiner.config
    return Size(
        vocab=VOCAB,
        layers=config.num_layers,
        heads=config.num_heads,
        length=config.max_seq_len,
        passes=config.max_refinement_steps,
        parameters=parameters(refiner),
    )


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


Steps = list[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def train(model: Any, steps: Steps, loss: Loss) -> Callable[[], None]:
    """Loss, gradient and optimiser on each batch of ids ``(B, L)`` and real positions."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def work() -> None:
        model.train()
        for ids, inside in steps:
            loss(ids, inside).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()

    return work


def refiner_loss(model: ImplicitRefinementModel, on_policy: float) -> Loss:
    return lambda ids, inside: model.loss(ids, inside, on_policy_share=on_policy).total


def gpt2_loss(model: Any) -> Loss:
    def loss(ids: Tensor, inside: Tensor) -> Tensor:
        # Each row with its start; its end is one more target.
        framed = torch.nn.functional.pad(ids, (1, 0), value=EOS)
        real = torch.nn.functional.pad(inside, (1, 0), value=True)
        labels = framed.masked_fill(~real, -100)
        found: Tensor = model(framed, attention_mask=real.long(), labels=labels).loss
        return found

    return loss


def bert_loss(model: Any) -> Loss:
    generator = torch.Generator().manual_seed(0)

    def loss(ids: Tensor, inside: Tensor) -> Tensor:
        rates = stratified_rates(len(ids), generator)
        hidden = (torch.rand(ids.shape, generator=generator) < rates[:, None]) & inside
        labels = ids.masked_fill(~hidden, -100)
        # Without a mask where it hides nothing: as the refiner, it then has a faster kernel.
        mask = None if bool(inside.all()) else inside.long()
        found: Tensor = model(
            ids.masked_fill(hidden, MASK), attention_mask=mask, labels=labels
        ).loss
        return found

    return loss


def measure_training(
    args: argparse.Namespace, corpus: TokenCorpus, about: dict[str, Any]
) -> list[Figures]:
    steps = training_steps(args, corpus)
    tokens = sum(int(inside.sum()) for _, inside in steps)
    counts = corpus.length_counts()
    plain, believing = (
        make_refiner(args, counts, self_conditioning=given) for given in (False, True)
    )
    size = size_of(plain)
    gpt2 = gpt2_model(size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    bert = bert_model(size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    about["parameters"] |= {
        REFINER: parameters(plain),
        GPT2: parameters(gpt2),
        BERT: parameters(bert),
    }
    # What the product does in a round: as many operations as the linear layers of our steps.
    wanted = sum(3 * peak_share(shaped(size, ids), args.width, len(ids))[1] for ids, _ in steps)
    product, operations = matrix_peak(shaped(size, steps[0][0]), args.width, len(steps[0][0]))
    times = max(1, round(wanted / operations))
    about["product_operations"] = times * operations
    about["linear_operations"] = wanted
    contenders = [
        Contender(TOKENS_ONLY, train(plain, steps, refiner_loss(plain, 0.0))),
        Contender(f"{REFINER}, gate trained too", train(plain, steps, refiner_loss(plain, 0.5))),
        Contender(
            f"{REFINER}, self-conditioning, tokens only",
            train(believing, steps, refiner_loss(believing, 0.0)),
        ),
        Contender(GPT2, train(gpt2, steps, gpt2_loss(gpt2))),
        Contender(BERT, train(bert, steps, bert_loss(bert))),
        Contender(PRODUCT, lambda: [product() for _ in range(times)]),
    ]
    return take_turns(f"training, batch {args.batch}", "tokens", tokens, contenders, args.rounds)


def shaped(size: Size, ids: Tensor) -> Size:
    return replace(size, length=ids.shape[1])


def training_steps(args: argparse.Namespace, corpus: TokenCorpus) -> Steps:
    """Batches of real molecules, or of ``--length`` drawn tokens each."""
    if args.length is not None:
        generator = torch.Generator().manual_seed(0)
        shape = (args.batch, args.length)
        drawn = [
            torch.randint(EOS + 1, VOCAB, shape, generator=generator) for _ in range(args.steps)
        ]
        return [(ids, torch.ones_like(ids, dtype=torch.bool)) for ids in drawn]
    order = np.random.default_rng(1).permutation(len(corpus))
    picked = [order[i * args.batch : (i + 1) * args.batch] for i in range(args.steps)]
    return [collate([corpus[i] for i in rows], PAD) for rows in picked]


# ---------------------------------------------------------------- all of it


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[list[Figures]]]:
    torch.manual_seed(0)
    corpus = real_rows(args.rows)
    about: dict[str, Any] = {
        "parameters": {},
        "passes": args.passes,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    tables = []
    if "sampling" in args.only:
        tables += measure_sampling(args, corpus, about)
    if "training" in args.only:
        tables.append(measure_training(args, corpus, about))
    return about, tables


def measure_sampling(
    args: argparse.Namespace, corpus: TokenCorpus, about: dict[str, Any]
) -> list[list[Figures]]:
    lengths = np.random.default_rng(0).choice(corpus.lengths, size=args.molecules).tolist()
    if args.length is not None:
        lengths = [args.length] * args.molecules
    refiner = make_refiner(args, corpus.length_counts()).eval()
    gpt2 = gpt2_model(size_of(refiner))
    about["parameters"] |= {REFINER: parameters(refiner), GPT2: parameters(gpt2)}
    about["mean_length"] = float(np.mean(lengths))
    tables = []
    for size in (1, args.batch):
        wanted = lengths[: args.singles] if size == 1 else lengths
        batches = [wanted[i : i + size] for i in range(0, len(wanted), size)]
        contenders = [
            Contender(REFINER, partial(sample_refiner, refiner, batches)),
            Contender(GPT2, partial(sample_gpt2, gpt2, batches)),
            Contender(BARE, partial(sample_bare, gpt2, batches)),
        ]
        task = f"sampling, batch {size}"
        tables.append(take_turns(task, "molecules", len(wanted), contenders, args.rounds))
    return tables


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
        f"Parameters: {sizes}. {about['passes']} passes, {about['rounds']} rounds, "
        f"{about['threads']} thread, torch {about['torch']}, "
        f"transformers {about['transformers']}.",
        "",
        "| task | model | per CPU second | per second | CPU ratio to GPT-2 | to BERT |",
        "|---|---|---|---|---|---|",
    ]
    for table in tables:
        rates = {figures.name: figures.per_cpu_second for figures in table}
        for figures in table:
            if figures.name == PRODUCT:
                continue
            beside = [
                spread(ratios(figures.per_cpu_second, rates[base])) if base in rates else ""
                for base in (GPT2, BERT)
            ]
            lines.append(
                f"| {figures.task} | {figures.name} | {spread(figures.per_cpu_second)} "
                f"{figures.unit} | {spread(figures.per_second)} | {' | '.join(beside)} |"
            )
    if "product_operations" in about:
        rates = {figures.name: figures.per_cpu_second for figures in tables[-1]}
        whole = about["linear_operations"] / about["product_operations"]
        share = [100 * whole * r for r in ratios(rates[TOKENS_ONLY], rates[PRODUCT])]
        lines += [
            "",
            f"A train step of *{TOKENS_ONLY}* does {about['linear_operations'] / 1e9:,.0f} "
            f"billion operations in linear layers at {spread(share)} % of the rate of `F.linear`.",
        ]
    return "\n".join([*lines, "", "Median (least–most) over the rounds; ratios round by round."])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--width", type=int, default=128, help="of the refiner")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--length", type=int, help="tokens of every row; default molecules")
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
