"""The orchestrator in two real processes.

What is compared with one process is trained without augmentation and without dropout: the
rows of a batch are then the same, however they are shared out.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import errors, finish, start_ranks

STEPS, STOP_AT, LAST = 3, 2, 4
#: Rows of each process.
SHARE = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What each of the two processes reports, what one alone does, and their folder."""
    folder = tmp_path_factory.mktemp("processes")
    both = start_ranks(2, main, folder, output=folder / "printed")
    assert finish(*both) == 0, errors(folder / "printed")[-4000:]
    reports = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(folder=folder, reports=reports)


@pytest.mark.parametrize("mode", ["window", "carry"])
def test_both_processes_end_with_equal_weights_bandit_and_memory(
    runs: SimpleNamespace, mode: str
) -> None:
    first, second = (report["whole"][mode] for report in runs.reports)
    for part in ("model", "optimizer", "grok_fast", "bandit", "memory"):
        assert first[part] == second[part], part
    # They have seen other rows.
    assert first["losses"] != second["losses"]
    assert first["entries"] > 0


def test_two_processes_of_four_rows_are_one_of_eight(runs: SimpleNamespace) -> None:
    import torch

    alone = make(augmented=False)
    losses = [train(alone, step, range(2 * SHARE))["loss"] for step in range(STEPS)]
    reports = [report["plain"] for report in runs.reports]
    for step, loss in enumerate(losses):
        assert sum(report["losses"][step] for report in reports) / 2 == pytest.approx(
            loss, rel=1e-4
        )
    theirs = torch.load(runs.folder / "plain.pt", weights_only=True)
    for name, value in alone.over.model.state_dict().items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name
    # The bandit saw the mean of both processes' gains, and the memory all rows in order.
    ours = alone.over.bandit.report()["copy"]
    told = reports[0]["report"]["copy"]
    for steps, arms in ours.items():
        for arm, summary in arms.items():
            assert told[steps][arm] == pytest.approx(summary, abs=1e-6, nan_ok=False)
    assert reports[0]["ids"] == alone.memory.state_dict()["ids"].tolist()


@pytest.mark.parametrize("mode", ["window", "carry"])
def test_a_checkpoint_of_two_is_gone_on_from_by_two_bit_for_bit(
    runs: SimpleNamespace, mode: str
) -> None:
    for report in runs.reports:
        assert report["resumed"][mode]["from"] == STOP_AT
        assert report["resumed"][mode]["end"] == report["whole"][mode]


def test_a_checkpoint_of_two_is_refused_by_one(runs: SimpleNamespace) -> None:
    from imadarem.errors import CheckpointError

    one = make(mode="carry", seed=5)
    before = digest(one.over.model.state_dict())
    with pytest.raises(CheckpointError, match="saved by 2 processes.*with 1.*from_pretrained"):
        one.over.load_checkpoint(runs.folder / "carry", one.optimizer)
    assert digest(one.over.model.state_dict()) == before


def test_a_step_that_is_bad_in_one_process_is_skipped_in_both(runs: SimpleNamespace) -> None:
    first, second = (report["poisoned"] for report in runs.reports)
    assert first["skipped"] == second["skipped"] == [True, False]
    assert first["unchanged"] and second["unchanged"]
    assert first["model"] == second["model"]


def test_one_process_asked_to_stop_stops_both_at_the_same_step(runs: SimpleNamespace) -> None:
    assert [report["stopped"] for report in runs.reports] == [3, 3]


def test_only_the_first_process_writes_metrics(runs: SimpleNamespace) -> None:
    lines = (runs.folder / "trainer" / "metrics.jsonl").read_text().splitlines()
    steps = [r["step"] for r in map(json.loads, lines) if r["kind"] == "train"]
    assert steps == [1, 2, 3]


# ---------------------------------------------------------------- what each process does


