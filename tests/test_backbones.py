"""Pretrained masked language models as backbones: every family does what our own network does.

One matrix: sampling, infilling, holes of unknown length, judging, repair, likelihood, a loss with
its gradient, the teacher, training frozen and with LoRA, saving, the Auto classes, the orchestrator
and the server, for each family. AntiBERTy is a ``BertForMaskedLM`` with this tokenizer; its own
weights are read in ``test_antiberty.py``.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from backbone_parts import FAMILIES, LETTERS, SIZES, plain_model, refiner, tokenizer

from imadarem.backbone_spec import BackboneSpec
from imadarem.backbones import opening
from imadarem.checkpoint import load_tensors
from imadarem.data.corpus import TokenCorpus
from imadarem.errors import CheckpointError, ConfigError, DataError, TokenizerError
from imadarem.evaluation.likelihood import likelihood_bound, row_bounds
from imadarem.hf import ImadaremForMaskedLM
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.serve.catalogue import load_catalogue
from imadarem.training.masked import MaskedTraining
from imadarem.training.settings import TrainingConfig
from imadarem.training.trainer import Trainer

#: Rows on both sides of a multiple of 16, with and without the special tokens.
LENGTHS = [9, 20, 33, 15, 17, 40, 14, 31]
TEXTS = [LETTERS[start:] + LETTERS[: start // 2] for start in range(12)]


@pytest.fixture(scope="module", params=["own", *FAMILIES])
def model(request):
    return refiner(request.param)


def of_every_family(test):
    return pytest.mark.parametrize("family", list(FAMILIES))(test)


def test_tokens_that_are_given_stay_and_no_special_token_is_written(model):
    (filled,) = model.infill("ACD<mask><mask>[MASK]WY", seed=0).texts
    assert filled.startswith("ACD") and filled.endswith("WY") and len(filled) == 8
    assert set(filled) <= set(LETTERS)
    for policy in ("gate", "confidence", "margin", "entropy-bound", "remask", "left-to-right"):
        texts = model.sample(2, length=10, steps=3, policy=policy, seed=1).texts
        assert all(len(text) == 10 and set(text) <= set(LETTERS) for text in texts), policy
    with pytest.raises(DataError, match="trained without such holes"):
        model.infill("ACD<gap>WY")


def test_a_row_does_not_depend_on_the_batch(model):
    together = model.sample(len(LENGTHS), length=LENGTHS, steps=3, seed=0).texts
    alone = [
        model.sample(1, first=row, length=length, steps=3, seed=0).texts[0]
        for row, length in enumerate(LENGTHS)
    ]
    assert together == alone
    for text, judged in zip(TEXTS, model.judge(TEXTS), strict=True):
        (by_itself,) = model.judge(text)
        # Our own network reads judged rows on canvases of their own width.
        assert judged.surprise == pytest.approx(by_itself.surprise, abs=1e-5)


def test_the_surprise_of_a_token_is_that_of_the_model_itself(model):
    ids = torch.tensor([tokenizer().encode(TEXTS[3])])
    with torch.no_grad():
        if model.config.backbone is None:
            logits = model.network.backbone(ids[:, 1:-1]).logits[0]
        else:
            logits = model.network.backbone.model(ids, torch.ones_like(ids)).logits[0, 1:-1]
    # Special tokens are ruled out: what is left is renormalised.
    logits[:, :5] = -torch.inf
    direct = -logits.log_softmax(-1).gather(-1, ids[0, 1:-1, None]).squeeze(-1)
    found = torch.tensor(model.judge(TEXTS[3])[0].surprise)
    assert torch.allclose(found, direct, atol=1e-5)


def test_the_gate_is_the_models_doubt_until_it_is_trained(model):
    ids = torch.tensor([tokenizer().encode(TEXTS[0], add_special_tokens=False)])
    with torch.no_grad():
        output = model(ids)
    p = output.logits.softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    assert torch.allclose(output.gate_logits.sigmoid(), 1 - p, atol=1e-4)


def test_a_loss_trains_backbone_and_gate_and_the_teacher_follows(model):
    model.init_teacher()
    ids = torch.tensor([tokenizer().encode(text[:12], add_special_tokens=False) for text in TEXTS])
    loss = model.loss(ids, generator=torch.Generator().manual_seed(0))
    loss.total.backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert "network.gate.score.weight" in reached
    assert any("backbone." in name and "0" in name for name in reached)
    before = model.teacher.network.gate.score.bias.clone()
    with torch.no_grad():
        model.network.gate.score.bias += 1.0
    model.update_teacher(decay=0.75)
    assert torch.allclose(model.teacher.network.gate.score.bias, before + 0.25)
    with torch.no_grad():
        model.network.gate.score.bias -= 1.0
    model.zero_grad()
    model.teacher = None


def test_a_part_of_the_prompts_is_filled_as_the_whole(model):
    prompts = [text[:9] + "<mask>" * 5 for text in TEXTS[:4]]
    whole = model.infill(prompts, steps=2, seed=3).texts
    assert model.infill(prompts[2:], first=2, steps=2, seed=3).texts == whole[2:]


def test_likelihood_bounds_are_finite_and_repeat(model):
    rows = [tokenizer().encode(text, add_special_tokens=False) for text in TEXTS]
    bound = likelihood_bound(model, rows, model.special, canvases=2)
    assert 0.5 < bound.nats_per_token < 10.0
    again = row_bounds(model, rows[:3], model.special, canvases=2)
    assert torch.equal(again, row_bounds(model, rows, model.special, canvases=2)[:3])


def test_repair_by_likelihood_leaves_protected_tokens(model):
    (repaired,) = model.repair(TEXTS[0], protected=[range(5)], threshold=0.9)
    assert repaired.tokens[:5] == repaired.given[:5]
    assert len(repaired.tokens) == len(repaired.given)
    assert set(repaired.text) <= set(LETTERS)


def test_a_saved_model_computes_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    read = ImplicitRefinementModel.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer().encode(TEXTS[1], add_special_tokens=False)])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, read(ids).logits)
    assert read.special == model.special
    assert read.sample(2, length=9, seed=4).texts == model.sample(2, length=9, seed=4).texts
    (served,) = load_catalogue([f"mine={tmp_path}"], "cpu")
    described = served.description["mask"], served.description["max_length"]
    assert described == ("[MASK]", model.config.max_seq_len)
    if model.config.backbone is not None:
        kind = model.config.backbone["architecture"]
        with pytest.raises(ConfigError, match=f"{kind}.*network.backbone.model"):
            ImadaremForMaskedLM.from_pretrained(tmp_path)
    # Weights too large for one file go into several, and back.
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    parts = ImplicitRefinementModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, parts(ids).logits)
    model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    # A tied matrix is stored once.
    saved = load_tensors(tmp_path / "model.safetensors")
    size = sum(weight.numel() for name, weight in saved.items() if "inv_freq" not in name)
    assert size == sum(weight.numel() for weight in model.parameters())


def corpus(texts=TEXTS) -> TokenCorpus:
    rows = [tokenizer().encode(text, add_special_tokens=False) for text in texts]
    return TokenCorpus.from_rows(rows, len(tokenizer()))


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"freeze": True}, {"lora": 4}], ids=["frozen", "lora"])
@of_every_family
def test_training_changes_what_is_trainable_and_nothing_else(family, how, tmp_path):
    model = refiner(family, **how, max_refinement_steps=2)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    sizes = {"steps": 2, "batch_size": 4, "accumulation": 2, "warmup_steps": 1, "sample_count": 0}
    config = TrainingConfig(**sizes, gate_warmup=0.0, eval_every=10, save_every=10)
    result = Trainer(MaskedTraining(model, corpus(), corpus(TEXTS[:4])), config, tmp_path).run()
    assert result.finished and result.skipped == 0
    own = [name for name in before if name.startswith("network.")]
    changed = {n for n in own if not torch.equal(before[n], model.get_parameter(n))}
    trainable = {n for n in own if model.get_parameter(n).requires_grad}
    # ESM's head for contacts has no part in its masked language model.
    assert {n for n in trainable if "contact_head" not in n} == changed
    assert "network.gate.score.weight" in changed
    assert any("lora_" in name for name in changed) == ("lora" in how)
    assert not any("embeddings" in name or "embed_tokens" in name for name in changed)
    # The teacher holds copies of these alone.
    shared = {id(weight) for weight in model.network.parameters()}
    copies = [p for p in model.teacher.network.parameters() if id(p) not in shared]
    assert sum(p.numel() for p in copies) == sum(model.get_parameter(n).numel() for n in trainable)
    read = ImplicitRefinementModel.from_pretrained(result.model_dir)
    ids = torch.tensor([tokenizer().encode(TEXTS[1], add_special_tokens=False)])
    with torch.no_grad():
        assert torch.equal(read(ids).logits, model.averaged()(ids).logits)


@pytest.mark.slow
def test_a_run_on_a_backbone_resumes_exactly(tmp_path):
    def run(folder, stop):
        model = refiner(lora=2)
        sizes = {"steps": 3, "batch_size": 4, "warmup_steps": 0, "sample_count": 0, "log_every": 1}
        trainer = Trainer(
            MaskedTraining(model, corpus(), corpus(TEXTS[:4])),
            TrainingConfig(**sizes, gate_warmup=0.0, eval_every=9, save_every=9),
            folder,
            on_event=lambda event: event.step == stop and trainer.request_stop(),
        )
        if (folder / "checkpoints").exists():
            trainer.resume()
        trainer.run()
        return model.state_dict()

    whole = run(tmp_path / "a", stop=None)
    run(tmp_path / "b", stop=1)
    in_two = run(tmp_path / "b", stop=None)
    assert all(torch.equal(weight, in_two[name]) for name, weight in whole.items())


def test_half_precision_and_checkpointing_leave_heads_in_float32(tmp_path):
    model = refiner(dtype=torch.bfloat16)
    ids = torch.tensor([tokenizer().encode(TEXTS[1], add_special_tokens=False)])
    output = model(ids)
    assert model.network.backbone.model.dtype == torch.bfloat16
    assert output.logits.dtype == output.gate_logits.dtype == torch.float32
    model.save_pretrained(tmp_path)
    assert torch.equal(ImplicitRefinementModel.from_pretrained(tmp_path)(ids).logits, output.logits)
    plain = refiner()
    plain.gradient_checkpointing_enable()
    losses = []
    for saving in (plain, refiner()):
        loss = saving.train().loss(ids, generator=torch.Generator().manual_seed(0)).total
        loss.backward()
        embeddings = saving.network.backbone.model.get_input_embeddings()
        losses.append((loss.item(), embeddings.weight.grad.norm().item()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_folder_of_transformers_is_opened_and_not_mistaken_for_ours(tmp_path):
    plain = plain_model("RobertaForMaskedLM")
    plain.save_pretrained(tmp_path, max_shard_size="10KB")
    tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    with pytest.raises(CheckpointError, match="from_masked_lm"):
        ImplicitRefinementModel.from_pretrained(tmp_path)
    model = ImplicitRefinementModel.from_masked_lm(str(tmp_path))
    ids = torch.tensor([tokenizer().encode(TEXTS[1])])
    with torch.no_grad():
        assert torch.equal(model(ids[:, 1:-1]).logits[0], padded_logits(plain, ids)[0, 1:-1])


def padded_logits(plain, ids):
    """As the adapter reads a row: padded to a multiple of 16."""
    more = -ids.shape[1] % 16
    attended = torch.nn.functional.pad(torch.ones_like(ids), (0, more))
    whole = torch.nn.functional.pad(ids, (0, more), value=0)
    return plain(whole, attended).logits[:, : ids.shape[1]]


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path):
    plain = plain_model("BertForMaskedLM")
    nameless = SimpleNamespace(mask_token_id=None, pad_token_id=0, eos_token_id=1)
    with pytest.raises(TokenizerError, match="no mask token"):
        ImplicitRefinementModel.from_masked_lm(plain, tokenizer=nameless)
    with pytest.raises(ConfigError, match="give tokenizer="):
        ImplicitRefinementModel.from_masked_lm(plain)
    with pytest.raises(ConfigError, match="trust_remote_code=True is refused"):
        ImplicitRefinementModel.from_masked_lm(plain, trust_remote_code=True)
    with pytest.raises(ConfigError, match="heads='gat'.*gate"):
        refiner(heads=("gat",))
    with pytest.raises(ConfigError, match="hidden_size=64 cannot be set"):
        refiner(hidden_size=64)
    with pytest.raises(ConfigError, match="more than the 64 tokens"):
        refiner(max_seq_len=65)
    with pytest.raises(ConfigError, match="unknown.*max_refinement_step"):
        refiner(max_refinement_step=3)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        ImplicitRefinementModel.from_masked_lm(str(tmp_path / "nowhere"))
    model = refiner()
    with pytest.raises(DataError, match="at most max_seq_len=64"):
        model.sample(1, length=65)
    with pytest.raises(ConfigError, match="vocab_size=99"):
        model.with_vocabulary(tokenizer(), vocab_size=99)
    with pytest.raises(ConfigError, match="give length|Give length"):
        model.sample(1)


def test_a_config_cannot_name_a_class_that_is_no_language_model(tmp_path):
    refiner().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"architecture": "Trainer"}, "is no language model"),
        ({"architecture": "NoneForMaskedLM"}, "has no NoneForMaskedLM"),
        ({"config": {**SIZES, "model_type": "bert", "num_hidden_layers": 3}}, "do not fit"),
        ({"config": {**SIZES, "model_type": "bert", "num_hidden_layers": 10**6}}, "num_layers"),
        ({"config": {**SIZES, "model_type": "bert", "vocab_size": 10**9}}, "at most"),
    ):
        altered = {**saved, "backbone": {**saved["backbone"], **change}}
        (tmp_path / "config.json").write_text(json.dumps(altered))
        with pytest.raises(CheckpointError, match=message):
            ImplicitRefinementModel.from_pretrained(tmp_path)


def test_where_a_model_was_fetched_is_written_down(tmp_path):
    plain = plain_model("BertForMaskedLM")
    plain.config._commit_hash = "0123abc"  # as transformers notes it for a model of the hub
    found = opening._origin("user/name", plain, "main")
    assert found == {"source": "user/name", "revision": "0123abc"}
    assert opening._origin(str(tmp_path), plain, None) == opening._origin(plain, plain, None) == {}
    kept = BackboneSpec(architecture="BertForMaskedLM", config={}, pad=0, **found)
    assert BackboneSpec.from_dict(kept.to_dict()) == kept


def test_an_index_of_weights_names_files_of_its_folder_alone(tmp_path):
    refiner().save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    for places in ({"a": "../model.safetensors"}, {}, {"a": "model-9-of-9.safetensors"}):
        index.write_text(json.dumps({**content, "weight_map": places}))
        with pytest.raises(CheckpointError, match="no part of it|names no files|no file"):
            ImplicitRefinementModel.from_pretrained(tmp_path)


@of_every_family
def test_the_orchestrator_trains_over_a_backbone_and_answers(family):
    model = refiner(family, heads=("gate", "halting"))
    config = OrchestrationConfig()
    orchestrator = UnifiedRefinerOrchestrator(model, tokenizer(), None, config)
    ids = torch.tensor([tokenizer().encode(text[:12], add_special_tokens=False) for text in TEXTS])
    optimizer = torch.optim.AdamW(model.student_parameters(), lr=1e-3)
    before = model.network.backbone.model.get_input_embeddings().weight.clone()
    result = orchestrator.train_step(ids, optimizer)
    assert 0.5 < result["loss"] < 20.0 and not result["skipped"]
    assert not torch.equal(before, model.network.backbone.model.get_input_embeddings().weight)
    asked = ids.clone()
    asked[:, 3:6] = model.special.mask
    answers = orchestrator.eval().inference(asked)["output_ids"]
    assert torch.equal(answers[:, 6:], ids[:, 6:]) and not (answers == model.special.mask).any()


def test_token_ids_need_no_tokenizer_that_reads_texts():
    ids = SimpleNamespace(mask_token_id=4, pad_token_id=0, eos_token_id=3)
    model = ImplicitRefinementModel.from_masked_lm(
        plain_model("BertForMaskedLM"), tokenizer=ids, max_refinement_steps=2
    )
    rows = [[5, 6, 7, 8], [9, 10, 11]]
    assert [judged.tokens for judged in model.judge(rows)] == rows
    assert [len(repair.tokens) for repair in model.repair(rows, threshold=0.9)] == [4, 3]
    with pytest.raises(ConfigError, match="cannot read texts; give token ids"):
        model.judge("ACD")


def test_pad_may_be_the_end_of_sequence_where_the_vocabulary_is_fixed():
    ids = SimpleNamespace(mask_token_id=4, pad_token_id=3, eos_token_id=3)
    model = ImplicitRefinementModel.from_masked_lm(
        plain_model("LlamaForCausalLM"), tokenizer=ids, length_mode="eos"
    )
    assert (model.special.pad, model.special.eos) == (3, 3)
    rows = model.sample(4, steps=3, seed=0).rows
    assert all(3 not in row.ids.tolist() and len(row.ids) >= 1 for row in rows)
