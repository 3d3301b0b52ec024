"""Likelihoods, against every string of a tiny vocabulary and every order."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from fakes import SPECIAL, Scripted, shaken, tiny_model
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.errors import ConfigError, DataError
from imadarem.evaluation.likelihood import likelihood_bound, row_bounds
from imadarem.evaluation.ordered_likelihood import (
    ORDERS,
    ordered_likelihood,
    ordered_log_likelihood,
)
from imadarem.sampling.loop import refine
from imadarem.sampling.policies import EntropyBound, Margin, Policy
from imadarem.sampling.settings import SamplingSettings

TOKENS = (3, 4, 5)
VOCAB = 6
LENGTH = 3
STRINGS = list(itertools.product(TOKENS, repeat=LENGTH))


def random_network(seed: int = 0, scale: float = 1.5) -> Scripted:
    """Random logits for every canvas: a fixed function of the ids that are attended."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(997, VOCAB, generator=generator) * scale

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        mask = network.masks[-1]
        seen = ids if mask is None else ids.masked_fill(~mask, 0)
        width = seen.shape[1]
        key = (seen * 7 ** torch.arange(width)).sum(dim=1, keepdim=True) + torch.arange(width)
        return table[(key * 31) % 997], torch.zeros(ids.shape)

    network = Scripted(answer)
    return network


def surprise(
    network: Scripted, shown: dict[int, int], row: tuple[int, ...], at: int, may_end: bool = False
) -> float:
    """-log p(row[at] at a blank | what is shown), worked on one canvas by itself."""
    width = len(row)
    ids = torch.tensor([[shown.get(i, SPECIAL.mask) for i in range(width)]])
    end = next((i for i in range(width) if shown.get(i) == SPECIAL.eos), width)
    mask = None if end == width else torch.arange(width)[None] < end
    logits = network(ids.masked_fill(torch.arange(width) > end, 0), mask).logits[0, at].double()
    logits[list(SPECIAL.banned)] = -math.inf
    if not may_end or at == 0:
        logits[SPECIAL.eos] = -math.inf
    return -logits.log_softmax(-1)[row[at]].item()


def mean_over_orders(network: Scripted, row: tuple[int, ...], may_end: bool = False) -> float:
    """E_σ Σ_k -log p(x_σk | earlier), over all orders; nothing is paid behind a shown EOS."""
    width = len(row)
    total = 0.0
    orders = list(itertools.permutations(range(width)))
    for order in orders:
        shown: dict[int, int] = {}
        for at in order:
            frozen = any(shown.get(i) == SPECIAL.eos for i in range(at))
            total += 0.0 if frozen else surprise(network, shown, row, at, may_end)
            shown[at] = row[at]
    return total / len(orders)


@pytest.mark.parametrize("order", ORDERS)
def test_the_probabilities_of_all_strings_sum_to_one(order: str) -> None:
    for seed in range(3):
        logs = ordered_log_likelihood(random_network(seed), STRINGS, SPECIAL, order)
        assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    # Length 4 of the same alphabet: 81 strings.
    longer = list(itertools.product(TOKENS, repeat=4))
    logs = ordered_log_likelihood(random_network(), longer, SPECIAL, order)
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_left_to_right_is_the_chain_rule() -> None:
    network = random_network()
    row = (4, 3, 5)
    expected = (
        surprise(network, {}, row, 0)
        + surprise(network, {0: 4}, row, 1)
        + surprise(network, {0: 4, 1: 3}, row, 2)
    )
    logs = ordered_log_likelihood(network, [row], SPECIAL, "left-to-right")
    assert logs.item() == pytest.approx(-expected, abs=1e-5)


