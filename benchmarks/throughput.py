"""Speed of sampling and training beside models of the same size.

    python benchmarks/throughput.py sampling                    two to three minutes
    python benchmarks/throughput.py sampling --length 64 --width 320 --heads 5 --rounds 3
    python benchmarks/throughput.py sampling --only dense scripted gpt2 --batch 1 64 512
    python benchmarks/throughput.py sampling --batch 1 --length 32 128 512 --plot growth.png
    python benchmarks/throughput.py training                    five minutes
    python benchmarks/throughput.py training --width 320 --heads 5 --length 64

All models have random weights: speed does not depend on them, and nothing here says
anything about quality. The contenders take turns in one process on one thread, so that
whatever else the machine does falls on all of them; ratios are taken within a round. Trust
CPU time before wall time where the machine is busy.

Sampling: rows per CPU second, as ratios to GPT-2's (to the first row's where GPT-2 is not asked
for), and the most memory that is resident in a process of its own. The share of the peak is what
the linear layers of a pass reach of the rate of one ``F.linear`` of the feed-forward layer's
shape; attention and all else is timed and not counted.

Training: every step is loss, gradient and fused AdamW on the same rows, no dropout. BERT is
``BertForMaskedLM`` on the same share of hidden tokens (one rate for each row, spread evenly over
0 to 1), which is the work of *tokens only*; what the gate and self-conditioning take on top
are rows of their own. The share of the peak counts three times the operations of the linear
layers of a forward pass: with their gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from same_size import (
    EOS,
    MASK,
    PAD,
    ROWS,
    Row,
    Size,
    bert_model,
    gpt2_model,
    parameters,
    refiner,
)  # fmt: skip
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from turns import Contender, Rates, crossover, ratios, spread, take_turns

from imadarem import ImplicitRefinementModel
from imadarem.corruption import stratified_rates
from imadarem.data.corpus import TokenCorpus, collate
from imadarem.data.moses import load_moses_sample
from imadarem.tokenizers import SelfiesTokenizer

#: The row that the others are compared with, where it is there.
BASE = "gpt2"
#: Rows whose memory is read.
WEIGHED = ("dense", "gpt2")
# One row of a few tokens is over too soon to be timed.
TOKENS_AT_LEAST = 288
# Positions of a pass whose share of the peak is taken: as many as sampling puts together at most.
POSITIONS = 3_072
# Tokens of the longest molecule that is trained on, and of the vocabulary.
LONGEST, VOCAB = 48, 29


# ---------------------------------------------------------------- the share of the peak


def linear_operations(network: torch.nn.Module, rows: int, length: int) -> int:
    """Operations of the linear layers of a pass over that many canvases."""
    ids = torch.full((rows, length), MASK)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(ids)
    # Attention is not counted, so that the share is a lower bound.
    return sum(
        found
        for operator, found in counter.get_flop_counts()["Global"].items()
        if "attention" not in str(operator)
    )


def feed_forward_product(size: Size, rows: int) -> tuple[Callable[[], Any], int]:
    """``F.linear`` at the shape of the feed-forward layer, and its operations."""
    x, weight = torch.randn(rows * size.length, size.width), torch.randn(4 * size.width, size.width)
    return lambda: F.linear(x, weight), 2 * x.numel() * len(weight)


def repeated(work: Callable[[], Any], times: int) -> Callable[[], None]:
    def often() -> None:
        for _ in range(times):
            work()

    return often


@torch.no_grad()
def peak_share(size: Size, batch: int, rounds: int) -> float:
    """Rate of the linear layers of a pass by that of a product that takes turns with it."""
    rows = min(batch, max(1, POSITIONS // size.length))
    network, ids = refiner(size), torch.full((rows, size.length), MASK)
    wanted = linear_operations(network, rows, size.length)
    product, operations = feed_forward_product(size, rows)
    times = max(1, wanted // operations)
    pass_, products = take_turns(
        1.0,
        [Contender("pass", lambda: network(ids)), Contender("", repeated(product, times))],
        rounds,
    )
    share = median(ratios(pass_.per_cpu_second, products.per_cpu_second))
    return share * wanted / (times * operations)


# ---------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Table:
    """What was measured at one size.

    Attributes:
        size: Of the models.
        rows: By the names of ``--only``, in the order of the table.
        rates: Batch → name → rates, in rows.
        peaks: Batch → share of the peak.
        memory: Name → batch → bytes.
    """

    size: Size
    rows: dict[str, Row]
    rates: dict[int, dict[str, Rates]]
    peaks: dict[int, float]
    memory: dict[str, dict[int, int]]

    @property
    def base(self) -> str:
        """Whom the others are compared with."""
        return BASE if BASE in self.rows else next(iter(self.rows))

    def ratios(self, name: str, batch: int) -> list[float]:
        """A row's rates by those of the base, round by round."""
        rates = self.rates[batch]
        return ratios(rates[name].per_cpu_second, rates[self.base].per_cpu_second)

    def milliseconds(self, name: str, batch: int) -> list[float]:
        """CPU milliseconds of a token, round by round."""
        rates = self.rates[batch][name].per_cpu_second
        return [1000 / (rate * self.size.length) for rate in rates]


