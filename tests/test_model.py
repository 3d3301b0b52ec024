"""The refiner as a user meets it: the quick start, padding, sampling, saving."""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import SPECIAL, shaken, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.checkpoint import load_tensors, save_tensors
from imadarem.errors import CheckpointError, ConfigError, DataError, TokenizerError
from imadarem.sampling.policies import POLICIES
from imadarem.tokenizers import SelfiesTokenizer

MODEL = shaken(tiny_model())


@pytest.mark.parametrize("use_gate", [True, False])
def test_the_founding_documents_quick_start_runs_as_written(use_gate: bool) -> None:
    tokenizer = SimpleNamespace(mask_token_id=3, pad_token_id=0, eos_token_id=2)
    # fmt: off
    config = ImplicitRefinementConfig(
            vocab_size=100,
            hidden_size=64,
            num_layers=2,
            max_seq_len=8,
            max_refinement_steps=3,
            stop_threshold=0.05,
            diversity_weight=0.1,
            sampling_temperature=1.0,
            use_refine_gate=use_gate
        )

    model = ImplicitRefinementModel(config, tokenizer=tokenizer)
    model.eval()
    model.init_teacher()
    # fmt: on
    samples = model.sample(4, seed=0)
    for row in samples.rows:
        assert 1 <= len(row.ids) <= 8
        assert not {0, 2, 3} & set(row.ids.tolist())
    # The teacher is asked in the entropy mode only, at a second pass per step.
    per_step = 1 if use_gate else 2
    assert all(row.forward_passes == per_step * row.steps <= 3 * per_step for row in samples.rows)


def test_the_gate_starts_by_refining_everything() -> None:
    output = tiny_model()(torch.randint(3, 9, (2, 5)))
    # sigmoid(2) = 0.881
    assert torch.allclose(output.gate_logits.sigmoid(), torch.tensor(1 / (1 + math.exp(-2))))


@given(st.integers(0, 1000), st.integers(1, 6))
def test_what_lies_in_the_padding_never_reaches_a_real_token(seed: int, pad: int) -> None:
    model = shaken(tiny_model(conv_kernel_size=5))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, model.config.vocab_size, (2, 5), generator=generator)
    noise = torch.randint(0, model.config.vocab_size, (2, pad), generator=generator)
    mask = torch.cat([torch.ones(2, 5), torch.zeros(2, pad)], dim=1)
    alone = model(ids)
    padded = model(torch.cat([ids, noise], dim=1), mask)
    assert torch.allclose(alone.logits, padded.logits[:, :5], atol=1e-5)
    assert torch.allclose(alone.gate_logits, padded.gate_logits[:, :5], atol=1e-5)


def test_every_part_of_the_network_is_used() -> None:
    model = shaken(tiny_model(conv_kernel_size=3))
    ids = torch.tensor([[1, 5, 1, 6]])
    probs = torch.full((1, 4, model.config.vocab_size), 1 / model.config.vocab_size)
    model(ids, prev_probs=probs).logits.sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("network.gate."):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_beliefs_reach_blanks_only() -> None:
    # A written token must not betray with which odds it was drawn.
    ids = torch.tensor([[5, 6, 7]])
    probs = torch.rand(1, 3, MODEL.config.vocab_size)
    assert torch.equal(MODEL(ids, prev_probs=probs).logits, MODEL(ids).logits)
    blank = torch.tensor([[5, 1, 7]])
    assert not torch.equal(MODEL(blank, prev_probs=probs).logits, MODEL(blank).logits)


def test_time_is_read_off_the_canvas() -> None:
    ids = torch.tensor([[1, 1, 5, 6]])
    assert torch.equal(MODEL(ids).logits, MODEL(ids, time=torch.tensor([0.5])).logits)
    assert not torch.equal(MODEL(ids).logits, MODEL(ids, time=torch.tensor([0.9])).logits)


def test_gradient_checkpointing_changes_memory_not_numbers() -> None:
    plain, frugal = (
        shaken(tiny_model(gradient_checkpointing=flag)).train() for flag in (False, True)
    )
    ids = torch.randint(3, 9, (3, 7))
    for model in (plain, frugal):
        model(ids).logits.square().mean().backward()
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.allclose(a.grad, b.grad)  # type: ignore[arg-type]


