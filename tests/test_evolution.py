"""Evolution towards a score: calls counted, constraints kept, resumed as if never stopped."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_parts import SIXTY, records, saved_model
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import canonical, parse
from imadarem.design.completion import FragmentTask, notation_of
from imadarem.design.evolution import Evolution, EvolutionSettings, evolve
from imadarem.design.fragment import read_fragment
from imadarem.design.mutation import Mutation
from imadarem.design.pareto import pareto_order
from imadarem.design.ring_edits import with_other_rings
from imadarem.design.rings import new_ring_systems
from imadarem.design.score_command import CommandScore
from imadarem.design.scores import Score, score_named, similarity_to
from imadarem.design.surrogate import Surrogate
from imadarem.design.verification import rejection_reason
from imadarem.errors import BusyError, CheckpointError, ConfigError, DataError, TrainingError
from imadarem.locks import exclusive
from imadarem.tokenizers import SelfiesTokenizer

STEPS = {"steps": 2}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("evolving")
    saved_model(made, SelfiesTokenizer.from_corpus(SIXTY), SIXTY, max_seq_len=90)
    return made


@pytest.fixture(scope="session")
def model(folder):
    return ImplicitRefinementModel.from_pretrained(folder)


class Counted:
    """Heavy atoms, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, smiles: str) -> float:
        self.asked.append(smiles)
        return float(parse(smiles).GetNumAtoms())


def small(**changes) -> EvolutionSettings:
    sizes = {"budget": 60, "population": 10, "children": 12, "prescreen": 1}
    given = {"score": "atoms", **sizes, **changes}
    return EvolutionSettings(**given)


def test_no_molecule_is_scored_twice_and_the_budget_holds(model):
    score = Counted()
    made = evolve(model, score, small(), start=[*SIXTY[:10], SIXTY[0]], **STEPS)
    assert len(score.asked) == len(set(score.asked)) == len(made.scored) == 60
    assert [row.call for row in made.scored.values()] == list(range(1, 61))
    assert all(canonical(smiles) == smiles for smiles in score.asked)


def test_the_best_gets_better_where_every_change_is_open(model):
    made = evolve(model, Counted(), small(), start=SIXTY[:10], **STEPS)
    started = max(row.score for row in made.scored.values() if row.generation == 0)
    # More atoms is the easiest of all scores: a run of blanks may be longer than what it was.
    assert made.best(1)[0].score > started


@pytest.mark.slow
def test_a_run_goes_on_as_if_it_had_never_stopped(model, tmp_path):
    guessing = small(prescreen=3, budget=34)
    straight = evolve(model, Counted(), guessing, start=SIXTY[:10], **STEPS)
    file = tmp_path / "run.csv"
    # 17 calls cut a generation off in its middle.
    shorter = replace(guessing, budget=17)
    evolve(model, Counted(), shorter, start=SIXTY[:10], out=file, **STEPS)
    resumed = evolve(model, Counted(), guessing, out=file, resume=True, **STEPS)
    assert list(resumed.scored.values()) == list(straight.scored.values())
    assert list(Evolution.load(file).scored) == list(straight.scored)


