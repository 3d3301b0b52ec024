"""Runs that are killed, and two runs on one file: what stands on the disk afterwards.

    python benchmarks/kill_resume.py                       20 kills and 20 pairs of each command
    python benchmarks/kill_resume.py --only optimize --times 5 --seed 3
    python benchmarks/kill_resume.py --quick               one of each, some seconds

Kills: the command is started and gets SIGKILL after a random share of the time of an
undisturbed run, two times; then the same command runs to its end. Pairs: the command is
started, and again after a random time, while the first run goes on. In both, the files must be
byte for byte those of the undisturbed run and nothing else may stand beside them; the second
of two runs may be refused with a line that names the process id of the first. The model
has random weights: only the files matter here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.cli.app import run
from imadarem.data.moses import load_moses_sample
from imadarem.tokenizers import SelfiesTokenizer

#: Processes are forked from one that has loaded the libraries: a run is short.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["__main__", "accelerate", "torch._dynamo", "torch.utils.tensorboard", "imadarem.cli.app"]
    + ["imadarem.orchestrator.orchestrator", "imadarem.training.masked"]
)
KILLS_EACH = 2


@dataclass(frozen=True)
class Case:
    """A command that can be resumed.

    Attributes:
        command: Its tokens; it writes into the working directory.
        files: What it leaves there, among others.
        resume: The tokens that go on with a run that has a checkpoint, where they are others.
        refusal: What the second of two runs may say instead of naming the first.
    """

    command: tuple[str, ...]
    files: tuple[str, ...]
    resume: tuple[str, ...] = ()
    refusal: str = "written by process"

    def tokens(self, folder: Path) -> tuple[str, ...]:
        """The command to run in a folder as it stands."""
        begun = any(folder.glob("run/checkpoints/step-*/trainer.json"))
        return self.resume if self.resume and begun else self.command


def sample_case(model: str, quick: bool) -> Case:
    """Four blocks of samples, or three."""
    count = "1100" if quick else "2000"
    command = ("sample", "--model", model, "-n", count, "--steps", "2", "--out", "a.csv")
    return Case((*command, "--resume"), ("a.csv", "a.csv.json"))


def optimize_case(model: str, quick: bool) -> Case:
    """Some generations of a search."""
    command = ("optimize", "--model", model, "--score", "qed", "--start", "moses-sample")
    sizes = ("--population", "20", "--children", "16", "--budget", "60" if quick else "200")
    command = (*command, *sizes, "--steps", "2", "--out", "b.csv")
    return Case((*command, "--resume"), ("b.csv", "b.csv.settings.json"))


def train_case(model: str, quick: bool, task: bool = False) -> Case:
    """A few steps on rows of data, with checkpoints and validations that do not coincide."""
    what = "--task modular --set p=5" if task else "--data moses-sample --rows 64 --sample-count 2"
    tiny = "--hidden-size 16 --num-layers 1 --num-heads 2 --batch-size 8 --valid-rows 8"
    often = f"--steps {12 if quick else 40} --log-every 2 --eval-every 7 --save-every 5"
    rest = "--warmup-steps 2 --processes 1 --device cpu --json --out run"
    command = f"train {what} {tiny} {often} {rest}"
    # A run that begins while the other one saves finds that the folder holds a run already.
    refusal = "written by process|already holds a run|is finished"
    files = ("run/run.json", "run/settings.toml", "run/metrics.jsonl", "run/model/config.json")
    resume = tuple(f"{command} --resume".split())
    return Case(tuple(command.split()), files, resume, refusal)


CASES: dict[str, Callable[[str, bool], Case]] = {
    "sample": sample_case,
    "optimize": optimize_case,
    "train": train_case,
    "train-task": partial(train_case, task=True),
}
#: Fields of records that differ from run to run.
OF_THE_CLOCK = ("time", "tokens_per_second", "episodes_per_second")


def small_model(folder: Path) -> str:
    """A model of SELFIES with random weights."""
    texts = load_moses_sample("train")[:300]
    tokenizer = SelfiesTokenizer.from_corpus(texts)
    torch.manual_seed(0)
    counts = [0] * 20 + [1] * 20
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        max_seq_len=90,
        length_mode="drawn",
        length_counts=counts,
    )
    ImplicitRefinementModel(config, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


# --- one run


def started(case: Case, folder: Path) -> BaseProcess:
    """The command as a process of its own in ``folder``; what it prints goes to ``said.PID``."""
    process: BaseProcess = SERVER.Process(target=_run, args=(case.tokens(folder), folder))
    process.start()
    return process


def _run(command: Sequence[str], folder: Path) -> None:
    os.chdir(folder)
    # Outside of the folder, whose files are compared.
    log = folder.parent / f"said.{os.getpid()}"
    with log.open("w") as said, contextlib.redirect_stderr(said):
        with contextlib.redirect_stdout(io.StringIO()):
            code = run(list(command))
    os._exit(code)


def said(process: BaseProcess, folder: Path) -> str:
    """What a process printed on stderr."""
    return (folder.parent / f"said.{process.pid}").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """Name → content of every file in a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(folder)): _without_times(file)
        for file in files
        # Events of TensorBoard are the records of metrics.jsonl again, with times.
        if file.parent.name != "tensorboard"
    }