# Teacher


# 0.9 · b + 0.1 · (b + 1) = b + 0.1; a decay given to the update stands in place of the config's.
@pytest.mark.parametrize(("decay", "moved"), [(None, 0.1), (0.5, 0.5), (0.0, 1.0)])
def test_the_teacher_follows_by_its_decay(decay: float | None, moved: float) -> None:
    model = tiny_model(ema_decay=0.9)
    model.init_teacher()
    before = model.network.backbone.to_logits.bias.detach().clone()
    with torch.no_grad():
        model.network.backbone.to_logits.bias += 1.0
    model.update_teacher(decay)
    assert model.teacher is not None
    assert torch.allclose(model.teacher.network.backbone.to_logits.bias, before + moved)  # type: ignore[union-attr, operator]
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_a_decay_that_is_given_counts_and_not_the_models_own() -> None:
    model = tiny_model(ema_decay=0.9)
    model.init_teacher()
    before = model.network.backbone.to_logits.bias.detach().clone()
    with torch.no_grad():
        model.network.backbone.to_logits.bias += 1.0
    model.update_teacher(0.25)
    assert model.teacher is not None
    # 0.25 · b + 0.75 · (b + 1) = b + 0.75
    assert torch.allclose(model.teacher.network.backbone.to_logits.bias, before + 0.75)  # type: ignore[union-attr, operator]
    model.update_teacher(0.0)
    student = model.network.backbone.to_logits.bias
    assert torch.allclose(model.teacher.network.backbone.to_logits.bias, student)  # type: ignore[union-attr, arg-type]


def test_updating_a_teacher_that_is_not_there_says_so() -> None:
    with pytest.raises(ConfigError, match="init_teacher"):
        tiny_model().update_teacher()


# Sampling


@pytest.mark.slow
@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("mode", ["eos", "drawn"])
def test_a_row_depends_on_its_seed_alone(policy: str, mode: str) -> None:
    model = shaken(tiny_model(length_mode=mode, length_counts=[0, 0, 1, 2, 3, 2, 1]))
    together = model.sample(5, seed=5, policy=policy)
    apart = model.sample(5, seed=5, policy=policy, batch_size=2)
    assert [r.ids.tolist() for r in apart.rows] == [r.ids.tolist() for r in together.rows]
    fewer = model.sample(1, seed=5, policy=policy)
    assert fewer.rows[0].ids.tolist() == together.rows[0].ids.tolist()
    assert model.sample(5, seed=6, policy=policy).texts != together.texts


def test_the_schedule_is_the_models_own_or_as_asked() -> None:
    # Six blanks in three steps: straight 4, 2, 0; cosine 5, 3, 0.
    def blanks(model: ImplicitRefinementModel, **asked: object) -> list[int]:
        found = model.analyze_refinement_trajectory(
            n=1, length=6, steps=3, seed=0, policy="ancestral", **asked
        )
        return [step.states.count("OPEN") for step in found[0].steps]

    plain, curved = (
        tiny_model(length_mode="drawn", mask_schedule=shape) for shape in ("linear", "cosine")
    )
    assert blanks(plain) == blanks(curved, schedule="linear") == [4, 2, 0]
    assert blanks(curved) == blanks(plain, schedule="cosine") == [5, 3, 0]
    filled = plain.infill("<mask>" * 6, steps=3, schedule="cosine", return_trajectory=True)
    assert filled.trajectory is not None
    assert filled.trajectory[0].steps[0].states.count("OPEN") == 5


def test_a_truncated_row_depends_on_its_seed_alone() -> None:
    model = shaken(tiny_model(length_mode="eos"))
    asked = {"seed": 5, "top_k": 4, "top_p": 0.8}
    together = [row.ids.tolist() for row in model.sample(6, **asked).rows]
    apart = [row.ids.tolist() for row in model.sample(6, batch_size=1, **asked).rows]
    assert apart == together
    assert [row.ids.tolist() for row in model.sample(6, seed=5).rows] != together
    # Cutting nothing is drawing as before.
    whole = [row.ids.tolist() for row in model.sample(6, seed=5, top_k=99, top_p=1.0).rows]
    assert whole == [row.ids.tolist() for row in model.sample(6, seed=5).rows]