def test_the_same_seed_gives_the_same_run_and_another_another(model):
    runs = [
        list(evolve(model, Counted(), small(budget=30, seed=s), start=SIXTY[:10], **STEPS).scored)
        for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_every_scored_molecule_has_the_scaffold(model):
    settings = small(scaffold="*c1ccccc1", budget=30)
    made = evolve(model, Counted(), settings, **STEPS)
    fragment = read_fragment("*c1ccccc1")
    assert len(made.scored) > 10
    assert [s for s in made.scored if rejection_reason(s, [fragment])] == []


def test_every_scored_molecule_is_similar_enough(model):
    target = SIXTY[0]
    settings = small(similar_to=target, least_similarity=0.3, budget=25)
    made = evolve(model, Counted(), settings, start=[target], **STEPS)
    similarity = similarity_to(target)
    assert len(made.scored) > 1
    assert all(similarity(smiles) >= 0.3 for smiles in made.scored)


def test_a_molecule_without_a_number_comes_last_and_survives_the_file(model, tmp_path):
    file = tmp_path / "run.csv"
    none = score_named("qed")
    evolve(
        model,
        lambda s: -np.inf if "N" in s else none(s),
        small(budget=12),
        start=SIXTY[:12],
        out=file,
        **STEPS,
    )
    scores = [row.score for row in Evolution.load(file).best(99)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == -np.inf


def test_it_stops_at_the_score_that_was_asked_for(model):
    made = evolve(model, Counted(), small(until=1.0), start=SIXTY[:10], **STEPS)
    assert len(made.scored) == 10  # any molecule will do: the start is enough


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"similar_to": "CC"}, "both or neither"),
        ({"similar_to": "CC", "least_similarity": 2.0}, "0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_a_file_is_never_overwritten_and_a_resume_changes_nothing(model, tmp_path):
    file = tmp_path / "run.csv"
    # Resuming begins where there is nothing yet.
    evolve(model, Counted(), small(budget=10), start=SIXTY[:10], out=file, resume=True, **STEPS)
    with pytest.raises(ConfigError, match="exists"):
        evolve(model, Counted(), small(), out=file)
    with pytest.raises(ConfigError, match="population = 10"):
        evolve(model, Counted(), small(population=11), out=file, resume=True, **STEPS)
    with pytest.raises(ConfigError, match="sampling = .*'steps': 2.*'steps': 3"):
        evolve(model, Counted(), small(), out=file, resume=True, steps=3)
    with exclusive(file), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        evolve(model, Counted(), small(), out=file, resume=True, **STEPS)
    for content in ("not,a,run\n", "smiles,call\nCC,1\n", ""):
        file.write_text(content)
        with pytest.raises(CheckpointError, match="not the table of a run"):
            evolve(model, Counted(), small(), out=file, resume=True, **STEPS)


def every_fifth_fails(fails: bool):
    counted = Counted()

    def score(smiles: str) -> float:
        value = counted(smiles)
        if fails and len(counted.asked) % 5 == 0:
            raise ValueError("docking\nstopped")
        return value

    return score


def test_a_score_that_fails_is_recorded_and_the_search_continues(model, tmp_path):
    file = tmp_path / "run.csv"
    made = evolve(model, every_fifth_fails(True), small(), start=SIXTY[:10], out=file, **STEPS)
    assert [row.call for row in made.failures] == list(range(5, 61, 5))
    assert {(row.score, row.failure) for row in made.failures} == {
        (-np.inf, "ValueError: docking stopped")
    }
    assert all(np.isfinite(row.score) for row in made.scored.values() if not row.failure)
    # They survive the file, and a resumed run does not call the score for them again.
    assert list(Evolution.load(file).scored.values()) == list(made.scored.values())
    more = Counted()
    evolve(model, more, small(budget=70), out=file, resume=True, **STEPS)
    assert not {row.smiles for row in made.failures} & set(more.asked)


def test_a_score_that_always_fails_ends_the_run(model, tmp_path):
    asked = []

    def broken(smiles: str) -> float:
        asked.append(smiles)
        raise ImportError("no module")

    with pytest.raises(TrainingError, match="ImportError: no module"):
        evolve(model, broken, small(), start=SIXTY[:20], out=tmp_path / "run.csv", **STEPS)
    assert len(asked) == 10
    assert not (tmp_path / "run.csv").exists()


def test_a_start_that_breaks_the_constraint_is_an_error(model):
    with pytest.raises(DataError, match="nothing to begin with"):
        evolve(model, Counted(), small(scaffold="*c1ccncc1"), start=["CCO"], **STEPS)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutation_with_a_scaffold_blanks_nothing_of_it(model, seed):
    scaffold = FragmentTask.of("scaffold", "*c1ccccc1").fragments[0]
    mutate = Mutation(notation_of(model), scaffold)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        prompt = mutate("CCN(C)C(=O)CCc1ccccc1", rng)
        if prompt is None:
            continue
        # A methyl or hydroxyl group in the blanks: whatever was lost, the phenyl ring stays.
        child = prompt.fill([token or "[C]" for token in prompt.tokens])
        if child is not None and parse(child) is not None:
            assert rejection_reason(canonical(child), [scaffold]) is None


@pytest.mark.usefixtures("elsewhere")
def test_the_command_tells_each_generation_and_the_best(said, folder):
    Path("start.smi").write_text("\n".join([*SIXTY[:8], "C1CC"]))
    code, out, err = said(
        *("optimize", "--model", folder, "--score", "qed", "--budget", 30, "--population", 8),
        *("--children", 8, "--start", "start.smi", "--steps", 2, "--out", "best.csv", "--json"),
    )
    assert code == 0, err
    assert "1 lines of start.smi are no molecules" in err
    told = records(out)
    assert [r["number"] for r in told if r["kind"] == "generation"][:2] == [0, 1]
    best = [r["score"] for r in told if r["kind"] == "molecule"]
    assert best == sorted(best, reverse=True)
    assert (told[-1]["calls"], told[-1]["failed"]) == (30, 0)
    assert len(Path("best.csv").read_text().splitlines()) == 31


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "with --score or --score-command"),
        (["--score", "qed", "--pareto"], "at least two scores"),
        (["--score", "qed", "--weight", 1, "--weight", 2], "2 weights were given for 1 scores"),
        (["--score", "logp@3..1"], "lower number first"),
        (["--score-command", "'"], "cannot be read"),
        (["--score", "qde"], 'did you mean "qed"'),
        (["--score", "qed", "--out", "best.pdf"], "must end in one of .smi, .csv"),
        (["--score", "qed", "--out", "best.smi", "--resume"], "--resume continues a .csv"),
        (["--score", "qed", "--where", "MW"], "cannot be read"),
        (["--score", "qed", "--similar-to", "CC"], "both or neither"),
        (["--score", "similarity:C1CC"], "not a valid SMILES"),
    ],
)
def test_wrong_use_is_one_line(said, folder, tokens, message):
    code, out, err = said("optimize", "--model", folder, *tokens)
    assert (code, out) == (2, "")
    assert message in err