def _without_times(file: Path) -> bytes:
    if file.name != "metrics.jsonl":
        return file.read_bytes()
    records = map(json.loads, file.read_text().splitlines())
    kept = [{k: v for k, v in record.items() if k not in OF_THE_CLOCK} for record in records]
    return json.dumps(kept).encode()


def finished(case: Case, folder: Path) -> None:
    """Run the command to its end.

    Raises:
        SystemExit: It failed.
    """
    process = started(case, folder)
    process.join()
    # A run may have been killed after its last act.
    if process.exitcode != 0 and "is finished" not in said(process, folder):
        raise SystemExit(f"the command failed: {said(process, folder)}")


# --- disturbed runs


def killed(case: Case, folder: Path, seconds: float, rng: random.Random) -> str:
    """Kill the command at random moments, then let it finish; a line about what happened."""
    moments = []
    for _ in range(KILLS_EACH):
        moment = rng.uniform(0, seconds)
        process = started(case, folder)
        process.join(moment)
        if process.is_alive():
            process.kill()
            moments.append(f"{moment:.2f} s")
        process.join()
    finished(case, folder)
    return f"killed after {', '.join(moments) or 'its end'}"


def paired(case: Case, folder: Path, seconds: float, rng: random.Random) -> str:
    """Start the command twice at random distance; a line about what happened.

    Raises:
        SystemExit: A run failed otherwise than by a refusal that names the other.
    """
    first = started(case, folder)
    first.join(rng.uniform(0, seconds))
    second = started(case, folder)
    both = (first, second)
    for process in both:
        process.join()
    outcomes = []
    for process, other in ((first, second), (second, first)):
        words = said(process, folder)
        named = re.search(r"written by process (\d+)", words)
        told = re.search(case.refusal, words) and (named is None or int(named[1]) == other.pid)
        if process.exitcode != 0 and not told:
            raise SystemExit(f"a run of two failed: {words}")
        outcomes.append("refused" if process.exitcode else "finished")
    return "first {}, second {}".format(*outcomes)


def disturbed(
    name: str, case: Case, times: int, rng: random.Random, root: Path
) -> Iterator[tuple[str, str, bool]]:
    """What was done, what happened, and whether the files are those of an undisturbed run."""
    straight = root / f"{name}-straight"
    straight.mkdir()
    finished(case, straight)
    wanted = contents(straight)
    assert set(wanted) >= set(case.files), sorted(wanted)
    again = root / f"{name}-again"
    again.mkdir()
    begun = time.perf_counter()
    finished(case, again)
    seconds = time.perf_counter() - begun
    yield f"{name} again", f"{seconds:.2f} s", contents(again) == wanted
    for kind, disturb in (("kill", killed), ("pair", paired)):
        for number in range(times):
            folder = root / f"{name}-{kind}-{number}"
            folder.mkdir()
            what = disturb(case, folder, seconds, rng)
            yield f"{name} {kind} {number}", what, contents(folder) == wanted


def main(tokens: Sequence[str] | None = None) -> int:
    """Returns the number of disturbed runs that left other files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(tokens)
    rng, wrong, done = random.Random(given.seed), 0, 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        model = small_model(root / "model")
        for name in given.only:
            case = CASES[name](model, given.quick)
            times = 1 if given.quick else given.times
            for run_name, what, same in disturbed(name, case, times, rng, root):
                outcome = "same files" if same else "OTHER FILES"
                print(f"{run_name:>20}: {what}: {outcome}", flush=True)
                wrong, done = wrong + (not same), done + 1
    print(f"\n{done - wrong} of {done} disturbed runs left the files of an undisturbed one")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
