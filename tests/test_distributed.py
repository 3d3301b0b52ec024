"""Training in two real processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import errors, finish, start_ranks

STEPS = 24
STOP_AT = 9
#: Pairs of letters, two or three times over.
TEXTS = [(a + b) * repeat for a in "abcd" for b in "efgh" for repeat in (2, 3)]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each of the two processes reports, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("distributed")
    both = start_ranks(2, main, folder, output=folder / "printed")
    assert finish(*both) == 0, errors(folder / "printed")[-4000:]
    reports = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(folder=folder, reports=reports)


def test_both_processes_end_with_the_same_weights(runs):
    first, second = (report["whole"] for report in runs.reports)
    assert first["weights"] == second["weights"]
    # They started from different ones, so they have really talked to each other.
    assert first["start"] != second["start"]


def test_the_loss_is_finite_and_falls(runs):
    for report in runs.reports:
        before, after = report["whole"]["loss"]
        # Nats per token; a blind guess costs ln 11 = 2.4.
        assert math.isfinite(after) and after < before - 0.2


def test_only_the_first_process_writes(runs):
    assert runs.reports[0]["written"] > 0
    assert runs.reports[1]["written"] == 0


def test_every_step_is_logged_once(runs):
    lines = (runs.folder / "whole" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record["step"] for record in records if record["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))


def test_the_checkpoint_is_complete_and_of_the_last_step(runs):
    newest = sorted((runs.folder / "whole" / "checkpoints").iterdir())[-1]
    assert newest.name == f"step-{STEPS:08d}"
    assert {"model.safetensors", "optimizer.safetensors", "trainer.json"} <= {
        file.name for file in newest.iterdir()
    }


def test_one_process_asked_to_stop_stops_both_at_the_same_step(runs):
    assert [report["stopped"]["step"] for report in runs.reports] == [STOP_AT, STOP_AT]
    assert not runs.reports[0]["stopped"]["finished"]


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(runs):
    for report in runs.reports:
        assert report["resumed"]["from"] == STOP_AT
        assert report["resumed"]["step"] == STEPS
        assert report["resumed"]["weights"] == report["whole"]["weights"]


# ---------------------------------------------------------------- what each process does


def main(folder: Path) -> None:
    import torch

    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    written = count_files_made_under(folder)

    model = make_model(seed=rank)
    start = fingerprint(model)
    trainer = make_trainer(model, folder / "whole")
    whole = report(trainer.run(), trainer.model)

    trainer = make_trainer(make_model(seed=rank), folder / "parts")
    if rank == 1:
        trainer.model.register_forward_hook(
            lambda *_: trainer.request_stop() if trainer.step == STOP_AT - 1 else None
        )
    stopped = report(trainer.run(), trainer.model)

    trainer = make_trainer(make_model(seed=10 + rank), folder / "parts")
    begun = {"from": trainer.resume()}
    resumed = report(trainer.run(), trainer.model)

    result = {
        "whole": {**whole, "start": start},
        "stopped": stopped,
        "resumed": {**resumed, **begun},
        "written": len(written),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def make_model(seed: int):
    """A tiny model; ``seed`` sets its starting weights."""
    import torch

    from imadarem.config import ImplicitRefinementConfig
    from imadarem.model import ImplicitRefinementModel
    from imadarem.tokenizers import CharTokenizer

    tokenizer = CharTokenizer.from_corpus(TEXTS)
    torch.manual_seed(seed)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        max_seq_len=8,
        ema_decay=0.5,
    )
    return ImplicitRefinementModel(config, tokenizer)


def make_trainer(model, run_dir: Path):
    from imadarem.data.corpus import TokenCorpus
    from imadarem.training.masked import MaskedTraining
    from imadarem.training.trainer import Trainer, TrainingConfig

    rows = [model.tokenizer.encode(text) for text in TEXTS]
    corpus = TokenCorpus.from_rows(rows, model.config.vocab_size)
    config = TrainingConfig(
        steps=STEPS,
        batch_size=16,
        learning_rate=0.02,
        warmup_steps=2,
        log_every=1,
        eval_every=STEPS,
        save_every=STEPS,
        sample_count=2,
    )
    return Trainer(MaskedTraining(model, corpus, corpus), config, run_dir, device="cpu")


def report(result, model) -> dict:
    return {
        "step": result.step,
        "finished": result.finished,
        "loss": [figures.loss for figures in (result.first, result.last) if figures],
        "weights": fingerprint(model),
    }


def fingerprint(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def count_files_made_under(folder: Path) -> list[str]:
    """A list that grows with every file or folder that this process makes there."""
    made: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if event in ("os.rename", "os.mkdir", "tempfile.mkstemp"):
            made.extend(str(a) for a in arguments[:1] if str(a).startswith(str(folder)))

    sys.addaudithook(watch)
    return made
