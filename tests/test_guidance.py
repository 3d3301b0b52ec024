"""Conditions that rows are asked to meet, and guidance by them or by the prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import SPECIAL, tiny_model

from imadarem.canvas import Canvas
from imadarem.conditions import as_numbers
from imadarem.config import ImplicitRefinementConfig
from imadarem.data.corpus import TokenCorpus
from imadarem.errors import ConfigError, DataError
from imadarem.model import ImplicitRefinementModel
from imadarem.nn import RefinementOutput
from imadarem.sampling.passes import PassInputs, guided_pass
from imadarem.tokenizers import CharTokenizer
from imadarem.training.masked import MaskedTraining
from imadarem.training.row_conditions import RowConditions
from imadarem.training.settings import TrainingConfig
from imadarem.training.trainer import Trainer

WORDS = ["aaa", "bbb", "aaaaa", "bbbbb"]


def plain(joint_size: int = 4) -> ImplicitRefinementModel:
    tokenizer = CharTokenizer.from_corpus(WORDS)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 24, "dropout": 0.0}
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer), length_mode="drawn", joint_size=joint_size, **sizes
    )
    return ImplicitRefinementModel(config, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Rows of one letter, which is their condition, as their length is; saved and read again."""
    model = plain(joint_size=0)
    rows = [model.tokenizer.encode(word) for word in WORDS] * 8
    corpus = TokenCorpus.from_rows(rows, len(model.tokenizer))
    lengths = [len(row) for row in rows]
    asked = {"letter": lambda text: text[0], "length": lengths}
    config = TrainingConfig(
        **{"steps": 40, "batch_size": 16, "learning_rate": 0.03, "warmup_steps": 1},
        **{"eval_every": 99, "save_every": 99, "sample_count": 0, "on_policy_share": 0.0},
    )
    training = MaskedTraining(model, corpus, corpus, asked)
    result = Trainer(training, config, tmp_path_factory.mktemp("run")).run()
    return ImplicitRefinementModel.from_pretrained(result.model_dir)


def share_of_a(model, **how) -> float:
    rows = model.sample(32, length=3, steps=1, seed=0, **how).texts
    return sum(row.count("a") for row in rows) / 96


def test_a_row_becomes_what_it_is_asked_to_be_as_far_as_guidance_says(trained):
    # (3 + 3 + 5 + 5) / 4 = 4 tokens, one more or less.
    assert trained.config.conditions == {
        "letter": {"classes": ["a", "b"]},
        "length": {"mean": 4.0, "std": 1.0},
    }
    a, b = ({"letter": letter} for letter in "ab")
    assert share_of_a(trained, condition=a) > 0.7 > 0.3 > share_of_a(trained, condition=b)
    # 0 leaves the pass without the condition alone.
    nothing = share_of_a(trained)
    assert nothing == share_of_a(trained, condition=a, guidance=0.0)
    assert nothing == share_of_a(trained, condition={"letter": None})


def test_a_guided_row_costs_two_passes_and_does_not_depend_on_the_batch(trained):
    lengths, letters = [3, 5, 16, 17, 24, 1], list("abbaba")
    how = {"steps": 3, "seed": 1, "guidance": 2.0}
    together = trained.sample(6, length=lengths, condition={"letter": letters}, **how)
    assert [row.forward_passes for row in together.rows] == [2 * r.steps for r in together.rows]
    alone = [
        trained.sample(1, first=i, length=lengths[i], condition={"letter": letters[i]}, **how)[0]
        for i in range(6)
    ]
    assert together.texts == alone


def test_without_a_condition_a_model_given_one_is_what_it_was():
    model, prompt = plain().eval(), "a<mask><mask>"
    before = model.infill([prompt] * 4, seed=0).texts
    rows = TokenCorpus.from_rows([model.tokenizer.encode(word) for word in WORDS], 5)
    RowConditions(model, {"x": [1.0, 2.0, 3.0, None]}, rows, np.arange(4))
    assert model.infill([prompt] * 4, seed=0).texts == before
    asked = model.infill([prompt] * 4, seed=0, condition={"x": 2.0}, guidance=3.0)
    assert asked.texts == before  # its weights are still zero


def test_training_leaves_conditions_out_at_random():
    model = plain()
    rows = TokenCorpus.from_rows([[3]] * 2000, 5)
    values = [float(number % 7) for number in range(2000)]
    conditions = RowConditions(model, {"x": values, "y": values[::-1]}, rows, np.arange(2000))
    shown = ~conditions.of(np.arange(2000), torch.Generator().manual_seed(0)).isnan()
    # 10 % of the rows show none, and of the others a quarter of each: .9 · .75 = .675, and
    # none of both .1 + .9 / 16 = .156; standard error .01.
    assert shown.float().mean().item() == pytest.approx(0.675, abs=0.03)
    assert (~shown).all(dim=1).float().mean().item() == pytest.approx(0.156, abs=0.03)