def test_one_kept_token_is_the_likeliest() -> None:
    model = shaken(tiny_model(length_mode="drawn"))
    asked = {"seed": 3, "policy": "margin"}
    greedy = model.infill("<mask>" * 5, temperature=0.0, **asked)
    assert model.infill("<mask>" * 5, top_k=1, **asked).texts == greedy.texts
    with pytest.warns(UserWarning, match="no effect"):
        assert model.infill("<mask>" * 5, temperature=0.0, top_k=2, **asked).texts == greedy.texts


def test_lengths_are_drawn_from_the_training_lengths() -> None:
    model = tiny_model(length_mode="drawn", length_counts=[0, 0, 3, 0, 1])
    lengths = [len(row.ids) for row in model.sample(400, seed=0).rows]
    assert set(lengths) == {2, 4}
    # 3/4 of 400 are 300; five standard deviations are 43.
    assert abs(lengths.count(2) - 300) < 44


def test_a_length_may_be_given_for_all_or_for_each() -> None:
    model = tiny_model(length_mode="drawn")
    assert [len(r.ids) for r in model.sample(3, length=4, seed=0).rows] == [4, 4, 4]
    assert [len(r.ids) for r in model.sample(2, length=[2, 5], seed=0).rows] == [2, 5]
    with pytest.raises(ConfigError, match="length_counts"):
        model.sample(1)


@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=1, max_size=10))
def test_infilling_keeps_every_given_token(seed: int, holes: list[bool]) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, MODEL.config.vocab_size, (len(holes),), generator=generator)
    prompt = [1 if hole else int(t) for hole, t in zip(holes, tokens, strict=True)]
    prompt.append(1)
    (row,) = MODEL.infill([prompt], seed=seed).rows
    for position, token in enumerate(prompt):
        if token != 1:
            assert row.ids[position] == token
    assert 1 not in row.ids


def test_prompts_have_a_temperature_of_their_own() -> None:
    model, prompt = tiny_model(length_mode="drawn", joint_size=6), "[C]<mask><mask><mask>[O]"
    plain = model.infill([prompt] * 5, seed=1).texts
    model.config.infill_temperature = 0.1
    cold = model.infill([prompt] * 5, seed=1).texts
    assert cold == model.infill([prompt] * 5, seed=1, temperature=0.1).texts
    given = model.config.sampling_temperature
    assert model.infill([prompt] * 5, seed=1, temperature=given).texts == plain
    drafts = model.sample(5, length=6, seed=1).texts
    assert drafts == model.sample(5, length=6, seed=1, temperature=given).texts
    with pytest.raises(ConfigError, match="infill_temperature"):
        replace(model.config, infill_temperature=-1.0)


def test_infilling_reads_the_tokenizers_notation() -> None:
    model = shaken(tiny_model(length_mode="drawn"))
    samples = model.infill(["[C]<mask>[O]", "<mask>"], seed=0)
    assert [len(row.ids) for row in samples.rows] == [3, 1]
    decoded = model.tokenizer.decode_notation(samples.rows[0].ids)
    assert decoded.startswith("[C]") and decoded.endswith("[O]")