# --- several scores, other programs


def test_the_weighted_mean_of_several_scores_counts_and_survives_the_file(model, tmp_path):
    file = tmp_path / "run.csv"
    scores = [score_named("qed"), score_named("logp@1..3")]
    settings = small(score="qed logp@1..3", weights=(3.0, 1.0), budget=16)
    made = evolve(model, scores, settings, start=SIXTY[:10], out=file, **STEPS)
    for row in made.scored.values():
        assert row.terms == tuple(score(row.smiles) for score in scores)
        assert row.score == pytest.approx((3 * row.terms[0] + row.terms[1]) / 4)
    loaded = Evolution.load(file)
    assert loaded.names == ("qed", "logp@1..3")
    assert list(loaded.scored.values()) == list(made.scored.values())
    longer = replace(settings, budget=18)
    more = evolve(model, scores, longer, out=file, resume=True, **STEPS)
    assert len(more.scored) == 18


# Terms (3, 0), (2, 2), (0, 3) beat none of each other; (1, 1) is beaten by (2, 2), (0, 0) by all.
def test_the_front_comes_first_and_its_ends_before_its_middle():
    values = np.array([[1, 1], [3, 0], [0, 0], [2, 2], [0, 3]])
    assert sorted(pareto_order(values, 3)[:2]) == [1, 4]
    assert pareto_order(values, 5)[2:] == [3, 0, 2]
    assert pareto_order(values, 1) == pareto_order(values, 3)


def test_a_pareto_search_keeps_molecules_that_no_other_beats(model):
    scores = [Score("atoms", lambda s: float(parse(s).GetNumAtoms())), score_named("qed")]
    settings = small(score="atoms qed", pareto=True, budget=22, prescreen=2)
    made = evolve(model, scores, settings, start=SIXTY[:10], **STEPS)
    best, rest = made.best(3), made.best(40)
    for row in best:
        beaten = [o for o in rest if all(a > b for a, b in zip(o.terms, row.terms, strict=True))]
        assert beaten == []