class FollowsPrompt(torch.nn.Module):
    """Logits 1 for token 3 at every position where token 4 stands first, 0 elsewhere."""

    def forward(self, ids, attended=None, prev_probs=None):
        logits = torch.zeros(*ids.shape, 6)
        logits[..., 3] = (ids[:, :1] == 4).float()
        return RefinementOutput(logits, torch.zeros(ids.shape))


def test_guidance_by_the_prompt_blanks_what_is_given():
    canvas = Canvas.with_holes([[4, SPECIAL.mask, 5]], SPECIAL)
    read = guided_pass(FollowsPrompt(), PassInputs(), canvas, canvas.ids, None, 2.5, first=True)
    # without + 2.5 · (with - without) = 0 + 2.5 · (1 - 0)
    assert read.logits[0, :, 3].tolist() == [2.5, 2.5, 2.5]
    assert read.logits[0, :, 4].tolist() == [0.0, 0.0, 0.0]


def test_what_cannot_be_asked_for_is_refused_with_the_reason(trained):
    without = tiny_model()
    with pytest.raises(ConfigError, match="trained without conditions|trained with conditions"):
        without.sample(1, length=3, condition={"QED": 0.9})
    with pytest.raises(ConfigError, match="follows a prompt or a condition"):
        without.sample(1, length=3, guidance=2.0)
    with pytest.raises(ConfigError, match="unknown condition 'leter'.*letter"):
        trained.sample(1, length=3, condition={"leter": "a"})
    with pytest.raises(DataError, match="letter='c' is no class"):
        trained.sample(1, length=3, condition={"letter": "c"})
    with pytest.raises(DataError, match="2 values of length for 3 rows"):
        trained.sample(3, length=3, condition={"length": [3, 4]})
    with pytest.raises(DataError, match="finite number"):
        as_numbers({"x": {"mean": 0.0, "std": 1.0}}, {"x": "many"}, 1)
    # (1 - (-3)) / 2
    assert as_numbers({"x": {"mean": -3.0, "std": 2.0}}, {"x": 1}, 1) == [[2.0]]
    ImplicitRefinementConfig(vocab_size=5, conditions={"x": {"mean": -3.0, "std": 2.0}})
    with pytest.raises(ConfigError, match="mean and std, or classes"):
        ImplicitRefinementConfig(vocab_size=5, conditions={"x": {"mean": 1.0}})
    rows = TokenCorpus.from_rows([[3]] * 4, 5)
    with pytest.raises(ConfigError, match="trained with the conditions letter, length"):
        MaskedTraining(trained, rows, rows, {"style": [1, 2, 3, 4]})
    with pytest.raises(DataError, match="same x"):
        MaskedTraining(plain(), rows, rows, {"x": [1, 1, 1, 1]})
    pretrained = {"architecture": "BertForMaskedLM", "config": {}, "pad": 0}
    with pytest.raises(ConfigError, match="conditions is a part of the project's own transformer"):
        ImplicitRefinementConfig(
            **{"vocab_size": 5, "self_conditioning": False, "backbone": pretrained},
            conditions={"x": {"mean": 0.0, "std": 1.0}},
        )


def test_the_commands_train_with_conditions_and_ask_for_them(said, tmp_path):
    file, run = tmp_path / "rows.txt", tmp_path / "run"
    file.write_text("\n".join(f"{word}{number}" for number in range(6) for word in WORDS))
    small = ("--hidden-size", 16, "--num-layers", 1, "--num-heads", 2, "--steps", 2)
    how = ("--tokenizer", "char", "--batch-size", 4, "--device", "cpu", "--processes", 1)
    start = ("train", "--data", file, "--out", run, *small, *how)
    assert said(*start, "--condition", "QED")[0] == 2
    code, _, told = said(*start, "--condition", "length", "--length-mode", "drawn")
    assert code == 0, told
    asked = ("sample", "--model", run / "model", "-n", 3, "--condition", "length=4")
    code, printed, told = said(*asked, "--guidance", 2, "--json")
    assert code == 0 and printed.count('"kind": "sample"') == 3, told
    code, _, told = said(*asked[:-1], "length")
    assert code == 2 and "must be NAME=VALUE" in told