# Probabilities over the tokens 3, 4, 5 at each place, whatever the canvas shows.
BLIND = torch.tensor([[0.5, 0.45, 0.05], [0.48, 0.26, 0.26], [0.46, 0.53, 0.01]])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # The largest probabilities are .50, .48, .53.
        ("confidence", [2, 0, 1]),
        # Entropies: about .86, 1.05, .75 nats.
        ("entropy", [2, 0, 1]),
        # Gaps: .05, .22, .07.
        ("margin", [1, 2, 0]),
        ("left-to-right", [0, 1, 2]),
    ],
)
def test_an_order_is_decided_by_the_distributions(order: str, expected: list[int]) -> None:
    seen: list[Tensor] = []

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        seen.append(ids == SPECIAL.mask)
        logits = torch.full((1, 3, VOCAB), -50.0)
        logits[..., 3:] = BLIND.log()
        return logits, torch.zeros(1, 3)

    logs = ordered_log_likelihood(Scripted(answer), [(3, 4, 5)], SPECIAL, order)
    blanks = [*seen, torch.zeros(1, 3, dtype=torch.bool)]
    taken = [int((a & ~b).int().argmax()) for a, b in itertools.pairwise(blanks)]
    assert taken == expected
    # Independent places: the likelihood is .5 · .26 · .01 in any order.
    assert logs.exp().item() == pytest.approx(0.5 * 0.26 * 0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("order", "policy"), [("margin", Margin()), ("entropy", EntropyBound(gamma=0.0))]
)
def test_the_named_policies_sample_with_exactly_this_likelihood(order: str, policy: Policy) -> None:
    network = random_network(1)
    count = 20_000
    canvas = Canvas.blank([LENGTH] * count, SPECIAL)
    for record in refine(
        network,
        canvas,
        SamplingSettings(policy=policy, steps=LENGTH, may_end=False),
        seeds=torch.arange(count),
    ):
        last = record
    found = Counter(map(tuple, last.canvas.ids.tolist()))
    probs = ordered_log_likelihood(network, STRINGS, SPECIAL, order).exp()
    assert sum(found[string] for string in STRINGS) == count
    for string, p in zip(STRINGS, probs.tolist(), strict=True):
        # Five standard errors: a false alarm in 27 strings has a chance of 1.5e-5.
        assert abs(found[string] / count - p) < 5 * math.sqrt(p * (1 - p) / count) + 1e-9


@pytest.mark.slow
def test_the_bound_is_the_mean_over_all_orders() -> None:
    network = random_network()
    rows = [(3, 4, 5), (5, 5, 3), (4, 3, 3)]
    exact = [mean_over_orders(network, row) for row in rows]
    # The other form, over all masks: Σ_m 1/L · L/m · mean over the sets of m blanks.
    for row, expected in zip(rows, exact, strict=True):
        over_masks = 0.0
        for m in range(1, LENGTH + 1):
            sets = list(itertools.combinations(range(LENGTH), m))
            for hidden in sets:
                shown = {i: row[i] for i in range(LENGTH) if i not in hidden}
                cost = sum(surprise(network, shown, row, i) for i in hidden)
                over_masks += cost / (m * len(sets))
        assert over_masks == pytest.approx(expected, abs=1e-5)
    # And the estimate: copies of a row have masks of their own and scatter around it.
    for row, expected in zip(rows, exact, strict=True):
        draws = row_bounds(network, [row] * 2000, SPECIAL, canvases=4)
        assert abs(draws.mean().item() - expected) < 4 * draws.std().item() / math.sqrt(2000)


@pytest.mark.slow
def test_the_bound_is_no_better_than_the_likelihood_of_a_random_order() -> None:
    # Jensen: -log E_σ p(x | σ) ≤ E_σ -log p(x | σ); the mixture over orders sums to 1.
    network = random_network(2)
    total = 0.0
    for row in STRINGS:
        p = 0.0
        orders = list(itertools.permutations(range(LENGTH)))
        for order in orders:
            shown: dict[int, int] = {}
            nats = 0.0
            for at in order:
                nats += surprise(network, shown, row, at)
                shown[at] = row[at]
            p += math.exp(-nats) / len(orders)
        assert mean_over_orders(network, row) >= -math.log(p) - 1e-9
        total += p
    assert total == pytest.approx(1.0, abs=1e-6)


def test_as_many_canvases_as_tokens_take_every_mask_size_once() -> None:
    # A network that gives each token 1/3: every mask of m blanks costs m ln 3, times L/m.
    sizes: list[int] = []

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        sizes.extend((ids == SPECIAL.mask).sum(dim=1).tolist())
        return torch.zeros(*ids.shape, VOCAB), torch.zeros(ids.shape)

    nats = row_bounds(Scripted(answer), [(3, 4, 5, 3)], SPECIAL, canvases=4)
    assert sorted(sizes) == [1, 2, 3, 4]
    assert nats.item() == pytest.approx(4 * math.log(3), abs=1e-5)


