"""The memory bank: what it keeps, what it finds, what it forgets, and what a checkpoint holds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.checkpoint import load_state, save_state
from imadarem.errors import ConfigError, DataError
from imadarem.nn.memory import Retrieved
from imadarem.orchestrator.memory import Memory, MemoryBank, Recall

VOCAB = 20
CERTAIN = math.log(VOCAB)  # a surprise of ln V weighs 1


def rows(*lists: list[int]) -> Tensor:
    return torch.tensor(lists)


def write(
    bank: Memory, ids: Tensor, surprise: float = CERTAIN, tasks: list[int] | None = None
) -> list[bool]:
    known = torch.ones_like(ids, dtype=torch.bool)
    task_ids = torch.tensor(tasks or [0] * len(ids))
    return bank.write(ids, known, torch.full((len(ids),), surprise), task_ids).tolist()


def read(bank: Memory, ids: Tensor, known: Tensor | None = None, exclude: Tensor | None = None):
    known = torch.ones_like(ids, dtype=torch.bool) if known is None else known
    return bank.read(ids, known, exclude_task_ids=exclude)


def random_rows(count: int, length: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB, (count, length), generator=generator)


def same(a: Recall, b: Recall) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- content addresses


def test_an_address_is_a_pure_function_of_seed_and_known_tokens() -> None:
    ids = random_rows(3)
    known = torch.arange(12) < 7
    other = torch.where(known, ids, 19)  # differs only where nothing is known
    keys = MemoryBank(vocab_size=VOCAB).keys(ids, known.expand(3, -1))
    assert torch.equal(MemoryBank(vocab_size=VOCAB).keys(other, known.expand(3, -1)), keys)
    assert not torch.equal(MemoryBank(vocab_size=VOCAB, seed=1).keys(ids, known[None]), keys)
    # A longer canvas elsewhere in the process, or a larger vocabulary, changes nothing.
    large = MemoryBank(vocab_size=1000)
    large.keys(random_rows(1, 300), torch.ones(1, 300, dtype=torch.bool))
    assert torch.equal(large.keys(ids, known.expand(3, -1)), keys)


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 8))
def test_an_address_is_a_unit_vector_whatever_its_batch(seed: int, batch: int) -> None:
    ids = random_rows(batch, seed=seed)
    known = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    known[:, 0] = True
    address = MemoryBank(vocab_size=VOCAB).keys
    keys = address(ids, known)
    assert torch.allclose(keys.norm(dim=1), torch.ones(batch), atol=128**0.5 / 4096)
    assert torch.equal(address(ids[-1:], known[-1:])[0], keys[-1])


def test_padding_is_no_part_of_an_address() -> None:
    address = MemoryBank(vocab_size=VOCAB, pad_token_id=0).keys
    everything = torch.ones(1, 4, dtype=torch.bool)
    short = address(rows([5, 6]), everything[:, :2])
    assert torch.equal(address(rows([5, 6, 0, 0]), everything), short)


def test_position_weight_chooses_between_bag_and_place() -> None:
    a, shifted, relabelled = rows([3, 4, 5, 6]), rows([6, 3, 4, 5]), rows([3, 4, 5, 7])
    everything = torch.ones(1, 4, dtype=torch.bool)

    def cosine(weight: float, b: Tensor) -> float:
        keys = MemoryBank(vocab_size=VOCAB, key_size=1024, position_weight=weight).keys
        return float(keys(a, everything)[0] @ keys(b, everything)[0])

    # The same four tokens in other places: a full overlap as bags, none in place. Three of
    # four tokens alike: 3 / (2 · 2) either way. Noise is 1 / sqrt(1024) = 0.03.
    assert cosine(0.0, shifted) == pytest.approx(1.0, abs=0.02)
    assert cosine(1.0, shifted) == pytest.approx(0.0, abs=0.1)
    assert cosine(0.5, shifted) == pytest.approx(0.5, abs=0.1)
    for weight in (0.0, 0.5, 1.0):
        assert cosine(weight, relabelled) == pytest.approx(0.75, abs=0.1)


def test_a_repeated_token_weighs_no_more_than_a_single_one() -> None:
    # Distinct tokens {3, 4} against {3, 5}: 1 / (sqrt 2 · sqrt 2), though 3 fills the canvas.
    keys = MemoryBank(vocab_size=VOCAB, key_size=1024, position_weight=0.0).keys(
        rows([3] * 11 + [4], [3] * 11 + [5]), torch.ones(2, 12, dtype=torch.bool)
    )
    assert float(keys[0] @ keys[1]) == pytest.approx(0.5, abs=0.1)


def test_the_same_episode_with_other_blanks_is_nearest() -> None:
    ids = random_rows(500, 30)
    bank = MemoryBank(vocab_size=VOCAB, top_k=1)
    write(bank, ids)
    known = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    found = read(bank, ids, known).ids[:, 0]
    assert (found == ids).all(dim=1).float().mean() >= 0.98


# ---------------------------------------------------------------- writing


def test_of_two_equal_rows_in_a_batch_one_is_kept() -> None:
    bank = MemoryBank(vocab_size=VOCAB, threshold=0.0)
    assert write(bank, rows([3, 4, 5], [3, 4, 5], [6, 7, 8])) == [True, False, True]
    assert write(bank, rows([3, 4, 5])) == [False]
    assert len(bank) == 2


def test_the_score_is_surprise_times_novelty() -> None:
    # Into an empty bank novelty is 1, so the score is the surprise over ln V.
    for share, kept in ((0.29, False), (0.31, True)):
        bank = MemoryBank(vocab_size=VOCAB, threshold=0.3)
        assert write(bank, rows([3, 4, 5]), share * CERTAIN) == [kept]
    # Three of four tokens in common: novelty 1 - 3/4, up to noise of 1 / sqrt(1024).
    for threshold, kept in ((0.15, True), (0.35, False)):
        bank = MemoryBank(vocab_size=VOCAB, threshold=threshold, key_size=1024)
        assert write(bank, rows([3, 4, 5, 6], [3, 4, 5, 7])) == [True, kept]


def test_surprise_above_ln_v_counts_as_ln_v_and_the_senseless_as_none() -> None:
    bank = MemoryBank(vocab_size=VOCAB, threshold=1.0)
    ids, known = rows([3], [4], [5], [6]), torch.ones(4, 1, dtype=torch.bool)
    surprise = torch.tensor([math.nan, math.inf, -1.0, 50.0])
    assert bank.write(ids, known, surprise, torch.arange(4)).tolist() == [False] * 3 + [True]


def test_a_row_that_nothing_is_known_of_is_neither_kept_nor_found() -> None:
    bank = MemoryBank(vocab_size=VOCAB)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert bank.write(rows([3, 4, 5]), nothing, torch.ones(1), torch.zeros(1)).tolist() == [False]
    write(bank, rows([3, 4, 5]))
    assert read(bank, rows([3, 4, 5]), nothing).is_empty


def test_a_full_bank_forgets_its_oldest_entry() -> None:
    bank = MemoryBank(3, vocab_size=VOCAB, top_k=1)
    ids = torch.arange(1, 19)[:, None].expand(-1, 2)
    # One batch larger than the bank, so that rows evict their own batch-mates.
    assert write(bank, ids) == [True] * 18
    assert read(bank, ids[-3:]).ids[:, 0].tolist() == [[16, 16], [17, 17], [18, 18]]
    assert (read(bank, ids[:15]).similarity < 0.9).all()
    stats = bank.get_stats()
    assert (stats["entries"], stats["written"], stats["evicted"]) == (3, 18, 15)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("bank", [MemoryBank(vocab_size=VOCAB)])
def test_an_empty_bank_has_no_hits(bank: Memory) -> None:
    recall = read(bank, random_rows(2))
    assert recall.ids.shape == (2, 0, 0)
    assert recall.valid.shape == recall.similarity.shape == (2, 0)
    assert recall.is_empty


def test_hits_come_best_first_with_their_contents() -> None:
    bank = MemoryBank(vocab_size=VOCAB, key_size=1024, top_k=3)
    write(bank, rows([3, 4, 9], [3, 4, 5], [7, 8, 9]))
    recall = read(bank, rows([3, 4, 5]))
    assert recall.ids[0, :2].tolist() == [[3, 4, 5], [3, 4, 9]]
    # Two of three tokens alike: 2/3.
    assert recall.similarity[0, :2].tolist() == pytest.approx([1.0, 2 / 3], abs=0.1)


def test_a_recall_is_what_the_network_takes() -> None:
    bank = MemoryBank(vocab_size=VOCAB)
    write(bank, rows([3, 4], [5, 6]))
    retrieved: Retrieved = read(bank, rows([3, 4], [5, 6], [3, 6]))
    part = retrieved.rows(torch.tensor([True, False, True]))
    assert part.ids.shape == (2, 2, 2) and part.similarity.shape == (2, 2)
    assert torch.equal(part.attended, retrieved.attended[[0, 2]])


def test_canvases_of_several_lengths_share_a_bank() -> None:
    bank = MemoryBank(vocab_size=VOCAB, top_k=1)
    write(bank, rows([3, 4]))
    write(bank, rows([5, 6, 7, 8]))
    recall = read(bank, rows([3, 4], [7, 8]), torch.tensor([[True, True], [True, True]]))
    assert recall.ids.tolist() == [[[3, 4, 0, 0]], [[5, 6, 7, 8]]]
    assert recall.attended.tolist() == [[[True, True, False, False]], [[True] * 4]]


def test_what_a_task_wrote_itself_is_no_hit_for_it() -> None:
    bank = MemoryBank(vocab_size=VOCAB, top_k=2)
    ids = rows([3, 4, 5], [3, 4, 6], [3, 4, 7], [9, 9, 9])
    write(bank, ids, tasks=[1, 1, 2, 3])
    open_recall = read(bank, ids[:1])
    assert open_recall.ids[0].tolist()[0] == [3, 4, 5]
    # Both entries of task 1 are struck out, and the row still gets its next best.
    recall = read(bank, ids[:1].expand(2, -1), exclude=torch.tensor([1, 2]))
    assert recall.ids[0, 0].tolist() == [3, 4, 7]
    assert recall.ids[1].tolist() == [[3, 4, 5], [3, 4, 6]]


def test_a_bank_of_nothing_but_the_tasks_own_has_no_hit() -> None:
    bank = MemoryBank(vocab_size=VOCAB)
    write(bank, rows([3, 4, 5]), tasks=[7])
    recall = read(bank, rows([3, 4, 5]), exclude=torch.tensor([7]))
    assert recall.is_empty and recall.similarity.tolist() == [[0.0]]
    assert not recall.attended.any() and not recall.ids.any()


def test_of_hits_as_near_as_each_other_the_later_one_comes_first() -> None:
    bank = MemoryBank(2, vocab_size=VOCAB, top_k=2)
    write(bank, rows([3, 4], [5, 6]))
    state = bank.state_dict()
    state["keys"][1] = state["keys"][0]
    # A bank of two entries writes the third in the place of the first.
    for written, order in ((2, [[5, 6], [3, 4]]), (3, [[3, 4], [5, 6]])):
        bank.load_state_dict(state | {"written": written})
        assert read(bank, rows([3, 4])).ids[0].tolist() == order


@given(seed=st.integers(0, 1000))
def test_a_recall_does_not_depend_on_its_batch(seed: int) -> None:
    bank = MemoryBank(vocab_size=VOCAB, key_size=32)
    write(bank, random_rows(60, 5, seed))
    questions = random_rows(9, 5, seed + 1)
    together = read(bank, questions)
    for i in (0, 4, 8):
        alone = read(bank, questions[i : i + 1])
        assert same(together.rows(torch.tensor([i])), alone)


# ---------------------------------------------------------------- statistics, checkpoints, errors


def test_statistics_count_what_happened() -> None:
    bank = MemoryBank(5, vocab_size=VOCAB)
    assert bank.get_stats()["hit_share"] is None
    write(bank, rows([3, 4], [3, 4], [5, 6]))
    read(bank, rows([3, 4], [5, 6]))
    read(bank, rows([3, 4], [5, 6]), torch.zeros(2, 2, dtype=torch.bool))
    stats = bank.get_stats()
    assert stats["mean_similarity"] == pytest.approx(1.0, abs=0.01)
    del stats["mean_similarity"]
    assert stats == {
        "entries": 2,
        "capacity": 5,
        "written": 2,
        "refused": 1,
        "evicted": 0,
        "reads": 4,
        "hit_share": 0.5,
        # Two entries of two ids, 128 numbers of an address and a task id.
        "bytes": 2 * (2 * 8 + 128 * 4 + 8),
    }


@pytest.mark.parametrize("written", [0, 3, 30])
def test_a_bank_goes_on_from_a_checkpoint_as_if_nothing_had_been(
    written: int, tmp_path: Path
) -> None:
    straight = MemoryBank(8, vocab_size=VOCAB)
    resumed = MemoryBank(8, vocab_size=VOCAB)
    write(resumed, random_rows(5, seed=9))  # what it held before is forgotten
    write(straight, random_rows(written, 6), tasks=list(range(written)))
    read(straight, random_rows(4, 6))
    save_state(straight.state_dict(), tmp_path / "memory")
    resumed.load_state_dict(load_state(tmp_path / "memory"))
    for seed in (1, 2):
        more, questions = random_rows(5, 7, seed), random_rows(9, 7, seed + 10)
        assert write(straight, more) == write(resumed, more)
        assert same(read(straight, questions), read(resumed, questions))
    assert straight.get_stats() == resumed.get_stats()
    for key, value in straight.state_dict().items():
        other = resumed.state_dict()[key]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


def test_a_full_bank_remembers_after_a_reload_which_of_its_entries_is_the_oldest() -> None:
    # Addresses of four signs: many entries are as near as each other, and the later one wins.
    # Six rows of different addresses in four slots: the oldest entry is in slot 6 % 4 = 2.
    settings = {"vocab_size": VOCAB, "key_size": 4, "threshold": 0.0, "min_similarity": -1.0}
    straight, resumed = (MemoryBank(4, **settings) for _ in range(2))  # type: ignore[arg-type]
    for token in range(1, VOCAB):
        write(straight, rows([token]))
        if straight.get_stats()["written"] == 6:
            break
    assert straight.get_stats()["evicted"] == 2
    resumed.load_state_dict(straight.state_dict())
    questions = torch.arange(1, VOCAB)[:, None]
    found = read(straight, questions)
    assert bool((found.similarity[:, 0] == found.similarity[:, 1]).any())
    assert same(found, read(resumed, questions))


def test_a_bank_that_would_not_find_the_saved_contents_refuses_them() -> None:
    state = MemoryBank(8, vocab_size=VOCAB).state_dict()
    for other in ({"size": 9}, {"seed": 1}, {"key_size": 64}, {"position_weight": 0.25}):
        (name,) = other
        with pytest.raises(ConfigError, match=f"saved memory has {name}="):
            MemoryBank(**{"size": 8, "vocab_size": VOCAB, **other}).load_state_dict(state)
    with pytest.raises(ConfigError, match="format"):
        MemoryBank(8, vocab_size=VOCAB).load_state_dict({})


@pytest.mark.parametrize(
    "given_settings",
    [
        {"size": 0},
        {"vocab_size": 1},
        {"top_k": 1.5},
        {"threshold": 1.1},
        {"threshold": math.nan},
        {"position_weight": -0.1},
        {"min_similarity": 2.0},
    ],
)
def test_settings_out_of_range_are_refused(given_settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given_settings))):
        MemoryBank(**{"vocab_size": VOCAB, **given_settings})  # type: ignore[arg-type]


def test_tensors_that_do_not_belong_together_are_refused() -> None:
    bank = MemoryBank(vocab_size=VOCAB)
    ids, known = rows([3, 4]), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(DataError, match="known"):
        bank.read(ids, known[:, :1])
    with pytest.raises(DataError, match=r"torch\.int64"):
        bank.read(ids, known.long())
    with pytest.raises(DataError, match="surprise"):
        bank.write(ids, known, torch.ones(2), torch.zeros(1))
    with pytest.raises(DataError, match="exclude_task_ids"):
        bank.read(ids, known, exclude_task_ids=torch.zeros(2))
    with pytest.raises(DataError, match="0 to 19"):
        bank.read(ids + VOCAB, known)
