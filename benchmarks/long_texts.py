"""Time and memory of long canvases: a training step and a pass, with and without checkpointing.

    OMP_NUM_THREADS=1 python benchmarks/long_texts.py        about two minutes on one core

A model of the default size over 2,048 tokens, two rows, each case in a process of its own. A
step is the loss of the tokens and its backward pass, without the gate's rollouts; memory is the
peak of the process less what it held before the first pass.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

ROWS, VOCABULARY = 2, 2048


def measure(length: int, checkpointing: bool) -> dict[str, float]:
    """CPU seconds of a step and of a pass, and MB at the peak of each."""
    import torch

    from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel

    config = ImplicitRefinementConfig(
        vocab_size=VOCABULARY,
        max_seq_len=length,
        gradient_checkpointing=checkpointing,
        self_conditioning=False,
        length_mode="drawn",
        mask_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = ImplicitRefinementModel(config).train()
    ids = torch.randint(3, VOCABULARY, (ROWS, length))
    # What torch imports on the way is no part of it.
    model.loss(ids[:, :8], on_policy_share=0.0).total.backward()
    before = peak()
    start = time.process_time()
    with torch.no_grad():
        model(ids)
    a_pass, held = time.process_time() - start, peak() - before
    start = time.process_time()
    model.loss(ids, on_policy_share=0.0).total.backward()
    step = time.process_time() - start
    return {"pass": a_pass, "pass_mb": held, "step": step, "step_mb": peak() - before}


def peak() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        length, checkpointing = given.one.split(",")
        print(json.dumps(measure(int(length), checkpointing == "True")))
        return
    print("| tokens | checkpointing | pass, CPU s | pass, MB | step, CPU s | step, MB |")
    print("|---|---|---|---|---|---|")
    for length in given.lengths:
        for checkpointing in (False, True):
            command = [sys.executable, __file__, "--one", f"{length},{checkpointing}"]
            found = json.loads(subprocess.check_output(command, text=True))
            figures = [f"{found['pass']:.2f}", f"{found['pass_mb']:.0f}"]
            figures += [f"{found['step']:.2f}", f"{found['step_mb']:.0f}"]
            print(f"| {length:,} | {'yes' if checkpointing else 'no'} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