def measure_sampling(size: Size, args: argparse.Namespace) -> Table:
    rows = {name: make(size) for name, make in ROWS.items() if name in args.only}
    rates = {}
    for batch in args.batch:
        times = max(1, TOKENS_AT_LEAST // (batch * size.length))
        contenders = [
            Contender(name, repeated(partial(row.sample, batch), times))
            for name, row in rows.items()
        ]
        found = take_turns(batch * times, contenders, args.rounds)
        rates[batch] = {each.name: each for each in found}
    peaks = {batch: peak_share(size, batch, args.rounds) for batch in args.batch}
    weighed = [name for name in WEIGHED if name in rows and args.memory]
    memory = {name: {batch: peak_memory(size, name, batch) for batch in args.batch}
              for name in weighed}  # fmt: skip
    return Table(size, rows, rates, peaks, memory)


def peak_memory(size: Size, name: str, batch: int) -> int:
    """Bytes resident at most in a process that samples a batch by one row, twice.

    A process's high-water mark never falls, so every reading has a process of its own; it counts
    the interpreter, torch and the weights. What the allocator keeps of a first call is there for
    the second: more calls take no more.
    """
    asked = json.dumps({"size": asdict(size), "name": name, "batch": batch})
    command = [sys.executable, __file__, "memory", asked]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=alone)
    return int(done.stdout)


def high_water(size: dict[str, Any], name: str, batch: int) -> int:
    """This process's largest resident memory after two batches, bytes."""
    row = ROWS[name](Size(**size))
    for _ in range(2):
        row.sample(batch)
    try:
        # Linux counts the memory of the process that started this one into ru_maxrss.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except OSError:
        import resource

        # Bytes on macOS, kilobytes elsewhere.
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def sampling_markdown(table: Table) -> str:
    batches, base = list(table.rates), table.rows[table.base].name
    cells = [["", "parameters", *(f"batch {batch}" for batch in batches)]]
    cells.append(["---"] * len(cells[0]))
    meets = []
    for name, row in table.rows.items():
        found = [table.ratios(name, batch) for batch in batches]
        cells.append([row.name, f"{row.parameters:,}", *map(spread, found)])
        where = crossover(batches, [median(values) for values in found])
        if where is not None:
            meets.append(f"{row.name} is ahead of {base} up to batch {where:.0f}.")
    rates = [spread(each[table.base].per_cpu_second) for each in table.rates.values()]
    cells.append([f"{base}: rows per CPU second", "", *rates])
    shares = [f"{table.peaks[batch]:.0%}" for batch in batches]
    cells.append(["linear layers of a pass: share of the peak of `F.linear`", "", *shares])
    for name, taken in table.memory.items():
        megabytes = [f"{taken[batch] / 1e6:,.0f} MB" for batch in batches]
        cells.append([f"{table.rows[name].name}: peak memory", "", *megabytes])
    title = f"{table.size.length} tokens a row, {table.size.passes} passes; ratios to {base}:"
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([title, "", *lines, "", *meets])


def sampling_records(table: Table) -> list[dict[str, Any]]:
    about, found = asdict(table.size), []
    for batch, rates in table.rates.items():
        for key, row in table.rows.items():
            of = {"row": key, "name": row.name, "parameters": row.parameters}
            of |= {"per_cpu_second": rates[key].per_cpu_second}
            of |= {"per_second": rates[key].per_second}
            found.append({"kind": "sampling", **about, "batch": batch, **of})
        found.append({"kind": "peak", **about, "batch": batch, "share": table.peaks[batch]})
        found += [
            {"kind": "memory", **about, "batch": batch, "row": key, "bytes": taken[batch]}
            for key, taken in table.memory.items()
        ]
    return found


def sampling(args: argparse.Namespace) -> list[dict[str, Any]]:
    tables = []
    for length in args.length:
        for passes in args.passes:
            size = Size(
                width=args.width,
                vocab=args.vocab,
                layers=args.layers,
                heads=args.heads,
                length=length,
                passes=passes,
            )
            tables.append(measure_sampling(size, args))
            print(sampling_markdown(tables[-1]), flush=True)
    if args.plot is not None:
        from growth import draw_growth

        draw_growth(tables, args.plot)
    return [record for table in tables for record in sampling_records(table)]


# ---------------------------------------------------------------- training