@pytest.mark.parametrize("prompt", ["[C][O]", "", [[3, 4]], ["[C]<mask>", "[C][O]"]])
def test_a_prompt_without_a_blank_is_refused(prompt) -> None:
    with pytest.raises(DataError, match="has no blank, so there is nothing to fill"):
        MODEL.infill(prompt, seed=0)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda: MODEL.sample(0), ConfigError, "n=0 must be a whole number from 1"),
        (lambda: MODEL.sample(10**30), ConfigError, "from 1 to 1000000000"),
        (lambda: MODEL.sample(1.5), ConfigError, "n=1.5 must be a whole number"),
        (lambda: MODEL.sample(1, first=-1), ConfigError, "first=-1 must be"),
        (lambda: MODEL.sample(1, seed=1.5), ConfigError, "seed=1.5 must be a whole number"),
        (lambda: MODEL.sample(1, batch_size=0), ConfigError, "batch_size=0 must be"),
        (lambda: MODEL.sample(1, length=10**30), DataError, "max_seq_len=12"),
        (lambda: MODEL.sample(1, length=[3, 4]), DataError, "2 lengths for n=1"),
        (lambda: MODEL.sample(1, policy=3), ConfigError, "neither a name nor a policy"),
        (lambda: MODEL.sample(1, steps=0), ConfigError, "steps=0"),
        (lambda: MODEL.sample(1, temperature=-1.0), ConfigError, "temperature=-1.0"),
        (lambda: MODEL.sample(1, schedule="cosin"), ConfigError, 'did you mean "cosine"'),
        (lambda: MODEL.sample(1, top_k=0), ConfigError, "top_k=0"),
        (lambda: MODEL.infill("<mask>", top_p=2.0), ConfigError, "top_p=2.0"),
        (lambda: MODEL.sample(1, policy="gat"), ConfigError, 'did you mean "gate"'),
        (lambda: MODEL.sample(1, length=13), DataError, "max_seq_len=12"),
        (lambda: MODEL.sample(1, length=0), DataError, "at least 1"),
        (lambda: MODEL.infill([]), DataError, "no prompt"),
        (lambda: MODEL.infill([[1, 999]]), DataError, "999"),
        (lambda: MODEL.infill([[1] * 13]), DataError, "max_seq_len=12"),
        (lambda: MODEL.infill("[Xe]<mask>"), DataError, "Xe"),
        (lambda: MODEL(torch.ones(1, 13).long()), DataError, "max_seq_len=12"),
    ],
)
def test_wrong_use_is_told_what_is_legal(ask: object, error: type, says: str) -> None:
    with pytest.raises(error) as caught:
        ask()  # type: ignore[operator]
    assert says in str(caught.value)


def test_sampling_leaves_the_mode_and_the_global_generator_alone() -> None:
    model = tiny_model().train()
    state = torch.get_rng_state()
    model.sample(2, seed=0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


# Trajectories


def test_a_trajectory_ends_in_the_sample_and_shows_every_token() -> None:
    samples = MODEL.sample(3, seed=2, return_trajectory=True)
    assert samples.trajectory is not None
    for row, trajectory in zip(samples.rows, samples.trajectory, strict=True):
        assert len(trajectory.steps) == row.steps
        assert trajectory.steps[-1].ids[: len(row.ids)] == row.ids.tolist()
        assert trajectory.stopping_reason == row.reason.label
    assert MODEL.sample(3, seed=2).trajectory is None


def test_the_printed_trajectory_has_tokens_arrows_and_the_reason() -> None:
    out = io.StringIO()
    MODEL.print_refinement_trajectory("[C]<mask>[O]", seed=0, file=out, policy="entropy", steps=2)
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["t=0:", "[C]", "[MASK]", "[O]"]
    assert lines[1].split()[1] == "[C]" and lines[1].split()[3] == "[O]"
    # One arrow, under the one hole; and the entropy, as that is what the mode decides by.
    assert lines[2].split() == ["↑"]
    assert lines[2].index("↑") == pytest.approx(lines[0].index("[MASK]") + 2.5, abs=1)
    assert lines[3].split()[0] == "entropy"
    assert any(line.startswith("stopped: ") for line in lines)
    assert lines[-1].startswith("final: C")


def test_a_wide_canvas_is_cut_into_parts_that_fit() -> None:
    text = MODEL.analyze_refinement_trajectory(seed=0, length=12).to_text(width=60)
    assert text.count("t=0:") > 1
    assert max(map(len, text.split("\n\nstopped")[0].splitlines())) <= 60


def test_a_trajectory_is_plain_json_under_a_versioned_schema() -> None:
    import json

    record = json.loads(json.dumps(MODEL.analyze_refinement_trajectory(n=2, seed=0).to_dict()))
    assert record["schema"] == "imadarem.trajectory/1"
    step = record["rows"][0]["steps"][0]
    assert {"ids", "tokens", "refined", "gate", "entropy", "stopping_reason"} <= set(step)
    assert all(gate is None for gate in step["gate"])  # blanks have no gate


# Contract


def test_a_tokenizer_without_mask_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no mask token"):
        ImplicitRefinementModel(
            ImplicitRefinementConfig(vocab_size=9), tokenizer=SimpleNamespace(pad_token_id=0)
        )


def test_colliding_ids_are_named() -> None:
    tokenizer = SimpleNamespace(mask_token_id=4, pad_token_id=4, eos_token_id=2)
    with pytest.raises(TokenizerError, match="4"):
        ImplicitRefinementModel(ImplicitRefinementConfig(vocab_size=9), tokenizer=tokenizer)


def test_the_special_ids_may_stand_in_the_config() -> None:
    config = ImplicitRefinementConfig(
        vocab_size=9, hidden_size=16, mask_token_id=1, pad_token_id=0, eos_token_id=2
    )
    assert ImplicitRefinementModel(config).special == SPECIAL


# Saving


def test_saving_and_loading_changes_nothing(tmp_path: Path) -> None:
    model = shaken(tiny_model(gate_temperature=1.7))
    model.save_pretrained(tmp_path)
    loaded = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert isinstance(loaded.tokenizer, SelfiesTokenizer)
    assert loaded.sample(5, seed=1).texts == model.sample(5, seed=1).texts
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}


