"""Refiners behind the Auto classes of transformers."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    pipeline,
)
from transformers.generation.streamers import TextDiffusionStreamer

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import CheckpointError, ConfigError, DataError, TokenizerError
from imadarem.hf import ImadaremConfig, ImadaremForMaskedLM
from imadarem.model import ImplicitRefinementModel
from imadarem.tokenizers import CharTokenizer

TEXTS = ["hello world", "cabbage"]


def refiner(**settings) -> ImplicitRefinementModel:
    """A tiny model whose weights are all far from their starting values."""
    tokenizer = CharTokenizer.from_corpus(TEXTS)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        max_seq_len=8,
        conv_kernel_size=3,
        **settings,
    )
    model = ImplicitRefinementModel(config, tokenizer)
    noise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3, generator=noise)
    return model.eval()


@pytest.fixture(scope="module")
def core():
    return refiner(gate_temperature=1.7)


@pytest.fixture(scope="module")
def folder(core, tmp_path_factory):
    path = tmp_path_factory.mktemp("core")
    core.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def face(folder):
    return AutoModelForMaskedLM.from_pretrained(folder)


@pytest.fixture
def canvases(core):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, core.config.vocab_size, (3, 8), generator=generator)
    ids[:, 2:5] = core.special.mask
    inside = torch.arange(8) < torch.tensor([8, 5, 7])[:, None]
    return ids, inside


def same_weights(one: ImplicitRefinementModel, other: ImplicitRefinementModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# ---------------------------------------------------------------- from the core and back


def test_the_auto_classes_read_what_the_core_saved(core, folder, face, canvases):
    assert isinstance(face, ImadaremForMaskedLM) and not face.training
    expected, found = core(*canvases), face(*canvases)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.gate_logits, expected.gate_logits)


def test_the_auto_config_holds_the_cores_settings(core, folder):
    assert AutoConfig.from_pretrained(folder).core() == core.config


def test_the_auto_tokenizer_reads_the_folder(core, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("hello", add_special_tokens=False) == core.tokenizer.encode("hello")
    assert tokenizer.mask_token_id == core.special.mask


def test_the_core_reads_what_the_auto_class_saved(core, face, canvases, tmp_path):
    face.save_pretrained(tmp_path)
    again = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert again.config == core.config
    assert torch.equal(again(*canvases).logits, core(*canvases).logits)
    assert again.sample(4, seed=2).texts == core.sample(4, seed=2).texts


def test_weights_given_for_saving_are_the_ones_saved(face, tmp_path):
    doubled = {name: 2 * tensor for name, tensor in face.state_dict().items()}
    face.save_pretrained(tmp_path, state_dict=doubled)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == face.refiner.state_dict().keys()
    assert torch.equal(
        saved["network.backbone.tokens.weight"], 2 * face.refiner.network.backbone.tokens.weight
    )


def test_a_saved_configuration_alone_is_one_of_the_core(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder)
    config.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert ImplicitRefinementConfig.from_dict(settings) == config.core()


def test_a_teacher_travels_both_ways_and_asks_for_no_gradient(tmp_path):
    core = refiner(use_refine_gate=False)
    core.init_teacher()
    for parameter in core.teacher.parameters():
        parameter.data += 0.1
    core.save_pretrained(tmp_path / "core")
    face = AutoModelForMaskedLM.from_pretrained(tmp_path / "core")
    assert same_weights(face.refiner, core)
    assert not any(p.requires_grad for p in face.refiner.teacher.parameters())
    assert all(p.requires_grad for p in face.refiner.student_parameters())
    face.save_pretrained(tmp_path / "face")
    assert same_weights(ImplicitRefinementModel.from_pretrained(tmp_path / "face"), core)


def test_the_weights_may_be_loaded_in_another_precision(folder):
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.generate(num_return_sequences=2, seed=0).shape[0] == 2


def test_a_setting_can_be_changed_while_loading_and_is_saved(folder, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(folder, sampling_temperature=0.25)
    assert model.refiner.config.sampling_temperature == 0.25
    model.config.max_refinement_steps = 3
    model.save_pretrained(tmp_path)
    config = ImplicitRefinementModel.from_pretrained(tmp_path).config
    assert (config.sampling_temperature, config.max_refinement_steps) == (0.25, 3)


def damaged(folder, tmp_path, edit):
    """A copy of the folder with its weights edited."""
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    tmp_path.joinpath("config.json").write_text((folder / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.mark.parametrize(
    "name", ["gate.score.bias", "backbone.positions.decay", "backbone.blocks.1.expand.weight"]
)
def test_a_missing_weight_is_refused(folder, tmp_path, name):
    broken = damaged(folder, tmp_path, lambda weights: weights.pop(f"network.{name}"))
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        AutoModelForMaskedLM.from_pretrained(broken)


def test_a_left_over_weight_is_refused(folder, tmp_path):
    broken = damaged(folder, tmp_path, lambda w: w.update(stray=torch.zeros(2)))
    with pytest.raises(CheckpointError, match="stray is left over"):
        AutoModelForMaskedLM.from_pretrained(broken)


def test_a_weight_of_another_shape_is_refused(folder, tmp_path):
    broken = damaged(
        folder, tmp_path, lambda w: w.update({"network.backbone.tokens.weight": torch.zeros(2, 2)})
    )
    with pytest.raises(CheckpointError, match="of another shape"):
        AutoModelForMaskedLM.from_pretrained(broken, ignore_mismatched_sizes=True)


# ---------------------------------------------------------------- a fresh model


def test_a_fresh_model_starts_as_the_core_does():
    config = ImadaremConfig(vocab_size=9, hidden_size=16, num_heads=2, mask_token_id=1)
    with pytest.warns(UserWarning):  # no pad and no eos token
        model = AutoModelForMaskedLM.from_config(config)
    # The gate refines by default, and a block is the identity.
    assert model.refiner.network.gate.score.bias.item() == 2.0
    assert not model.refiner.network.backbone.blocks[0].contract.weight.any()
    assert model.config.pad_token_id == 0


def test_a_model_without_a_mask_token_is_refused():
    with pytest.raises(TokenizerError, match="mask token"):
        ImadaremForMaskedLM(ImadaremConfig(vocab_size=9, hidden_size=16, num_heads=2))


def test_a_misspelt_setting_is_named():
    with pytest.raises(ConfigError, match='did you mean "hidden_size"'):
        ImadaremConfig(vocab_size=9, hiden_size=16)


def test_transformers_names_of_the_sizes_are_understood(folder):
    config = AutoConfig.from_pretrained(folder)
    assert (config.num_hidden_layers, config.num_attention_heads) == (2, 2)
    assert ImadaremConfig(vocab_size=9, num_hidden_layers=3).num_layers == 3


def test_a_vocabulary_grows_and_the_old_tokens_keep_their_logits(folder, core, canvases, tmp_path):
    face, known = AutoModelForMaskedLM.from_pretrained(folder), core.config.vocab_size
    assert face.resize_token_embeddings(known) is face.get_input_embeddings()
    embeddings = face.resize_token_embeddings(known + 2)
    assert embeddings.weight.shape[0] == face.config.vocab_size == known + 2
    logits = face(*canvases).logits
    assert torch.equal(logits[..., :known], core(*canvases).logits)
    # What must never be drawn is the same, and the folder loads with a tokenizer of that size.
    assert face.refiner.special == core.special
    face.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    again = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert torch.equal(again(*canvases).logits, logits)
    with pytest.raises(ConfigError, match="vocabulary can only grow"):
        face.resize_token_embeddings(known)


def test_gradient_checkpointing_is_switched_on_and_off_and_changes_no_gradient(folder, canvases):
    face = AutoModelForMaskedLM.from_pretrained(folder).train()
    ids, inside = canvases
    gradients = []
    for switch in (face.gradient_checkpointing_disable, face.gradient_checkpointing_enable):
        switch()
        face.zero_grad()
        torch.manual_seed(0)
        face(ids, inside, labels=ids).loss.backward()
        gradients.append(face.get_input_embeddings().weight.grad.clone())
    assert face.is_gradient_checkpointing and face.refiner.config.gradient_checkpointing
    assert torch.allclose(*gradients)
    face.gradient_checkpointing_disable()
    assert not face.is_gradient_checkpointing


# ---------------------------------------------------------------- forward


def test_the_loss_is_the_cross_entropy_where_labels_stand(face, canvases):
    ids, inside = canvases
    labels = torch.full_like(ids, -100)
    labels[0, 2], labels[2, 4] = 5, 7
    output = face(ids, inside, labels=labels)
    log_probs = F.log_softmax(output.logits, dim=-1)
    expected = -(log_probs[0, 2, 5] + log_probs[2, 4, 7]) / 2
    assert math.isclose(output.loss.item(), expected.item(), rel_tol=1e-5)


def test_the_loss_reaches_every_weight_of_the_trunk(core, canvases):
    model = ImadaremForMaskedLM(ImadaremConfig(**core.config.to_dict()), core.tokenizer)
    ids, inside = canvases
    model(ids, inside, labels=ids).loss.backward()
    assert model.refiner.network.backbone.tokens.weight.grad.abs().sum() > 0


def test_a_tuple_is_returned_on_request(face, canvases):
    logits, gate_logits = face(*canvases, return_dict=False)
    assert logits.shape == (3, 8, face.config.vocab_size) and gate_logits.shape == (3, 8)


def test_the_fill_mask_pipeline_finds_the_blank(face, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    best = pipeline("fill-mask", model=face, tokenizer=tokenizer)("hel<mask>o", top_k=1)[0]
    # The closing </s> of the tokenizer stands behind the text.
    ids = torch.tensor([tokenizer.encode("hel<mask>o")])
    probs = face(ids).logits[0, 3].softmax(-1)
    assert best["token"] == probs.argmax().item()
    assert math.isclose(best["score"], probs.max().item(), rel_tol=1e-5)


def test_hidden_states_are_the_embeddings_and_what_each_block_gives(face, core, canvases):
    found = face(*canvases, output_hidden_states=True)
    assert [tuple(states.shape) for states in found.hidden_states] == [(3, 8, 16)] * 3
    backbone = core.network.backbone
    assert torch.equal(backbone.to_logits(backbone.norm(found.hidden_states[-1])), found.logits)
    assert face(*canvases).hidden_states is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs_embeds": torch.zeros(1, 4, 16)}, "reads input_ids"),
        ({}, "reads input_ids"),
        ({"input_ids": torch.ones(1, 4).long(), "output_attentions": True}, "output_attentions"),
    ],
)
def test_what_a_refiner_does_not_have_is_refused(face, arguments, message):
    with pytest.raises(ConfigError, match=message):
        face(**arguments)


# ---------------------------------------------------------------- generate


def rows_of(ids, pad):
    return [[i for i in row if i != pad] for row in ids.tolist()]


def test_free_samples_are_those_of_the_core(core, face):
    expected = [row.ids.tolist() for row in core.sample(5, seed=3).rows]
    ids = face.generate(num_return_sequences=5, seed=3)
    assert ids.dtype == torch.long
    assert rows_of(ids, face.config.pad_token_id) == expected


def test_prompts_are_filled_once_for_each_wanted_sequence(core, face):
    mask = core.special.mask
    prompts = torch.tensor([[5, mask, 6, 0], [mask, mask, mask, 7]])
    ids = face.generate(prompts, num_return_sequences=2, seed=4)
    # The padded prompt has three tokens, the other one four; each stands there twice.
    assert ids.shape == (4, 4)
    assert ids[:2, [0, 2, 3]].tolist() == [[5, 6, 0]] * 2
    assert ids[2:, 3].tolist() == [7, 7]
    assert not (ids == mask).any()
    twice = [[5, mask, 6]] * 2 + [[mask, mask, mask, 7]] * 2
    assert rows_of(ids, 0) == [row.ids.tolist() for row in core.infill(twice, seed=4).rows]


def test_an_attention_mask_says_what_belongs_to_a_prompt(core, face):
    mask = core.special.mask
    # Padded on the left, as tokenizers for generation do.
    prompt, inside = torch.tensor([[0, 0, 5, mask]]), torch.tensor([[0, 0, 1, 1]])
    ids = face.generate(prompt, inside, seed=0)
    assert ids.shape == (1, 2) and ids[0, 0] == 5


def test_counts_and_reasons_come_on_request(core, face):
    output = face.generate(num_return_sequences=3, seed=5, return_dict_in_generate=True)
    expected = core.sample(3, seed=5)
    assert output.forward_passes.tolist() == expected.forward_passes
    assert output.stopping_reasons == expected.stopping_reasons
    assert torch.equal(output.sequences, face.generate(num_return_sequences=3, seed=5))


@pytest.mark.parametrize("name", ["max_refinement_steps", "max_denoising_steps"])
def test_the_cap_on_steps_has_two_names(face, name):
    settings = {"policy": "ancestral", "seed": 6, "length": 8, name: 2}
    output = face.generate(**settings, return_dict_in_generate=True)
    # Ancestral order leaves half of the blanks to the second step.
    assert output.forward_passes.tolist() == [2]


def test_two_caps_that_disagree_are_refused(face):
    with pytest.raises(ConfigError, match="max_refinement_steps=2 and max_denoising_steps=3"):
        face.generate(max_refinement_steps=2, max_denoising_steps=3)


def test_without_sampling_the_seed_does_not_matter(face):
    greedy = [face.generate(length=6, do_sample=False, seed=s, policy="confidence") for s in (1, 2)]
    assert torch.equal(*greedy)
    with pytest.raises(ConfigError, match="do_sample=False"):
        face.generate(do_sample=False, temperature=0.7)


def test_schedule_and_truncation_are_those_of_the_core(core, face):
    asked = {"seed": 7, "schedule": "cosine", "top_k": 3, "top_p": 0.7}
    expected = [row.ids.tolist() for row in core.sample(4, **asked).rows]
    ids = face.generate(num_return_sequences=4, **asked)
    assert rows_of(ids, face.config.pad_token_id) == expected
    assert expected != [row.ids.tolist() for row in core.sample(4, seed=7).rows]


def test_a_generator_draws_the_seed(face):
    one, other = (
        face.generate(num_return_sequences=2, generator=torch.Generator().manual_seed(9))
        for _ in range(2)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_return_sequences": 0}, "num_return_sequences=0"),
        ({"input_ids": torch.tensor([[1, 1]]), "length": 4}, "length is for free samples"),
        ({"num_return_sequences": 2, "streamer": object()}, "a streamer shows one row"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(face, arguments, message):
    with pytest.raises(ConfigError, match=message):
        face.generate(**arguments)


def test_a_prompt_that_is_no_batch_is_refused(face):
    with pytest.raises(DataError, match="must be .B, L. ids"):
        face.generate(torch.tensor([1, 1]))


class Recorder:
    """A streamer that keeps what it is shown."""

    def __init__(self):
        self.seen = []

    def put(self, value):
        self.seen.append(("put", value.tolist()))

    def put_draft(self, value):
        self.seen.append(("draft", value.tolist()))

    def end(self):
        self.seen.append(("end", None))


def test_a_streamer_sees_a_draft_of_each_step_and_then_the_result(core, face):
    prompt = torch.tensor([[5, core.special.mask, core.special.mask, 6]])
    streamer = Recorder()
    output = face.generate(prompt, seed=7, streamer=streamer, return_dict_in_generate=True)
    kinds = [kind for kind, _ in streamer.seen]
    passes = int(output.forward_passes)
    assert kinds == ["put", *["draft"] * passes, "put", "end"]
    result = output.sequences[0].tolist()
    assert streamer.seen[0] == ("put", [])
    assert streamer.seen[-2] == ("put", result) and streamer.seen[-3] == ("draft", result)
    assert all(draft[0] == 5 and draft[3] == 6 for kind, draft in streamer.seen if kind == "draft")


@pytest.mark.parametrize("skip_prompt", [True, False])
def test_the_text_diffusion_streamer_of_transformers_prints_the_result(
    face, folder, capsys, skip_prompt
):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    face.generate(seed=8, streamer=TextDiffusionStreamer(tokenizer, skip_prompt=skip_prompt))
    result = tokenizer.decode(face.generate(seed=8)[0])
    # What follows the last erased draft is what stays on the screen.
    assert capsys.readouterr().out.split("\033[J")[-1] == result + "\n"


def test_a_copy_is_independent(face):
    twin = copy.deepcopy(face)
    twin.refiner.network.backbone.tokens.weight.data.zero_()
    assert face.refiner.network.backbone.tokens.weight.abs().sum() > 0


# ---------------------------------------------------------------- transformers' own trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the trainer of transformers warns of is its own
def test_transformers_own_trainer_trains_and_saves_a_refiner(folder, tmp_path):
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    before = model.refiner.network.backbone.tokens.weight.clone()
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = [{"input_ids": tokenizer.encode("cabbage", add_special_tokens=False)}] * 8
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5),
        processing_class=tokenizer,
    )
    assert math.isfinite(trainer.train().training_loss)
    trainer.save_model(str(tmp_path / "model"))
    again = ImplicitRefinementModel.from_pretrained(tmp_path / "model")
    assert not torch.equal(again.network.backbone.tokens.weight, before)
    assert torch.equal(
        again.network.backbone.tokens.weight, model.refiner.network.backbone.tokens.weight
    )
    assert again.sample(2, seed=0).texts


def test_new_tokens_are_written_behind_the_prompt(face, core):
    prompt, special = core.tokenizer.encode("hel"), core.special
    ids = face.generate(torch.tensor([prompt]), max_new_tokens=3, seed=1)
    assert ids[0, :3].tolist() == prompt and ids.shape[1] <= 6
    filled = core.infill([[*prompt, *[special.mask] * 3]], seed=1).rows[0].ids
    assert rows_of(ids, special.pad) == [filled.tolist()]
    # "max": no more than the canvas of 8 has room for.
    assert face.generate(torch.tensor([prompt]), max_new_tokens=99, seed=1).shape[1] <= 8
    assert face.generate(max_new_tokens=2, seed=1).shape == (1, 2)
    with pytest.raises(ConfigError, match="Encode the prompt with add_special_tokens=False"):
        face.generate(torch.tensor([[*prompt, special.eos]]), max_new_tokens=3)
    with pytest.raises(ConfigError, match="max_new_tokens=5 behind a prompt of 8 tokens"):
        face.generate(torch.tensor([[3] * 8]), max_new_tokens=5)


def test_settings_of_other_models_are_refused_with_what_to_use(face):
    with pytest.raises(ConfigError, match=r"no setting 'num_beams'.*legal are max_new_tokens"):
        face.generate(num_beams=4)
    with pytest.raises(ConfigError, match="eos_token_id=5 is not the model's own"):
        face.generate(eos_token_id=5)
    assert len(face.generate(pad_token_id=0, use_cache=True, seed=1)) == 1


def test_the_text_generation_pipeline_continues_a_text(face, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    continues = pipeline("text-generation", model=face, tokenizer=tokenizer)
    how = {"max_new_tokens": 3, "seed": 2, "temperature": 1.2}
    found = continues("hel", do_sample=True, add_special_tokens=False, **how)
    prompt = tokenizer.encode("hel", add_special_tokens=False)
    expected = face.generate(torch.tensor([prompt]), **how)
    text = tokenizer.decode(expected[0], skip_special_tokens=True)
    assert found == [{"generated_text": text}] and text.startswith("hel")
    assert isinstance(AutoModelForCausalLM.from_pretrained(folder), ImadaremForMaskedLM)