Steps = list[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
TOKENS_ONLY, GPT2, BERT, PRODUCT = "refiner, tokens only", "GPT-2", "BERT, masked tokens", ""


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
        framed = F.pad(ids, (1, 0), value=EOS)
        real = F.pad(inside, (1, 0), value=True)
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


def real_rows(count: int) -> TokenCorpus:
    """Molecules of the shipped MOSES sample, as SELFIES tokens."""
    smiles = load_moses_sample("train")[:count]
    tokenizer = SelfiesTokenizer.from_corpus(smiles)
    rows = [tokenizer.encode(text) for text in smiles]
    return TokenCorpus.from_rows(rows, len(tokenizer)).no_longer_than(LONGEST)


def training(args: argparse.Namespace) -> list[dict[str, Any]]:
    corpus = real_rows(args.rows)
    steps = training_steps(args, corpus)
    size = Size(
        width=args.width,
        vocab=VOCAB,
        layers=4,
        heads=args.heads,
        length=max(LONGEST, args.length or 0),
        passes=6,
    )
    lengths = {"length_counts": corpus.length_counts(), "dropout": 0.0}
    plain = refiner(size, **lengths)
    believing = refiner(size, **{**lengths, "self_conditioning": True})
    gpt2 = gpt2_model(size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    bert = bert_model(size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    # What the product does in a round: as many operations as the linear layers of our steps.
    wanted = sum(3 * linear_operations(plain, *ids.shape) for ids, _ in steps)
    first = steps[0][0]
    product, operations = feed_forward_product(replace(size, length=first.shape[1]), len(first))
    times = max(1, round(wanted / operations))
    works = {
        TOKENS_ONLY: (plain, refiner_loss(plain, 0.0)),
        "refiner, gate trained too": (plain, refiner_loss(plain, 0.5)),
        "refiner, self-conditioning, tokens only": (believing, refiner_loss(believing, 0.0)),
        GPT2: (gpt2, gpt2_loss(gpt2)),
        BERT: (bert, bert_loss(bert)),
    }
    contenders = [Contender(name, train(m, steps, loss)) for name, (m, loss) in works.items()]
    contenders.append(Contender(PRODUCT, repeated(product, times)))
    tokens = sum(int(inside.sum()) for _, inside in steps)
    found = {each.name: each for each in take_turns(tokens, contenders, args.rounds)}
    peak = wanted / (times * operations)
    share = [
        peak * ratio
        for ratio in ratios(found[TOKENS_ONLY].per_cpu_second, found[PRODUCT].per_cpu_second)
    ]
    sizes = {name: parameters(model) for name, (model, _) in works.items()}
    print(training_markdown(found, sizes, share))
    about = {"kind": "training", "width": args.width, "batch": args.batch, "length": args.length}
    records = [{**about, **asdict(each)} for each in found.values() if each.name != PRODUCT]
    return [*records, {**about, "kind": "peak", "share": share}]


def training_markdown(found: dict[str, Rates], sizes: dict[str, int], share: list[float]) -> str:
    lines = [
        "| | parameters | tokens per CPU second | to BERT | to GPT-2 | tokens per second |",
        "|---|---|---|---|---|---|",
    ]
    for name, count in sizes.items():
        rates = found[name].per_cpu_second
        beside = [spread(ratios(rates, found[base].per_cpu_second)) for base in (BERT, GPT2)]
        cells = [name, f"{count:,}", spread(rates), *beside, spread(found[name].per_second)]
        lines.append("| " + " | ".join(cells) + " |")
    percent = spread([100 * value for value in share])
    lines += ["", f"Linear layers of *{TOKENS_ONLY}*: {percent} % of the rate of `F.linear`."]
    return "\n".join(lines)


# ---------------------------------------------------------------- the command


def number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--width", type=number, default=128, help="of the refiner")
    common.add_argument("--heads", type=number, default=4)
    common.add_argument("--rounds", type=number, default=5, help="turns of each that count")
    common.add_argument("--json", type=Path, help="write every round's rates here")
    sample = commands.add_parser("sampling", parents=[common])
    sample.add_argument("--batch", type=number, nargs="+", default=[1, 16, 64])
    sample.add_argument("--length", type=number, nargs="+", default=[36], help="tokens of a row")
    sample.add_argument("--passes", type=number, nargs="+", default=[6])
    sample.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW",
                        help=f"of {', '.join(ROWS)}")  # fmt: skip
    sample.add_argument("--layers", type=number, default=4)
    sample.add_argument("--vocab", type=number, default=32)
    sample.add_argument("--no-memory", dest="memory", action="store_false")
    sample.add_argument("--plot", type=Path, help="a PNG: time of a token by length or batch")
    learn = commands.add_parser("training", parents=[common])
    learn.add_argument("--batch", type=number, default=64)
    learn.add_argument("--length", type=number, help="tokens of every row; default: molecules")
    learn.add_argument("--steps", type=number, default=8, help="training steps per round")
    learn.add_argument("--rows", type=number, default=5_000, help="molecules to read")
    commands.add_parser("memory").add_argument("asked", type=json.loads)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    if args.command == "memory":
        print(high_water(**args.asked))
        return
    records = {"sampling": sampling, "training": training}[args.command](args)
    print(
        f"\nMedian (least–most) of {args.rounds} rounds, ratios round by round; one thread; "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}."
    )
    if args.json is not None:
        args.json.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    main()