def test_parents_have_different_scaffolds_where_that_is_asked_for(model):
    made = evolve(model, Counted(), small(per_scaffold=1, budget=26), start=SIXTY[:20], **STEPS)
    assert len(made.scored) == 26
    parents = {row.parent for row in made.scored.values() if row.generation == 1}
    scaffolds = [MurckoScaffoldSmiles(smiles=smiles) for smiles in parents]
    assert len(set(scaffolds)) == len(scaffolds)


def test_a_guess_is_high_near_high_scores():
    known = [("CCCCCCO", 1.0), ("CCCCCO", 0.9), ("c1ccncc1", 0.1), ("c1ccncc1C", 0.0)]
    alcohol, pyridine = Surrogate().upper(known, ["CCCCCCCO", "c1ccnc(C)c1C"], optimism=0.0)
    assert alcohol > 0.5 > -0.3 > pyridine


def test_another_program_scores_one_or_many(tmp_path):
    script = tmp_path / "score.py"
    script.write_text(
        "import sys\nfor line in sys.stdin:\n"
        "    if line.strip() == 'CC': sys.exit('no pocket')\n"
        "    print(len(line.strip()) + len(sys.argv))\n"
    )
    each = CommandScore(f"{sys.executable} {script} {{smi}}")
    assert (each.batched, each("CCO")) == (False, 5.0)
    many = CommandScore(f"{sys.executable} {script}")
    assert (many.batched, many(["CCO", "C"])) == (True, [4.0, 2.0])
    values = list(Score("dock", many).many(["CCO", "CC"]))
    assert values[0] == 4.0
    assert "exit code 1: no pocket" in str(values[1])
    assert list(Score("dock", each).many(["CCO", "C"], workers=2)) == [5.0, 3.0]
    slow = CommandScore(f"{sys.executable} -c 'import time; time.sleep(9)' {{smi}}", timeout=0.1)
    with pytest.raises(ValueError, match="no answer within 0.1 s"):
        slow("C")
    with pytest.raises(ValueError, match="cannot be run"):
        CommandScore("no-such-program-here")(["C"])


def test_another_score_needs_a_reason_and_scores_all_molecules_again(model, tmp_path):
    file = tmp_path / "run.csv"
    evolve(model, Counted(), small(budget=12), start=SIXTY[:10], out=file, **STEPS)
    other = Score("bonds", lambda smiles: float(smiles.count("=")))
    now = small(score="bonds", budget=12)
    with pytest.raises(ConfigError, match="say why with reason"):
        evolve(model, other, now, out=file, resume=True, **STEPS)
    made = evolve(model, other, now, out=file, resume=True, reason="bonds matter", **STEPS)
    assert all(row.score == row.smiles.count("=") for row in made.scored.values())
    kept = json.loads(file.with_name("run.csv.settings.json").read_text())
    assert kept["changes"][0]["reason"] == "bonds matter"
    assert kept["score"] == "bonds"
    # The same command again changes nothing more.
    again = evolve(model, other, now, out=file, resume=True, **STEPS)
    assert again.scored == made.scored
    with pytest.raises(ConfigError, match="population"):
        evolve(model, other, small(score="bonds", population=3), out=file, resume=True, reason="-")


def test_rings_change_on_the_graph_and_stay_known():
    rng = np.random.default_rng(0)
    found = {with_other_rings("COc1cc(N)ncn1", rng) for _ in range(60)} - {None}
    assert any("c2" in text for text in found)  # a ring was fused
    assert canonical("COc1cncnc1N") in found or canonical("COc1nccc(N)n1") in found
    assert all(not new_ring_systems(parse(text)) for text in found)
    assert with_other_rings("c1ccc2[nH]ccc2c1", np.random.default_rng(1)) != "c1ccc2[nH]ccc2c1"
    assert with_other_rings("CCO", rng) is None