def test_the_corpus_figure_is_all_nats_over_all_tokens() -> None:
    # Token 3 has probability 1/2, tokens 4 and 5 a quarter each, whatever is shown. The rows
    # cost 1 bit and 3 · 2 bits: under any mask, since a row's tokens cost the same.
    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(*ids.shape, VOCAB)
        logits[..., 3] = math.log(2)
        return logits, torch.zeros(ids.shape)

    bound = likelihood_bound(Scripted(answer), [(3,), (4, 5, 4)], SPECIAL, canvases=2)
    assert (bound.rows, bound.tokens, bound.canvases) == (2, 4, 2)
    assert bound.bits_per_token == pytest.approx(7 / 4, abs=1e-6)
    assert bound.nats_per_row == pytest.approx(3.5 * math.log(2), abs=1e-6)
    assert bound.perplexity == pytest.approx(2 ** (7 / 4), abs=1e-5)
    # Residuals 1 - 7/4 and 6 - 21/4 bits: ±3/4; sqrt(2 · 2 · 9/16) / 4 = 3/8 bit.
    assert bound.standard_error == pytest.approx(3 / 8 * math.log(2), abs=1e-6)
    low, high = bound.interval
    assert (high - low) / 2 == pytest.approx(1.96 * bound.standard_error, rel=1e-4)
    assert bound.to_dict()["interval_95"] == [low, high]


def test_the_corpus_figure_of_an_order_is_all_nats_over_all_tokens() -> None:
    rows = [(3,), (4, 5, 4), (5, 3)]
    nats = [-x for x in ordered_log_likelihood(random_network(), rows, SPECIAL).tolist()]
    found = ordered_likelihood(random_network(), rows, SPECIAL)
    assert (found.order, found.exact) == ("confidence", True)
    assert (found.rows, found.tokens) == (3, 6)
    assert found.nats_per_token == pytest.approx(sum(nats) / 6, abs=1e-9)
    assert found.nats_per_row == pytest.approx(sum(nats) / 3, abs=1e-9)
    assert found.to_dict()["bits_per_token"] == pytest.approx(sum(nats) / 6 / math.log(2))


def test_a_carry_is_handed_on_as_in_the_loop() -> None:
    # Five tokens of ids 3 to 7; without the carry every pass but the first reads otherwise.
    model = shaken(tiny_model(carry=True, length_mode="drawn"))
    row = [3, 5, 4, 6, 7]
    expected, carry = 0.0, None
    ids = torch.full((1, 5), SPECIAL.mask)
    beliefs = None
    for at, token in enumerate(row):
        output = model(ids, None, prev_probs=beliefs, carry=carry)
        logits = output.logits.detach().double()
        logits[..., list({*model.special.banned, model.special.eos})] = -math.inf
        beliefs, carry = logits.softmax(-1).float(), output.carry
        expected += logits.log_softmax(-1)[0, at, token].item()
        ids[0, at] = token
    found = ordered_log_likelihood(model, [row], model.special, "left-to-right")
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_one_row_has_no_interval() -> None:
    bound = likelihood_bound(random_network(), [(3, 4)], SPECIAL)
    assert math.isnan(bound.standard_error)
    assert bound.to_dict()["standard_error"] is None


@pytest.mark.slow
def test_the_interval_covers_the_true_mean_of_a_population() -> None:
    # Rows drawn from all 27 strings; the mean over orders of every string is known.
    network = random_network(3)
    truth = sum(mean_over_orders(network, row) for row in STRINGS) / len(STRINGS) / LENGTH
    covered = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(3, 6, (80, LENGTH), generator=generator).tolist()
        low, high = likelihood_bound(network, rows, SPECIAL, canvases=2, seed=seed).interval
        covered += low <= truth <= high
    # Binomial(60, .95): 57 expected, below 51 with a chance of 0.3 %.
    assert covered >= 51


# --- a length that the model decides

WIDTH = 3
TEXTS = [text for n in range(1, WIDTH + 1) for text in itertools.product(TOKENS, repeat=n)]