def test_the_teacher_is_saved_with_the_model(tmp_path: Path) -> None:
    model = shaken(tiny_model(use_refine_gate=False))
    model.init_teacher()
    assert model.teacher is not None
    with torch.no_grad():
        model.network.backbone.to_logits.bias += 1.0
    model.save_pretrained(tmp_path)
    loaded = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert loaded.teacher is not None
    for ours, theirs in zip(model.teacher.parameters(), loaded.teacher.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.sample(3, seed=0).forward_passes == model.sample(3, seed=0).forward_passes


def test_a_model_card_is_kept_unless_another_is_given(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, model_card="first")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "first"
    model.save_pretrained(tmp_path, model_card="second")
    assert (tmp_path / "README.md").read_text() == "second"


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="notes.txt"):
        ImplicitRefinementModel.from_pretrained(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        ImplicitRefinementModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_must_fit_exactly(tmp_path: Path, change: str) -> None:
    tiny_model().save_pretrained(tmp_path)
    weights = load_tensors(tmp_path / "model.safetensors")
    if change == "missing":
        del weights["network.gate.score.weight"]
    elif change == "extra":
        weights["surplus"] = torch.zeros(2)
    else:
        weights["network.backbone.norm.weight"] = torch.zeros(5)
    save_tensors(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not fit"):
        ImplicitRefinementModel.from_pretrained(tmp_path)


def test_no_pickle_is_ever_read(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    shutil.move(tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no file"):
        ImplicitRefinementModel.from_pretrained(tmp_path)


def test_a_full_disk_leaves_the_old_model_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shaken(tiny_model())
    model.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def no_space(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imadarem.files.os.fsync", no_space)
    with pytest.raises(CheckpointError, match="No space left"):
        shaken(model).save_pretrained(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["./none", "nowhere", "a/b/c", "runs/typo", "~/none"])
def test_a_mistyped_folder_is_not_looked_up_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="there is no folder"):
        ImplicitRefinementModel.from_pretrained(name)


@pytest.mark.parametrize("joint", [0, 6])
def test_a_larger_vocabulary_changes_nothing_about_the_tokens_that_were_known(joint: int) -> None:
    model = shaken(tiny_model(joint_size=joint)).eval()
    larger = model.with_vocabulary(model.tokenizer.extended(["[Br]", "[C]", "[I]"])).eval()
    size = model.config.vocab_size
    assert larger.config.vocab_size == size + 2 == len(larger.tokenizer)
    ids = torch.randint(3, size, (4, 9))
    ids[:, 4:] = model.special.mask
    targets = {"targets": torch.randint(3, size, (4, 9))} if joint else {}
    before, after = model(ids, **targets), larger(ids, **targets)
    torch.testing.assert_close(after.logits[..., :size], before.logits)
    torch.testing.assert_close(after.gate_logits, before.gate_logits)
    if joint:
        torch.testing.assert_close(after.joint_logits[..., :size], before.joint_logits)
    # A new token is as its nearest known one, e⁴ times less likely: of the halogens, chlorine.
    chlorine = model.tokenizer.tokens.index("[Cl]")
    near = before.logits[..., [chlorine, chlorine]]
    torch.testing.assert_close(after.logits[..., size:], near - 4.0)


def test_a_vocabulary_that_forgets_tokens_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(TokenizerError, match="Extend the model's own tokenizer"):
        model.with_vocabulary(SelfiesTokenizer.from_corpus(["CC"]))
