"""The command line: what it prints and where, its exit codes, and the files it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_parts import SIXTY, WORDS, records, saved_model
from processes import errors, finish, start_command, wait_until

from imadarem import ImplicitRefinementModel, __version__
from imadarem.cli import run
from imadarem.cli.app import app
from imadarem.cli.settings import read_settings
from imadarem.tokenizers import CharTokenizer, SelfiesTokenizer
from imadarem.training.curves import draw_curve, read_metrics

TINY = "--hidden-size 16 --num-layers 1 --num-heads 2 --batch-size 8 --processes 1 --device cpu"
OFTEN = "--log-every 3 --eval-every 6 --save-every 6 --sample-count 2"


@pytest.fixture(scope="session")
def molecules(tmp_path_factory):
    """The folder of a model that writes SELFIES."""
    tokenizer = SelfiesTokenizer.from_corpus(SIXTY)
    return saved_model(tmp_path_factory.mktemp("selfies"), tokenizer, SIXTY)


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """The folder of a model that writes text."""
    return saved_model(tmp_path_factory.mktemp("char"), CharTokenizer.from_corpus(WORDS), WORDS)


pytestmark = pytest.mark.usefixtures("elsewhere")


# --- help, version, start


@pytest.mark.slow
def test_help_loads_nothing_heavy():
    code = (
        "import sys; from imadarem.cli import run; assert run(['--help']) == 0; "
        "assert run(['train', '--help']) == 0; assert run(['solve', '--help']) == 0; "
        "heavy = {'torch', 'numpy', 'rdkit', 'accelerate', 'transformers', 'huggingface_hub'}; "
        "print('\\nheavy:', heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("\nheavy: set()\n")
    assert done.stderr == ""


def test_the_version_is_that_of_the_package(said):
    assert said("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "command", ["sample", "trace", "infill", "evaluate", "train", "data moses", "data inspect"]
)
def test_the_help_of_a_command_shows_examples(said, command):
    code, out, _ = said(*command.split(), "--help")
    assert code == 0
    assert out.count(f"imadarem {command}") >= 2  # the usage line is one


# --- errors


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("smaple", 'Did you mean "sample"?'),
        ("sample --steps many", "--steps"),
        ("sample --stepz 3", "Did you mean --steps?"),
        ("sample --model {empty}", "is no checkpoint"),
        ("sample --model {molecules} -n 0", "-n. Give a whole number from 1 to"),
        ("sample --model {molecules} --policy gat", 'did you mean "gate"?'),
        (
            "sample --model {molecules} --temperature -1",
            "--temperature. Give a number from 0 to 100",
        ),
        ("sample --model {molecules} --schedule cosin", 'did you mean "cosine"?'),
        ("sample --model {molecules} --top-k 0", "--top-k. Give a whole number"),
        ("infill --model {molecules} [C]<mask> --top-p 1.5", "top_p=1.5"),
        ("sample --model {molecules} --length 1000", "max_seq_len"),
        ("sample --model {molecules} --batch-size 0", "--batch-size"),
        ("sample --model {molecules} --device abacus", "--device 'abacus'"),
        ("sample --model {molecules} --out x.pdf", ".smi, .csv, .selfies, .txt"),
        ("sample --model {molecules} --grid x.gif", "must end in .svg or .png"),
        ("sample --model {words} --out x.smi", "writes char; use .txt"),
        ("sample --model {words} --out x.selfies", "not SELFIES"),
        ("sample --model {words} --grid x.svg", "writes char"),
        ("infill --model {molecules}", "give either prompts with <mask>"),
        ("infill --model {molecules} [C]<mask>[Uuo]", "[Uuo]"),
        ("infill --model {molecules} [C]<mask> --top 3", "--top has no effect on prompts"),
        ("infill [C]<mask> --scaffold *C", "Both were given, and one prompt is '[C]<mask>'"),
        ("sample --model {molecules} --device meta", "--device 'meta' cannot be used"),
        ("sample extra", "unexpected argument 'extra'. See: imadarem sample --help"),
        ("evaluate --model default --likelihood --order sideways", "left-to-right"),
        (
            "infill --model {molecules} [C]<mask> -n 0",
            "-n. Give a whole number from 1 to 1,000,000",
        ),
        ("sample --model {molecules} -n 1000001", "at most 1,000,000 samples are held in memory"),
        (f"sample --model {{molecules}} --out a.smi -n {10**30}", "from 1 to 1,000,000,000,000"),
        ("trace --model {molecules} --out x.pdf", ".json or .txt"),
        ("trace --model {molecules} [C]<mask> --length 3", "--length"),
        ("evaluate", "either a FILE of molecules or --model"),
        ("evaluate x.smi --model {molecules}", "either a FILE of molecules or --model"),
        ("evaluate x.smi", "there is no file x.smi"),
        ("evaluate x.smi --fcd", "--reference"),
        ("evaluate x.smi --steps 3", "--steps has no effect on the file x.smi"),
        ("evaluate --model {words} --fcd --reference moses-sample", "--fcd is of molecules"),
        ("evaluate --model {molecules} --mauve", "--mauve is of texts"),
        ("evaluate --model {molecules} --column c", "--column"),
        ("data moses --tokens selfie", 'did you mean "selfies"?'),
        ("data moses --wheel none.whl", "there is no wheel none.whl"),
        ("data inspect x.smi", "there is no file x.smi"),
        ("train", "there is nothing to train on"),
        ("train --data x.csv --out run", "there is no file"),
        ("train --data moses-sample --steps 0", "steps=0"),
        ("train --data moses-sample --num-heads 3", "num_heads=3"),
        ("train --data moses-sample --init default --tokenizer char", "Leave one of the two out"),
        ("train --out {empty} --resume", "no run to resume"),
        ("train --config none.toml", "none.toml cannot be read"),
    ],
)
def test_wrong_use_is_one_line_on_stderr_and_exit_code_2(
    said, molecules, words, tmp_path, line, reason
):
    (tmp_path / "empty").mkdir()
    places = {"molecules": molecules, "words": words, "empty": tmp_path / "empty"}
    code, out, err = said(*(token.format(**places) for token in line.split()))
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)
    assert reason in err
    # Nothing half-written, and no folder for a run that never began.
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def fail(error):
    raise error


@pytest.fixture
def failing():
    """Makes ``imadarem fail`` raise."""
    yield lambda error: app.command(lambda: fail(error), name="fail")
    del app["fail"]


def test_an_unexpected_error_fails_without_a_traceback_and_says_how_to_see_it(
    said, failing, monkeypatch
):
    failing(ZeroDivisionError("division by zero"))
    code, out, err = said("fail")
    assert (code, out) == (1, "")
    assert err.startswith("error: ZeroDivisionError: division by zero (")
    assert "IMADAREM_TRACEBACK=1" in err
    assert err.count("\n") == 1
    monkeypatch.setenv("IMADAREM_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(["fail"])


def test_ctrl_c_exits_with_130(said, failing):
    failing(KeyboardInterrupt())
    assert said("fail") == (130, "", "interrupted\n")


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly():
    Path("molecules.smi").write_text("\n".join(SIXTY))
    # "true" reads nothing: the first write already finds the pipe closed.
    command = f"{sys.executable} -m imadarem data inspect molecules.smi --json"
    line = f"{command} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


# --- sample


def test_a_table_lists_the_samples_and_sums_them_up(said, molecules):
    code, out, err = said("sample", "--model", molecules, "-n", "5", "--steps", "3")
    *table, empty, summary = out.splitlines()
    assert code == 0
    assert table[0].split() == ["molecule", "valid", "QED", "SA", "weight", "stopped", "passes"]
    assert len(table) == 2 + 5
    assert re.fullmatch(
        r"5 samples, \S+ valid, \S+ unique, 3\.0 forward passes each, \S+ samples/s", summary
    )
    assert err == ""


def test_json_is_one_object_per_sample_and_one_of_the_whole(said, molecules):
    code, out, _ = said("sample", "--model", molecules, "-n", 5, "--json")
    *samples, summary = records(out)
    assert code == 0
    assert [record["kind"] for record in samples] == ["sample"] * 5
    assert summary["kind"] == "summary"
    assert summary["samples"] == 5
    assert summary["valid"] == sum(record["valid"] for record in samples) / 5
    passes = [record["forward_passes"] for record in samples]
    assert summary["forward_passes"] == sum(passes) / 5
    assert max(passes) <= 6


def test_schedule_and_truncation_reach_the_sampler(said, molecules):
    line = ("sample", "--model", molecules, "-n", 8, "--seed", 2, "--json")
    flags = ("--schedule", "cosine", "--top-k", 4, "--top-p", 0.8)
    _, out, _ = said(*line, *flags)
    model = ImplicitRefinementModel.from_pretrained(molecules)
    drawn = model.sample(8, seed=2, schedule="cosine", top_k=4, top_p=0.8)
    spelled = [model.tokenizer.decode_notation(row.ids.tolist()) for row in drawn.rows]
    assert [record["notation"] for record in records(out)[:-1]] == spelled
    assert drawn.texts != model.sample(8, seed=2).texts


def test_the_same_seed_gives_the_same_samples_in_batches_of_any_size(said, molecules):
    def texts(*flags):
        _, out, _ = said("sample", "--model", molecules, "-n", 6, "--json", *flags)
        return [record["notation"] for record in records(out)[:-1]]

    assert texts("--seed", 3) == texts("--seed", 3, "--batch-size", 1)
    assert texts("--seed", 3) != texts("--seed", 4)


def test_invalid_molecules_are_drawn_again_and_counted(said):
    line = ("sample", "--model", "smiles", "--steps", 1, "--policy", "left-to-right", "-n", 12)
    _, out, _ = said(*line, "--json", "--keep-invalid")
    *once, summary = records(out)
    broken = [record for record in once if not record["valid"]]
    assert broken and summary["drawn"] == 12
    _, out, _ = said(*line, "--json")
    *again, summary = records(out)
    assert all(record["valid"] for record in again)
    kept = [(a, b) for a, b in zip(once, again, strict=True) if a["valid"]]
    assert all(a == b for a, b in kept) and len(kept) == 12 - len(broken)
    assert summary["drawn"] == sum(record["candidates"] for record in again) > 12
    _, out, _ = said(*line)
    assert f"12 samples of {summary['drawn']} rows, 100% valid" in out


def test_molecules_that_cannot_be_completed_are_given_up(said):
    prompt = "CC(((<mask>"
    code, out, _ = said("infill", "--model", "smiles", prompt, "--json")
    row, summary = records(out)
    assert code == 0
    assert (row["valid"], row["candidates"], summary["drawn"]) == (False, 21, 21)
    _, out, _ = said("infill", "--model", "smiles", prompt, "--json", "--keep-invalid")
    assert records(out)[0]["candidates"] == 1
    for flags in (("sample", "--model", "sudoku"), ("infill", "--scaffold", "C*")):
        code, _, err = said(*flags, "--keep-invalid")
        assert code == 2
        assert "--keep-invalid" in err


def test_files_hold_every_sample_in_the_format_of_their_ending(said, molecules, tmp_path):
    for name in ("a.smi", "a.csv", "a.txt", "a.selfies"):
        code, out, err = said("sample", "--model", molecules, "-n", 4, "--json", "--out", name)
        assert code == 0
        assert err == f"wrote 4 samples to {name}\n"
    samples = records(out)[:-1]
    smiles = [record["canonical"] or record["text"] for record in samples]
    assert Path("a.smi").read_text().splitlines() == smiles
    assert Path("a.txt").read_text().splitlines() == smiles
    assert Path("a.selfies").read_text().splitlines() == [r["notation"] for r in samples]
    header, *rows = Path("a.csv").read_text().splitlines()
    assert header == "smiles,valid,steps,forward_passes,stopping_reason"
    assert [row.split(",")[0] for row in rows] == smiles
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_that_cannot_be_written_leaves_nothing_behind(said, molecules, tmp_path):
    Path("taken.smi").mkdir()
    code, out, err = said("sample", "--model", molecules, "-n", 2, "--out", "taken.smi")
    assert (code, out) == (2, "")
    assert "could not be written" in err
    assert list(tmp_path.rglob("*")) == [tmp_path / "taken.smi"]


def test_a_grid_is_drawn_or_a_hint_stands_in_for_it(said, molecules, monkeypatch):
    line = ("sample", "--model", molecules, "-n", 4, "--grid")
    code, _, err = said(*line, "a.svg")
    assert code == 0
    assert "molecules in a.svg" in err
    assert Path("a.svg").read_text().startswith("<?xml")
    monkeypatch.setitem(sys.modules, "rdkit.Chem.Draw", None)
    code, out, err = said(*line, "b.svg")
    assert code == 0
    assert "was not drawn: RDKit cannot draw on this system" in err
    assert "4 samples" in out
    assert not Path("b.svg").exists()


def test_a_model_of_text_prints_text(said, words):
    code, out, _ = said("sample", "--model", words, "-n", 2)
    assert code == 0
    assert out.split()[:3] == ["sample", "stopped", "passes"]
    assert "valid" not in out
    _, out, _ = said("sample", "--model", words, "-n", 2, "--json")
    assert [record["valid"] for record in records(out)] == [None] * 3


# --- infill and trace


def test_infilling_keeps_what_is_given_and_repeats_each_prompt(said, molecules):
    prompts = ("[C][C]<mask><mask>[O]", "[N]<mask>[C]")
    code, out, _ = said("infill", *prompts, "--model", molecules, "-n", 3, "--json")
    *samples, _ = records(out)
    found = [record["notation"] for record in samples]
    assert code == 0
    assert len(found) == 6
    assert all(re.fullmatch(r"\[C\]\[C\](\[[^]]+\]){2}\[O\]", text) for text in found[:3])
    assert all(re.fullmatch(r"\[N\]\[[^]]+\]\[C\]", text) for text in found[3:])


def test_a_trace_in_a_pipe_shows_steps_arrows_and_the_result(said, molecules):
    code, out, _ = said("trace", "--model", molecules, "--length", 4, "--steps", 3)
    assert code == 0
    assert re.match(r"t=0:( +\[MASK\]){4}\n", out)
    assert [step for step in ("t=1:", "t=2:", "t=3:") if step in out] == ["t=1:", "t=2:", "t=3:"]
    assert "↑" in out
    assert "\x1b" not in out  # no colours in a pipe
    assert re.search(r"^stopped: .+ 3 forward passes\)\nfinal: \S+$", out, re.MULTILINE)


def test_a_trace_as_json_is_the_published_schema_and_the_same_in_a_file(said, molecules):
    line = ("trace", "[C]<mask>[O]", "--model", molecules, "-n", 2, "--json", "--out", "t.json")
    code, out, _ = said(*line)
    (trajectory,) = records(out)
    assert code == 0
    assert trajectory["schema"] == "imadarem.trajectory/1"
    assert [row["given"] for row in trajectory["rows"]] == [[True, False, True]] * 2
    assert json.loads(Path("t.json").read_text()) == trajectory


# --- evaluate and data


def test_broken_lines_of_a_file_count_as_invalid_samples(said):
    # Of four lines one is broken; of the three valid ones two are the same molecule; of the
    # two distinct ones ethanol is in the training set.
    Path("samples.smi").write_text("CCO\nOCC\nC1CC\nc1ccccc1\n")
    Path("train.smi").write_text("CCO\nCCN\nCCC\n")
    line = ("evaluate", "samples.smi", "--train", "train.smi", "--processes", 1)
    code, out, _ = said(*line, "--json")
    ours, real = records(out)
    assert code == 0
    assert (ours["samples"], ours["valid"]) == (4, 0.75)
    assert ours["unique"] == pytest.approx(2 / 3)
    assert ours["novelty"] == 0.5
    assert (real["samples"], real["valid"]) == (3, 1.0)  # the file has only three
    code, out, _ = said(*line)
    assert code == 0
    assert re.search(r"^valid +75\.0% +100%$", out, re.MULTILINE)
    assert "only 3 real molecules" in out


def test_a_reference_adds_the_distances_to_it(said):
    Path("samples.smi").write_text("CCO\nCCN\n")
    line = ("evaluate", "samples.smi", "--reference", "samples.smi", "--processes", 1, "--json")
    ours, real = records(said(*line)[1])
    # Molecules are their own nearest neighbours, and distributions at no distance.
    assert ours["snn"] == 1.0
    assert ours["weight_distance"] == 0.0
    assert 0 < real["snn"] < 1


@pytest.mark.slow
def test_a_model_is_scored_with_how_its_samples_came_about(said, molecules):
    line = ("evaluate", "--model", molecules, "-n", 20, "--steps", 4, "--processes", 1)
    code, out, _ = said(*line, "--json")
    ours, real = records(out)
    assert code == 0
    assert ours["samples"] == real["samples"] == 20
    assert 0 < ours["mean_gate"] < 1
    assert ours["forward_passes"] <= 4
    code, out, _ = said(*line)
    assert re.search(r"^mean gate at the last step +0\.\d+$", out, re.MULTILINE)


def test_inspecting_a_file_names_the_rejected_lines_and_why(said):
    Path("some.csv").write_text("id,SMILES\n1,CCO\n2,C1CC\n3,[Na+].[Cl-]\n")
    code, out, _ = said("data", "inspect", "some.csv", "--json")
    rejected, summary = records(out)
    assert code == 0
    assert (rejected["line"], rejected["text"]) == (3, "C1CC")
    assert "ring" in rejected["reason"]
    assert (summary["accepted"], summary["rejected"]) == (2, 1)
    assert summary["notes"] == {"multi_fragment": 1, "charge": 1}
    assert summary["tokens"]["smiles"]["longest"] == 3  # [Na+] . [Cl-], and C C O
    _, out, _ = said("data", "inspect", "some.csv")
    assert re.search(r"^ *3 +C1CC +.*ring", out, re.MULTILINE)


# --- settings


def test_printed_settings_read_back_as_the_same_settings(said):
    line = ("train", "--data", "moses-sample", "--steps", 7, "--no-rotary", "--print-config")
    code, first, _ = said(*line)
    assert code == 0
    Path("run.toml").write_text(first)
    settings = read_settings("run.toml")
    assert settings.training["steps"] == 7
    assert settings.model["rotary"] is False
    assert settings.model["conv_kernel_size"] == 5
    assert said("train", "--config", "run.toml", "--print-config") == (0, first, "")


def test_a_flag_wins_over_the_file(said):
    Path("run.toml").write_text('data = "moses-sample"\n[training]\nsteps = 7\nseed = 3\n')
    _, out, _ = said("train", "--config", "run.toml", "--steps", 9, "--print-config")
    assert "steps = 9\n" in out
    assert "seed = 3\n" in out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[training]\nstep = 1", "unknown setting [training] 'step' (did you mean \"steps\"?)"),
        ("dta = 1", "unknown setting 'dta' (did you mean \"data\"?)"),
        ("[model]\nvocab_size = 3", "unknown setting [model] 'vocab_size'"),
        ("[training]\nsteps = 'x'", "steps = 'x' must be of type int"),
        ("[training]\nsteps = true", "steps = True must be of type int"),
        ("[model]\nrotary = 1", "rotary = 1 must be of type bool"),
        ("model = 3", "[model] must be a table"),
        ("steps = ", "is not a TOML file"),
    ],
)
def test_a_wrong_file_of_settings_is_refused_with_the_place(said, content, reason):
    Path("run.toml").write_text(content)
    code, _, err = said("train", "--config", "run.toml")
    assert code == 2
    assert reason in err


def test_a_whole_number_is_a_legal_learning_rate():
    Path("run.toml").write_text("[training]\nlearning_rate = 1\n")
    assert read_settings("run.toml").training == {"learning_rate": 1}


# --- train


def sixty_csv():
    """60 molecules and two broken lines, 62 and 63."""
    path = Path("sixty.csv")
    path.write_text("SMILES\n" + "\n".join([*SIXTY, "C1CC", "nonsense"]) + "\n")
    return path


@pytest.mark.slow
def test_a_run_from_a_csv_file_to_samples_and_on_from_its_checkpoint(said, tmp_path, monkeypatch):
    line = ("train", "--data", sixty_csv(), *TINY.split(), *OFTEN.split())
    code, out, err = said(*line, "--steps", 6)
    assert code == 0
    assert "line 62: 'C1CC'" in err
    assert "2 lines were kept out" in err
    assert re.search(r"^step 6  held-out loss \d\.\d+  gate AUROC .* valid \S+", err, re.MULTILINE)
    assert "imadarem sample --model runs/sixty/model" in out
    folder = Path("runs/sixty")
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")

    # The model's canvases are those of the data, drawn in their lengths.
    config = json.loads((folder / "model/config.json").read_text())
    assert config["length_mode"] == "drawn"
    assert len(config["length_counts"]) == config["max_seq_len"] + 1
    assert said("sample", "--model", folder / "model", "-n", 2)[0] == 0

    # Nothing is overwritten.
    before = (folder / "metrics.jsonl").read_text()
    code, _, err = said(*line, "--steps", 6)
    assert code == 2
    assert "already holds a run" in err
    assert (folder / "metrics.jsonl").read_text() == before

    # It goes on from another directory, with the settings it was started with.
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    resume = ("train", "--out", tmp_path / folder, "--resume", "--device", "cpu")
    # A run that was killed at its very end gets the picture that it lacks.
    (tmp_path / folder / "curve.png").unlink()
    code, _, err = said(*resume)
    assert (code, err.splitlines()[-1].startswith("error: the run in")) == (2, True)
    assert (tmp_path / folder / "curve.png").exists()
    code, _, err = said(*resume, "--hidden-size", 32)
    assert code == 2
    assert "hidden_size = 32" in err
    code, out, err = said(*resume, "--steps", 9, "--json", "--processes", 1)
    assert code == 0
    kinds = [(record["kind"], record.get("step")) for record in records(out)]
    assert kinds == [("train", 9), ("valid", 9), ("result", 9)]
    assert "at step 6" in err


@pytest.mark.slow
def test_a_run_on_text_starts_from_a_model_and_keeps_its_architecture(said, words):
    Path("words.txt").write_text("".join(f"{a} {b}\n" for a in ("a", "the") for b in "catdog"))
    line = ("train", "--data", "words.txt", "--init", words, "--out", "run", "--processes", 1)
    code, _, err = said(*line, "--steps", 2, "--sample-count", 2, "--device", "cpu")
    assert code == 0
    assert "valid" not in err.replace("valid-", "")
    code, _, err = said(*line[:-4], "--out", "other", "--hidden-size", 32)
    assert code == 2
    assert "--init keeps the architecture" in err


@pytest.mark.slow
def test_a_run_on_molecules_learns_new_tokens_and_says_what_it_changed(said, molecules):
    odd = ["CCBr", "C[C@H](N)C(=O)O", "C[N+](C)(C)CC", "C[C@@H](F)C=O"]
    Path("mine.csv").write_text("\n".join(["SMILES", *SIXTY, *odd]) + "\n")
    line = ("train", "--data", "mine.csv", "--init", molecules, "--out", "run", "--processes", 1)
    line = (*line, "--valid-fraction", 0.3, "--sample-count", 2, "--device", "cpu")
    code, out, err = said(*line, "--steps", 2, "--compare", 6)
    assert code == 0
    assert re.search(r"\d+ tokens are new to the model: .*\[N\+1\]", err)
    assert "samples before and after, beside held-out molecules" in out
    assert re.search(r"with stereo marks +\S+ +\S+ +[0-9.]+%", out)
    found = json.loads(Path("run/before_after.json").read_text())
    assert [report["samples"] for report in found.values()] == [6, 6, 6]
    assert found["held out"]["valid"] == 1.0
    tokens = ImplicitRefinementModel.from_pretrained("run/model").tokenizer.tokens
    assert {"[C@H1]", "[C@@H1]", "[N+1]"} <= set(tokens)
    # The run goes on with the larger vocabulary, and compares nothing if not wanted.
    code, out, err = said("train", "--out", "run", "--resume", "--steps", 3, "--compare", 0)
    assert code == 0 and "before and after" not in out and "new to the model" not in err
    assert said(*line, "--compare", -1)[0] == 2


@pytest.mark.slow
def test_training_that_breaks_down_exits_with_1(said):
    line = ("train", "--data", sixty_csv(), *TINY.split(), "--sample-count", 0)
    # Steps of 1e37 overflow the network, and no gradient is finite after that.
    code, _, err = said(*line, "--learning-rate", "1e37", "--warmup-steps", 0, "--steps", 60)
    assert code == 1
    assert re.fullmatch(r"error: the gradient was not finite .+", err.splitlines()[-1])


@pytest.mark.slow
def test_ctrl_c_saves_and_prints_the_command_that_resumes():
    line = ["train", "--data", sixty_csv(), *TINY.split(), "--steps", 1_000_000, "--log-every", 1]
    printed, metrics = Path("printed"), Path("runs/sixty/metrics.jsonl")
    running = start_command(*line, "--sample-count", 0, output=printed)
    wait_until(
        lambda: metrics.exists() and '"train"' in metrics.read_text(), running, output=printed
    )
    os.kill(running.pid, signal.SIGINT)
    assert finish(running) == 130
    last = errors(printed).splitlines()[-1]
    assert last == "continue with: imadarem train --out runs/sixty --resume"
    assert len(list(Path("runs/sixty/checkpoints").glob("step-*/trainer.json"))) == 1
    assert Path("runs/sixty/model/config.json").is_file()


def test_a_later_record_of_a_step_replaces_the_earlier_one():
    lines = [
        {"kind": "train", "step": 1, "token_loss": 3.0},
        {"kind": "train", "step": 2, "token_loss": 2.0},
        {"kind": "valid", "step": 2, "loss": 2.5, "gate_auroc": None, "gate_ece": 0.1},
        {"kind": "train", "step": 2, "token_loss": 1.0},
    ]
    cut_off = '{"kind": "train", "st'
    Path("m.jsonl").write_text("\n".join([*map(json.dumps, lines), cut_off]))
    found = read_metrics("m.jsonl")
    assert [record["token_loss"] for record in found["train"]] == [3.0, 1.0]
    assert len(found["valid"]) == 1
    draw_curve("m.jsonl", "curve.png")
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


# --- demo


@pytest.mark.slow
def test_the_demo_shows_molecules_a_trajectory_and_what_to_type_next(said, molecules):
    code, out, _ = said("demo", "--model", molecules, "--out", "pictures")
    assert code == 0
    assert re.search(r"^t=0:( +\[MASK\])+$", out, re.MULTILINE)
    assert re.search(r"^16 samples, \S+ valid", out, re.MULTILINE)
    assert "shipped sample of 15,000 training molecules" in out
    for command in ("sample", "trace", "infill", "repair", "train"):
        assert f"imadarem {command}" in out
    assert sorted(os.listdir("pictures")) == ["molecules.png", "molecules.svg"]