def make(mode: str = "window", seed: int = 0, augmented: bool = True) -> SimpleNamespace:
    """An orchestrator with filter and memory, and its optimiser."""
    import torch
    from orchestrator_parts import adam, bank, model, orchestrator

    memory = bank()
    refiner = model(seed, memory=True, dropout=0.1 if augmented else 0.0)
    count = 300 if augmented else 0
    over = orchestrator(refiner, memory, unroll_mode=mode, grok_fast=True, augmentation_count=count)
    optimizer: Any = adam(over)
    if not augmented:
        # AdamW would blow up what rounding leaves of a gradient that is nearly 0.
        optimizer = torch.optim.SGD(over.model.parameters(), lr=0.1)
    return SimpleNamespace(over=over, memory=memory, optimizer=optimizer)


def train(run: SimpleNamespace, step: int, rows: range) -> dict[str, Any]:
    import torch
    from orchestrator_parts import episodes

    batch = episodes(2 * SHARE, seed=step).rows(torch.tensor(rows))
    return run.over.train_step(batch, run.optimizer, "copy")


def digest(value: Any) -> str:
    import hashlib

    from orchestrator_parts import frozen

    return hashlib.sha256(repr(frozen(value)).encode()).hexdigest()


def state(run: SimpleNamespace) -> dict[str, Any]:
    from orchestrator_parts import learned

    parts = learned(run.over, run.optimizer)
    return {**{name: digest(part) for name, part in parts.items()}, "entries": len(run.memory)}


def main(folder: Path) -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    rows = range(rank * SHARE, (rank + 1) * SHARE)
    report: dict[str, Any] = {"whole": {}, "resumed": {}}

    for mode in ("window", "carry"):
        whole = make(mode)
        losses = [train(whole, step, rows)["loss"] for step in range(LAST)]
        report["whole"][mode] = {**state(whole), "losses": losses}
        first = make(mode)
        losses = [train(first, step, rows)["loss"] for step in range(STOP_AT)]
        first.over.save_checkpoint(folder / mode, first.optimizer)
        second = make(mode, seed=5 + rank)
        second.over.load_checkpoint(folder / mode, second.optimizer)
        begun = second.over.step_count
        losses += [train(second, step, rows)["loss"] for step in range(STOP_AT, LAST)]
        report["resumed"][mode] = {"from": begun, "end": {**state(second), "losses": losses}}

    plain = make(augmented=False)
    report["plain"] = {
        "losses": [train(plain, step, rows)["loss"] for step in range(STEPS)],
        "report": plain.over.bandit.report(),
        "ids": plain.memory.state_dict()["ids"].tolist(),
    }
    if rank == 0:
        torch.save(plain.over.model.state_dict(), folder / "plain.pt")

    report["poisoned"] = poisoned(rank, rows)
    report["stopped"] = stopped(rank, folder / "trainer")
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def poisoned(rank: int, rows: range) -> dict[str, Any]:
    """A NaN in the gradient of the second process alone, for one step."""
    run = make()
    on = True
    weight = run.over.model.network.backbone.tokens.weight
    weight.register_hook(lambda g: g * float("nan") if on and rank == 1 else g)
    before = state(run)
    skipped = [train(run, 0, rows)["skipped"]]
    unchanged = state(run) == before
    on = False
    skipped.append(train(run, 1, rows)["skipped"])
    return {"skipped": skipped, "unchanged": unchanged, "model": state(run)["model"]}


def stopped(rank: int, folder: Path) -> int:
    """The step at which a trainer ends whose second process alone is asked to stop."""
    from orchestrator_parts import copy_task, model, orchestrator

    from imadarem.orchestrator.training import UnrolledTraining
    from imadarem.training.trainer import Trainer, TrainingConfig

    config = TrainingConfig(
        steps=8, batch_size=8, log_every=1, eval_every=50, save_every=50, valid_rows=4
    )
    over = orchestrator(model(), unroll_mode="carry")
    trainer = Trainer(UnrolledTraining(over, copy_task(16, 4)), config, folder, device="cpu")
    if rank == 1:
        over.model.register_forward_hook(
            lambda *_: trainer.request_stop() if trainer.step == 2 else None
        )
    return trainer.run().step
