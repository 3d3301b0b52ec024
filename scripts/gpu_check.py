"""Does everything run on this accelerator? Train, sample, save and load, in two precisions.

    python scripts/gpu_check.py                 # on cuda where there is one: under 4 minutes
    python scripts/gpu_check.py --device cpu --tiny

Two networks, the project's own and a BERT of transformers as a backbone, both with random weights,
learn rows of one letter, repeated. Each is trained in float32 and in bfloat16 (the loss must
fall), draws rows (no special token may be left, and a second call must give the same), and is
saved and loaded (the logits must be equal). Prints a table in Markdown with the throughput and the
largest memory; the exit code is 1 where a check fails.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.backbones.antiberty import amino_acid_tokenizer
from imadarem.training.step import DTYPES

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
TOKENIZER = amino_acid_tokenizer(VOCABULARY)
#: Share of the first loss that must be gone at the end.
LEARNED = 0.15


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        width: Of the networks.
        layers: Of the networks.
        length: Tokens of a row.
        batch: Rows of a training step.
        steps: Training steps.
        rows: Rows drawn.
    """

    width: int
    layers: int
    length: int
    batch: int
    steps: int
    rows: int


LARGE, TINY = Sizes(768, 12, 256, 64, 150, 1024), Sizes(32, 1, 16, 16, 24, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes for a processor")
    args = parser.parse_args(arguments)

    sizes = TINY if args.tiny else LARGE
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {name}\n")
    print("| network | precision | loss | tokens/s trained | rows/s drawn | MiB | failed |")
    print("|---|---|---|---|---|---|---|")
    failures = 0
    for (kind, build), precision in itertools.product(NETWORKS.items(), ("no", "bf16")):
        torch.manual_seed(0)
        line, failed = checked(build(sizes).to(args.device), sizes, precision)
        failures += len(failed)
        print(f"| {kind} | {precision} | {line} | {', '.join(failed) or 'nothing'} |", flush=True)
    return int(failures > 0)


def own(sizes: Sizes) -> ImplicitRefinementModel:
    """The project's own network."""
    config = ImplicitRefinementConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=sizes.width,
        num_layers=sizes.layers,
        num_heads=max(sizes.width // 64, 1),
        max_seq_len=sizes.length,
        dropout=0.0,
        length_mode="drawn",
    )
    with_end = amino_acid_tokenizer(VOCABULARY)
    with_end.eos_token = "[SEP]"
    return ImplicitRefinementModel(config, with_end)


def bert(sizes: Sizes) -> ImplicitRefinementModel:
    """A BERT of transformers."""
    config = transformers.BertConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=max(sizes.width // 64, 1),
        intermediate_size=4 * sizes.width,
        max_position_embeddings=sizes.length + 2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForMaskedLM(config)
    return ImplicitRefinementModel.from_masked_lm(model, tokenizer=TOKENIZER)


NETWORKS: dict[str, Callable[[Sizes], ImplicitRefinementModel]] = {"own": own, "bert": bert}


def checked(model: ImplicitRefinementModel, sizes: Sizes, precision: str) -> tuple[str, list[str]]:
    """The cells of a row of the table, and the names of the checks that failed."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, last, trained = train(model, sizes, precision)
    failed = [] if last < (1 - LEARNED) * first else ["training"]
    start = time.perf_counter()
    samples = model.sample(sizes.rows, length=sizes.length, steps=4, policy="confidence", seed=0)
    drawn = sizes.rows / (time.perf_counter() - start)
    few = min(sizes.rows, 4)
    again = model.sample(sizes.rows, length=sizes.length, steps=4, policy="confidence", seed=0)
    rows = [row.ids for row in samples.rows]
    if any(len(ids) != sizes.length or int(ids.min()) < 5 for ids in rows[:few]):
        failed.append("specials")
    if samples.texts != again.texts:
        failed.append("repetition")
    if not reloads(model, rows[0][None].to(device)):
        failed.append("loading")
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    cells = f"{first:.2f} → {last:.2f}", f"{trained:,.0f}", f"{drawn:,.1f}", f"{memory:,.0f}"
    return " | ".join(cells), failed


def train(
    model: ImplicitRefinementModel, sizes: Sizes, precision: str
) -> tuple[float, float, float]:
    """The mean loss of the first and the last tenth of the steps, and tokens per second."""
    device = next(model.parameters()).device
    rate = 1e-2 if sizes is TINY else 3e-4
    optimizer = torch.optim.AdamW(model.student_parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    model.train()
    losses, start = [], time.perf_counter()
    for _ in range(sizes.steps):
        letters = torch.randint(len(LETTERS), (sizes.batch, 1), generator=generator) + 5
        ids = letters.expand(-1, sizes.length)
        dtype = DTYPES.get(precision)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = model.loss(ids.to(device), generator=generator, on_policy_share=0.25)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.token.detach())
    steps = torch.stack(losses).tolist()
    rate = sizes.steps * sizes.batch * sizes.length / (time.perf_counter() - start)
    tenth = max(len(steps) // 10, 1)
    model.eval()
    return sum(steps[:tenth]) / tenth, sum(steps[-tenth:]) / tenth, rate


@torch.no_grad()
def reloads(model: ImplicitRefinementModel, ids: torch.Tensor) -> bool:
    """Whether a saved and loaded model gives equal logits."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        read = ImplicitRefinementModel.from_pretrained(folder).to(ids.device)
        return torch.equal(read(ids).logits, model(ids).logits)


if __name__ == "__main__":
    raise SystemExit(main())