def test_left_to_right_texts_of_all_lengths_sum_to_one() -> None:
    # 3 + 9 + 27 texts, each closed by an EOS but for those that fill the canvas.
    logs = ordered_log_likelihood(
        random_network(), TEXTS, SPECIAL, "left-to-right", canvas_length=WIDTH
    )
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("order", ["confidence", "margin"])
def test_other_orders_give_a_lower_bound_where_the_length_is_open(order: str) -> None:
    logs = ordered_log_likelihood(random_network(), TEXTS, SPECIAL, order, canvas_length=WIDTH)
    assert 0 < logs.exp().sum().item() <= 1 + 1e-6


@pytest.mark.slow
def test_with_an_open_length_the_bound_is_the_mean_over_orders_of_the_padded_row() -> None:
    network = random_network(4)
    for text in [(3,), (4, 5), (5, 3, 3)]:
        padded = (*text, *[SPECIAL.eos] * (WIDTH - len(text)))
        exact = mean_over_orders(network, padded, may_end=True)
        draws = row_bounds(network, [text] * 2000, SPECIAL, canvas_length=WIDTH)
        assert abs(draws.mean().item() - exact) < 4 * draws.std().item() / math.sqrt(2000)


def test_a_closing_end_counts_as_one_token() -> None:
    # 2 + 1 tokens, and 3 that fill the canvas without an end.
    bound = likelihood_bound(random_network(), [(3, 4), (3, 4, 5)], SPECIAL, canvas_length=WIDTH)
    assert bound.tokens == 6


def test_rows_of_any_length_start_from_the_same_canvas() -> None:
    first: list[Tensor] = []

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        first.extend([ids] if call == 1 else [])
        return torch.zeros(*ids.shape, VOCAB), torch.zeros(ids.shape)

    for text in [(3,), (3, 4, 5)]:
        network = Scripted(answer)
        ordered_log_likelihood(network, [text], SPECIAL, "margin", canvas_length=WIDTH)
        assert network.masks[0] is None
    assert torch.equal(first[0], first[1])
    assert (first[0] == SPECIAL.mask).all()


# --- a real network, and what is refused

MODEL = shaken(tiny_model())
ROWS = [[3, 4, 5, 6], [7, 3], [5, 6, 7, 3, 4, 4, 3], [3], [8, 8, 4]]


@pytest.mark.parametrize("canvas_length", [None, 12])
def test_a_row_costs_the_same_in_any_batch(canvas_length: int | None) -> None:
    def nats(size: int) -> Tensor:
        given = {"canvas_length": canvas_length, "batch_size": size}
        return row_bounds(MODEL, ROWS, MODEL.special, **given)

    assert torch.allclose(nats(2), nats(99), atol=1e-4)
    exact = [
        ordered_log_likelihood(
            MODEL,
            ROWS,
            MODEL.special,
            "left-to-right",
            canvas_length=canvas_length,
            batch_size=size,
        )
        for size in (1, 99)
    ]
    assert torch.allclose(*exact, atol=1e-4)


def test_other_seeds_draw_other_masks() -> None:
    first, same, other = (row_bounds(MODEL, ROWS, MODEL.special, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_only_blanks_are_scored_on_a_canvas_that_shows_the_rest() -> None:
    shown: list[Tensor] = []

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        shown.append(ids)
        return torch.zeros(*ids.shape, VOCAB), torch.zeros(ids.shape)

    row_bounds(Scripted(answer), [(3, 4, 5)], SPECIAL, canvases=5)
    data = torch.tensor([[3, 4, 5]])
    assert all(((ids == data) | (ids == SPECIAL.mask)).all() for ids in shown)
    assert all((ids == SPECIAL.mask).any() for ids in shown)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "at least one row"),
        ([[3], []], "at least one token"),
        ([[3, 4], [3, 1]], "row 1 holds the special id 1 at position 1"),
        ([[3, 2]], "special id 2"),
        ([[3] * 9], "row 0 has 9 tokens and the canvas has 8"),
    ],
)
def test_rows_that_are_no_data_are_refused(rows: list[list[int]], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        row_bounds(MODEL, rows, SPECIAL, canvas_length=8)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="canvases=0"):
        row_bounds(MODEL, ROWS, MODEL.special, canvases=0)
    with pytest.raises(ConfigError, match='did you mean "margin"'):
        ordered_log_likelihood(MODEL, ROWS, MODEL.special, "margins")


