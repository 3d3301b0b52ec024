"""A network that gives NaN ends in an error that names the row and the step, never in a text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cli_parts import SIXTY, saved_model
from fakes import SPECIAL, Scripted, tiny_model
from running_server import server_thread
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.errors import NonFiniteError
from imadarem.model import ImplicitRefinementModel
from imadarem.sampling.batching import refine_all
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import POLICIES
from imadarem.sampling.settings import SamplingSettings
from imadarem.tokenizers import SelfiesTokenizer

V = 8


def spoilt(**settings: object) -> ImplicitRefinementModel:
    """A model whose weights became NaN after it was loaded."""
    model = tiny_model(**settings)
    with torch.no_grad():
        model.network.backbone.to_logits.weight.fill_(torch.nan)
    return model


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder whose weights are finite, as loading asks, and too large to compute with."""
    name = tmp_path_factory.mktemp("models") / "large"
    folder = saved_model(name, SelfiesTokenizer.from_corpus(SIXTY), SIXTY)
    model = ImplicitRefinementModel.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1e30).add_(1e30)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("joint_size", [0, 8])
@pytest.mark.parametrize("policy", POLICIES)
def test_nan_weights_give_no_sample(policy: str, joint_size: int) -> None:
    model = spoilt(joint_size=joint_size)
    with pytest.raises(NonFiniteError, match="NaN for row 0 in step 1") as raised:
        model.sample(3, seed=0, steps=3, policy=policy)
    assert (raised.value.row, raised.value.step) == (0, 1)
    with pytest.raises(NonFiniteError, match="NaN for row 0 in step 1"):
        model.infill(["[C]<mask><mask>[O]"], seed=0, steps=3, policy=policy)


def test_the_row_and_the_step_are_those_that_failed() -> None:
    """Rows with token 7 give NaN, from the second pass on: row 3 of five, in batches of two."""

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(*ids.shape, V)
        logits[..., 7] = -torch.inf
        begun = ids.eq(SPECIAL.mask).sum(dim=1) < 3
        logits[ids.eq(7).any(dim=1) & begun] = torch.nan
        return logits, torch.zeros(ids.shape)

    rows = [[6, 1, 1, 1]] * 3 + [[7, 1, 1, 1]] + [[6, 1, 1, 1]]
    canvas, seeds = Canvas.with_holes(rows, SPECIAL), row_seeds(5, 0)
    settings = SamplingSettings(policy=POLICIES["ancestral"](), steps=3)
    with pytest.raises(NonFiniteError, match="row 3 in step 2"):
        refine_all(Scripted(answer), canvas, seeds, settings, batch_size=2)


def test_the_command_line_says_so_in_one_line_and_fails(overflowing: str, said) -> None:
    for command in (["sample", "-n", "2"], ["infill", "[C]<mask>[O]"]):
        code, out, err = said(*command, "--model", overflowing)
        assert code != 0
        assert out == ""
        assert re.fullmatch(r"error: the network gave NaN for row [01] in step 1: .*\n", err)


def test_the_server_says_so_and_goes_on(overflowing: str) -> None:
    with server_thread(f"large={overflowing}") as server, server.client() as client:
        for path, body in (
            ("/v1/sample", {"count": 2}),
            ("/v1/infill", {"prompts": ["[C]<mask>[O]"]}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 422, answer.text
            assert re.search("NaN for row [01] in step 1", answer.json()["error"]["message"])
        assert client.get("/healthz").status_code == 200


def test_a_folder_with_nan_weights_is_refused_before_it_samples(tmp_path: Path, said) -> None:
    spoilt().save_pretrained(tmp_path)
    code, out, err = said("sample", "-n", "2", "--model", tmp_path)
    assert code != 0 and out == ""
    assert "to_logits.weight" in err and "NaN" in err
