"""Train the sudoku model that comes with the package.

    OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc_per_node 2 \
        scripts/train_sudoku_model.py RUN_FOLDER [--resume]

The run folder's model/ is what src/imadarem/shipped/sudoku holds; its card says how it did.
"""

from __future__ import annotations

import argparse

import torch

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.data.sudoku import sudoku_task
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.orchestrator.training import UnrolledTraining
from imadarem.training.trainer import Trainer, TrainingConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 6, 9])
    parser.add_argument("--puzzles", type=int, help="of each size; default 2,500, 20,000, 40,000")
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--inner-steps", type=int, default=4)
    parser.add_argument("--unroll", type=int, default=8)
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--unroll-mode", default="window")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # A step on a grid of 4x4 teaches little after the first few hundred.
    counts = given.puzzles or {4: 2_500, 6: 20_000, 9: 40_000}
    task = sudoku_task(sizes=given.sizes, n=counts, seed=0, processes=2)
    torch.manual_seed(given.seed)
    config = ImplicitRefinementConfig(
        vocab_size=len(task.tokenizer),
        hidden_size=given.hidden_size,
        num_layers=1,
        intermediate_size=2 * given.hidden_size,
        max_seq_len=81,
        dropout=0.0,
        positions=False,
        attention=False,
        relations=task.relations,
        inner_steps=given.inner_steps,
        carry=True,
        halting=True,
        length_mode="drawn",
        sampling_temperature=0.0,
        ema_decay=0.99,
    )
    model = ImplicitRefinementModel(config, tokenizer=task.tokenizer)
    orchestration = OrchestrationConfig(
        max_steps_train=given.unroll,
        backprop_truncate_steps=given.window,
        unroll_mode=given.unroll_mode,
        step_weighting="uniform",
        canvas_edit_strategies=["replace"],
        max_steps_infer=6,
        seed=given.seed,
    )
    training = TrainingConfig(
        steps=given.steps,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        optimizer="muon",
        schedule="wsd",
        warmup_steps=50,
        gate_lr_scale=1.0,
        eval_every=given.eval_every,
        save_every=250,
        valid_rows=300,
        seed=given.seed,
    )
    orchestrator = UnifiedRefinerOrchestrator(model, task.tokenizer, None, orchestration)
    trainer = Trainer(
        UnrolledTraining(orchestrator, task),
        training,
        given.run_dir,
        on_event=lambda event: print(event, flush=True),
    )
    if given.resume:
        trainer.resume()
    trainer.run()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