# From left to right in K passes


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_blocks_of_independent_tokens_sum_to_one(steps: int) -> None:
    logs = ordered_log_likelihood(random_network(), STRINGS, SPECIAL, "left-to-right", steps=steps)
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_one_pass_pays_every_token_from_the_blank_canvas() -> None:
    network, row = random_network(), (4, 3, 5)
    expected = sum(surprise(network, {}, row, at) for at in range(3))
    logs = ordered_log_likelihood(network, [row], SPECIAL, "left-to-right", steps=1)
    assert logs.item() == pytest.approx(-expected, abs=1e-5)


def test_as_many_passes_as_tokens_are_the_chain_rule() -> None:
    network = random_network()
    blocks = ordered_log_likelihood(network, STRINGS, SPECIAL, "left-to-right", steps=LENGTH)
    single = ordered_log_likelihood(network, STRINGS, SPECIAL, "left-to-right")
    torch.testing.assert_close(blocks, single)


@pytest.mark.parametrize("steps", [1, 2, None])
@pytest.mark.parametrize("self_conditioning", [False, True])
def test_a_joint_heads_strings_sum_to_one_at_any_number_of_passes(
    steps: int | None, self_conditioning: bool
) -> None:
    model = shaken(tiny_model(joint_size=5, self_conditioning=self_conditioning)).eval()
    vocabulary = range(3, model.config.vocab_size)
    strings = list(itertools.product(vocabulary, repeat=2))
    logs = ordered_log_likelihood(model, strings, model.special, "left-to-right", steps=steps)
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_a_joint_heads_texts_of_all_lengths_sum_to_one() -> None:
    model = shaken(tiny_model(joint_size=5)).eval()
    vocabulary = range(3, model.config.vocab_size)
    texts = [row for n in (1, 2) for row in itertools.product(vocabulary, repeat=n)]
    logs = ordered_log_likelihood(
        model, texts, model.special, "left-to-right", steps=1, canvas_length=2
    )
    assert logs.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_a_joint_head_samples_with_exactly_this_likelihood() -> None:
    model = shaken(tiny_model(joint_size=5)).eval()
    count = 4_000
    samples = model.sample(
        count, length=3, steps=2, policy="left-to-right", temperature=1.0, seed=0
    )
    found = Counter(tuple(map(int, row.ids)) for row in samples.rows if len(row.ids) == 3)
    common = [row for row, _ in found.most_common(20)]
    canvas = Canvas.blank([3], model.special)
    assert canvas.open.sum() == 3
    logs = ordered_log_likelihood(
        model, common, model.special, "left-to-right", steps=2, canvas_length=3
    )
    for row, log in zip(common, logs.exp().tolist(), strict=True):
        assert abs(found[row] / count - log) < 4 * (log / count) ** 0.5


def test_passes_without_an_exact_likelihood_are_refused() -> None:
    with pytest.raises(ConfigError, match="left-to-right"):
        ordered_likelihood(random_network(), STRINGS, SPECIAL, "margin", steps=2)
    with pytest.raises(ConfigError, match="joint head"):
        ordered_likelihood(
            random_network(), STRINGS, SPECIAL, "left-to-right", steps=2, canvas_length=4
        )
    with pytest.raises(ConfigError, match="steps=0"):
        ordered_likelihood(random_network(), STRINGS, SPECIAL, "left-to-right", steps=0)


def test_each_canvas_of_a_row_hides_positions_of_its_own() -> None:
    """With one draw for all of them, each canvas would hide what the smaller ones hide."""
    shown: list[Tensor] = []

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        shown.append(ids == SPECIAL.mask)
        return torch.zeros(*ids.shape, 8), torch.zeros(ids.shape)

    likelihood_bound(Scripted(answer), [[3, 4, 5, 6] * 3], SPECIAL, canvases=12)
    hidden = sorted((set(row.nonzero().flatten().tolist()) for (row,) in shown), key=len)
    assert [len(places) for places in hidden] == list(range(1, 13))
    assert not all(small <= large for small, large in pairwise(hidden))
