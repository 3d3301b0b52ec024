"""AntiBERTy out of its wheel: the true one where it is cached, else a tiny one of its shape."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from hashlib import sha256

import pytest
import torch
from backbone_parts import PLAIN, SIZES, VOCABULARY, plain_model

from imadarem.backbones import antiberty
from imadarem.data.wheels import cache_directory
from imadarem.errors import CheckpointError, DataError
from imadarem.evaluation.pseudo_likelihood import pseudo_likelihood, token_surprises
from imadarem.model import ImplicitRefinementModel

CHAIN = (
    "EVKLQQSGPGLVTPSQSLSITCTVSGFSLSDYGVHWVRQSPGQGLEWLGVIWAGGGTNYNSALMSRKSISKDNSKSQVFLKMNSLQADDTAVYYCARDKGYS"
    "YYYSMDYWGQGTSVTVSS"
)


def tiny_wheel(folder):
    """A wheel with a small model of random weights, two heads that are left over among them."""
    weights = plain_model("BertForMaskedLM").state_dict()
    stream = io.BytesIO()
    torch.save({**weights, "cls.species.weight": torch.zeros(2, 2)}, stream)
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / antiberty.WHEEL.name, "w") as archive:
        archive.writestr(f"{antiberty.FOLDER}vocab.txt", "\n".join(VOCABULARY))
        settings = {**SIZES, **PLAIN, "model_type": "bert"}
        archive.writestr(f"{antiberty.MODEL}config.json", json.dumps(settings))
        archive.writestr(f"{antiberty.MODEL}pytorch_model.bin", stream.getvalue())
    return folder / antiberty.WHEEL.name


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        if not (cache_directory() / antiberty.WHEEL.name).is_file():
            wheel = tiny_wheel(tmp_path_factory.mktemp("cache"))
            hashed = sha256(wheel.read_bytes()).hexdigest()
            patch.setattr(antiberty, "WHEEL", dataclasses.replace(antiberty.WHEEL, sha256=hashed))
            patch.setenv("IMADAREM_CACHE", str(wheel.parent))
        return ImplicitRefinementModel.from_masked_lm("antiberty")


@pytest.mark.slow
def test_pseudo_likelihoods_are_those_computed_by_transformers(model):
    chain = CHAIN[:24]
    ids = torch.tensor([model.tokenizer.encode(chain)])
    plain = model.network.backbone.model
    with torch.no_grad():
        whole = plain(ids).logits[0, 1:-1]
        blanked = ids.repeat(len(chain), 1)
        places = torch.arange(len(chain))
        blanked[places, places + 1] = model.tokenizer.mask_token_id
        left_out = plain(blanked).logits[places, places + 1]
    for in_place, logits in ((True, whole), (False, left_out)):
        logits[:, :5] = -torch.inf
        direct = -logits.log_softmax(-1)[places, ids[0, 1:-1]].double()
        (found,) = token_surprises(model, [ids[0, 1:-1].tolist()], in_place=in_place)
        assert torch.allclose(found, direct, atol=1e-4)
        total = pseudo_likelihood(model, [ids[0, 1:-1].tolist()], in_place=in_place)
        assert total.nats_per_token == pytest.approx(direct.mean().item(), abs=1e-4)
    if model.config.num_layers == 8:  # the true model: a heavy chain's first half is well known
        assert (
            direct.mean().exp() < 3.0 and (left_out.argmax(-1) == ids[0, 1:-1]).float().mean() > 0.6
        )


def test_a_chain_is_read_letter_by_letter_and_a_loop_is_filled(model):
    ids = model.tokenizer.encode(CHAIN[:40], add_special_tokens=False)
    assert len(ids) == 40 and model.tokenizer.decode(ids) == CHAIN[:40]
    prompt = CHAIN[:20] + "<mask>" * 4 + CHAIN[24:40]
    (filled,) = model.infill(prompt, seed=0, steps=2).texts
    assert (filled[:20], filled[24:], len(filled)) == (CHAIN[:20], CHAIN[24:40], 40)


def test_another_wheel_is_refused_and_the_name_says_what_to_call(tmp_path):
    wheel = tiny_wheel(tmp_path / "other")
    with pytest.raises(DataError, match=f"expected {antiberty.WHEEL.sha256}"):
        antiberty.WHEEL.fetch(tmp_path / "cache", wheel)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(CheckpointError, match=r"from_masked_lm\('antiberty'\)"):
        ImplicitRefinementModel.from_pretrained("antiberty")
